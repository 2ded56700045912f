"""From traces to rows: means, medians and intervals over problems and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import reporting
from rich.table import Table
from tables import Problem

from quality.trace import BUDGETS, Setting, Trace, regrets

Floats = npt.NDArray[np.float64]
Traces = Mapping[tuple[str, int], Trace]
"""By (name of the problem, seed)."""

_RESAMPLES: Final = 2000


def rows_of(
    system: str, traces: Traces, problems: Sequence[Problem], seeds: Sequence[int], setting: Setting
) -> list[reporting.Row]:
    """The rows of a system: one for each family and budget."""
    rows: list[reporting.Row] = []
    for family in dict.fromkeys(problem.family for problem in problems):
        members = [problem for problem in problems if problem.family == family]
        found = np.array(
            [[regrets(traces[one.name, seed], one, BUDGETS) for seed in seeds] for one in members]
        )  # [problems, seeds, budgets, 2]
        ran = [traces[one.name, seed] for one in members for seed in seeds]
        for index, budget in enumerate(BUDGETS):
            val, test = found[:, :, index, 0], found[:, :, index, 1]
            low, high = interval(val)
            rows.append(
                {
                    "system": system,
                    "family": family,
                    "workers": setting.workers,
                    "switch_cost": setting.switch_cost,
                    "budget": budget,
                    "mean_regret": _number(val.mean()),
                    "median_regret": _number(np.median(val)),
                    "mean_test_regret": _number(test.mean()),
                    "regret_low": _number(low),
                    "regret_high": _number(high),
                    "busy": _number(np.mean([trace.busy for trace in ran])),
                    "trials": _number(np.mean([trace.trials for trace in ran])),
                    "seconds_a_run": _number(np.mean([trace.seconds for trace in ran])),
                    "problems": len(members),
                    "seeds": len(seeds),
                }
            )
    return rows


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of the mean of `values`, shape [problems, seeds]: problems are drawn, then seeds of each."""
    problems, seeds = values.shape
    rng = np.random.default_rng(0)
    drawn = rng.integers(problems, size=(_RESAMPLES, problems, 1))
    means = values[drawn, rng.integers(seeds, size=(_RESAMPLES, problems, seeds))].mean((1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def overview(rows: Sequence[reporting.Row]) -> list[Table]:
    """A table for each family: mean regret by system and budget, the best of each column marked."""
    found = []
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        best = {
            budget: min(
                (row["mean_regret"] for row in mine if row["budget"] == budget and row["mean_regret"] is not None),
                default=None,
            )
            for budget in BUDGETS
        }
        table = Table("system", *(str(budget) for budget in BUDGETS), "test", "busy", title=f"{family}: mean regret")
        for system in dict.fromkeys(row["system"] for row in mine):
            by_budget = {row["budget"]: row for row in mine if row["system"] == system}
            cells = []
            for budget in BUDGETS:
                value = by_budget[budget]["mean_regret"]
                cell = "" if value is None else f"{value:.3f}"
                cells.append(f"[bold]{cell}[/bold]" if value is not None and value == best[budget] else cell)
            last = by_budget[BUDGETS[-1]]
            test = "" if last["mean_test_regret"] is None else f"{last['mean_test_regret']:.3f}"
            table.add_row(str(system), *cells, test, f"{last['busy']:.1%}")
        found.append(table)
    return found


def _number(value: float | np.floating) -> float | None:
    """As a column: rounded, and nothing where nothing was seen."""
    return None if np.isnan(value) else round(float(value), 4)
