"""Parzen estimator: a density over a space that is high where some of its points are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from search_spaces.domains import Choice, Domain, Int
from search_spaces.priors import Normal, Prior
from search_spaces.space import Params, ParamValue, Space

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_LOG_ROOT: Final = 0.5 * np.log(2.0 * np.pi)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Assignments of a space as a density sees them.

    Attributes:
        units: shape [m, d], where they stand in the unit cube.
        present: shape [m, d], which parameters exist in them.
        log_priors: shape [m, d], logarithm of the prior density of each parameter; 0 without a prior or a value.
    """

    units: Floats
    present: Flags
    log_priors: Floats

    @classmethod
    def of(cls, space: Space, assignments: Sequence[Params]) -> Points:
        """Raises SpaceError if one is not in the space."""
        units = space.encode_many(assignments)
        log_priors = np.zeros(units.shape)
        for column, name in enumerate(space.domains):
            prior = space.priors.get(name)
            if prior is not None:
                for row, params in enumerate(assignments):
                    if name in params:
                        domain, value = space.domains[name], params[name]
                        log_priors[row, column] = prior.log_density(domain, value, _factor(prior, params))
        return cls(units, presence(space, assignments), log_priors)


def presence(space: Space, assignments: Sequence[Params]) -> Flags:
    """Which parameters exist in which assignments, shape [m, d]."""
    flags = np.ones((len(assignments), len(space.domains)), np.bool_)
    conditional = {condition.name for condition in space.conditions}
    for column, name in enumerate(space.domains):
        if name in conditional:
            flags[:, column] = [name in params for params in assignments]
    return flags


@final
class ParzenEstimator:
    """A mixture of one product kernel a point and the prior of the space, a density on the unit cube.

    | parameter            | kernel                                                                            |
    |----------------------|-----------------------------------------------------------------------------------|
    | Float                | normal around the point, cut off at the bounds                                    |
    | Int, ordered Choice  | the same, integrated over the cell of each value                                  |
    | other Choice         | `stay` for the point's value, the rest evenly on the others (Aitchison and Aitken)|
    | absent at the point  | the prior, where it exists                                                        |

    Whether a parameter exists follows from the others, so that where it does not, it has no say. The density of a
    value is its probability over the width of its cell. Rules are not looked at: what they leave out keeps its share.

    Args:
        units: shape [n, d], the points; n may be 0.
        present: shape [n, d], which parameters exist there.
        weights: shape [n], of the kernels, not negative.
        prior_weight: of the prior, not negative, above 0 if all other weights are 0.
        bandwidths: shape [d], standard deviations of the normals before the cut, above 0.
        stay: shape [d], the probability that a choice without order keeps its value, below 1.
    """

    def __init__(
        self,
        space: Space,
        units: Floats,
        present: Flags,
        weights: Floats,
        prior_weight: float,
        bandwidths: Floats,
        stay: Floats,
    ) -> None:
        self.space = space
        self._units, self._present, self._bandwidths, self._stay = units, present, bandwidths, stay
        shares = np.append(weights, prior_weight)
        self._shares = shares / shares.sum()
        self._below = ndtr(-units / bandwidths)  # what the cuts leave out
        self._inside = ndtr((1.0 - units) / bandwidths) - self._below

    def log_density(self, points: Points) -> Floats:
        """Natural logarithm of the density at m points, shape [m]."""
        logs = np.empty((len(points.units), len(self._shares)))
        logs[:, :-1] = 0.0
        logs[:, -1] = points.log_priors.sum(axis=1)
        for column, domain in enumerate(self.space.domains.values()):
            if domain.size > 1:
                kernels = self._log_kernels(domain, column, points.units[:, column])
                if not self._present[:, column].all():
                    kernels = np.where(self._present[:, column], kernels, points.log_priors[:, column, None])
                logs[:, :-1] += np.where(points.present[:, column, None], kernels, 0.0)
        with np.errstate(divide="ignore"):  # a weight may be 0
            logs += np.log(self._shares)
        highest = logs.max(axis=1)
        result: Floats = highest + np.log(np.exp(logs - highest[:, None]).sum(axis=1))
        return result

    def draw(self, rng: np.random.Generator, count: int) -> list[dict[str, ParamValue]]:
        """Assignments drawn from the density, moved to the nearest ones where rules break.

        A parameter that is absent at the point of its kernel is drawn from its own prior, as if that were not scaled.
        """
        kernels = np.searchsorted(np.cumsum(self._shares)[:-1], rng.random(count), side="right")
        near = kernels < len(self._units)
        around = iter(self.space.decode_many(self.draw_near(rng, kernels[near])))
        return [next(around) if kernel else self.space.sample(rng) for kernel in near.tolist()]

    def draw_near(self, rng: np.random.Generator, kernels: npt.NDArray[np.intp]) -> Floats:
        """Places drawn from some kernels, shape [m] to [m, d], before values are rounded and rules are met."""
        units = rng.random((len(kernels), len(self.space.domains)))
        for column, (name, domain) in enumerate(self.space.domains.items()):
            units[:, column] = self._placed(name, domain, column, kernels, units[:, column])
        return units

    def _log_kernels(self, domain: Domain, column: int, places: Floats) -> Floats:
        """Logarithm of each kernel's density in one parameter, shape [m, n]."""
        centres, bandwidth = self._units[:, column], self._bandwidths[column]
        logs: Floats
        if isinstance(domain, Choice) and not domain.is_ordered:
            count, stay = len(domain.values), self._stay[column]
            same = np.abs(places[:, None] - centres) < 0.5 / count
            logs = np.where(same, np.log(stay * count), np.log((1.0 - stay) * count / (count - 1)))
        elif isinstance(domain, Int | Choice):
            values, rows = np.unique(places, return_inverse=True)  # few: most of the work is done but once
            means, columns = np.unique(centres, return_inverse=True)
            low, high = _cells(domain, values)
            mass = _mass((low[:, None] - means) / bandwidth, (high[:, None] - means) / bandwidth)
            inside = _mass(-means / bandwidth, (1.0 - means) / bandwidth)
            logs = np.log(np.maximum(mass, 1e-300) / ((high - low)[:, None] * inside))[rows[:, None], columns]
        else:
            distances = (places[:, None] - centres) / bandwidth
            logs = -0.5 * distances * distances - np.log(bandwidth * self._inside[:, column]) - _LOG_ROOT
        return logs

    def _placed(self, name: str, domain: Domain, column: int, kernels: npt.NDArray[np.intp], units: Floats) -> Floats:
        """Where numbers from 0 to 1 fall in one parameter of these kernels."""
        centres = self._units[kernels, column]
        if isinstance(domain, Choice) and not domain.is_ordered:
            places = _stay_or_move(len(domain.values), centres, float(self._stay[column]), units)
        else:
            share = self._below[kernels, column] + units * self._inside[kernels, column]
            share = np.clip(share, 1e-300, 1.0 - 2.0**-53)
            places = np.clip(centres + self._bandwidths[column] * ndtri(share), 0.0, 1.0)
        present = self._present[kernels, column]
        if present.all():
            return places
        prior = self.space.priors.get(name)
        fresh = units if prior is None else np.array([prior.place(domain, unit) for unit in units.tolist()])
        return np.where(present, places, fresh)


