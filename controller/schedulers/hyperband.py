"""Hyperband (Li et al. 2018, JMLR 18-185, arXiv:1603.06560), synchronous."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from controller.history import History
from controller.schedulers.brackets import Bracket, Sizes, apportioned, checked_ladder, hyperband_brackets
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategy import Done, Resume, StartNew, Wait


@final
class Hyperband:
    """Brackets of successive halving one after the other, from the one that halves most to plain full trainings.

    A round has a bracket for every rung to start at (see hyperband_brackets), and rounds follow each other until
    `max_trials` are started. Where the last round has too few trials left for all its brackets, or the only one of
    a small study, they are shared among its brackets in proportion to a full round, so that it hedges as a full
    one does; the paper has no such case, others run the first brackets and drop the rest.

    A trial's label `bracket` counts the brackets over all rounds: with k rungs, bracket b begins at rung b % k.
    Trials are compared within their bracket.

    BOHB (Falkner et al. 2018, arXiv:1807.01774) is this scheduler with a sampler that learns from the highest rung.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget.
        max_trials: how many trials are started.
        reduction_factor: eta >= 2.
        overlap: a worker that would wait for the end of a rung starts on the next bracket instead. The brackets
            stay what they are. With one worker it makes no difference.
        sizes: whether brackets are as large as in the paper's algorithm or as in its table, see hyperband_brackets.
        keep: how many of the best trials of the highest rung keep their checkpoints.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        overlap: bool = True,
        sizes: Sizes = "algorithm",
        keep: int = 1,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        self.max_trials = max_trials
        self.reduction_factor = reduction_factor
        self.overlap = overlap
        self.keep = keep
        self.brackets = [
            SuccessiveHalving(rungs, max_trials=trials, reduction_factor=reduction_factor, keep=0, bracket=number)
            for number, rungs, trials in _plan(hyperband_brackets(budgets, reduction_factor, sizes=sizes), max_trials)
        ]
        self._history: History | None = None
        self._left = self.brackets

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        left = self._unfinished(history)
        place = 0
        while place < len(left):
            decision = left[place].next(history)
            if isinstance(decision, Done):
                del left[place]  # it stays done
            elif isinstance(decision, Wait) and self.overlap:
                place += 1
            else:
                return decision
        return Wait() if left else Done(f"all {len(self.brackets)} brackets are done")

    def retain(self, history: History) -> set[int]:
        """See Scheduler: what the brackets under way may still need, and the best at the top."""
        kept = {trial_id for _, trial_id in history.rung(self.budgets[-1]).waiting[: self.keep]}
        for bracket in self._unfinished(history):
            if not history.num_started(bracket.bracket):
                break  # nor are those after it
            kept.update(bracket.retain(history))
        return kept

    def _unfinished(self, history: History) -> list[SuccessiveHalving]:
        """The brackets that are not known to be done. A cache, built anew for another history."""
        if history is not self._history:
            self._history, self._left = history, list(self.brackets)
        return self._left


def _plan(one_round: Sequence[Bracket], max_trials: int) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """Number, rungs and number of trials of every bracket."""
    sizes = [bracket.sizes[0] for bracket in one_round]
    full_rounds, rest = divmod(max_trials, sum(sizes))
    for turn in range(full_rounds + 1):
        for place, trials in enumerate(sizes if turn < full_rounds else apportioned(rest, sizes)):
            if trials:
                yield turn * len(sizes) + place, one_round[place].budgets, trials
