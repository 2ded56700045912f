"""What a handful of runs with different seeds say about a mean: Student's t with a pooled standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

CONFIDENCE = 0.95

Verdict = Literal["better", "worse", "tie"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What it says as the interval of a difference of losses, ours minus theirs."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "tie"


@dataclass(frozen=True, slots=True)
class Deviation:
    """A standard deviation between runs, with the degrees of freedom that it rests on (at least 1)."""

    value: float
    freedom: int

    def margin(self, *counts: int) -> float:
        """Half the width of the interval of a mean of `counts[0]` runs, or of a difference or sum of such means."""
        return student_quantile(self.freedom) * self.standard_error(*counts)

    def standard_error(self, *counts: int) -> float:
        """That of a mean of `counts[0]` runs, or of a difference or sum of such means."""
        return self.value * math.sqrt(sum(1 / count for count in counts))

    def around(self, value: float, *counts: int) -> Interval:
        """The interval about a mean, or a difference or sum of means, of so many runs each."""
        margin = self.margin(*counts)
        return Interval(value - margin, value + margin)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> Deviation | None:
    """The standard deviation within groups, taken to be the same in all: sqrt(sum of squares / sum of (n_i - 1)).

    With two or three runs in each group this is far steadier than a deviation for each, at the price of the
    assumption. None if no group has two values, or if values are not finite.
    """
    freedom = sum(len(group) - 1 for group in groups if group)
    if freedom < 1 or not all(math.isfinite(value) for group in groups for value in group):
        return None
    means = [math.fsum(group) / len(group) if group else 0.0 for group in groups]
    squares = math.fsum((value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group)
    return Deviation(math.sqrt(squares / freedom), freedom)


@lru_cache(maxsize=256)
def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| <= t) = `confidence` for Student's T with so many degrees of freedom: 12.7, 4.30, 3.18, ...

    The probability is the finite sum for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4),
    inverted by bisection.

    Raises ValueError for fewer than one degree of freedom or a confidence outside (0, 1).
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"expected freedom >= 1 and 0 < confidence < 1, got {freedom} and {confidence}")
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        angle = (low + high) / 2
        if _probability_within(angle, freedom) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _probability_within(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):  # the powers of the cosine grow by 2 up to freedom - 2
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
