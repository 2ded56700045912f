"""What a surrogate sees of a configuration: points of the unit cube as features with meaningful distances."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from search_spaces.conditions import AtLeast, Condition
from search_spaces.domains import Choice, Domain, Float
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@final
class Features:
    """Maps points of the unit cube to features.

    | parameter                 | columns                                                                     |
    |---------------------------|-----------------------------------------------------------------------------|
    | Float, Int, ordered Choice| its place in [0, 1]                                                         |
    | Choice of two             | 0 or 1                                                                      |
    | other Choice              | one a value, 1/sqrt(2) or 0: any two values are at distance 1               |
    | may be absent             | one more, 1 if it exists and 0 if not; the others are then 0.5 (0 for many) |
    | one value only            | none: there is nothing to learn about it                                    |

    The points must be those of `Space.encode`, with 0.5 for what is absent: whether a parameter exists is read off
    its parents' places. Other points of the cube are first taken to `space.encode_many(space.decode_many(units))`,
    which also rounds integers and choices and repairs rules, so that what the surrogate judges is what will be trained.

    Args:
        space: what the points are points of.

    Attributes:
        names: shape [g], the parameters that have columns, in the order of the space.
        groups: shape [k], for each column the place of its parameter in `names`: one lengthscale a parameter.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._places = {name: column for column, name in enumerate(space.domains)}
        self._conditions: dict[str, list[Condition]] = {}
        for condition in space.conditions:
            self._conditions.setdefault(condition.name, []).append(condition)
        self.names = tuple(name for name, domain in space.domains.items() if domain.size > 1)
        widths = [_width(space.domains[name]) + (name in self._conditions) for name in self.names]
        self.groups: Indices = np.repeat(np.arange(len(self.names)), widths).astype(np.int64)

    @property
    def width(self) -> int:
        """k, the number of columns."""
        return len(self.groups)

    def of(self, units: Floats) -> Floats:
        """The features of n points, shape [n, d] to [n, k]."""
        exists = self._existence(units)
        columns: list[Floats] = []
        for name in self.names:
            own = _columns(self.space.domains[name], units[:, self._places[name]])
            present = exists.get(name)
            if present is not None:
                own = [np.where(present, column, 0.5 if len(own) == 1 else 0.0) for column in own]
                own.append(present.astype(np.float64))
            columns += own
        return np.stack(columns, axis=1) if columns else np.empty((len(units), 0))

    def _existence(self, units: Floats) -> dict[str, Flags]:
        """Which parameters that may be absent exist in which of the points."""
        known: dict[str, Flags] = {}

        def present(name: str) -> Flags | None:
            if name in self._conditions and name not in known:
                flags = np.ones(len(units), np.bool_)
                for condition in self._conditions[name]:
                    flags &= _holds(
                        condition, self.space.domains[condition.parent], units[:, self._places[condition.parent]]
                    )
                    above = present(condition.parent)
                    if above is not None:
                        flags &= above
                known[name] = flags
            return known.get(name)

        for name in self._conditions:
            present(name)
        return known


def _width(domain: Domain) -> int:
    return len(domain.values) if isinstance(domain, Choice) and not domain.is_ordered and domain.size > 2 else 1


def _columns(domain: Domain, places: Floats) -> list[Floats]:
    if not isinstance(domain, Choice) or domain.is_ordered:
        return [places]
    cells = _cells(domain, places)
    if domain.size == 2:
        return [cells.astype(np.float64)]
    return [np.where(cells == index, np.sqrt(0.5), 0.0) for index in range(len(domain.values))]


def _cells(domain: Choice, places: Floats) -> Indices:
    """Which of the values the places decode to."""
    return np.minimum((places * len(domain.values)).astype(np.int64), len(domain.values) - 1)


def _holds(condition: Condition, parent: Domain, places: Floats) -> Flags:
    """Where a condition holds, its parent standing at these places. A Float at its very threshold may round below."""
    if isinstance(parent, Choice):
        return np.array([condition.holds(value) for value in parent.values])[_cells(parent, places)]
    values = np.array(parent.decode_many(places))
    if isinstance(condition, AtLeast):
        slack = 1e-9 * (parent.high - parent.low) if isinstance(parent, Float) else 0.0
        return values >= condition.value - slack
    return np.isin(values, np.array(condition.values))
