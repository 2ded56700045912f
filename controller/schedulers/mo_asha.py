"""Asynchronous successive halving for several objectives (Schmucker et al. 2021, arXiv:2106.12639)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, Literal, final, get_args

import numpy as np
import numpy.typing as npt

from controller.history import History, Rung
from controller.pareto import crowding_distances, non_dominated_ranks
from controller.schedulers.brackets import checked_ladder
from controller.schedulers.last_resort import last_resort
from controller.strategy import Done, Resume, StartNew, Wait

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Spread = Literal["epsilon-net", "crowding"]

MANY: Final = 16  # with more new rows than that, or one objective, all are sorted: quicker than to insert each


@final
class MOASHA:
    """ASHA whose rungs are ranked by all objectives: front by front, within a front those first that spread it best.

    A paused trial is promoted when it is in the top 1/eta of its rung, else a new one is started; the highest rung
    comes first. With one objective every decision is ASHA's.

    Within a front the order is that of an epsilon net: first the best in the first objective, then always the one
    that is furthest from all before it, so that a front that is cut is cut evenly. Distances are taken after each
    objective was scaled to its range over the front, which the paper leaves open; without it an objective in
    milliseconds would outweigh a loss. `spread="crowding"` is the paper's other choice, the crowding distance of
    NSGA-II.

    A failed trial counts in the rung it was heading for and ranks last. When nothing else is left to do and no
    trial has reached the full budget, the best in the first objective that waits in the highest rung goes on.

    Args:
        budgets: the rungs, strictly increasing; the last is the full budget.
        max_trials: how many trials are started.
        reduction_factor: eta >= 2, the share promoted is 1/eta.
        spread: the order within a front.
        keep: how many of the best trials of the highest rung keep their checkpoints; its first front does anyway.
        bracket: rung and count only the trials of this bracket, and label new ones with it.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        spread: Spread = "epsilon-net",
        keep: int = 1,
        bracket: int | None = None,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        if spread not in get_args(Spread):
            raise ValueError(f"expected spread to be one of {get_args(Spread)}, got {spread!r}; see MOASHA")
        self.max_trials = max_trials
        self.reduction_factor = reduction_factor
        self.spread: Spread = spread
        self.keep = keep
        self.bracket = bracket
        self._history: History | None = None
        self._fronts: dict[int, _Fronts] = {}

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        rungs = [history.rung(budget, self.bracket) for budget in self.budgets]
        for level in reversed(range(len(self.budgets) - 1)):
            share = len(rungs[level].ranking) // self.reduction_factor
            if share and rungs[level].waiting:
                best = self._read(history, level).best_waiting(rungs[level], share, at_most=1)
                if best:
                    return Resume(best[0], self.budgets[level + 1])
        if history.num_started(self.bracket) < self.max_trials:
            return StartNew(self.budgets[0], {} if self.bracket is None else {"bracket": self.bracket})
        if any(rung.heading for rung in rungs):
            return Wait()
        resort = last_resort(history, self.budgets, self.bracket)
        return resort or Done(f"{self.max_trials} trials started, none left to promote")

    def retain(self, history: History) -> set[int]:
        """See Scheduler: every trial that may still be promoted, and at the top the first front and the best.

        Those that dominate a trial stay ahead of it whatever comes, others may yet fall behind it. So a paused trial
        is out once more trials dominate it than would be promoted if everything that can still arrive did; as soon
        as nothing can, once it is not among those that are promoted.
        """
        kept: set[int] = set()
        rungs = [history.rung(budget, self.bracket) for budget in self.budgets]
        arriving = max(0, self.max_trials - history.num_started(self.bracket))
        for level, rung in enumerate(rungs[:-1]):
            arriving += rung.heading
            share = (len(rung.ranking) + arriving) // self.reduction_factor
            fronts = self._read(history, level)
            promotable = set(fronts.little_dominated(rung, share) if arriving else fronts.best_waiting(rung, share))
            if not rungs[level + 1].arrivals:
                promotable.update(trial_id for _, trial_id in rung.waiting[:1])  # it goes on if no other does
            kept.update(promotable)
            arriving += len(promotable)
        top = self._read(history, len(self.budgets) - 1)
        return kept.union(top.first_front(), top.best_waiting(rungs[-1], self.keep))

    def _read(self, history: History, level: int) -> _Fronts:
        """The fronts of a rung, with what is new. A cache, built anew for another history."""
        if history is not self._history:
            self._history, self._fronts = history, {}
        budget = self.budgets[level]
        fronts = self._fronts.setdefault(budget, _Fronts(len(history.objectives), self.spread))
        new = history.rung(budget, self.bracket).arrivals[len(fronts.trial_ids) :]
        if new:
            fronts.extend(new, [history.losses(trial_id, budget) for trial_id in new])
        return fronts


