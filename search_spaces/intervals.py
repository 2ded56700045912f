"""Interval reasoning: what a rule leaves of the ranges of its parameters.

Sound and not complete: no value is cut off that some assignment within the ranges needs, up to
rounding, but not every value that is left has one. The search over the ranges settles that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.rules import TOLERANCE, Divides, Ordered, Product, Rule, Sum, exact_sum


@dataclass(slots=True)
class Box:
    """The ranges of some parameters, by position.

    Attributes:
        low, high: the bounds of each, both included; infinite for a parameter that is no number.
        present: whether each exists; None where that is open.
    """

    low: list[float]
    high: list[float]
    present: list[bool | None]

    def copy(self) -> Box:
        """A box of its own with the same ranges."""
        return Box(self.low.copy(), self.high.copy(), self.present.copy())


def tighten(rule: Rule, where: Sequence[int], box: Box, changed: set[int]) -> bool:
    """Cut the ranges of a rule's parameters down to what the rule allows, in place.

    Args:
        where: the positions of `rule.names`.
        changed: gets the positions whose range was cut.

    Returns whether anything is left; if not, the box is spoilt.
    """
    match rule:
        case Divides():
            return _divides(where[0], where[1], box, changed)
        case Ordered():
            return _ordered([i for i in where if box.present[i]], box, changed)
        case Sum():
            return _sum(rule, [i for i in where if box.present[i] is not False], box, changed)
        case Product():
            return _product(rule, [i for i in where if box.present[i] is not False], box, changed)


def _divides(divisor: int, dividend: int, box: Box, changed: set[int]) -> bool:
    if not (box.present[divisor] and box.present[dividend]):
        return True
    low, high = box.low, box.high
    if low[divisor] == 0 and not _cut(divisor, 1, high[divisor], box, changed):
        return False
    if high[divisor] == 0 and not _cut(divisor, low[divisor], -1, box, changed):
        return False
    if low[dividend] > 0 or high[dividend] < 0:  # not 0, so no smaller in size than the divisor
        largest = max(abs(low[dividend]), abs(high[dividend]))
        if not _cut(divisor, -largest, largest, box, changed):
            return False
        if low[divisor] > 0 or high[divisor] < 0:
            smallest = min(abs(low[divisor]), abs(high[divisor]))
            positive = low[dividend] > 0
            bounds = (smallest, math.inf) if positive else (-math.inf, -smallest)
            if not _cut(dividend, *bounds, box, changed):
                return False
    if low[divisor] == high[divisor]:
        step = int(abs(low[divisor]))
        return _cut(dividend, -(-int(low[dividend]) // step) * step, int(high[dividend]) // step * step, box, changed)
    return True


def _ordered(where: list[int], box: Box, changed: set[int]) -> bool:
    least = -math.inf
    for i in where:
        if not _cut(i, least, math.inf, box, changed):
            return False
        least = box.low[i]
    most = math.inf
    for i in reversed(where):
        if not _cut(i, -math.inf, most, box, changed):
            return False
        most = box.high[i]
    return True


def _sum(rule: Sum, where: list[int], box: Box, changed: set[int]) -> bool:
    sure = [i for i in where if box.present[i]]
    if not sure:
        return True  # perhaps nothing is left of the rule
    lows = [box.low[i] if box.present[i] else min(box.low[i], 0.0) for i in where]
    highs = [box.high[i] if box.present[i] else max(box.high[i], 0.0) for i in where]
    least, most = exact_sum(lows), exact_sum(highs)
    low = -math.inf if rule.low is None else rule.low
    high = math.inf if rule.high is None else rule.high
    if low <= least and most <= high:
        return True
    size = TOLERANCE * max(abs(least), abs(most), abs(rule.low or 0.0), abs(rule.high or 0.0))
    if least > high + size or most < low - size:
        return False
    for index, i in enumerate(where):
        if not box.present[i] or box.low[i] == box.high[i]:
            continue
        if not isinstance(box.low[i], int):  # the rest summed exactly, so that a float ends right on the bound
            least_rest, most_rest = (
                exact_sum(lows[:index] + lows[index + 1 :]),
                exact_sum(highs[:index] + highs[index + 1 :]),
            )
        else:
            least_rest, most_rest = least - box.low[i], most - box.high[i]
        if not _cut(i, low - most_rest, high - least_rest, box, changed, size):
            return False
    return True


def _product(rule: Product, where: list[int], box: Box, changed: set[int]) -> bool:
    sure = [i for i in where if box.present[i]]
    if not sure:
        return True
    lows = [float(box.low[i] if box.present[i] else min(box.low[i], 1.0)) for i in where]
    highs = [float(box.high[i] if box.present[i] else max(box.high[i], 1.0)) for i in where]
    low = -math.inf if rule.low is None else rule.low
    high = math.inf if rule.high is None else rule.high
    hull = _hull if min(lows) < 0 else _hull_of_positive
    least, most = hull(lows, highs)
    if least > high + TOLERANCE * abs(high) or most < low - TOLERANCE * abs(low):
        return False
    for index, i in enumerate(where):
        if not box.present[i] or box.low[i] == box.high[i]:
            continue
        rest, most_rest = hull(lows[:index] + lows[index + 1 :], highs[:index] + highs[index + 1 :])
        if rest <= 0 or most_rest == math.inf:
            continue  # the rest may be 0 or turn the sign: nothing follows
        cap = high / (rest if high >= 0 else most_rest)
        floor = low / (most_rest if low >= 0 else rest)
        slack = TOLERANCE * max(abs(end) if math.isfinite(end) else 0.0 for end in (floor, cap))
        if not _cut(i, floor, cap, box, changed, slack):
            return False
    return True


def _cut(i: int, low: float, high: float, box: Box, changed: set[int], slack: float = 0.0) -> bool:
    """Cut one range down to `low`..`high`. A gap of at most `slack` counts as rounding and leaves one point."""
    old_low, old_high = box.low[i], box.high[i]
    if low > old_high or high < old_low:
        if low > old_high + slack or high < old_low - slack:
            return False
        point = old_high if low > old_high else old_low
        box.low[i] = box.high[i] = point
        if old_low < old_high:
            changed.add(i)
        return True
    if low > old_low:
        box.low[i] = low
        changed.add(i)
    if high < old_high:
        box.high[i] = high
        changed.add(i)
    if box.low[i] > box.high[i]:
        box.low[i] = box.high[i]
        return low - high <= slack
    return True


def _times(numbers: list[float]) -> float:
    return 0.0 if 0.0 in numbers else math.prod(numbers)


def _hull_of_positive(lows: list[float], highs: list[float]) -> tuple[float, float]:
    """The range of a product of numbers of at least 0."""
    return _times(lows), _times(highs)


def _hull(lows: list[float], highs: list[float]) -> tuple[float, float]:
    """The range of a product of numbers of any sign."""
    least, most = 1.0, 1.0
    for low, high in zip(lows, highs, strict=True):
        ends = [_times([a, b]) for a in (least, most) for b in (low, high)]
        least, most = min(ends), max(ends)
    return least, most
