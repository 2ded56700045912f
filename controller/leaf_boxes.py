"""The leaves of a regression tree as boxes in a space, so that what the tree predicts can be integrated exactly.

Every parameter is an axis of length 1, cut into *cells*: one for each value where there are few, and for numbers the
stretches between the tree's thresholds. A box has some of the cells of every axis, and the boxes of a tree tile the
unit cube. That cube is the one of Space.encode: all values of a domain are equally likely on its scale.

A parameter that does not exist in an assignment has a place of its own for the trees, outside the axis. Whether it
exists at a point of the cube is decided by the conditions there, as the space decides it, and where it does not, the
prediction is the same all along its axis: what is not there has no influence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from search_spaces.conditions import AtLeast, Condition, OneOf, dependency_order
from search_spaces.domains import Choice, Domain, Int, Params, ParamValue
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ABSENT: Final = -1.0
"""Where a number stands for the trees that does not exist."""

_MOST_VALUES: Final = 128
"""An integer with more values than this is cut at thresholds, as a real number is."""

_LEAF: Final = -1  # of children_left, in the arrays of scikit-learn


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes that tile the unit cube, with a value for each.

    Attributes:
        values: shape [boxes].
        cells: for each axis which of its cells a box has, 0 or 1, shape [boxes, cells].
        widths: for each axis the lengths of its cells, shape [cells]; their sum is 1.
    """

    values: Floats
    cells: tuple[Floats, ...]
    widths: tuple[Floats, ...]


