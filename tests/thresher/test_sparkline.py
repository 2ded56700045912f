from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thresher.sparkline import BARS, MAX_POINTS, NOTHING, Curve, sparkline

finite = st.floats(-1e300, 1e300)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0], "▄"),
        ([2.0, 2.0], "▄▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], BARS),
        ([3.0, 1.0, 2.0], "█▁▅"),
        ([1.0, math.nan, 2.0], "▁×█"),
        ([math.inf, math.nan], "××"),
    ],
)
def test_values_as_bars(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_a_scale_may_be_given() -> None:
    assert sparkline([1.0, 2.0], low=0.0, high=8.0) == "▂▃"
    assert sparkline([-1.0, 9.0], low=0.0, high=8.0) == "▁█"


def test_a_long_series_is_averaged() -> None:
    assert sparkline([0.0] * 10 + [4.0] * 10 + [8.0] * 10, width=3) == "▁▅█"


@given(st.lists(finite | st.just(math.nan), max_size=200), st.integers(1, 50))
def test_any_series_fits(values: list[float], width: int) -> None:
    line = sparkline(values, width=width)
    assert len(line) == min(width, len(values))
    assert set(line) <= {*BARS, NOTHING}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=1000))
def test_a_curve_keeps_to_its_room_and_the_mean(values: list[float]) -> None:
    curve = Curve()
    for value in values:
        curve.add(value)
    points = curve.points
    assert 1 <= len(points) <= MAX_POINTS
    assert min(values) - 1e-9 <= min(points)
    assert max(points) <= max(values) + 1e-9
    per_point = -(-len(values) // len(points))
    per_point = 1 << (per_point - 1).bit_length()
    for place, point in enumerate(points):
        share = values[place * per_point : (place + 1) * per_point]
        assert point == pytest.approx(math.fsum(share) / len(share), abs=1e-9)
