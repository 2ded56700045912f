"""A study as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.history import History
from controller.standings import Standing
from controller.trial import Report

if TYPE_CHECKING:
    import pandas as pd

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
