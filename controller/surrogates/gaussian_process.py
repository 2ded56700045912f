"""Exact Gaussian-process regression (Rasmussen and Williams 2006), its hyperparameters by maximum a posteriori.

The model of a target at a point x is  m + f(x) + noise:  a constant m, a Matern 5/2 process f with one lengthscale a
parameter, and independent normal noise. Targets are meant to have mean 0 and variance 1 (see outputs.py). The constant
has a standard normal prior and is integrated out, which adds 1 to every entry of the covariance.

Priors of the hyperparameters, all log-normal: a lengthscale's grows with the root of the number of parameters
(Hvarfner et al. 2024, arXiv:2402.02229: location √2 + log(g)/2, scale √3), the noise variance's has location
-4 and scale 1 (as BoTorch's defaults). As there, the density is maximised over the hyperparameters themselves, not over
their logarithms. Deviation: the signal variance is fitted too, with a narrow prior around 1, not fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack  # its routines themselves: the checks around them cost more than small matrices do
from scipy.optimize import minimize

from controller.surrogates.kernels import matern, matern_weighted_gradient

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MEAN_VARIANCE: Final = 1.0
"""Variance of the prior of the constant mean."""

_LENGTHSCALE: Final = (np.sqrt(2.0), np.sqrt(3.0))  # location, before half the log of the number of parameters, scale
_NOISE: Final = (-4.0, 1.0)
_SIGNAL: Final = (0.25, 0.5)  # its mode is 1
_BOUNDS: Final = {"lengthscale": (0.01, 1e3), "signal": (0.05, 20.0), "noise": (1e-6, 2.0)}
_STARTS: Final = ((0.3, 1e-2), (1.0, 1e-1))  # lengthscale over the root of the number of parameters, noise variance
_MOST_STEPS: Final = 60
_JITTERS: Final = (0.0, 1e-8, 1e-6, 1e-4)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Hyperparameters:
    """What a Gaussian process is made of.

    Attributes:
        lengthscales: shape [g], one a group of columns.
        signal: variance of the process.
        noise: variance of the noise.
    """

    lengthscales: Floats
    signal: float = 1.0
    noise: float = 1e-2


@final
class GaussianProcess:
    """The posterior given targets at points. Immutable.

    Args:
        points: shape [n, k], n >= 1.
        targets: shape [n], or [n, s] for s sets of targets at the same points.
        groups: shape [k], the lengthscale of each column.
        hyperparameters: see there.
        noise: shape [n], variances known for each target, on top of the noise that all have; None for none.
    """

    def __init__(
        self,
        points: Floats,
        targets: Floats,
        groups: Indices,
        hyperparameters: Hyperparameters,
        noise: Floats | None = None,
    ) -> None:
        self.points = points
        self.targets = targets
        self.groups = groups
        self.hyperparameters = hyperparameters
        self.known_noise = np.zeros(len(points)) if noise is None else noise
        covariance = self._covariance(points, points)
        covariance[np.diag_indices(len(points))] += hyperparameters.noise + self.known_noise
        self._factor = _cholesky(covariance)
        self._weights: Floats = lapack.dpotrs(self._factor, targets, lower=1)[0].reshape(targets.shape)

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Posterior of the process without noise at m points: means, shape [m] or [m, s], and variances, shape [m]."""
        across = self._covariance(points, self.points)
        solved = lapack.dtrtrs(self._factor, across.T, lower=1)[0]
        prior = self.hyperparameters.signal + MEAN_VARIANCE
        variances = np.maximum(prior - np.einsum("nm,nm->m", solved, solved), 1e-12)
        return across @ self._weights, variances

    def joint(self, points: Floats) -> tuple[Floats, Floats]:
        """As `predict`, with the covariances of all pairs of points, shape [m, m]."""
        across = self._covariance(points, self.points)
        solved = lapack.dtrtrs(self._factor, across.T, lower=1)[0]
        return across @ self._weights, self._covariance(points, points) - solved.T @ solved

    def conditioned(self, points: Floats, targets: Floats) -> GaussianProcess:
        """The posterior with further targets, shape [m] or [m, s], which carry noise like all others.

        One set of targets here is shared by all s sets there, and the other way round.
        """
        old, new = self.targets, targets
        if old.ndim < new.ndim:
            old = np.repeat(old[:, None], new.shape[1], axis=1)
        elif new.ndim < old.ndim:
            new = np.repeat(new[:, None], old.shape[1], axis=1)
        return GaussianProcess(
            np.concatenate([self.points, points]),
            np.concatenate([old, new]),
            self.groups,
            self.hyperparameters,
            np.concatenate([self.known_noise, np.zeros(len(points))]),
        )

    def believing(self, points: Floats) -> GaussianProcess:
        """The posterior as if the targets at m points had come out as predicted (kriging believer).

        Means stay what they are; variances shrink around the points (Ginsbourger et al. 2010).
        """
        return self.conditioned(points, self.predict(points)[0]) if len(points) else self

    def imagining(self, points: Floats, normal: Floats) -> GaussianProcess:
        """The posteriors for s sets of targets imagined at m points, noise included (Snoek et al. 2012).

        Args:
            points: shape [m, k].
            normal: shape [m, s], standard normal numbers. This process must have a single set of targets.
        """
        if not len(points):
            return self
        means, covariance = self.joint(points)
        covariance[np.diag_indices(len(points))] += self.hyperparameters.noise
        factor = _cholesky(covariance)
        return self.conditioned(points, means[:, None] + factor @ normal)

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """What each target is predicted to be from all others: means, shape [n] or [n, s], and variances, shape [n].

        The variances include the noise (Rasmussen and Williams 2006, eq. 5.12).
        """
        inverse = self._inverse()
        variances = 1.0 / inverse.diagonal()
        spread = variances if self.targets.ndim == 1 else variances[:, None]
        return self.targets - self._weights * spread, variances

    def log_likelihood(self) -> float:
        """Logarithm of the marginal likelihood of the targets (ibid., eq. 5.8), summed over their sets."""
        sets = 1 if self.targets.ndim == 1 else self.targets.shape[1]
        size = 2.0 * np.log(self._factor.diagonal()).sum() + len(self.points) * np.log(2.0 * np.pi)
        return float(-0.5 * np.sum(self.targets * self._weights) - 0.5 * sets * size)

    def log_likelihood_gradient(self) -> Floats:
        """Its gradient with respect to the logarithms of lengthscales, signal and noise, shape [g + 2] (eq. 5.9)."""
        inverse = self._inverse()
        weights = self._weights.reshape(len(self.points), -1)
        slopes = 0.5 * (weights @ weights.T - weights.shape[1] * inverse)
        mine = self.hyperparameters
        scales = mine.lengthscales[self.groups]
        shapes = mine.signal * matern_weighted_gradient(self.points, scales, self.groups, slopes)
        signal = mine.signal * np.sum(slopes * matern(self.points, self.points, scales))
        return np.concatenate([shapes, [signal, mine.noise * np.trace(slopes)]])

    def _inverse(self) -> Floats:
        """Of the covariance of the targets."""
        lower: Floats = np.tril(lapack.dpotri(self._factor, lower=1)[0])
        return lower + lower.T - np.diag(lower.diagonal())

    def _covariance(self, first: Floats, second: Floats) -> Floats:
        mine = self.hyperparameters
        return mine.signal * matern(first, second, mine.lengthscales[self.groups]) + MEAN_VARIANCE


