"""How the search for an assignment sees a domain: a range of numbers, and its values from the nearest on.

A Choice of anything but numbers is a range of positions in its list.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, final

import numpy as np

from search_spaces.domains import Choice, Domain, Float, Int, ParamValue, is_number
from search_spaces.intervals import Box

FEW: Final = 1024
"""An Int with at most so many values is searched value by value."""

_PLACES: Final = 8  # how many places of its range a float tries after the nearest
_NEARBY: Final = 256  # how many values a large integer tries around the wanted one
_ENDS: Final = 8  # and how many at each end of its range


@final
class Listed:
    """A Choice, or an Int of few values: its values in a list, with increasing numbers to stand for them."""

    def __init__(self, domain: Choice | Int) -> None:
        values: Sequence[ParamValue] = (
            domain.values if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
        )
        self._has_steps = isinstance(domain, Int) or domain.is_ordered
        if all(map(is_number, values)):
            self._values: list[Any] = sorted(values)
            self._numbers: list[Any] = self._values
        else:
            self._values, self._numbers = list(values), list(range(len(values)))
        self._index = {(type(value), value): index for index, value in enumerate(self._values)}
        self._places = [domain.encode(value) for value in self._values]
        self.first, self.last = self._numbers[0], self._numbers[-1]

    def coordinate(self, value: ParamValue) -> float:
        """The number that stands for a value."""
        return self._numbers[self._index[type(value), value]]  # type: ignore[no-any-return]

    def value(self, coordinate: float) -> ParamValue:
        """The value that a number stands for."""
        return self._values[bisect.bisect_left(self._numbers, coordinate)]  # type: ignore[no-any-return]

    def reach(self, value: ParamValue, radius: float) -> tuple[float, float]:
        """The range of the values at most `radius` away. Values of no order are all 1 apart."""
        index = self._index[type(value), value]
        if not self._has_steps:
            return self._numbers[index], self._numbers[index]
        place = self._places[index]
        low = bisect.bisect_left(self._places, place - radius)
        high = bisect.bisect_right(self._places, place + radius) - 1
        return self._numbers[min(low, index)], self._numbers[max(high, index)]

    def from_nearest(self, value: ParamValue, low: float, high: float) -> Iterator[ParamValue]:
        """The values within a range, from the nearest on."""
        first, last = bisect.bisect_left(self._numbers, low), bisect.bisect_right(self._numbers, high) - 1
        index = self._index[type(value), value]
        if not self._has_steps:
            others = (self._values[i] for i in range(first, last + 1) if i != index)
            yield from itertools.chain((self._values[index],) if first <= index <= last else (), others)
            return
        place, places = self._places[index], self._places
        up = min(max(index, first), last + 1)
        down = up - 1
        while down >= first or up <= last:
            if up <= last and (down < first or places[up] - place <= place - places[down]):
                yield self._values[up]
                up += 1
            else:
                yield self._values[down]
                down -= 1

    def snap(self, box: Box, i: int) -> bool:
        """Move the ends of a range inwards to values. Returns whether there are any."""
        numbers = self._numbers
        first = bisect.bisect_left(numbers, box.low[i] - _rounding(box.low[i]))
        last = bisect.bisect_right(numbers, box.high[i] + _rounding(box.high[i])) - 1
        if first > last:
            return False
        box.low[i], box.high[i] = numbers[first], numbers[last]
        return True


@final
class Large:
    """An Int of many values."""

    def __init__(self, domain: Int) -> None:
        self._domain = domain
        self.first, self.last = domain.low, domain.high

    def coordinate(self, value: ParamValue) -> float:
        """The value itself."""
        return value  # type: ignore[return-value]

    def value(self, coordinate: float) -> ParamValue:
        """The number itself."""
        return int(coordinate)

    def reach(self, value: ParamValue, radius: float) -> tuple[float, float]:
        """The range of the values at most `radius` away."""
        return _reach(self._domain, value, radius)

    def from_nearest(self, value: Any, low: float, high: float) -> Iterator[ParamValue]:
        """Some values within a range, from the nearest on: those next to it, then at the ends and a few between."""
        first, last = int(low), int(high)
        yield from self.multiples(1, value, first, last)
        places = np.linspace(self._domain.encode(first), self._domain.encode(last), _PLACES).tolist()
        ends = (one for i in range(_ENDS) for one in (first + i, last - i))
        far = {min(max(one, first), last) for one in (*map(self._domain.decode, places), *ends)}
        yield from sorted(far, key=lambda one: abs(one - value))

    def multiples(self, step: int, value: Any, low: int, high: int) -> Iterator[ParamValue]:
        """Multiples of `step` within a range, from the nearest on, at most a few hundred."""
        near = min(max(value, low), high)
        down = near // step * step
        up = down + step
        for _ in range(_NEARBY):
            if down < low and up > high:
                return
            if down >= low and (up > high or near - down <= up - near):
                if down <= high:
                    yield down
                down -= step
            else:
                if up >= low:
                    yield up
                up += step

    def divisors(self, dividend: int, value: Any, low: int, high: int) -> Iterator[ParamValue]:
        """The divisors of a number other than 0 within a range, from the nearest on."""
        small = np.arange(1, math.isqrt(abs(dividend)) + 1)
        small = small[abs(dividend) % small == 0]
        found = {int(one) for part in (small, abs(dividend) // small) for one in part}
        found |= {-one for one in found}
        yield from sorted((one for one in found if low <= one <= high), key=lambda one: (abs(one - value), one))

    def snap(self, box: Box, i: int) -> bool:
        """Move the ends of a range inwards to integers. Returns whether there are any."""
        box.low[i] = math.ceil(box.low[i] - _rounding(box.low[i]))
        box.high[i] = math.floor(box.high[i] + _rounding(box.high[i]))
        return box.low[i] <= box.high[i]


@final
class Continuous:
    """A Float."""

    def __init__(self, domain: Float) -> None:
        self._domain = domain
        self.first, self.last = domain.low, domain.high

    def coordinate(self, value: ParamValue) -> float:
        """The value itself."""
        return float(value)

    def value(self, coordinate: float) -> ParamValue:
        """The number itself."""
        return float(coordinate)

    def reach(self, value: ParamValue, radius: float) -> tuple[float, float]:
        """The range of the values at most `radius` away."""
        return _reach(self._domain, value, radius)

    def from_nearest(self, value: Any, low: float, high: float) -> Iterator[ParamValue]:
        """Some values within a range: the nearest, then places between the ends, from the nearest on."""
        domain = self._domain
        low, high = (min(max(float(end), domain.low), domain.high) for end in (low, high))
        near = min(max(float(value), low), high)
        yield near
        if low < high:
            place = domain.encode(near)
            places = np.linspace(domain.encode(low), domain.encode(high), _PLACES).clip(0.0, 1.0).tolist()
            for other in sorted(places[1:-1], key=lambda one: abs(one - place)):
                yield min(max(domain.decode(other), low), high)
            yield from (low, high)

    def snap(self, box: Box, i: int) -> bool:
        """Every number is a value."""
        return True


def variable(domain: Domain) -> Listed | Large | Continuous:
    """A domain as the search sees it."""
    if isinstance(domain, Float):
        return Continuous(domain)
    if isinstance(domain, Int) and domain.size > FEW:
        return Large(domain)
    return Listed(domain)


def _reach(domain: Float | Int, value: Any, radius: float) -> tuple[float, float]:
    place = domain.encode(value)
    low, high = domain.decode(max(place - radius, 0.0)), domain.decode(min(place + radius, 1.0))
    return min(low, value), max(high, value)


def _rounding(bound: float) -> float:
    """How much of a bound may be rounding: nothing of an integer."""
    return 0.0 if isinstance(bound, int) else min(1e-9 * max(1.0, abs(bound)), 1e-3)
