"""Asynchronous Hyperband: several brackets of ASHA side by side (Li et al. 2020, Klein et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from controller.history import History
from controller.schedulers.asha import ASHA
from controller.schedulers.brackets import apportioned, checked_ladder, hyperband_brackets
from controller.strategy import Done, Resume, StartNew, Wait


@final
class AsyncHyperband:
    """An ASHA for every rung to start at; new trials go to them in the proportions of a round of Hyperband.

    Nobody waits for a rung to fill, and a bracket is never over before the study is. As in MOBSTER (Klein et al.
    2020, arXiv:2003.10865) bracket s takes a share of the trials that is proportional to the ceil((s_max + 1) eta^s
    / (s + 1)) of Hyperband. There a bracket is drawn at random for each trial; here the next trial goes to the
    bracket that is furthest behind its share, so that the counts are as close to the proportions as integers can
    be at any time.

    Of several promotions that are due, the one to the highest rung comes first. A trial's label `bracket` is the
    rung that it begins at, from 0; trials are compared within their bracket.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget.
        max_trials: how many trials are started, in all brackets together.
        reduction_factor: eta >= 2.
        cap_promotions: see ASHA.
        keep: how many of the best trials of the highest rung keep their checkpoints.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        cap_promotions: bool = False,
        keep: int = 1,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        self.max_trials = max_trials
        self.reduction_factor = reduction_factor
        self.keep = keep
        brackets = hyperband_brackets(budgets, reduction_factor)
        shares = apportioned(max_trials, [bracket.sizes[0] for bracket in brackets])
        self.brackets = [
            ASHA(
                bracket.budgets,
                max_trials=share,
                reduction_factor=reduction_factor,
                cap_promotions=cap_promotions,
                keep=0,
                bracket=number,
            )
            for number, (bracket, share) in enumerate(zip(brackets, shares, strict=True))
            if share
        ]

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        decisions = [bracket.next(history) for bracket in self.brackets]
        promotions = [decision for decision in decisions if isinstance(decision, Resume)]
        if promotions:
            return max(promotions, key=lambda promotion: promotion.budget)
        starts = {place: decision for place, decision in enumerate(decisions) if isinstance(decision, StartNew)}
        if starts:
            return starts[self._furthest_behind(history, starts)]
        if any(isinstance(decision, Wait) for decision in decisions):
            return Wait()
        return Done(f"{self.max_trials} trials started, none left to promote")

    def retain(self, history: History) -> set[int]:
        """See Scheduler: what any bracket may still promote, and the best at the top."""
        kept = {trial_id for _, trial_id in history.rung(self.budgets[-1]).waiting[: self.keep]}
        return kept.union(*(bracket.retain(history) for bracket in self.brackets))

    def _furthest_behind(self, history: History, places: Iterable[int]) -> int:
        """The bracket, of those at some places, that lacks most of its share of the trials up to the next one."""
        started = [history.num_started(bracket.bracket) for bracket in self.brackets]
        count = sum(started) + 1
        return max(places, key=lambda place: self.brackets[place].max_trials * count - self.max_trials * started[place])
