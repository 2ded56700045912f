"""A study as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.history import History
from controller.standings import Standing
from controller.trial import Report

if TYPE_CHECKING:
    import pandas as pd

    from controller.importance import Importances
    from thresher.pareto_view import TradeOffs

_BEFORE = ("trial", "status", "origin")
_REPORT = ("trial", "split", "rung", "budget")
_AFTER = ("budget", "seconds", "seed", "repeat_of", "failure", "message")


def trials_frame(history: History) -> pd.DataFrame:
    """One row a trial, in the order in which they were started; what is absent is NaN or None.

    Columns: `trial`, `status` (running, paused, complete, failed), `origin` (why it has its parameters), one for
    each parameter, `budget` (the highest that was reached), one for each metric measured there, `seconds` (of
    training so far), `seed`, `repeat_of`, `failure` (its kind), `message`. A metric or parameter whose name is taken
    by another column is called `metrics.NAME` or `params.NAME`.
    """
    import pandas as pd

    params = _union(trial.params for trial in history.trials)
    latest = [trial.reports[trial.budget].metrics if trial.reports else {} for trial in history.trials]
    metrics = _columns(_metric_names(history, latest), (*_BEFORE, *_AFTER), "metrics")
    columns = _columns(params, (*_BEFORE, *_AFTER, *metrics.values()), "params")
    rows = []
    for trial, measured in zip(history.trials, latest, strict=True):
        failure = trial.failure
        row: dict[str, Any] = {
            "trial": trial.trial_id,
            "status": trial.status(history.horizon).value,
            "origin": trial.labels.get("origin"),
            "budget": trial.budget,
            "seconds": trial.seconds,
            "seed": trial.seed,
            "repeat_of": trial.repeat_of,
            "failure": None if failure is None else failure.kind.value,
            "message": None if failure is None else failure.message,
        }
        row |= {columns[name]: value for name, value in trial.params.items()}
        rows.append(row | {metrics[name]: value for name, value in measured.items()})
    order = [*_BEFORE, *columns.values(), "budget", *metrics.values(), *_AFTER[1:]]
    return pd.DataFrame(rows, columns=order)


def reports_frame(history: History) -> pd.DataFrame:
    """One row a report, trial by trial and budget by budget: the learning curves.

    Columns: `trial`, `split`, `rung` (the budget asked for), `budget` (the one consumed), one for each metric,
    `seconds` (of this stretch). A metric whose name is taken by another column is called `metrics.NAME`.
    """
    import pandas as pd

    found: list[tuple[int, str, int, Report]] = []
    for trial in history.trials:
        found += [(trial.trial_id, "validation", rung, report) for rung, report in trial.reports.items()]
        found += [(trial.trial_id, "test", rung, report) for rung, report in trial.tests.items()]
    names = _metric_names(history, [report.metrics for *_, report in found])
    metrics = _columns(names, (*_REPORT, "seconds"), "metrics")
    rows = [
        {"trial": trial, "split": split, "rung": rung, "budget": report.budget, "seconds": report.seconds}
        | {metrics[name]: value for name, value in report.metrics.items()}
        for trial, split, rung, report in found
    ]
    return pd.DataFrame(rows, columns=[*_REPORT, *metrics.values(), "seconds"])


def standings_frame(history: History, standings: Sequence[Standing]) -> pd.DataFrame:
    """One row a finalist, best first.

    Columns: `trial`, the metric (its mean over the runs that count), `standard_error` (of the mean; NaN for a
    single run), `runs` (the trials that the mean is over: the repeats, or without any the trial itself).
    """
    import pandas as pd

    objective = history.objectives[0]
    sign = 1 if objective.direction == "minimize" else -1
    rows = [
        {
            "trial": row.trial.trial_id,
            objective.metric: sign * row.mean,
            "standard_error": row.standard_error,
            "runs": [run.trial_id for run in row.counted],
        }
        for row in standings
    ]
    return pd.DataFrame(rows, columns=["trial", objective.metric, "standard_error", "runs"])


def importance_frame(found: Importances) -> pd.DataFrame:
    """One row a parameter, and one a pair of them, the most important first.

    Columns: `parameter`, `interacts_with` (of a pair the other one), `importance` (the share of the variance of the
    metric over the space: of a pair, what it explains beyond the two alone), `std` (of that over the trees of the
    forest), `metric`, `budget` (the rung), `trials` (how many results it rests on), `explained` (the share of the
    variance that the forest predicts for trials that it has not seen: if that is near 0, trust nothing of this).
    """
    import pandas as pd

    rows = [
        {
            "parameter": part.names[0],
            "interacts_with": part.names[1] if len(part.names) > 1 else None,
            "importance": part.share,
            "std": part.std,
            "metric": found.metric,
            "budget": found.budget,
            "trials": found.trials,
            "explained": found.explained,
        }
        for part in found.parts
    ]
    columns = ["parameter", "interacts_with", "importance", "std", "metric", "budget", "trials", "explained"]
    return pd.DataFrame(rows, columns=columns)


def pareto_frame(found: TradeOffs) -> pd.DataFrame:
    """One row a trial that no other dominates, best first by the first objective.

    Columns: `trial`, one for each objective, `adds` (how much smaller the hypervolume would be without it), one for
    each parameter. A parameter whose name is taken by another column is called `params.NAME`, an objective
    `metrics.NAME`.
    """
    import pandas as pd

    metrics = _columns(found.metrics, ("trial", "adds"), "metrics")
    params = _union(trial.params for trial in found.front)
    columns = _columns(params, ("trial", "adds", *metrics.values()), "params")
    rows = []
    for trial, adds in zip(found.front, found.contributions, strict=True):
        measured = trial.reports[found.history.horizon].metrics
        row: dict[str, Any] = {"trial": trial.trial_id, "adds": adds}
        row |= {column: measured[metric] for metric, column in metrics.items()}
        rows.append(row | {columns[name]: value for name, value in trial.params.items()})
    return pd.DataFrame(rows, columns=["trial", *metrics.values(), "adds", *columns.values()])


def hypervolume_frame(found: TradeOffs) -> pd.DataFrame:
    """One row a trial at the full budget, in the order of their results: how the front grew.

    Columns: `trial`, `results` (how many so far), `seconds` (on the clock, pauses left out), `budget` (what the search
    had been trained on in all), `hypervolume`.
    """
    import pandas as pd

    rows = [(step.trial, step.results, step.seconds, step.examples, step.hypervolume) for step in found.growth]
    return pd.DataFrame(rows, columns=["trial", "results", "seconds", "budget", "hypervolume"])


def _columns(names: Sequence[str], taken: Sequence[str], prefix: str) -> dict[str, str]:
    """The column of each name: the name itself unless another column has it."""
    return {name: f"{prefix}.{name}" if name in taken else name for name in names}


def _metric_names(history: History, measured: Sequence[Mapping[str, float]]) -> list[str]:
    """The objectives, then all others that were measured."""
    objectives = [objective.metric for objective in history.objectives]
    return [*objectives, *(name for name in _union(measured) if name not in objectives)]


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """All keys, in the order of their first appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
