"""Gaussian-process regression against scikit-learn, its gradients against finite differences, and its fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import lognorm

from controller.surrogates.gaussian_process import MEAN_VARIANCE, GaussianProcess, Hyperparameters, fit

RNG = np.random.default_rng(0)
POINTS = RNG.random((30, 3))
TARGETS = np.sin(5 * POINTS[:, 0]) + POINTS[:, 1] ** 2 + 0.1 * RNG.normal(size=30)
ELSEWHERE = RNG.random((8, 3))
GROUPS = np.arange(3)
HYPERPARAMETERS = Hyperparameters(np.array([0.3, 0.7, 2.0]), 1.5, 0.05)


@pytest.fixture
def process() -> GaussianProcess:
    return GaussianProcess(POINTS, TARGETS, GROUPS, HYPERPARAMETERS)


def reference(noise: Any = 0.0) -> Any:
    """The same of scikit-learn."""
    gaussian = pytest.importorskip("sklearn.gaussian_process")
    kernels = gaussian.kernels
    mine = HYPERPARAMETERS
    kernel = (
        kernels.ConstantKernel(MEAN_VARIANCE, "fixed")
        + kernels.ConstantKernel(mine.signal) * kernels.Matern(mine.lengthscales, nu=2.5)
        + kernels.WhiteKernel(mine.noise)
    )
    return gaussian.GaussianProcessRegressor(kernel, optimizer=None, alpha=noise).fit(POINTS, TARGETS)


def test_the_posterior_is_that_of_scikit_learn(process: GaussianProcess) -> None:
    means, covariance = reference().predict(ELSEWHERE, return_cov=True)
    covariance -= HYPERPARAMETERS.noise * np.eye(8)  # theirs is of the measurement, ours of what is measured
    ours, variances = process.predict(ELSEWHERE)
    assert ours == pytest.approx(means, abs=1e-8)
    assert variances == pytest.approx(np.diag(covariance), abs=1e-8)
    ours, joint = process.joint(ELSEWHERE)
    assert ours == pytest.approx(means, abs=1e-8)
    assert joint == pytest.approx(covariance, abs=1e-8)


def test_known_noise_adds_to_that_of_all() -> None:
    known = RNG.uniform(0.0, 0.5, 30)
    process = GaussianProcess(POINTS, TARGETS, GROUPS, HYPERPARAMETERS, known)
    assert process.predict(ELSEWHERE)[0] == pytest.approx(reference(known).predict(ELSEWHERE), abs=1e-8)


def test_the_likelihood_and_its_gradient_are_those_of_scikit_learn(process: GaussianProcess) -> None:
    theirs = reference()
    value, gradient = theirs.log_marginal_likelihood(theirs.kernel_.theta, eval_gradient=True)
    assert process.log_likelihood() == pytest.approx(value)
    signal, *lengthscales, noise = gradient
    assert process.log_likelihood_gradient() == pytest.approx([*lengthscales, signal, noise])


@pytest.mark.parametrize("sets", [None, 3])
def test_the_gradient_is_that_of_finite_differences(sets: int | None) -> None:
    points, groups = RNG.random((12, 4)), np.array([0, 0, 1, 1])
    targets = RNG.normal(size=12 if sets is None else (12, sets))
    known = RNG.uniform(0.0, 0.1, 12)
    logs = np.log([0.4, 1.1, 0.8, 0.03])

    def at(place: np.ndarray) -> GaussianProcess:
        values = np.exp(place)
        hyperparameters = Hyperparameters(values[:2], float(values[2]), float(values[3]))
        return GaussianProcess(points, targets, groups, hyperparameters, known)

    expected = [
        (at(logs + step).log_likelihood() - at(logs - step).log_likelihood()) / 2e-6 for step in 1e-6 * np.eye(4)
    ]
    assert at(logs).log_likelihood_gradient() == pytest.approx(expected, rel=1e-5)


def test_leaving_one_out_equals_predicting_it_from_the_others(process: GaussianProcess) -> None:
    means, variances = process.leave_one_out()
    for row in range(30):
        others = np.arange(30) != row
        rest = GaussianProcess(POINTS[others], TARGETS[others], GROUPS, HYPERPARAMETERS)
        mean, variance = rest.predict(POINTS[row : row + 1])
        assert mean[0] == pytest.approx(means[row])
        assert variance[0] + HYPERPARAMETERS.noise == pytest.approx(variances[row])


def test_believing_keeps_the_means_and_shrinks_the_variances(process: GaussianProcess) -> None:
    believing = process.believing(ELSEWHERE[:3])
    for points in (POINTS, ELSEWHERE):
        before, after = process.predict(points), believing.predict(points)
        assert after[0] == pytest.approx(before[0])
        assert (after[1] <= before[1] + 1e-12).all()
    noise = HYPERPARAMETERS.noise
    prior = process.predict(ELSEWHERE[:1])[1][0]
    one = process.believing(ELSEWHERE[:1]).predict(ELSEWHERE[:1])[1][0]
    assert one == pytest.approx(prior * noise / (prior + noise))  # what is imagined carries noise
    assert process.believing(ELSEWHERE[:0]) is process


def test_imagined_results_are_draws_of_the_posterior_with_noise(process: GaussianProcess) -> None:
    imagining = process.imagining(ELSEWHERE, RNG.standard_normal((8, 20_000)))
    draws = imagining.targets[30:]
    means, covariance = process.joint(ELSEWHERE)
    assert draws.mean(axis=1) == pytest.approx(means, abs=0.03)
    assert np.cov(draws) == pytest.approx(covariance + HYPERPARAMETERS.noise * np.eye(8), abs=0.03)
    assert (imagining.targets[:30] == TARGETS[:, None]).all()
    few = process.imagining(ELSEWHERE, RNG.standard_normal((8, 5)))
    assert few.predict(POINTS)[0].shape == (30, 5)
    for index in range(5):  # each set is a posterior of its own
        alone = process.conditioned(ELSEWHERE, few.targets[30:, index])
        assert few.predict(POINTS)[0][:, index] == pytest.approx(alone.predict(POINTS)[0])
        assert few.predict(POINTS)[1] == pytest.approx(alone.predict(POINTS)[1])


def test_conditioning_equals_starting_with_all_targets(process: GaussianProcess) -> None:
    part = GaussianProcess(POINTS[:20], TARGETS[:20], GROUPS, HYPERPARAMETERS)
    whole = part.conditioned(POINTS[20:], TARGETS[20:])
    assert whole.predict(ELSEWHERE)[0] == pytest.approx(process.predict(ELSEWHERE)[0])
    assert whole.predict(ELSEWHERE)[1] == pytest.approx(process.predict(ELSEWHERE)[1])


def test_a_fit_finds_what_matters_and_how_noisy_it_is() -> None:
    rng = np.random.default_rng(3)
    points = rng.random((120, 4))
    noise = rng.normal(size=120)
    loss = np.sin(6 * points[:, 0]) + points[:, 2]
    for deviation in (0.05, 0.3):
        targets = loss + deviation * noise
        spread = targets.std()
        found = fit(points, (targets - targets.mean()) / spread, np.arange(4))
        assert np.sqrt(found.noise) * spread == pytest.approx(deviation, rel=0.2)
        assert found.lengthscales[0] < found.lengthscales[2] < min(found.lengthscales[[1, 3]])


def test_a_fit_is_where_the_posterior_density_has_no_slope() -> None:
    targets = (TARGETS - TARGETS.mean()) / TARGETS.std()
    found = fit(POINTS, targets, GROUPS)
    here = np.log([*found.lengthscales, found.signal, found.noise])
    locations = np.array([*[np.sqrt(2) + 0.5 * np.log(3)] * 3, 0.25, -4.0])
    scales = np.array([*[np.sqrt(3)] * 3, 0.5, 1.0])

    def log_density(logs: np.ndarray) -> float:
        values = np.exp(logs)
        process = GaussianProcess(POINTS, targets, GROUPS, Hyperparameters(values[:3], values[3], values[4]))
        return float(process.log_likelihood() + lognorm.logpdf(values, scales, scale=np.exp(locations)).sum())

    slopes = [(log_density(here + step) - log_density(here - step)) / 2e-4 for step in 1e-4 * np.eye(5)]
    assert slopes == pytest.approx([0.0] * 5, abs=2e-3)


def test_a_fit_involves_no_chance() -> None:
    first, again = fit(POINTS, TARGETS, GROUPS), fit(POINTS, TARGETS, GROUPS)
    assert np.array_equal(first.lengthscales, again.lengthscales)
    assert (first.signal, first.noise) == (again.signal, again.noise)


@pytest.mark.parametrize("targets", [np.zeros(6), np.array([0.0, 0, 0, 0, 0, 5.0])])
def test_few_or_equal_targets_and_repeated_points_can_be_fitted(targets: np.ndarray) -> None:
    points = np.array([[0.5, 0.5]] * 3 + [[0.1, 0.2]] * 3)
    found = fit(points, targets, np.arange(2))
    means, variances = GaussianProcess(points, targets, np.arange(2), found).predict(points)
    assert np.isfinite(means).all()
    assert (variances > 0).all()
    without = fit(np.empty((6, 0)), targets, np.arange(0))  # nothing to tell the points apart
    assert without.lengthscales.shape == (0,)


def test_very_many_equal_points_are_no_numerical_problem() -> None:
    hyperparameters = Hyperparameters(np.array([0.5, 3.0]), 20.0, 1e-6)
    points = np.repeat(RNG.random((2, 2)), 150, axis=0)
    process = GaussianProcess(points, RNG.normal(size=300), np.arange(2), hyperparameters)
    imagining = process.imagining(np.repeat(points[:1], 64, axis=0), RNG.standard_normal((64, 4)))
    assert np.isfinite(imagining.predict(points)[0]).all()
    assert np.isfinite(process.leave_one_out()[0]).all()
