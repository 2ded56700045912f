"""A curve on one line of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
NOTHING: Final = "×"
"""Stands for a value that is no number."""

MAX_POINTS: Final = 64


def sparkline(
    values: Sequence[float], *, width: int | None = None, low: float | None = None, high: float | None = None
) -> str:
    """One bar a value, the highest value with the highest bar; a series without range has bars of half height.

    Args:
        width: characters at most. Where there are more values, each bar stands for the mean of its share of them.
        low, high: the ends of the scale, by default those of the values; what lies outside is drawn at the end.
    """
    if width is not None and len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return NOTHING * len(values)
    low, high = min(finite) if low is None else low, max(finite) if high is None else high
    return "".join(_bar(value, low, high) for value in values)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    if high <= low:
        return BARS[len(BARS) // 2 - 1]
    share = (value - low) / (high - low)
    return BARS[min(len(BARS) - 1, max(0, int(share * len(BARS))))]


@dataclass(slots=True)
class Curve:
    """A long series in at most MAX_POINTS means of equally many values each, the last of them of what there is."""

    _means: list[float] = field(default_factory=list)
    _count: int = 0
    _per_point: int = 1

    def add(self, value: float) -> None:
        """Append a value."""
        if self._count % self._per_point == 0:
            if len(self._means) == MAX_POINTS:
                pairs = zip(self._means[::2], self._means[1::2], strict=True)
                self._means = [(first + second) / 2 for first, second in pairs]
                self._per_point *= 2
            self._means.append(value)
        else:
            inside = self._count % self._per_point
            self._means[-1] += (value - self._means[-1]) / (inside + 1)
        self._count += 1

    @property
    def points(self) -> tuple[float, ...]:
        """The means, oldest first."""
        return tuple(self._means)
