"""The median stopping rule (Golovin et al. 2017, Google Vizier, Sec. 3.2.1)."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from controller.history import History, Rung
from controller.schedulers.brackets import checked_ladder
from controller.schedulers.last_resort import last_resort
from controller.strategy import Done, Resume, StartNew, Wait

Compare = Literal["best", "average"]


@final
class MedianStopping:
    """A trial goes on to the next rung unless it is worse than the median of the others there.

    As in the paper its best loss so far is held against the running averages of the others, the means of
    their losses at the rungs up to here. Where losses fall from rung to rung that is lenient: the lowest rung stops
    half of the trials, the others few. With `compare="average"` its own running average is held against them, which
    stops about half at every rung.

    The others are all trials that were measured at the rung, or failed on the way there, which counts as infinite;
    in the paper they are those that ran to their end. A trial that is stopped is only paused: it goes on later if
    the median has moved past it by then. So a rung decides as well as it can at any time, and what an early trial
    lost by coming early is made good. Trials that may go on come before new ones, those of the highest rung first.

    When nothing else is left to do and no trial has reached the full budget, the best that waits in the highest rung
    goes on.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget. They need not be geometric.
        max_trials: how many trials are started.
        min_trials: a rung stops nobody before it holds so many others.
        grace_budget: rungs up to this budget stop nobody.
        compare: what is held against the median: the best loss of the trial so far, or its running average.
        keep: how many of the best trials of the highest rung keep their checkpoints.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        min_trials: int = 3,
        grace_budget: int = 0,
        compare: Compare = "best",
        keep: int = 1,
    ) -> None:
        if min_trials < 1 or grace_budget < 0:
            raise ValueError(
                f"expected min_trials >= 1 and grace_budget >= 0, got {min_trials} and {grace_budget}; "
                "a median needs one other trial, and 0 lets every rung stop trials"
            )
        self.budgets = checked_ladder(budgets, max_trials=max_trials, keep=keep)
        if compare not in get_args(Compare):
            raise ValueError(f"expected compare to be one of {get_args(Compare)}, got {compare!r}; see MedianStopping")
        self.max_trials = max_trials
        self.min_trials = min_trials
        self.grace_budget = grace_budget
        self.compare = compare
        self.keep = keep
        self._history: History | None = None
        self._tables: dict[int, _Table] = {}

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        for level in reversed(range(len(self.budgets) - 1)):
            fit = self._fit(history, self.budgets[level], at_most=1)
            if fit:
                return Resume(fit[0], self.budgets[level + 1])
        if history.num_started() < self.max_trials:
            return StartNew(self.budgets[0])
        if any(history.rung(budget).heading for budget in self.budgets):
            return Wait()
        return last_resort(history, self.budgets) or Done(f"{self.max_trials} trials started, the others are stopped")

    def retain(self, history: History) -> set[int]:
        """See Scheduler: every trial that would go on if all that can still arrive in its rung were worse, and the
        best at the top.
        """
        kept: set[int] = set()
        arriving = max(0, self.max_trials - history.num_started())
        for level, budget in enumerate(self.budgets[:-1]):
            rung = history.rung(budget)
            arriving += rung.heading
            promotable = set(self._may_go_on(history, budget, arriving) if arriving else self._fit(history, budget))
            if not history.rung(self.budgets[level + 1]).arrivals:
                promotable.update(trial_id for _, trial_id in rung.waiting[:1])  # it goes on if no other does
            kept.update(promotable)
            arriving += len(promotable)
        kept.update(trial_id for _, trial_id in history.rung(self.budgets[-1]).waiting[: self.keep])
        return kept

    def _fit(self, history: History, budget: int, at_most: int | None = None) -> list[int]:
        """The waiting trials of a rung that go on as things stand, best first."""
        rung = history.rung(budget)
        if not self._judges(rung, budget):
            return [trial_id for _, trial_id in rung.waiting[:at_most]]
        table = self._table(history, budget)
        bound = table.median(without=0)  # nobody has a higher median of others than the best has
        found: list[int] = []
        for value, trial_id in table.first_candidates(rung):
            if value > bound or len(found) == at_most:
                break
            if value <= table.median(without=table.place(trial_id)):
                found.append(trial_id)
        return found

    def _may_go_on(self, history: History, budget: int, arriving: int) -> list[int]:
        """The waiting trials of a rung that would go on if so many more came there and all were worse.

        The median of N others can reach a value as long as no more than N // 2 of them are below it.
        """
        rung = history.rung(budget)
        middle = (len(rung.ranking) - 1 + arriving) // 2
        if not self._judges(rung, budget) or middle >= len(rung.ranking):
            return [trial_id for _, trial_id in rung.waiting]
        table = self._table(history, budget)
        return table.candidates(rung, table.averages[middle][0])

    def _judges(self, rung: Rung, budget: int) -> bool:
        """Whether a rung may stop trials: it is past the grace period and holds `min_trials` beside each."""
        return budget > self.grace_budget and len(rung.ranking) > self.min_trials

    def _table(self, history: History, budget: int) -> _Table:
        """The averages of a rung. A cache, built anew for another history."""
        if history is not self._history:
            self._history, self._tables = history, {}
        table, rung = self._tables.setdefault(budget, _Table()), history.rung(budget)
        for trial_id in rung.arrivals[len(table.averages) - table.failures :]:
            losses = [history.loss(trial_id, other) for other in history.trials[trial_id].reports if other <= budget]
            average = math.fsum(losses) / len(losses)
            table.known[trial_id] = losses[-1], average
            insort(table.averages, (average, trial_id))
            insort(table.values, (min(losses) if self.compare == "best" else average, trial_id))
        for trial_id in rung.failed[table.failures :]:
            insort(table.averages, (math.inf, trial_id))
        table.failures = len(rung.failed)
        return table


@dataclass(slots=True)
class _Table:
    """What is known of the trials of a rung besides their losses there.

    Attributes:
        averages: (running average, trial id) of all, failures too, lowest first.
        values: (what is held against the median, trial id) of those not known to have gone on, lowest first.
        known: loss and running average by trial.
        failures: how many of the averages are of failed trials.
    """

    averages: list[tuple[float, int]] = field(default_factory=list)
    values: list[tuple[float, int]] = field(default_factory=list)
    known: dict[int, tuple[float, float]] = field(default_factory=dict)
    failures: int = 0

    def place(self, trial_id: int) -> int:
        """Where a trial stands among the averages."""
        return bisect_left(self.averages, (self.known[trial_id][1], trial_id))

    def median(self, *, without: int) -> float:
        """The median of the averages but for the one at a place; there must be another."""
        count = len(self.averages) - 1
        low, high = ((count - 1) // 2, count // 2)
        return (self.averages[low + (low >= without)][0] + self.averages[high + (high >= without)][0]) / 2

    def first_candidates(self, rung: Rung) -> Iterator[tuple[float, int]]:
        """The entries of `values` that still wait, lowest first. Others on the way to them are dropped."""
        place = 0
        while place < len(self.values):
            value, trial_id = self.values[place]
            if rung.waits((self.known[trial_id][0], trial_id)):
                yield value, trial_id
                place += 1
            else:
                del self.values[place]

    def candidates(self, rung: Rung, highest: float) -> list[int]:
        """The trials that still wait and whose value is no higher, lowest first."""
        if len(self.values) > len(rung.waiting):
            waiting = {trial_id for _, trial_id in rung.waiting}
            self.values = [entry for entry in self.values if entry[1] in waiting]
        return [trial_id for _, trial_id in self.values[: bisect_right(self.values, (highest, math.inf))]]
