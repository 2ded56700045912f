"""How the finalists did over their seeds, and how much of their lead was luck of the run they were chosen by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controller.finalists import DEFAULT_TRIAL, Finalists, runs_of
from controller.history import History
from controller.intervals import Deviation, Interval, pooled_deviation
from controller.trial import Trial


@dataclass(frozen=True, slots=True)
class Standing:
    """How a configuration did over its seeds at the full budget. Losses are those of the first objective.

    The estimate of a finalist is the mean over its repeats alone: the run that it was chosen by is better than the
    configuration is, the more so the more trials it was the best of. Without a repeat there is nothing else, and
    the estimate is optimistic.

    Attributes:
        runs: the trial and its repeats, the measured ones.
        losses: validation loss of each run, that of the trial itself first.
        mean: the estimate.
        standard_error: of the mean, from the deviation pooled over all finalists; NaN where that is unknown.
        interval: of the mean, by Student's t; None where the deviation is unknown, or the estimate optimistic.
    """

    trial: Trial
    runs: tuple[Trial, ...]
    losses: tuple[float, ...]
    mean: float
    standard_error: float
    interval: Interval | None

    @property
    def repeated(self) -> bool:
        """Whether the mean is over repeats, and not the run that the trial was chosen by."""
        return len(self.losses) > 1

    @property
    def counted(self) -> tuple[Trial, ...]:
        """The runs that the mean is over."""
        return self.runs[1:] or self.runs


@dataclass(frozen=True, slots=True)
class Selection:
    """What became of a lead when it was measured again: the best of many looks better than it is.

    Losses throughout. The leads are over the default configuration, whose first run nobody chose.

    Attributes:
        trial_id: the winner; where that is the default, the trial that the search had found best.
        found: its loss on the run that it was chosen by.
        repeated: mean loss of its repeats, which that choice has not touched.
        default_found, default_repeated: the same of the default configuration.
        interval: of `vanished`, by Student's t over the seeds of the repeats.
        unknown: why there is no estimate, or none of the lead, if so.
    """

    trial_id: int | None = None
    found: float | None = None
    repeated: float | None = None
    default_found: float | None = None
    default_repeated: float | None = None
    interval: Interval | None = None
    unknown: str | None = None

    @property
    def lead_found(self) -> float | None:
        """By how much it led at selection."""
        return None if self.found is None or self.default_found is None else self.default_found - self.found

    @property
    def lead_repeated(self) -> float | None:
        """By how much it led in the repeats."""
        if self.repeated is None or self.default_repeated is None:
            return None
        return self.default_repeated - self.repeated

    @property
    def vanished(self) -> float | None:
        """How much of the lead was selection; without a default, of the result itself. Negative if it grew."""
        if self.lead_found is not None and self.lead_repeated is not None:
            return self.lead_found - self.lead_repeated
        return None if self.found is None or self.repeated is None else self.repeated - self.found

    @property
    def share(self) -> float | None:
        """That as a share of the lead at selection, if there was one; it may be above 1."""
        lead, vanished = self.lead_found, self.vanished
        if lead is None or vanished is None or self.lead_repeated is None or lead <= 0:
            return None
        return vanished / lead


def standings(history: History, finalists: Finalists) -> list[Standing]:
    """The finalists and the default, ranked by mean validation loss, best first.

    One whose repeats all failed ranks after those that have some: its own run flatters it.
    """
    rows = []
    for trial in finalists.chosen(history):
        runs = tuple(run for run in runs_of(history, trial) if history.horizon in run.reports)
        losses = tuple(history.objectives[0].loss(run.reports[history.horizon].metrics) for run in runs)
        counted = losses[1:] or losses
        rows.append(Standing(trial, runs, losses, math.fsum(counted) / len(counted), math.nan, None))
    deviation = seed_deviation(rows)
    for place, row in enumerate(rows):
        if deviation is not None and row.repeated:
            count = len(row.counted)
            error, interval = deviation.standard_error(count), deviation.around(row.mean, count)
            rows[place] = replace(row, standard_error=error, interval=interval)
    some_repeated = any(row.repeated for row in rows)
    return sorted(rows, key=lambda row: (some_repeated and not row.repeated, row.mean, row.trial.trial_id))


def unselected(trial: Trial, runs: Sequence[Trial]) -> Sequence[Trial]:
    """Those of its runs that no choice has touched: its repeats, and the default's own run, which nobody chose."""
    return runs if trial.trial_id == DEFAULT_TRIAL else [run for run in runs if run is not trial]


def seed_deviation(rows: Sequence[Standing]) -> Deviation | None:
    """The standard deviation between seeds, pooled over the unselected runs of all; None if it is unknown.

    It is taken to be the same for all configurations, since two or three runs of one say almost nothing about it.
    """
    return deviation_between(rows, [row.losses for row in rows])


def deviation_between(rows: Sequence[Standing], values: Sequence[Sequence[float | None]]) -> Deviation | None:
    """The standard deviation between runs that differ by their seed, pooled over the unselected runs of all rows.

    None if no two can be compared; or if those that can are all equal, while other runs of one configuration differ:
    shares of right answers that stay at 0, say, do not tell that seeds make no difference.

    Args:
        values: of each run of each row; None where it was not measured.
    """
    groups, found = [], []
    for row, of_row in zip(rows, values, strict=True):
        kept = unselected(row.trial, row.runs)
        measured = [(run, value) for run, value in zip(row.runs, of_row, strict=True) if value is not None]
        groups.append([value for run, value in measured if run in kept])
        found.append({value for _, value in measured})
    deviation = pooled_deviation(groups)
    if deviation is not None and deviation.value == 0 and any(len(of_row) > 1 for of_row in found):
        return None
    return deviation


def ties_of(rows: Sequence[Standing]) -> list[Standing]:
    """Those that cannot be told from the first: the 95 % interval of the difference contains 0, or is unknown.

    Seeds differ from run to run, so nothing is paired. Not corrected for the number of comparisons.
    """
    deviation = seed_deviation(rows)
    ties = []
    for row in rows[1:]:
        margin = math.inf if deviation is None else deviation.margin(len(rows[0].counted), len(row.counted))
        if not row.mean - rows[0].mean > margin:
            ties.append(row)
    return ties


def selection_of(rows: Sequence[Standing]) -> Selection:
    """How much of the lead at selection was luck, from rows as `standings` ranks them."""
    challengers = [row for row in rows if row.trial.trial_id != DEFAULT_TRIAL]
    if not challengers:
        return Selection(unknown="the default is the only finalist, so nothing was selected")
    first = rows[0] if rows[0] in challengers else min(challengers, key=lambda row: row.losses[0])
    trial_id, found = first.trial.trial_id, first.losses[0]
    default = next((row for row in rows if row.trial.trial_id == DEFAULT_TRIAL), None)
    default_found = None if default is None else default.losses[0]
    if not first.repeated:
        return Selection(trial_id, found, None, default_found, unknown="it has no repeats")
    deviation = seed_deviation(rows)
    repeats = len(first.counted)
    if default is None or not default.repeated:
        why = "there is no default to compare with" if default is None else "the default has no repeats"
        interval = None if deviation is None else deviation.around(first.mean - found, repeats)
        return Selection(trial_id, found, first.mean, default_found, None, interval, why)
    selection = Selection(trial_id, found, first.mean, default.losses[0], default.mean)
    vanished = selection.vanished
    if deviation is None or vanished is None:
        return selection
    interval = deviation.around(vanished, repeats, len(default.counted))
    return Selection(trial_id, found, first.mean, default.losses[0], default.mean, interval)