def _stay_or_move(count: int, centres: Floats, stay: float, units: Floats) -> Floats:
    """The cells of a choice, each the kernel's own or another one."""
    if count == 1:
        return centres
    own = np.minimum((centres * count).astype(np.int64), count - 1)
    other = np.minimum(((units - stay) / (1.0 - stay) * (count - 1)).astype(np.int64), count - 2)
    cells = np.where(units < stay, own, other + (other >= own))
    places: Floats = (cells + 0.5) / count
    return places


def _cells(domain: Int | Choice, places: Floats) -> tuple[Floats, Floats]:
    """Both ends of the part of the unit interval that decodes to the same value as each place."""
    if isinstance(domain, Int) and domain.log:
        values = np.array(domain.decode_many(places), np.float64)
        low, high = np.log(domain.low - 0.5), np.log(domain.high + 0.5)
        return (np.log(values - 0.5) - low) / (high - low), (np.log(values + 0.5) - low) / (high - low)
    count = int(domain.size)
    cells = np.minimum(np.floor(places * count), count - 1)
    return cells / count, (cells + 1) / count


def _mass(first: Floats, last: Floats) -> Floats:
    """The probability of a standard normal variable between two points, exact in both tails."""
    right = first + last > 0.0
    mass: Floats = ndtr(np.where(right, -first, last)) - ndtr(np.where(right, -last, first))
    return mass


def _factor(prior: Prior, params: Params) -> float:
    """What the centre of a prior is multiplied by, see ScaledBy."""
    scale = prior.scaled_by if isinstance(prior, Normal) else None
    return scale.factor(params[scale.name]) if scale is not None and scale.name in params else 1.0
