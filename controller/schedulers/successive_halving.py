"""Synchronous successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from controller.history import History
from controller.schedulers.brackets import checked_ladder, halved
from controller.schedulers.last_resort import last_resort
from controller.strategy import Done, Resume, StartNew, Wait


@final
class SuccessiveHalving:
    """Train all trials to the first rung, the best floor(n / eta) of them to the second, and so on.

    A rung begins when the one below it is complete; until then workers wait. Of n trials floor(n / eta^k) are
    trained to rung k, at least one, so that fewer trials than eta still bring one to the full budget.

    The rungs are given, as in Hyperband's inner loop (Li et al. 2018, Alg. 1), where the paper divides a total
    budget evenly among them.

    A failed trial counts in the rung it was heading for and ranks last. It is not replaced, unless no trial
    would reach the full budget: then the best that waits in the highest rung goes on.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget.
        max_trials: n, how many trials are started.
        reduction_factor: eta >= 2.
        keep: how many of the best trials of the highest rung keep their checkpoints.
        bracket: rung and count only the trials of this bracket, and label new ones with it.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        keep: int = 1,
        bracket: int | None = None,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        self.sizes = halved(max_trials, len(self.budgets), reduction_factor)
        self.max_trials = max_trials
        self.reduction_factor = reduction_factor
        self.keep = keep
        self.bracket = bracket

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        if history.num_started(self.bracket) < self.max_trials:
            return StartNew(self.budgets[0], {} if self.bracket is None else {"bracket": self.bracket})
        below = history.rung(self.budgets[0], self.bracket)
        if below.heading:
            return Wait()
        for budget, size in zip(self.budgets[1:], self.sizes[1:], strict=True):
            if below.promoted < size and below.waiting:
                return Resume(below.waiting[0][1], budget)
            below = history.rung(budget, self.bracket)
            if below.heading:
                return Wait()
        return last_resort(history, self.budgets, self.bracket) or Done(
            f"{self.max_trials} trials started, none left to promote"
        )

    def retain(self, history: History) -> set[int]:
        """See Scheduler: of each rung as many as are still to go on from it, and the best at the top.

        Nobody goes on before the rung is complete, so the best so far are all that can. As long as no trial has
        arrived above, one is kept in case those fail.
        """
        rungs = [history.rung(budget, self.bracket) for budget in self.budgets]
        kept = {trial_id for _, trial_id in rungs[-1].waiting[: self.keep]}
        for rung, above, size in zip(rungs, rungs[1:], self.sizes[1:], strict=False):
            due = max(size - rung.promoted, 0 if above.arrivals else 1)
            kept.update(trial_id for _, trial_id in rung.waiting[:due])
        return kept
