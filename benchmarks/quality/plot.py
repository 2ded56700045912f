"""Regret over what was spent, as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tables import Problem

from quality.summary import Traces
from quality.trace import BUDGETS, regrets

_POINTS = 60


def plot(by_system: Mapping[str, Traces], problems: Sequence[Problem], seeds: Sequence[int], path: Path) -> None:
    """Write the mean regret of every system over the full trainings spent, a panel for each family, as SVG.

    A line begins where all of its runs have seen something. Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    families = list(dict.fromkeys(problem.family for problem in problems))
    budgets = np.geomspace(0.3, BUDGETS[-1], _POINTS).tolist()
    figure, panels = pyplot.subplots(1, len(families), figsize=(6 * len(families), 5), squeeze=False, sharey=True)
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for panel, family in zip(panels[0], families, strict=True):
        members = [problem for problem in problems if problem.family == family]
        for number, (system, traces) in enumerate(by_system.items()):
            found = np.array([regrets(traces[one.name, seed], one, budgets) for one in members for seed in seeds])
            ours = system.startswith("thresher")
            style = {"linewidth": 2.0 if ours else 1.2, "linestyle": "-" if ours else "--"}
            panel.plot(budgets, found[:, :, 0].mean(0), label=system, color=colours[number % 20], **style)
        panel.set(title=family, xlabel="full trainings", xscale="log", yscale="log")
        panel.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
    panels[0][0].set_ylabel("mean regret")
    panels[0][-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
