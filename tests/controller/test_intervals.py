from __future__ import annotations

import math

import numpy as np
import pytest

from controller.intervals import Deviation, Interval, pooled_deviation, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (5, 2.570582), (10, 2.228139), (29, 2.045230)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-6)


def test_quantiles_approach_those_of_the_normal_distribution() -> None:
    assert student_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)
    assert student_quantile(1, 0.5) == pytest.approx(1.0)
    assert student_quantile(2, 0.9) == pytest.approx(2.919986, abs=1e-6)


@pytest.mark.parametrize(("freedom", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_what_has_no_quantile_is_refused(freedom: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected freedom >= 1 and 0 < confidence < 1"):
        student_quantile(freedom, confidence)


def test_the_pooled_deviation_of_one_group_is_its_own() -> None:
    values = [2.05, 2.09, 2.10]
    assert pooled_deviation([values]) == Deviation(pytest.approx(np.std(values, ddof=1)), 2)


def test_groups_are_pooled_about_their_own_means() -> None:
    deviation = pooled_deviation([[1.0, 3.0], [10.0, 10.0, 13.0], [7.0], []])
    assert deviation == Deviation(pytest.approx(math.sqrt((2.0 + 6.0) / 3)), 3)


@pytest.mark.parametrize("groups", [[], [[1.0]], [[], [2.0]], [[1.0, math.nan]]])
def test_single_values_say_nothing_of_their_deviation(groups: list[list[float]]) -> None:
    assert pooled_deviation(groups) is None


def test_an_interval_is_about_a_mean_or_a_difference() -> None:
    deviation = Deviation(0.1, 4)
    margin = 2.776445 * 0.1 * math.sqrt(1 / 2)
    assert deviation.around(2.0, 2) == Interval(pytest.approx(2.0 - margin), pytest.approx(2.0 + margin))
    assert deviation.margin(2, 2) == pytest.approx(2.776445 * 0.1)
    assert deviation.standard_error(4) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(-0.2, -0.1), "better"),
        (Interval(0.1, 0.2), "worse"),
        (Interval(-0.1, 0.2), "tie"),
        (Interval(0.0, 0.2), "tie"),
        (Interval(0.0, 0.0), "tie"),
    ],
)
def test_verdict(interval: Interval, verdict: str) -> None:
    assert interval.verdict == verdict


def test_intervals_cover_the_truth_with_two_runs_each() -> None:
    """Four configurations of two runs. Nominal: 95 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        runs = rng.normal(0, 0.02, (4, 2))
        deviation = pooled_deviation(runs.tolist())
        assert deviation is not None
        interval = deviation.around(runs[0].mean() - runs[1].mean(), 2, 2)
        covered += interval.low <= 0 <= interval.high
    assert 0.935 <= covered / 2000 <= 0.965
