"""Asynchronous successive halving by promotion (Li et al. 2020, arXiv:1810.05934, Alg. 2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from controller.history import History, Rung
from controller.schedulers.brackets import checked_ladder
from controller.schedulers.last_resort import last_resort
from controller.strategy import Done, Resume, StartNew, Wait


class ASHA:
    """Promote a paused trial when it is in the top 1/eta of its rung, else start a new one.

    Rungs are searched from the highest down, as in the paper (`get_job`). Two additions:

    - When nothing else is left to do and no trial has reached the full budget, be it that there were too
      few or that the promoted ones failed, the best that waits in the highest rung goes on.
    - With `cap_promotions`, rung k never promotes more than synchronous halving of `max_trials` would,
      max(1, max_trials // eta^(k+1)): the paper's rule promotes some trials early that a full rung
      would not, which this bounds at the price of an idle worker now and then.

    A failed trial counts in the rung it was heading for and ranks last.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget.
        reduction_factor: eta >= 2, the share promoted is 1/eta.
        max_trials: how many trials are started.
        keep: how many of the best trials of the highest rung keep their checkpoints.
        bracket: rung and count only the trials of this bracket, and label new ones with it; several
            ASHAs with brackets of their own can share one history.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        cap_promotions: bool = False,
        keep: int = 1,
        bracket: int | None = None,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        self.max_trials = max_trials
        self.reduction_factor = reduction_factor
        self.cap_promotions = cap_promotions
        self.keep = keep
        self.bracket = bracket

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        for level in reversed(range(len(self.budgets) - 1)):
            rung = history.rung(self.budgets[level], self.bracket)
            if self._can_promote(rung, level):
                return Resume(rung.waiting[0][1], self.budgets[level + 1])
        if history.num_started(self.bracket) < self.max_trials:
            return StartNew(self.budgets[0], {} if self.bracket is None else {"bracket": self.bracket})
        if any(history.rung(budget, self.bracket).heading for budget in self.budgets):
            return Wait()
        return last_resort(history, self.budgets, self.bracket) or Done(
            f"{self.max_trials} trials started, none left to promote"
        )

    def retain(self, history: History) -> set[int]:
        """See Scheduler: every trial that may still be promoted, and the best at the top.

        A paused trial can only lose ranks, so it is out once it is past the share that would be promoted
        if everything that can still arrive in its rung did: the trials not started yet, those on their
        way, and those that may still be promoted from below. Only where promoted trials failed may another
        one be wanted in the end; it is trained again.
        """
        kept: set[int] = set()
        arriving = max(0, self.max_trials - history.num_started(self.bracket))
        for level, budget in enumerate(self.budgets[:-1]):
            rung = history.rung(budget, self.bracket)
            arriving += rung.heading
            share = (len(rung.ranking) + arriving) // self.reduction_factor
            candidates = len(rung.waiting)
            if share < len(rung.ranking):
                candidates = bisect_left(rung.waiting, rung.ranking[share])
            if self.cap_promotions:
                candidates = min(candidates, max(0, self._cap(level) - rung.promoted))
            if not history.rung(self.budgets[level + 1], self.bracket).arrivals:
                candidates = max(candidates, 1)  # it goes on if no other does
            promotable = [trial_id for _, trial_id in rung.waiting[:candidates]]
            kept.update(promotable)
            arriving += len(promotable)
        kept.update(trial_id for _, trial_id in history.rung(self.budgets[-1], self.bracket).waiting[: self.keep])
        return kept

    def _can_promote(self, rung: Rung, level: int) -> bool:
        if not rung.waiting:
            return False
        if self.cap_promotions and rung.promoted >= self._cap(level):
            return False
        return rung.rank(rung.waiting[0]) < len(rung.ranking) // self.reduction_factor

    def _cap(self, level: int) -> int:
        """How many trials synchronous halving would promote from a rung."""
        share: int = self.reduction_factor ** (level + 1)
        return max(1, self.max_trials // share)
