from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.intervals import Box, tighten
from search_spaces.rules import Divides, Ordered, Product, Rule, Sum

NAMES = ("a", "b", "c")


def cut(rule: Rule, *ranges: tuple[float, float], present: list[bool | None] | None = None) -> Box | None:
    box = Box([low for low, _ in ranges], [high for _, high in ranges], present or [True] * len(ranges))
    changed: set[int] = set()
    before = box.copy()
    if not tighten(rule, range(len(ranges)), box, changed):
        return None
    moved = {i for i in range(len(ranges)) if (box.low[i], box.high[i]) != (before.low[i], before.high[i])}
    assert changed == moved
    return box


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from([Divides, Ordered, Product, Sum]))
    if kind is Divides:
        return Divides("a", "b")
    if kind is Ordered:
        return Ordered(NAMES)
    low, high = sorted((draw(st.integers(-40, 40)), draw(st.integers(-40, 40))))
    return kind(NAMES, *draw(st.sampled_from([(low, high), (None, high), (low, None)])))


RANGES = st.tuples(st.integers(-5, 9), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(
    rules(), st.tuples(RANGES, RANGES, RANGES), st.lists(st.sampled_from([True, False, None]), min_size=3, max_size=3)
)
def test_no_assignment_is_lost(rule: Rule, ranges: tuple[tuple[int, int], ...], present: list[bool | None]) -> None:
    ranges = ranges[: len(rule.names)]
    present = present[: len(rule.names)]
    box = cut(rule, *ranges, present=present)
    states = [(here,) if here is not None else (True, False) for here in present]
    for values in itertools.product(*(range(low, high + 1) for low, high in ranges)):
        for exist in itertools.product(*states):
            params = {name: value for name, value, here in zip(rule.names, values, exist, strict=True) if here}
            if rule.holds(params):
                assert box is not None
                for i, here in enumerate(exist):
                    assert not here or box.low[i] - 1e-6 <= values[i] <= box.high[i] + 1e-6


@pytest.mark.parametrize(
    ("rule", "ranges", "low", "high"),
    [
        (Ordered(NAMES), [(2, 9), (0, 7), (0, 5)], [2, 2, 2], [5, 5, 5]),
        (Sum(NAMES, high=10), [(1, 9), (2, 9), (3, 9)], [1, 2, 3], [5, 6, 7]),
        (Sum(NAMES, low=20), [(1, 9), (2, 9), (3, 9)], [2, 2, 3], [9, 9, 9]),
        (Product(NAMES, high=24), [(1, 9), (2, 9), (3, 9)], [1, 2, 3], [4, 8, 9]),
        (Product(NAMES, low=400), [(1, 9), (2, 9), (3, 9)], [400 / 81] * 3, [9, 9, 9]),
        (Product(("a", "b"), high=-4), [(-9, 9), (2, 4)], [-9, 2], [-1, 4]),
        (Divides("a", "b"), [(7, 7), (10, 25)], [7, 14], [7, 21]),
        (Divides("a", "b"), [(0, 90), (10, 25)], [1, 10], [25, 25]),
    ],
)
def test_what_is_left(rule: Rule, ranges: list[tuple[float, float]], low: list[float], high: list[float]) -> None:
    box = cut(rule, *ranges)
    assert box is not None
    assert box.low == pytest.approx(low)
    assert box.high == pytest.approx(high)


@pytest.mark.parametrize(
    ("rule", "ranges"),
    [
        (Ordered(NAMES), [(5, 9), (0, 9), (0, 4)]),
        (Sum(NAMES, high=5), [(1, 9), (2, 9), (3, 9)]),
        (Product(NAMES, low=4, high=5), [(-9, 9), (0, 0), (3, 9)]),
        (Divides("a", "b"), [(7, 7), (15, 20)]),
        (Divides("a", "b"), [(0, 0), (15, 20)]),
    ],
)
def test_nothing_is_left(rule: Rule, ranges: list[tuple[float, float]]) -> None:
    assert cut(rule, *ranges) is None


def test_a_single_point_survives_rounding() -> None:
    box = cut(Sum(NAMES, low=0.9, high=0.9), (0.3, 0.5), (0.3, 0.5), (0.3, 0.5))
    assert box is not None
    assert box.high == pytest.approx([0.3] * 3)
    assert all(low <= high for low, high in zip(box.low, box.high, strict=True))


def test_what_may_not_exist_proves_nothing() -> None:
    box = cut(Sum(NAMES, low=5, high=10), (1, 2), (2, 9), (8, 9), present=[True, None, None])
    assert box is not None
    assert box.high == [2, 9, 9]
    assert cut(Sum(NAMES, low=50), (1, 2), (2, 9), (8, 9), present=[None, None, None]) is not None
    assert cut(Product(("a", "b"), high=-1), (1, 2), (3, math.inf), present=[False, False]) is not None
