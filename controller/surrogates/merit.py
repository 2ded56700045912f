"""How promising configurations are, given surrogates of all that matters about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import numpy.typing as npt

from controller.surrogates.acquisition import (
    log_expected_improvement,
    log_hypervolume_improvement,
    log_mean,
    log_probability_below,
    log_scalarised_improvement,
)
from controller.surrogates.features import Features
from controller.surrogates.gaussian_process import GaussianProcess
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]


class Improvement(Protocol):
    """What a configuration is expected to add to those that were tried."""

    def log(self, points: Floats) -> Floats:
        """Logarithm of the expected improvement at points, shape [m, k] to [m]."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class OneObjective:
    """Expected improvement on the best mean, averaged over imagined results.

    Attributes:
        process: of the objective, with s sets of targets.
        best: shape [s], the lowest mean among what was tried, for each set.
    """

    process: GaussianProcess
    best: Floats

    def log(self, points: Floats) -> Floats:
        """See Improvement."""
        means, variances = self.process.predict(points)
        logs = log_expected_improvement(means.reshape(len(points), -1), np.sqrt(variances)[:, None], self.best)
        return log_mean(logs)


@final
@dataclass(frozen=True, slots=True, eq=False)
class SeveralObjectives:
    """Expected growth of the hypervolume, or improvement of a scalarisation, from samples of the posteriors.

    Attributes:
        processes: one an objective.
        front: shape [n, objectives], the means of what was tried.
        normal: shape [samples, objectives], standard normal numbers.
        weights: shape [objectives], of a scalarisation (see chebyshev), or None for the hypervolume.
        ideal, reference: shape [objectives], the best and the worst that counts.
    """

    processes: tuple[GaussianProcess, ...]
    front: Floats
    normal: Floats
    weights: Floats | None
    ideal: Floats
    reference: Floats

    def log(self, points: Floats) -> Floats:
        """See Improvement."""
        predicted = [process.predict(points) for process in self.processes]
        means = np.stack([mean for mean, _ in predicted], axis=1)
        deviations = np.sqrt(np.stack([variance for _, variance in predicted], axis=1))
        samples = self._scaled(means[:, None] + deviations[:, None] * self.normal)
        front = self._scaled(self.front)
        if self.weights is not None:
            return log_scalarised_improvement(samples, front, self.weights)
        directions = np.abs(self.normal[::-1])  # independent of the normal numbers that they are paired with
        directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return log_hypervolume_improvement(samples, front, np.ones(len(self.reference)), directions)

    def _scaled(self, losses: Floats) -> Floats:
        return (losses - self.ideal) / (self.reference - self.ideal)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """What must stay below a bound: a constraint, or the 0 and 1 of failures.

    Attributes:
        process: of the quantity.
        bound: in the unit of the process' targets.
        caution: where the probability p is below 1/2, it counts as p (2 p)^caution. With 0, where little is left to
            gain within the bound, large gains beyond it are tried even though they are very unlikely.
    """

    process: GaussianProcess
    bound: float
    caution: float = 0.0

    def log(self, points: Floats) -> Floats:
        """Log of the probability that it does, shape [m, k] to [m]."""
        means, variances = self.process.predict(points)
        logs = log_probability_below(means, np.sqrt(variances), self.bound)
        cautious: Floats = logs + self.caution * np.minimum(logs + np.log(2.0), 0.0)
        return cautious


@final
@dataclass(frozen=True, slots=True, eq=False)
class Merit:
    """The product of improvement, probabilities and prior density, as a logarithm.

    Attributes:
        space: of the configurations.
        features: what the surrogates see of them.
        improvement: None where nothing satisfies the limits yet: then only these count.
        limits: those of the constraints and of failures.
        prior_exponent: of the prior density, 0 to leave it out.
    """

    space: Space
    features: Features
    improvement: Improvement | None
    limits: tuple[Limit, ...]
    prior_exponent: float

    def score(self, units: Floats) -> Floats:
        """The merit of points of the unit cube, shape [n, d] to [n]."""
        points = self.features.of(units)
        total = np.zeros(len(units))
        if self.improvement is not None:
            total += self.improvement.log(points)
        for limit in self.limits:
            total += limit.log(points)
        if self.prior_exponent > 0.0 and self.space.priors:
            densities = [self.space.log_prior(params) for params in self.space.decode_many(units)]
            total += self.prior_exponent * np.array(densities)
        return total