@final
class _Fronts:
    """The measured trials of a rung by the front that they stand in, kept up as results come in.

    A new row moves those of its own front that it dominates to the next one, they do the same there, and so on
    (Li et al. 2017, IEEE Trans. Cybern. 47(11), efficient non-domination level update). What comes out is the same
    in whatever order the rows came.

    Args:
        objectives: how many.
        spread: the order within a front.
    """

    def __init__(self, objectives: int, spread: Spread) -> None:
        self.trial_ids: list[int] = []
        self._spread = spread
        self._losses: Floats = np.empty((0, objectives))
        self._ids: Indices = np.empty(0, np.int64)
        self._ranks: Indices = np.empty(0, np.int64)
        self._dominators: Indices = np.empty(0, np.int64)
        self._may_wait: Flags = np.empty(0, np.bool_)

    def extend(self, trial_ids: Sequence[int], losses: Sequence[Sequence[float]]) -> None:
        """Take in new trials with their losses, shape [trials, objectives]."""
        old, zeros = len(self.trial_ids), np.zeros(len(trial_ids), np.int64)
        self.trial_ids.extend(trial_ids)
        self._ids = np.array(self.trial_ids, np.int64)
        self._losses = np.concatenate([self._losses, np.array(losses, np.float64)])
        self._ranks = np.concatenate([self._ranks, zeros])
        self._dominators = np.concatenate([self._dominators, zeros])
        self._may_wait = np.concatenate([self._may_wait, np.ones(len(zeros), np.bool_)])
        sort_all = self._losses.shape[1] == 1 or len(zeros) > MANY
        for row in range(old, len(self._ids)):
            dominating, dominated = self._compare(row)
            self._dominators[row] = dominating.sum()
            self._dominators[:row] += dominated
            if not sort_all:
                self._insert(row, dominating, dominated)
        if sort_all:
            self._ranks = non_dominated_ranks(self._losses)

    def first_front(self) -> list[int]:
        """The trials that no other dominates."""
        front: list[int] = self._ids[self._ranks == 0].tolist()
        return front

    def little_dominated(self, rung: Rung, share: int) -> list[int]:
        """The waiting trials that fewer than `share` others dominate."""
        rows = np.flatnonzero(self._may_wait & (self._dominators < share))
        waiting: list[int] = self._ids[rows[self._waiting(rows, rung)]].tolist()
        return waiting

    def best_waiting(self, rung: Rung, share: int, at_most: int | None = None) -> list[int]:
        """The waiting trials among the best `share`, best first."""
        found: list[int] = []
        rows = np.flatnonzero(self._may_wait)
        while len(rows):
            rank = self._ranks[rows].min()
            limit = share - int((self._ranks < rank).sum())
            if limit <= 0:
                break
            front = np.flatnonzero(self._ranks == rank)
            front = front[np.argsort(self._ids[front])]  # so that ties go to the older trial
            waiting = self._waiting(front, rung)
            alone = waiting.sum() <= 1 and limit >= len(front)  # the order does not matter
            for place in np.flatnonzero(waiting).tolist() if alone else islice(self._order(front), limit):
                if waiting[place]:
                    found.append(int(self._ids[front[place]]))
                    if len(found) == at_most:
                        return found
            rows = rows[self._ranks[rows] > rank]
        return found

    def _compare(self, row: int) -> tuple[Flags, Flags]:
        """Which of the rows before it dominate a row, and which of them it dominates."""
        no_worse, no_better = np.ones(row, np.bool_), np.ones(row, np.bool_)
        for column in self._losses[: row + 1].T:
            no_worse &= column[:-1] <= column[-1]
            no_better &= column[:-1] >= column[-1]
        equal = no_worse & no_better
        return no_worse & ~equal, no_better & ~equal

    def _insert(self, row: int, dominating: Flags, dominated: Flags) -> None:
        """Give a row its front and move those that it displaces."""
        ranks = self._ranks[:row]
        rank = int(ranks[dominating].max()) + 1 if dominating.any() else 0
        self._ranks[row] = rank
        moving = np.flatnonzero(dominated & (ranks == rank))
        while len(moving):
            rank += 1
            residents = np.flatnonzero(ranks == rank)
            ranks[moving] = rank
            moving = residents[_any_dominates(self._losses[moving], self._losses[residents])]

    def _waiting(self, rows: Indices, rung: Rung) -> Flags:
        """Which of some rows still wait. Others, which never come back, are remembered."""
        for row in rows[self._may_wait[rows]].tolist():
            self._may_wait[row] = rung.waits((float(self._losses[row, 0]), self.trial_ids[row]))
        return self._may_wait[rows]

    def _order(self, front: Indices) -> Iterator[int]:
        """The places of a front, those first that spread it best."""
        losses = self._losses[front]
        if self._spread == "crowding":
            order: list[int] = np.argsort(-crowding_distances(losses), kind="stable").tolist()
            return iter(order)
        return epsilon_net(losses)


def epsilon_net(losses: Floats) -> Iterator[int]:
    """The rows in an order in which each is the one that is furthest from all before it.

    The first is the best in the first objective (of those the best in the second, and so on). Distances are Euclidean
    after each objective was scaled to its range; ties go to the earlier row.

    Args:
        losses: [rows, objectives], finite, at least one row.
    """
    span = np.ptp(losses, axis=0)
    scaled = losses / np.where(span > 0, span, 1.0)
    nearest = np.full(len(losses), np.inf)  # squared distance to the nearest of those before
    place = int(np.lexsort(losses.T[::-1])[0])
    for _ in range(len(losses)):
        yield place
        nearest = np.minimum(nearest, ((scaled - scaled[place]) ** 2).sum(axis=1))
        nearest[place] = -1.0
        place = int(np.argmax(nearest))


def _any_dominates(these: Floats, those: Floats) -> Flags:
    """Which of those rows are dominated by any of these, shape [those]."""
    no_worse = np.ones((len(those), len(these)), np.bool_)
    better = np.zeros_like(no_worse)
    for mine, theirs in zip(these.T, those.T, strict=True):
        no_worse &= mine <= theirs[:, None]
        better |= mine < theirs[:, None]
    return np.asarray((no_worse & better).any(axis=1))
