"""Acquisition functions against integrals, samples and exact hypervolumes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm

from controller.pareto import hypervolume
from controller.surrogates.acquisition import (
    chebyshev,
    log_expected_improvement,
    log_h,
    log_hypervolume_improvement,
    log_mean,
    log_probability_below,
    log_scalarised_improvement,
)


@pytest.mark.parametrize(
    "z", [8.0, 1.0, 0.0, -0.5, -0.999, -1.0, -1.001, -3.0, -10.0, -40.0, -1e3, -1e6, -6e7, -1e8, -1e12]
)
def test_log_h_is_the_integral_of_the_normal_distribution(z: float) -> None:
    # h(z) is the integral of Φ up to z; with t = z - s / max(1, -z) its size is factored out
    scale, size = max(1.0, -z), float(log_ndtr(z))
    if z < -1e3:  # Φ(t) / Φ(z) is exp(-s) there
        integral = 1.0
    else:
        integral = quad(lambda s: np.exp(log_ndtr(z - s / scale) - size), 0, 60, epsabs=0, epsrel=1e-11)[0]
    assert log_h(np.array([z]))[0] == pytest.approx(size + np.log(integral / scale), rel=1e-9, abs=1e-9)


def test_log_h_rises_everywhere() -> None:
    z = -np.concatenate([np.geomspace(1e-3, 1e9, 4000), [1.0, np.nextafter(1.0, 2)]])
    values = log_h(np.sort(z))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()


def test_expected_improvement_is_that_of_the_formula_and_of_samples() -> None:
    means, deviations = np.array([0.3, -0.2, 1.0]), np.array([0.5, 0.1, 2.0])
    ours = np.exp(log_expected_improvement(means, deviations, 0.1))
    z = (0.1 - means) / deviations
    assert ours == pytest.approx(deviations * (norm.pdf(z) + z * norm.cdf(z)))
    draws = means + deviations * np.random.default_rng(0).standard_normal((400_000, 3))
    assert ours == pytest.approx(np.maximum(0.1 - draws, 0).mean(axis=0), rel=0.02)


def test_where_nothing_is_to_be_expected_better_is_still_told_from_worse() -> None:
    logs = log_expected_improvement(np.array([50.0, 60.0]), np.array([0.1, 0.1]), 0.0)
    assert np.isfinite(logs).all()
    assert logs[0] > logs[1]


def test_a_mean_of_logarithms_does_not_underflow() -> None:
    assert log_mean(np.array([-2000.0, -2000.0 + np.log(3)])) == pytest.approx(-2000 + np.log(2))


def test_the_probability_is_exact_far_out() -> None:
    logs = log_probability_below(np.array([0.0, 100.0]), np.array([2.0, 1.0]), 1.0)
    assert logs[0] == pytest.approx(norm.logcdf(0.5))
    assert logs[1] == pytest.approx(norm.logcdf(-99.0))


def test_chebyshev_takes_the_worst_of_the_weighted_and_a_little_of_the_sum() -> None:
    losses, weights = np.array([[1.0, 2.0], [4.0, 0.0]]), np.array([0.25, 0.75])
    assert chebyshev(losses, weights) == pytest.approx([1.5 + 0.05 * 1.75, 1.0 + 0.05 * 1.0])


def test_scalarised_improvement_is_that_of_samples() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0.5, 0.3, (5, 4000, 2))
    front, weights = np.array([[0.3, 0.6], [0.5, 0.2]]), np.array([0.4, 0.6])
    best = chebyshev(front, weights).min()
    expected = np.maximum(best - chebyshev(samples, weights), 0).mean(axis=1)
    assert np.exp(log_scalarised_improvement(samples, front, weights)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_improvement_is_proportional_to_the_exact_one(objectives: int) -> None:
    rng = np.random.default_rng(2)
    front = rng.random((6, objectives))
    points = rng.uniform(-0.2, 0.6, (20, objectives))
    directions = np.abs(rng.standard_normal((40_000, objectives)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    samples = np.repeat(points[:, None], len(directions), axis=1)
    reference = np.ones(objectives)
    ours = np.exp(log_hypervolume_improvement(samples, front, reference, directions))
    before = hypervolume(front, reference)
    exact = np.array([hypervolume(np.vstack([front, point]), reference) - before for point in points])
    large = exact > 0.02
    assert large.sum() >= 4
    constants = ours[large] / exact[large]
    assert constants == pytest.approx(np.full(large.sum(), constants.mean()), rel=0.08)
    assert (ours[exact == 0.0] < 2e-3).all()


def test_a_point_nearer_to_the_front_is_better_though_no_sample_improves() -> None:
    front, directions = np.array([[0.2, 0.2]]), np.full((4, 2), np.sqrt(0.5))
    samples = np.repeat(np.array([[[0.5, 0.5]], [[0.3, 0.3]]]), 4, axis=1)
    far, near = log_hypervolume_improvement(samples, front, np.ones(2), directions)
    assert far < near
