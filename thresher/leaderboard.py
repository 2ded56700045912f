"""The trials of a study in a table, at any time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.history import History
from controller.pareto import front_of
from controller.trial import Status, Trial
from search_spaces.space import Params
from thresher.section import Section, counted
from thresher.wording import (
    failure_sentence,
    format_duration,
    format_value,
    origin_of,
    short_names,
    table_of,
)

MAX_FAILURES_SHOWN = 5
ABSENT = "–"

_STYLES = {Status.FAILED: "red", Status.RUNNING: "cyan", Status.COMPLETE: "green"}


def leaderboard(history: History, *, names: Sequence[str], limit: int = 20, width: int | None = None) -> Table:
    """The trials of a study, best first: those of the highest budget before those of the next, then the failed.

    Losses at different budgets do not compare, so a line separates them. Repeats of finalists are left out. With
    several objectives the first ranks, and each has a column.

    Args:
        names: the parameters to show; a trial without one of them has a dash there.
        limit: how many trials are shown, failed ones not counted.
        width: characters at hand, by default those of the terminal. Where a column for each parameter does not
            fit, they share one.
    """
    board = leaderboard_section(history, names, limit, reasons=True)
    table = board.fitting_table(width or Console().width) or Table()
    table.caption = Text("\n".join(board.sentences)) if board.sentences else None
    table.caption_justify = "left"
    return table


def leaderboard_section(history: History, names: Sequence[str], limit: int, *, reasons: bool = False) -> Section:
    """The same as part of a report; with `reasons` it says why trials failed."""
    trials = [trial for trial in history.trials if trial.repeat_of is None]
    failed = [trial for trial in trials if trial.failure is not None]
    ranked = sorted((trial for trial in trials if trial.failure is None), key=lambda trial: _order(history, trial))
    metrics = [objective.metric for objective in history.objectives]
    first = ("#", "trial", "<origin", "<status", "examples", *metrics)
    short = short_names(names)
    wide, narrow = table_of(*first, *short, "time"), table_of(*first, "<" + " ".join(short), "time")
    listed = ranked[:limit] + failed[:MAX_FAILURES_SHOWN]
    for position, trial in enumerate(listed):
        status = trial.status(history.horizon)
        rank = str(position + 1) if trial.reports and trial.failure is None else ABSENT
        budget = f"{trial.budget}/{history.horizon}"
        standing = (rank, str(trial.trial_id), origin_of(trial), status.value, budget, *_values(trial, metrics))
        values = param_cells(trial.params, names)
        ends = position + 1 < len(listed) and _order(history, trial)[:2] != _order(history, listed[position + 1])[:2]
        for table, cells in ((wide, values), (narrow, [" ".join(values)])):
            cells = [*standing, *cells, format_duration(seconds_of(trial))]
            table.add_row(*map(Text, cells), style=_STYLES.get(status), end_section=ends)
    failures = [trial.failure for trial in failed if trial.failure is not None]
    sentences = [failure_sentence(history, failure, "examples") for failure in failures[:MAX_FAILURES_SHOWN]]
    hidden = {"more trial": len(ranked) - limit, "more failed trial": len(failed) - MAX_FAILURES_SHOWN}
    told = [f"{counted(count, what)} not shown" for what, count in hidden.items() if count > 0]
    return Section("Trials", (*(sentences if reasons else ()), *told), wide, narrow)


def trade_offs_section(history: History, names: Sequence[str]) -> Section:
    """The Pareto front of the trials at the full budget; empty for a single objective."""
    metrics = [objective.metric for objective in history.objectives]
    if len(metrics) < 2:
        return Section("Trade-offs")
    short = short_names(names)
    wide, narrow = table_of("trial", *metrics, *short), table_of("trial", *metrics, "<" + " ".join(short))
    front = front_of(history)
    for trial in front:
        values = param_cells(trial.params, names)
        for table, cells in ((wide, values), (narrow, [" ".join(values)])):
            table.add_row(*map(Text, (str(trial.trial_id), *_values(trial, metrics), *cells)))
    full = len(history.rung(history.horizon).arrivals)
    sentence = (
        f"{counted(len(front), 'trial')} of {full} at the full budget: no other is at least as good in all of "
        f"{', '.join(metrics)} and better in one. One run each; the search ranks by {metrics[0]}."
    )
    return Section("Trade-offs", (sentence,), wide, narrow)


def param_cells(params: Params, names: Sequence[str]) -> list[str]:
    """Some parameters of a trial, with a dash for what it does not have."""
    return [format_value(params[name]) if name in params else ABSENT for name in names]


def seconds_of(trial: Trial) -> float:
    """Worker time that a trial took, wall-clock."""
    return trial.seconds + (trial.failure.seconds if trial.failure else 0.0)


def _values(trial: Trial, metrics: Sequence[str]) -> list[str]:
    """The metrics of its highest rung, each in its own direction."""
    if not trial.reports:
        return [ABSENT] * len(metrics)
    measured = trial.reports[trial.budget].metrics
    return [f"{measured[metric]:z.4f}" for metric in metrics]


def _order(history: History, trial: Trial) -> tuple[bool, int, float, int]:
    """Where a trial stands: failed ones last, the highest budget first, then by loss."""
    budget, loss = (trial.budget, history.loss(trial.trial_id, trial.budget)) if trial.reports else (0, 0.0)
    return trial.failure is not None, -budget, loss, trial.trial_id