@final
class SpaceColumns:
    """A space as columns of numbers that a regression tree can be grown on.

    A number is a column of its place in [0, 1], and so is a choice of numbers in increasing order, or of two values.
    Any other choice has a column for each value, 1 for the one that was chosen.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._axis_of: list[tuple[int, int]] = []  # of each column: the axis, and the place among its columns
        for place, domain in enumerate(space.domains.values()):
            self._axis_of += [(place, column) for column in range(_num_columns(domain))]
        needs: dict[str, list[str]] = {}
        for condition in space.conditions:
            needs.setdefault(condition.name, []).append(condition.parent)
        self._order = [space.names.index(name) for name in dependency_order(space.names, needs)]

    def rows(self, assignments: Sequence[Params]) -> Floats:
        """Assignments for a tree, shape [assignments, columns]. Raises DomainError for a value outside its domain."""
        columns = [
            _points(domain, [params.get(name) for params in assignments]) for name, domain in self.space.domains.items()
        ]
        return np.concatenate(columns, axis=1)

    def boxes(self, tree: Any) -> Boxes:
        """The leaves of a tree of scikit-learn, `tree_` of an estimator that was fitted to such rows."""
        cuts: dict[int, list[float]] = {}
        for column, threshold in zip(tree.feature.tolist(), tree.threshold.tolist(), strict=True):
            if column >= 0:
                cuts.setdefault(self._axis_of[column][0], []).append(threshold)
        for condition in self.space.conditions:
            parent = self.space.names.index(condition.parent)
            cuts.setdefault(parent, []).extend(_edges(self.space.domains[condition.parent], condition))
        axes = [_axis(domain, cuts.get(place, ())) for place, domain in enumerate(self.space.domains.values())]
        holding = self._conditions(axes)
        values: list[float] = []
        found: list[list[Bools]] = []
        for value, extents in self._leaves(tree, axes):
            for box in _where_they_exist(extents, self._order, holding):
                values.append(value)
                found.append(box)
        cells = tuple(np.array([box[place] for box in found], dtype=np.float64) for place in range(len(axes)))
        return Boxes(np.array(values), cells, tuple(axis.widths for axis in axes))

    def _leaves(self, tree: Any, axes: Sequence[_Axis]) -> Iterable[tuple[float, list[Bools]]]:
        """The value of each leaf, with the cells of each axis that end there; the last entry is for what is absent."""
        lefts, rights = tree.children_left.tolist(), tree.children_right.tolist()
        stack = [(0, [np.ones(len(axis.points), dtype=np.bool_) for axis in axes])]
        while stack:
            node, extents = stack.pop()
            if lefts[node] == _LEAF:
                yield float(tree.value[node, 0, 0]), extents
                continue
            place, column = self._axis_of[tree.feature[node]]
            to_the_left = axes[place].points[:, column] <= tree.threshold[node]
            for child, side in ((rights[node], ~to_the_left), (lefts[node], to_the_left)):
                kept = extents[place] & side
                if kept.any():
                    stack.append((child, _with(extents, place, kept)))

    def _conditions(self, axes: Sequence[_Axis]) -> Mapping[int, Sequence[tuple[int, Bools]]]:
        """For each parameter with conditions: its parents, and which of their cells let it exist."""
        holding: dict[int, list[tuple[int, Bools]]] = {}
        for condition in self.space.conditions:
            name, parent = self.space.names.index(condition.name), self.space.names.index(condition.parent)
            cells = np.array([condition.holds(value) for value in axes[parent].values])
            holding.setdefault(name, []).append((parent, cells))
        return holding


@dataclass(frozen=True, slots=True)
class _Axis:
    """A parameter.

    Attributes:
        values: one for each cell, which tells whether conditions hold there.
        points: where each cell stands for the trees, and last, what is absent: shape [cells + 1, columns].
        widths: shape [cells].
    """

    values: Sequence[ParamValue]
    points: Floats
    widths: Floats


def _axis(domain: Domain, cuts: Iterable[float]) -> _Axis:
    """A parameter as one tree cuts it."""
    if isinstance(domain, Choice):
        values: Sequence[ParamValue] = domain.values
        widths = np.full(len(values), 1 / len(values))
    elif isinstance(domain, Int) and domain.size <= _MOST_VALUES:
        values = range(domain.low, domain.high + 1)
        widths = _widths(domain)
    else:
        return _cut(domain, cuts)
    # Trees compare in single precision.
    points = _points(domain, [*values, None]).astype(np.float32).astype(np.float64)
    return _Axis(values, points, widths)


def _cut(domain: Domain, cuts: Iterable[float]) -> _Axis:
    """A number, with a cell for each stretch between two cuts; the bounds of conditions are among them."""
    edges = np.unique([0.0, 1.0, *(cut for cut in cuts if 0 < cut < 1)])
    middles = (edges[:-1] + edges[1:]) / 2
    return _Axis(domain.decode_many(middles), np.append(middles, ABSENT)[:, None], np.diff(edges))


def _edges(domain: Domain, condition: Condition) -> list[float]:
    """The places on the axis of a parent where a condition begins or ceases to hold."""
    match domain, condition:
        case Choice(), _:
            return []
        case Int(), OneOf(values=values):
            return [_edge(domain, int(value) + end) for value in values for end in (0, 1)]
        case Int(), AtLeast(value=value):
            return [_edge(domain, max(domain.low, math.ceil(value)))]
        case _, AtLeast(value=value):
            return [domain.encode(max(domain.low, value))]
    return []


def _edge(domain: Int, value: float) -> float:
    """Where the cell of an integer begins, see Int.encode."""
    if domain.log:
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        return (math.log(value - 0.5) - low) / (high - low)
    return (value - domain.low) / (domain.high - domain.low + 1)


def _widths(domain: Int) -> Floats:
    return np.diff([_edge(domain, value) for value in range(domain.low, domain.high + 2)])


def _num_columns(domain: Domain) -> int:
    """How many columns a parameter has."""
    listed = isinstance(domain, Choice) and len(domain.values) > 2 and not domain.is_ordered
    return len(domain.values) if listed else 1  # type: ignore[union-attr]


def _points(domain: Domain, values: Sequence[ParamValue | None]) -> Floats:
    """Values as columns, shape [values, columns]; None is for what does not exist."""
    there = [row for row, value in enumerate(values) if value is not None]
    places = domain.encode_many([value for value in values if value is not None])
    columns = _num_columns(domain)
    if columns == 1:
        points = np.full((len(values), 1), ABSENT)
        points[there, 0] = places
        return points
    points = np.zeros((len(values), columns))
    points[there, (places * columns).astype(np.int64)] = 1.0
    return points


def _where_they_exist(
    extents: list[Bools], order: Sequence[int], holding: Mapping[int, Sequence[tuple[int, Bools]]]
) -> list[list[Bools]]:
    """The points of the cube that come to a leaf, as boxes, from the cells of each axis that do.

    Where a parameter does not exist, all of its axis comes there, or nothing. Parents stand before what depends on
    them, so that their own cells are settled.
    """
    asked = {place for place, cells in enumerate(extents) if not cells.all()}  # where it matters what exists
    for place in reversed(order):
        if place in asked:
            asked |= {parent for parent, _ in holding.get(place, ())}
    boxes: list[tuple[list[Bools], frozenset[int]]] = [(extents, frozenset())]  # with the axes that do not exist
    for place in order:
        settled: list[tuple[list[Bools], frozenset[int]]] = []
        if place not in asked:
            boxes = [(_with(box, place, box[place][:-1]), absent) for box, absent in boxes]
            continue
        for box, absent in boxes:
            without, within = _divided(box, absent, holding.get(place, ()))
            if box[place][-1]:
                everywhere = np.ones(len(box[place]) - 1, dtype=np.bool_)
                settled += [(_with(part, place, everywhere), absent | {place}) for part in without]
            cells = box[place][:-1]
            if cells.any():
                settled += [(_with(part, place, cells), absent) for part in within]
        boxes = settled
    return [box for box, _ in boxes]


def _divided(
    box: list[Bools], absent: frozenset[int], conditions: Sequence[tuple[int, Bools]]
) -> tuple[list[list[Bools]], list[list[Bools]]]:
    """The parts of a box where conditions do not all hold, and the part where they do."""
    without: list[list[Bools]] = []
    for parent, holds in conditions:
        if parent in absent:
            return [*without, box], []
        failing, kept = box[parent] & ~holds, box[parent] & holds
        if failing.any():
            without.append(_with(box, parent, failing))
        if not kept.any():
            return without, []
        box = _with(box, parent, kept)
    return without, [box]


def _with(extents: list[Bools], place: int, cells: Bools) -> list[Bools]:
    """The same with other cells of one axis."""
    return [*extents[:place], cells, *extents[place + 1 :]]
