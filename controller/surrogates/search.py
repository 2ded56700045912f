"""Where a score over a space is highest: many draws, steps around the best of them, gradients on what is continuous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from search_spaces.domains import Choice, Float
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats], Floats]
"""Maps points of the unit cube, shape [n, d], to how good they are, shape [n]; higher is better."""

_JITTER: Final = 1e-3  # deviation of where a climb ends


@final
@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Assignments of the space, best first.

    Attributes:
        units: shape [n, d], where they stand; to be decoded.
        scores: shape [n].
    """

    units: Floats
    scores: Floats


@final
@dataclass(frozen=True, slots=True)
class ScoreSearch:
    """Looks for the assignments with the highest scores. All it returns lies in the space.

    Candidates are draws from the space (half of them without its priors, where it has some) and steps of many sizes
    around given centres; then come rounds of shorter and shorter steps around the best so far, and L-BFGS-B with
    finite differences along the Float parameters where there are no rules, which end a thousandth of the range beside
    where they would, so that not every study tries the very same corner. Every point is decoded and encoded before
    it is scored, so that integers and choices are rounded and rules hold.

    Args:
        space: where to look.
        draws: how many candidates are drawn.
        steps: how many steps are taken around the centres, and half as many in every later round.
        rounds: how many rounds follow.
        climbs: from how many of the best gradients are followed.
    """

    space: Space
    draws: int = 400
    steps: int = 160
    rounds: int = 3
    climbs: int = 2

    def best(self, score: Score, centres: Floats, rng: np.random.Generator) -> Found:
        """The candidates by their scores.

        Args:
            score: what is maximised.
            centres: shape [c, d], places that are worth a look around.
        """
        drawn = self._drawn(rng)
        stepped = self._stepped(centres, self.steps, 0.2, rng) if len(centres) else drawn[:0]
        found = _ranked(np.concatenate([drawn, stepped]), score)
        for number in range(self.rounds):
            near = self._stepped(found.units[:5], self.steps // 2, 0.1 * 0.3**number, rng)
            found = _merged(found, _ranked(near, score))
        continuous = [index for index, one in enumerate(self.space.domains.values()) if _is_continuous(one)]
        if continuous and self.climbs and not self.space.rules:
            ends = np.array([_climbed(score, start, continuous) for start in found.units[: self.climbs]])
            beside = ends[:, continuous] + _JITTER * rng.standard_normal((len(ends), len(continuous)))
            ends[:, continuous] = _reflected(beside)
            found = _merged(found, _ranked(settled(self.space, ends), score))
        return found

    def _drawn(self, rng: np.random.Generator) -> Floats:
        space = self.space
        if not (space.conditions or space.rules or space.priors):
            return settled(space, rng.random((self.draws, len(space.domains))))
        uniform = space.without_priors()
        half = self.draws // 2 if space.priors else self.draws
        drawn = [uniform.sample(rng) for _ in range(half)] + [space.sample(rng) for _ in range(self.draws - half)]
        return space.encode_many(drawn)

    def _stepped(self, centres: Floats, count: int, step: float, rng: np.random.Generator) -> Floats:
        return settled(self.space, perturbed(self.space, centres, count, step, rng))


def settled(space: Space, units: Floats) -> Floats:
    """Where the assignments stand that points decode to, shape [n, d]: integers and choices rounded, rules met."""
    if space.conditions or space.rules:
        return space.encode_many(space.decode_many(units))
    places = units.copy()  # the same, without making assignments of the points
    for column, domain in enumerate(space.domains.values()):
        if not isinstance(domain, Float):
            places[:, column] = domain.encode_many(domain.decode_many(units[:, column]))
    return places


def perturbed(space: Space, centres: Floats, count: int, step: float, rng: np.random.Generator) -> Floats:
    """Points around centres, chosen at random: some coordinates of each take a normal step, reflected at the bounds.

    Deviations are spread from `step` down to a tenth of it, but wide enough to reach the next value of an Int or
    Choice; where the values of a Choice have no order, any of them may come next.

    Args:
        centres: shape [c, d].
        count: how many points.
        step: the largest deviation, as a share of the range.

    Returns shape [count, d].
    """
    dimensions = len(space.domains)
    rows = centres[rng.integers(len(centres), size=count)]
    moves = rng.random((count, dimensions)) < min(1.0, 3.0 / dimensions)
    moves[np.arange(count), rng.integers(dimensions, size=count)] = True
    widths = np.array([1.0 / domain.size for domain in space.domains.values()])
    deviations = np.maximum(step * 10.0 ** -rng.random((count, 1)), widths)
    moved = _reflected(rows + deviations * rng.standard_normal((count, dimensions)))
    anywhere = rng.random((count, dimensions))
    unordered = [isinstance(one, Choice) and not one.is_ordered for one in space.domains.values()]
    return np.where(moves, np.where(unordered, anywhere, moved), rows)


def _climbed(score: Score, start: Floats, columns: list[int]) -> Floats:
    """Where L-BFGS-B ends that moves some coordinates of a point, or the point if it finds no better one."""

    def cost(places: Floats) -> tuple[float, Floats]:
        steps = np.where(places < 0.5, 1e-6, -1e-6)
        rows = np.repeat(start[None], len(columns) + 1, axis=0)
        rows[:, columns] = places
        rows[np.arange(1, len(columns) + 1), columns] += steps
        values = score(rows)
        return -float(values[0]), -(values[1:] - values[0]) / steps

    end = minimize(
        cost, start[columns], jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(columns), options={"maxiter": 30}
    )
    climbed = start.copy()
    climbed[columns] = np.clip(end.x, 0.0, 1.0)
    return climbed


def _reflected(places: Floats) -> Floats:
    """Places on the real line folded into [0, 1]."""
    folded: Floats = np.abs(places) % 2.0
    return np.where(folded > 1.0, 2.0 - folded, folded)


def _is_continuous(domain: object) -> bool:
    return isinstance(domain, Float) and domain.size > 1


def _ranked(units: Floats, score: Score) -> Found:
    return _sorted(Found(units, score(units)))


def _merged(one: Found, other: Found) -> Found:
    return _sorted(Found(np.concatenate([one.units, other.units]), np.concatenate([one.scores, other.scores])))


def _sorted(found: Found) -> Found:
    order = np.argsort(-found.scores, kind="stable")
    return Found(found.units[order], found.scores[order])
