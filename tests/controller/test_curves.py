"""The process over learning curves against a joint normal distribution written out by hand, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from controller.surrogates import curves
from controller.surrogates.curves import CurveHyperparameters, CurveProcess, fit_curves

Floats = npt.NDArray[np.float64]

RNG = np.random.default_rng(0)
CONFIGURATIONS = RNG.random((6, 3))
POINTS = np.repeat(CONFIGURATIONS, 4, axis=0)  # curves of four measurements
PLACES = np.tile([0.1, 0.4, 0.7, 1.0], 6)
TARGETS = np.sin(4.0 * POINTS[:, 0]) - PLACES + 0.05 * RNG.normal(size=24)
GROUPS = np.array([0, 1, 1])  # the last two columns share a lengthscale
LOGS = np.log([0.7, 1.8, 0.5, 0.3, 0.6, 0.05, 0.04, 0.1, 0.01])
ELSEWHERE = np.concatenate([RNG.random((5, 3)), CONFIGURATIONS[:2]])
LATER = np.array([0.0, 0.3, 0.5, 1.0, 1.0, 0.55, 1.0])


@pytest.fixture
def process() -> CurveProcess:
    return CurveProcess(POINTS, PLACES, TARGETS, GROUPS, CurveHyperparameters(LOGS))


def covariance(first: Floats, first_places: Floats, second: Floats, second_places: Floats) -> Floats:
    """Number by number, as the documentation of the module has it."""
    lengthscales, (memory, level, shape, own_level, own_shape, common) = np.exp(LOGS[:2])[GROUPS], np.exp(LOGS[2:8])
    found = np.empty((len(first), len(second)))
    for row, (one, here) in enumerate(zip(first, first_places, strict=True)):
        for column, (other, there) in enumerate(zip(second, second_places, strict=True)):
            far = math.sqrt(5.0 * sum(((one - other) / lengthscales) ** 2))
            smooth = (1.0 + far + far**2 / 3.0) * math.exp(-far)
            own = math.exp(-math.dist(one, other) / (0.5 * math.sqrt(2)))  # of two parameters
            apart = math.sqrt(3.0) * abs(here - there) / memory
            along = (1.0 + apart) * math.exp(-apart)
            found[row, column] = (
                smooth * (level + shape * along) + own * (own_level + own_shape * along) + common * along
            )
    return found


def joint(points: Floats, places: Floats) -> tuple[Floats, Floats]:
    """Means and covariance of the conditional of a joint normal distribution."""
    noisy = covariance(POINTS, PLACES, POINTS, PLACES) + (math.exp(LOGS[-1]) + 1e-6) * np.eye(len(POINTS))
    across = covariance(points, places, POINTS, PLACES)
    inverse = np.linalg.inv(noisy)
    return across @ inverse @ TARGETS, covariance(points, places, points, places) - across @ inverse @ across.T


def test_the_posterior_is_the_conditional_of_a_joint_normal_distribution(process: CurveProcess) -> None:
    means, expected = joint(ELSEWHERE, LATER)
    ours, deviations = process.predict(ELSEWHERE, LATER)
    assert ours == pytest.approx(means, abs=1e-8)
    assert deviations == pytest.approx(np.sqrt(np.diag(expected)), abs=1e-8)
    assert process.means(ELSEWHERE, LATER) == pytest.approx(means, abs=1e-8)


def test_the_likelihood_is_that_of_a_normal_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    noisy = covariance(POINTS, PLACES, POINTS, PLACES) + (math.exp(LOGS[-1]) + 1e-6) * np.eye(len(POINTS))
    density = stats.multivariate_normal(np.zeros(24), noisy).logpdf(TARGETS)
    value, _ = likelihood(LOGS)
    assert value == pytest.approx(-density - 12.0 * math.log(2.0 * math.pi))


def likelihood(logs: Floats) -> tuple[float, Floats]:
    own = np.exp(-np.linalg.norm(POINTS[:, None] - POINTS[None], axis=2) / (0.5 * math.sqrt(2)))
    apart = np.abs(PLACES[:, None] - PLACES[None])
    return curves._negative_log_likelihood(CurveHyperparameters(logs), POINTS, own, apart, TARGETS, GROUPS)


@pytest.mark.parametrize("shift", [0.0, -0.8, 0.9])
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(shift: float) -> None:
    logs = LOGS + shift * np.cos(np.arange(len(LOGS)))
    _, gradient = likelihood(logs)
    for place, step in enumerate(1e-5 * np.eye(len(logs))):
        slope = (likelihood(logs + step)[0] - likelihood(logs - step)[0]) / 2e-5
        assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_believing_keeps_all_means_and_takes_doubt_away(process: CurveProcess) -> None:
    believing = process.believing(ELSEWHERE[:2], np.ones(2))
    before, doubt = process.predict(ELSEWHERE, np.ones(7))
    after, less = believing.predict(ELSEWHERE, np.ones(7))
    assert after == pytest.approx(before, abs=1e-8)
    assert (less <= doubt + 1e-12).all()
    assert (less[:2] < 0.5 * doubt[:2]).all()
    assert process.believing(np.empty((0, 3)), np.empty(0)) is process


def test_a_curve_is_known_better_the_further_it_was_seen(process: CurveProcess) -> None:
    unseen = RNG.random((1, 3))
    doubts = [process.predict(unseen, np.ones(1))[1][0]]
    for place in (0.1, 0.4, 0.7):
        process = process.believing(unseen, np.array([place]))
        doubts.append(process.predict(unseen, np.ones(1))[1][0])
    assert doubts == sorted(doubts, reverse=True)


def test_equal_points_with_different_targets_are_noise() -> None:
    points, places = np.zeros((4, 3)), np.full(4, 0.5)
    process = CurveProcess(points, places, np.array([-1.0, 1.0, -1.0, 1.0]), GROUPS, CurveHyperparameters(LOGS))
    assert process.means(points, places) == pytest.approx(np.zeros(4), abs=1e-9)


def penalised(logs: Floats) -> float:
    """What fit_curves makes small."""
    centres, spreads = curves._priors(2)
    return likelihood(logs)[0] + 0.5 * float(np.sum(((logs - centres) / spreads) ** 2))


def test_a_fit_is_a_mode_and_always_the_same() -> None:
    fitted = fit_curves(POINTS, PLACES, TARGETS, GROUPS)
    assert fitted.logs.tolist() == fit_curves(POINTS, PLACES, TARGETS, GROUPS).logs.tolist()
    centres, spreads = curves._priors(2)
    assert (np.abs(fitted.logs - centres) <= 3.0 * spreads + 1e-9).all()
    best = penalised(fitted.logs)
    assert best < penalised(centres)
    for step in 0.3 * np.eye(len(LOGS)):
        assert best < penalised(fitted.logs + step) + 1e-3
        assert best < penalised(fitted.logs - step) + 1e-3


def test_a_fit_tells_what_matters() -> None:
    rng = np.random.default_rng(1)
    points = np.repeat(rng.random((25, 2)), 3, axis=0)
    places = np.tile([0.2, 0.6, 1.0], 25)
    targets = 2.0 * np.sin(6.0 * points[:, 0]) + 0.01 * rng.normal(size=75)
    lengthscales = fit_curves(points, places, targets, np.arange(2)).lengthscales
    assert lengthscales[1] > 3.0 * lengthscales[0]


@pytest.mark.parametrize("targets", [np.zeros(24), np.where(np.arange(24) == 3, 4.8, -0.2)], ids=["equal", "outlier"])
def test_a_fit_bears_odd_data(targets: Floats) -> None:
    fitted = fit_curves(POINTS, PLACES, targets, GROUPS)
    means, deviations = CurveProcess(POINTS, PLACES, targets, GROUPS, fitted).predict(ELSEWHERE, LATER)
    assert np.isfinite(means).all()
    assert (deviations > 0.0).all()