def fit(points: Floats, targets: Floats, groups: Indices, noise: Floats | None = None) -> Hyperparameters:
    """The hyperparameters with the highest posterior density, from fixed starting points: no chance is involved.

    Args: as GaussianProcess.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    centres, spreads = _priors(count)

    def objective(logs: Floats) -> tuple[float, Floats]:
        values = np.exp(logs)
        hyperparameters = Hyperparameters(values[:count], float(values[count]), float(values[count + 1]))
        process = GaussianProcess(points, targets, groups, hyperparameters, noise)
        away = (logs - centres) / spreads
        value = process.log_likelihood() - 0.5 * float(away @ away)
        return -value, away / spreads - process.log_likelihood_gradient()

    bounds = [_BOUNDS["lengthscale"]] * count + [_BOUNDS["signal"], _BOUNDS["noise"]]
    found = []
    for lengthscale, variance in _STARTS:
        start = np.log([lengthscale * np.sqrt(count)] * count + [1.0, variance])
        options = {"maxiter": _MOST_STEPS}
        found.append(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=np.log(bounds), options=options))
    values = np.exp(min(found, key=lambda one: float(one.fun)).x)
    return Hyperparameters(values[:count], float(values[count]), float(values[count + 1]))


def _cholesky(covariance: Floats) -> Floats:
    """The lower factor of a covariance, made a little larger on its diagonal where rounding asks for it."""
    for jitter in _JITTERS:
        factor: Floats
        factor, info = lapack.dpotrf(covariance + jitter * np.eye(len(covariance)), lower=1, clean=1)
        if info == 0:
            return factor
    raise np.linalg.LinAlgError(f"expected a covariance, got one that is not positive definite in row {info}")


def _priors(count: int) -> tuple[Floats, Floats]:
    """Centres and deviations over the logarithms of the hyperparameters, each shape [g + 2].

    The density of a log-normal variable is, as a function of its logarithm, that of a normal one around
    location - scale², but for a factor.
    """
    location, scale = _LENGTHSCALE[0] + 0.5 * np.log(max(count, 1)), _LENGTHSCALE[1]
    pairs = [(location, scale)] * count + [_SIGNAL, _NOISE]
    return np.array([one - two * two for one, two in pairs]), np.array([two for _, two in pairs])
