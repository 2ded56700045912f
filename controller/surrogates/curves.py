"""A Gaussian process over configurations and budgets: learning curves that know of each other.

A target at configuration x after budget b, with u = log(b) on [0, 1], is modelled as the sum of

- a level a(x) and a shape s(x, u), both smooth in x: Matern 5/2 with one lengthscale a parameter;
- a level and a shape of that one configuration, with a short memory in x: what the smooth parts do not explain,
  yet what all points of a curve share, and most of what the curve of a near neighbour shares;
- a curve c(u) that all configurations follow, and independent noise.

Dependence on u is Matern 3/2 throughout. So a curve that was seen up to b tells about its later part, curves that went
further tell how such curves end, and both tell about configurations that were never trained (Swersky et al. 2014,
arXiv:1406.3896, freeze-thaw; here one process for everything as in Wistuba et al. 2022, DyHPO, arXiv:2202.09774, with a
closed-form kernel in place of their network). Hyperparameters are those of the highest posterior density.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from controller.surrogates.kernels import matern, matern_weighted_gradient

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_PARTS: Final = ("level", "shape", "own_level", "own_shape", "common")
_CENTRES: Final = {
    "lengthscale": 1.0,
    "memory": 0.45,
    "level": 0.1,
    "shape": 0.5,
    "own_level": 0.02,
    "own_shape": 0.02,
    "common": 0.06,
    "noise": 1e-3,
}
"""Medians of the log-normal priors: variances where targets have variance 1, `memory` in u."""

_SPREADS: Final = {
    "lengthscale": 1.5,
    "memory": 0.5,
    "level": 0.8,
    "shape": 0.8,
    "own_level": 1.0,
    "own_shape": 1.0,
    "common": 0.8,
    "noise": 1.5,
}
"""Their deviations in the logarithm."""

_BOUND: Final = 3.0  # in deviations
_OWN_REACH: Final = 0.5  # of the own level and shape: this times the root of the number of parameters
_JITTER: Final = 1e-6
_STEPS: Final = 30


@final
@dataclass(frozen=True, slots=True, eq=False)
class CurveHyperparameters:
    """What the process is made of.

    Attributes:
        logs: shape [g + 7], logarithms of the lengthscales of g parameters, of the memory in u, of the variances of
            level, shape, own level, own shape and common curve, and of the noise.
    """

    logs: Floats

    @property
    def lengthscales(self) -> Floats:
        """Shape [g]."""
        return np.exp(self.logs[:-7])

    @property
    def memory(self) -> float:
        """How far apart in u two points of a curve can be and still tell about each other."""
        return float(np.exp(self.logs[-7]))

    @property
    def variances(self) -> Floats:
        """Shape [5], of level, shape, own level, own shape and common curve."""
        return np.exp(self.logs[-6:-1])

    @property
    def noise(self) -> float:
        """Variance of the noise."""
        return float(np.exp(self.logs[-1]))


@final
class CurveProcess:
    """The posterior given targets at points and places along the curves. Immutable.

    Args:
        points: shape [n, k], features of configurations, n >= 1.
        places: shape [n], u of each target, from 0 to 1.
        targets: shape [n], with mean 0 and variance 1 or so.
        groups: shape [k], the lengthscale of each column.
    """

    def __init__(
        self, points: Floats, places: Floats, targets: Floats, groups: Indices, hyperparameters: CurveHyperparameters
    ) -> None:
        self.points = points
        self.places = places
        self.targets = targets
        self.groups = groups
        self.hyperparameters = hyperparameters
        covariance = self._covariance(points, places, points, places)
        covariance[np.diag_indices(len(points))] += hyperparameters.noise + _JITTER
        self._factor = _cholesky(covariance)
        self._weights: Floats = lapack.dpotrs(self._factor, targets, lower=1)[0]

    def means(self, points: Floats, places: Floats) -> Floats:
        """What is expected at m points and places, shape [m]."""
        expected: Floats = self._covariance(points, places, self.points, self.places) @ self._weights
        return expected

    def predict(self, points: Floats, places: Floats) -> tuple[Floats, Floats]:
        """Means and deviations without noise at m points and places, shape [m] each."""
        across = self._covariance(points, places, self.points, self.places)
        solved = lapack.dtrtrs(self._factor, across.T, lower=1)[0]
        prior = float(np.sum(self.hyperparameters.variances))
        variances = np.maximum(prior - np.einsum("nm,nm->m", solved, solved), 1e-10)
        return across @ self._weights, np.sqrt(variances)

    def believing(self, points: Floats, places: Floats) -> CurveProcess:
        """The posterior as if m targets had come out as expected (kriging believer, Ginsbourger et al. 2010)."""
        if not len(points):
            return self
        return CurveProcess(
            np.concatenate([self.points, points]),
            np.concatenate([self.places, places]),
            np.concatenate([self.targets, self.means(points, places)]),
            self.groups,
            self.hyperparameters,
        )

    def _covariance(self, first: Floats, first_places: Floats, second: Floats, second_places: Floats) -> Floats:
        mine = self.hyperparameters
        level, shape, own_level, own_shape, common = mine.variances
        smooth = matern(first, second, mine.lengthscales[self.groups])
        own = np.exp(-cdist(first, second) / _own_reach(self.groups))
        along = _matern32(np.abs(first_places[:, None] - second_places[None]) / mine.memory)
        covariance: Floats = smooth * (level + shape * along) + own * (own_level + own_shape * along) + common * along
        return covariance


def fit_curves(points: Floats, places: Floats, targets: Floats, groups: Indices) -> CurveHyperparameters:
    """The hyperparameters with the highest posterior density, from one fixed start: no chance is involved.

    The priors were centred on what half of the public learning-curve tables have in common (docs/strategies.md).

    Args: as CurveProcess.
    """
    count = _count(groups)
    centres, spreads = _priors(count)
    own = np.exp(-cdist(points, points) / _own_reach(groups))
    apart = np.abs(places[:, None] - places[None])

    def objective(logs: Floats) -> tuple[float, Floats]:
        away = (logs - centres) / spreads
        value, gradient = _negative_log_likelihood(CurveHyperparameters(logs), points, own, apart, targets, groups)
        return value + 0.5 * float(away @ away), gradient + away / spreads

    bounds = np.stack([centres - _BOUND * spreads, centres + _BOUND * spreads], axis=1)
    found = minimize(objective, centres, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    return CurveHyperparameters(found.x)


def _negative_log_likelihood(
    mine: CurveHyperparameters, points: Floats, own: Floats, apart: Floats, targets: Floats, groups: Indices
) -> tuple[float, Floats]:
    """Of the targets, but for a constant, and its gradient with respect to `mine.logs`.

    Args:
        own: shape [n, n], correlations of what is a configuration's own.
        apart: shape [n, n], distances in u.
    """
    scales = mine.lengthscales[groups]
    level, shape, own_level, own_shape, common = mine.variances
    smooth = matern(points, points, scales)
    along = _matern32(apart / mine.memory)
    covariance = smooth * (level + shape * along) + own * (own_level + own_shape * along) + common * along
    covariance[np.diag_indices(len(targets))] += mine.noise + _JITTER
    factor = _cholesky(covariance)
    weights = lapack.dpotrs(factor, targets, lower=1)[0]
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    slopes = np.outer(weights, weights) - (lower + lower.T - np.diag(lower.diagonal()))
    value = 0.5 * float(targets @ weights) + float(np.log(factor.diagonal()).sum())
    scaled = np.sqrt(3.0) * apart / mine.memory
    memory_slope = scaled * scaled * np.exp(-scaled)  # of `along` with respect to the log of the memory
    gradient = [
        *matern_weighted_gradient(points, scales, groups, slopes * (level + shape * along)),
        np.sum(slopes * (smooth * shape + own * own_shape + common) * memory_slope),
        level * np.sum(slopes * smooth),
        shape * np.sum(slopes * smooth * along),
        own_level * np.sum(slopes * own),
        own_shape * np.sum(slopes * own * along),
        common * np.sum(slopes * along),
        mine.noise * np.trace(slopes),
    ]
    return value, -0.5 * np.array(gradient)


def _matern32(distances: Floats) -> Floats:
    scaled = np.sqrt(3.0) * distances
    correlations: Floats = (1.0 + scaled) * np.exp(-scaled)
    return correlations


def _own_reach(groups: Indices) -> float:
    return _OWN_REACH * float(np.sqrt(_count(groups)))


def _count(groups: Indices) -> int:
    """How many parameters the columns belong to."""
    return int(groups.max()) + 1


def _priors(count: int) -> tuple[Floats, Floats]:
    """Centres and deviations over the logarithms, shape [g + 7] each."""
    names = ["lengthscale"] * count + ["memory", *_PARTS, "noise"]
    return np.log([_CENTRES[name] for name in names]), np.array([_SPREADS[name] for name in names])


def _cholesky(covariance: Floats) -> Floats:
    """The lower factor of a positive definite matrix."""
    factor, info = lapack.dpotrf(covariance, lower=1, clean=1)
    if info:
        raise np.linalg.LinAlgError(f"expected a positive definite covariance, got one that fails in row {info}")
    lower: Floats = factor
    return lower
