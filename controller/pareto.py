"""Trade-offs between several objectives: who beats whom, how crowded a front is, how much it covers.

Losses are arrays of shape [rows, objectives], lower is better. A row is dominated by one that is nowhere worse and
somewhere better; rows that are equal do not dominate each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.trial import Trial

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_BLOCK: Final = 128  # rows that are compared with all before them at once


def pareto_front(losses: Sequence[Sequence[float]] | Floats) -> list[int]:
    """The places of the non-dominated rows, in their order.

    A row that is not finite throughout is left out.

    Args:
        losses: [rows, objectives].
    """
    table = _table(losses)
    finite = np.flatnonzero(np.isfinite(table).all(axis=1))
    front: list[int] = finite[non_dominated_ranks(table[finite]) == 0].tolist()
    return front


def front_of(history: History) -> list[Trial]:
    """The trials at the full budget that no other dominates, best first by the first objective; no repeats.

    Losses at lower budgets do not compare with those, and a repeat is the same configuration once more.
    """
    full = [history.trials[trial_id] for _, trial_id in history.rung(history.horizon).ranking]
    full = [trial for trial in full if history.horizon in trial.reports]
    losses = [history.losses(trial.trial_id, history.horizon) for trial in full]
    return [full[place] for place in pareto_front(losses)]


def non_dominated_ranks(losses: Sequence[Sequence[float]] | Floats) -> Indices:
    """The front that each row stands in, from 0, shape [rows].

    Front 0 is what nothing dominates, front 1 what only front 0 dominates, and so on (Deb et al. 2002, Sec. III-A).
    All rows that are not finite throughout share one rank behind the last front.

    O(n log n) for one and two objectives, O(n^2) array comparisons for more.

    Args:
        losses: [rows, objectives].
    """
    table = _table(losses)
    finite = np.isfinite(table).all(axis=1)
    ranks = np.zeros(len(table), np.int64)
    if finite.any():
        unique, places = _distinct(table[finite])
        few = unique.shape[1] <= 2
        ranks[finite] = (_ranks_of_few(unique) if few else _ranks_of_many(unique))[places]
    ranks[~finite] = ranks[finite].max() + 1 if finite.any() else 0
    return ranks


def crowding_distances(losses: Sequence[Sequence[float]] | Floats) -> Floats:
    """How much room each row of one front has, shape [rows] (Deb et al. 2002, Sec. III-B).

    The gap between its two neighbours in each objective over the range of the objective, summed; infinite at the
    ends. Rows that tie at an end leave it to one of them, and an objective in which all rows are equal counts nothing.

    Args:
        losses: [rows, objectives], finite.
    """
    table = _table(losses)
    if len(table) <= 2:
        return np.full(len(table), np.inf)
    distances = np.zeros(len(table))
    for column in table.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        if values[0] == values[-1]:
            continue
        gaps = np.full(len(values), np.inf)
        gaps[1:-1] = (values[2:] - values[:-2]) / (values[-1] - values[0])
        distances[order] += gaps
    return distances


def crowded_order(losses: Sequence[Sequence[float]] | Floats) -> Indices:
    """All rows from best to worst: by front, within a front the one with more room first, then the earlier one.

    The crowded-comparison operator of Deb et al. 2002; it makes a ranking of several objectives wherever one loss
    would do. Rows that are not finite come last.

    Args:
        losses: [rows, objectives].
    """
    table = _table(losses)
    ranks = non_dominated_ranks(table)
    room = np.zeros(len(table))
    finite = np.isfinite(table).all(axis=1)
    for rank in range(int(ranks[finite].max()) + 1 if finite.any() else 0):
        front = np.flatnonzero((ranks == rank) & finite)
        room[front] = crowding_distances(table[front])
    return np.lexsort((-room, ranks)).astype(np.int64)


def hypervolume(losses: Sequence[Sequence[float]] | Floats, reference: Sequence[float]) -> float:
    """The volume between the rows and a reference point: what is dominated by a row and dominates the reference.

    Exact: O(n log n) for up to three objectives; for more the recursion of While et al. 2012 (WFG), which takes
    a tenth of a second for 100 rows of five objectives. Rows that are not better than the reference throughout, or
    not finite, add nothing.

    Args:
        losses: [rows, objectives].
        reference: [objectives], finite; the same for all sets that are compared.

    Raises ValueError if there is not one finite coordinate an objective.
    """
    table, corner = _table(losses), np.asarray(reference, np.float64)
    if corner.ndim != 1 or not np.isfinite(corner).all() or (len(table) and len(corner) != table.shape[1]):
        raise ValueError(f"expected a finite reference for each objective, got {reference}; take the worst acceptable")
    if not len(table):
        return 0.0
    inside = table[np.isfinite(table).all(axis=1) & (table < corner).all(axis=1)]
    return _volume(corner - inside[pareto_front(inside)])


def _table(losses: Sequence[Sequence[float]] | Floats) -> Floats:
    table = np.asarray(losses, np.float64)
    return table.reshape(len(table), -1) if table.size else table.reshape(len(table), 1)


def _distinct(table: Floats) -> tuple[Floats, Indices]:
    """The distinct rows in lexicographic order, so that none is dominated by a later one, and where each row went."""
    order = np.lexsort(table.T[::-1])
    ordered = table[order]
    new = np.ones(len(ordered), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    places = np.empty(len(table), np.int64)
    places[order] = np.cumsum(new) - 1
    return ordered[new], places


def _ranks_of_few(ordered: Floats) -> Indices:
    """Ranks of distinct rows of one or two objectives in lexicographic order.

    Before a row come only rows that are no worse in the first objective, so a front dominates it if the front's
    least second objective so far is no larger; these grow from front to front.
    """
    if ordered.shape[1] == 1:
        return np.arange(len(ordered))
    least: list[float] = []
    ranks = []
    for second in ordered[:, 1].tolist():
        rank = bisect_right(least, second)
        least[rank : rank + 1] = [second]
        ranks.append(rank)
    return np.array(ranks, np.int64)


def _ranks_of_many(ordered: Floats) -> Indices:
    """Ranks of distinct rows in lexicographic order: one more than the highest rank among those that dominate."""
    count = len(ordered)
    small = np.int16 if count < 2**15 else np.int32  # places in each objective: small numbers compare faster
    columns = [np.unique(column, return_inverse=True)[1].astype(small) for column in ordered.T[1:]]
    ranks = np.zeros(count, small)  # one more than the rank, 0 for none
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        highest = (_dominated(columns, rows, slice(0, start)) * ranks[:start]).max(axis=1, initial=0)
        within = np.tril(_dominated(columns, rows, rows), -1)
        while True:
            found = np.maximum(highest, (within * ranks[rows]).max(axis=1)) + 1
            if np.array_equal(found, ranks[rows]):
                break
            ranks[rows] = found
    return ranks.astype(np.int64) - 1


def _dominated(columns: Sequence[npt.NDArray[Any]], rows: slice, by: slice) -> npt.NDArray[np.bool_]:
    """Whether each of the rows is nowhere better than each of the others, shape [rows, others]."""
    result = columns[0][rows, None] >= columns[0][None, by]
    for column in columns[1:]:
        result &= column[rows, None] >= column[None, by]
    return result


def _volume(sides: Floats) -> float:
    """The volume of the union of boxes between the origin and points, shape [n, k], none of which covers another."""
    count, objectives = sides.shape
    if count == 0:
        return 0.0
    if count == 1 or objectives == 1:
        return float(sides.prod(axis=1).max())
    sides = sides[np.argsort(-sides[:, -1], kind="stable")]
    if objectives == 2:  # from the highest to the lowest; each is wider than those before
        widths = np.diff(np.maximum.accumulate(sides[:, 0]), prepend=0.0)
        return float(widths @ sides[:, 1])
    if objectives == 3:
        return float(np.array(_added_areas(sides)) @ sides[:, 2])
    total = 0.0
    for place, side in enumerate(sides):
        covered = np.minimum(sides[:place, :-1], side[:-1])
        covered = covered[pareto_front(-covered)]
        base = float(side[:-1].prod()) - _volume(np.unique(covered, axis=0))
        total += base * float(side[-1])
    return total


def _added_areas(sides: Floats) -> list[float]:
    """What each rectangle from the origin to a point adds to the area of those before it, shape [n]."""
    wide: list[float] = [0.0, math.inf]  # the outer corners of the union, ever wider and ever lower
    high: list[float] = [math.inf, 0.0]
    areas = []
    for width, height in sides[:, :2].tolist():
        first = place = bisect_left(wide, width)
        area, edge = 0.0, width
        while high[place] < height:
            area += (edge - wide[place - 1]) * (height - high[place])
            edge = wide[place - 1]
            place -= 1
        if place < first:  # the corners in between lie inside the new rectangle
            inside = slice(place + 1, first + (wide[first] == width))
            wide[inside], high[inside] = [width], [height]
        areas.append(area)
    return areas
