"""The Matern 5/2 kernel against scikit-learn, its gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from controller.surrogates.kernels import matern, matern_weighted_gradient

RNG = np.random.default_rng(0)
GROUPS = np.array([0, 1, 1, 2, 3, 3, 3])


def test_it_is_that_of_scikit_learn() -> None:
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    first, second, scales = RNG.random((20, 7)), RNG.random((9, 7)), RNG.uniform(0.1, 3.0, 7)
    expected = kernels.Matern(length_scale=scales, nu=2.5)(first, second)
    assert matern(first, second, scales) == pytest.approx(expected, abs=1e-14)


def test_its_gradient_is_that_of_scikit_learn() -> None:
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    points, scales = RNG.random((20, 4)), RNG.uniform(0.1, 3.0, 4)
    weights = RNG.normal(size=(20, 20))
    weights += weights.T
    _, gradient = kernels.Matern(length_scale=scales, nu=2.5)(points, eval_gradient=True)
    expected = np.einsum("ij,ijk->k", weights, gradient)
    assert matern_weighted_gradient(points, scales, np.arange(4), weights) == pytest.approx(expected, rel=1e-9)


def test_columns_of_a_group_share_a_lengthscale() -> None:
    points, logs = RNG.random((15, 7)), RNG.normal(size=4)
    weights = RNG.normal(size=(15, 15))
    weights += weights.T

    def total(log_lengthscales: np.ndarray) -> float:
        scales = np.exp(log_lengthscales)[GROUPS]
        return float((weights * matern(points, points, scales)).sum())

    steps = 1e-6 * np.eye(4)
    expected = [(total(logs + step) - total(logs - step)) / 2e-6 for step in steps]
    gradient = matern_weighted_gradient(points, np.exp(logs)[GROUPS], GROUPS, weights)
    assert gradient == pytest.approx(expected, rel=1e-6)


def test_equal_points_have_correlation_one_and_far_ones_none() -> None:
    points = np.array([[0.0], [0.0], [1e3]])
    assert matern(points, points, np.array([1.0])) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_without_columns_all_points_are_the_same() -> None:
    assert matern(np.empty((2, 0)), np.empty((3, 0)), np.empty(0)).tolist() == [[1, 1, 1]] * 2
