"""NSGA-II (Deb et al. 2002), asynchronous, over the rungs of a study."""

from __future__ import annotations

from typing import Final, final

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.observations import Floats, Indices, Observations, RungData
from controller.pareto import crowded_order
from controller.strategy import Proposal
from search_spaces.domains import Choice
from search_spaces.space import Space

Flags = npt.NDArray[np.bool_]

_TRIES: Final = 8  # children before a random proposal takes the place of one that was tried


def simulated_binary_crossover(first: Floats, second: Floats, index: float, rng: np.random.Generator) -> Floats:
    """One of the two children of points in the unit cube, shape [d] as theirs.

    Deb and Agrawal 1995, bounded as in the authors' code of NSGA-II: each coordinate is crossed with probability
    1/2 and then lies about the lower or the higher parent with probability 1/2; else it is that of `first`. Draws three
    uniform numbers a coordinate.

    Args:
        index: the distribution index, at least 0; children are nearer to their parents the larger it is.
    """
    crossed, share, side = rng.random((3, len(first)))
    low, high = np.minimum(first, second), np.maximum(first, second)
    distance = high - low
    apart = distance > 1e-14
    width = np.where(apart, distance, 1.0)

    def spread(room: Floats) -> Floats:
        """How many times as far apart as the parents the children are, with this much room beyond a parent."""
        alpha = 2.0 - (1.0 + 2.0 * room / width) ** -(index + 1.0)
        inner = (share * alpha) ** (1.0 / (index + 1.0))
        outer = (1.0 / (2.0 - share * alpha)) ** (1.0 / (index + 1.0))
        factor: Floats = np.where(share <= 1.0 / alpha, inner, outer)
        return factor

    middle = 0.5 * (low + high)
    lower = middle - 0.5 * spread(low) * distance
    upper = middle + 0.5 * spread(1.0 - high) * distance
    child = np.clip(np.where(side < 0.5, lower, upper), 0.0, 1.0)
    return np.where(apart & (crossed < 0.5), child, first)


def polynomial_mutation(point: Floats, probability: float, index: float, rng: np.random.Generator) -> Floats:
    """The point with each coordinate moved with a probability, inside the unit cube, shape [d].

    Deb and Goyal 1996, bounded as in the authors' code of NSGA-II. Draws two uniform numbers a coordinate.

    Args:
        index: the distribution index, at least 0; steps are shorter the larger it is.
    """
    moved, share = rng.random((2, len(point)))
    power = index + 1.0
    down = (2.0 * share + (1.0 - 2.0 * share) * (1.0 - point) ** power) ** (1.0 / power) - 1.0
    up = 1.0 - (2.0 * (1.0 - share) + (2.0 * share - 1.0) * point**power) ** (1.0 / power)
    step = np.where(share < 0.5, np.maximum(down, -point), np.minimum(up, 1.0 - point))
    return np.clip(np.where(moved < probability, point + step, point), 0.0, 1.0)


@final
class NSGA2Sampler:
    """Children of a population that keeps what no other dominates, and of those what stands alone.

    Losses of different rungs are never compared: the population lives at the highest rung that holds at least
    max(4, P/2) results; before there is one, proposals are random. There, every P results in the order of their reports
    are a generation of children: of these and the P survivors before them the first P in the crowded order
    survive (Deb et al. 2002, Sec. III-C). Parents win binary tournaments in that order.

    Deviations from the paper: children are proposed one by one, also from the results of a generation that is not
    complete, and one of the two children of a crossover is tried; choices take the value of either parent and
    mutate to any value; failed trials are no parents; a child that was tried before is made again, and in the
    end random. With one objective it is a genetic algorithm with elitism.

    Args:
        space: where the children live.
        population_size: P, at least 4.
        crossover_probability: chance that a child has two parents.
        crossover_index: of simulated binary crossover; children are nearer to their parents the larger it is.
        mutation_probability: for each parameter; None is one over their number.
        mutation_index: of polynomial mutation; steps are shorter the larger it is.
    """

    def __init__(
        self,
        space: Space,
        *,
        population_size: int = 16,
        crossover_probability: float = 0.9,
        crossover_index: float = 20.0,
        mutation_probability: float | None = None,
        mutation_index: float = 20.0,
    ) -> None:
        if population_size < 4:
            raise ValueError(f"expected population_size >= 4, got {population_size}; the default is 16")
        chances = crossover_probability, 1.0 if mutation_probability is None else mutation_probability
        if not all(0.0 <= chance <= 1.0 for chance in chances):
            raise ValueError(
                f"expected probabilities from 0 to 1, got {crossover_probability} for crossover and "
                f"{mutation_probability} for mutation; the defaults are 0.9 and None, one over the number of parameters"
            )
        if not 0.0 <= min(crossover_index, mutation_index) <= max(crossover_index, mutation_index) <= 1000.0:
            raise ValueError(
                f"expected indices from 0 to 1000, got {crossover_index} and {mutation_index}; the defaults are 20"
            )
        self.space = space
        self.population_size = population_size
        self.crossover_probability = crossover_probability
        self.crossover_index = crossover_index
        varied = sum(domain.size > 1 for domain in space.domains.values())
        self.mutation_probability = 1.0 / max(varied, 1) if mutation_probability is None else mutation_probability
        self.mutation_index = mutation_index
        self._chosen: Flags = np.array([isinstance(domain, Choice) for domain in space.domains.values()])
        self._observations = Observations(space)
        self._history: History | None = None
        self._generations: dict[int, tuple[int, Indices]] = {}  # by budget: results read, and the rows that survived

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        population = self.population(history)
        units = self._observations.units(history)
        for _ in range(_TRIES if population else 0):
            parents = self._parents(population, rng)
            points = self._filled(history, units, parents, rng)
            params = self.space.decode(self._child(points, rng))
            if not history.was_tried(params):
                names = ("parent", "other_parent")
                return Proposal(params, {"origin": "nsga2", **dict(zip(names, parents, strict=False))})
        return Proposal(self.space.sample(rng), {"origin": "random"})

    def population(self, history: History) -> list[int]:
        """The living trials, best first; none while no rung holds enough results."""
        data = self._observations.highest(history, max(4, (self.population_size + 1) // 2))
        if data is None:
            return []
        if history is not self._history:
            self._history, self._generations = history, {}
        size, count = self.population_size, len(data.trial_ids)
        read, survivors = self._generations.get(data.budget, (0, np.empty(0, np.int64)))
        while read + size <= count:
            survivors, read = self._selected(data, survivors, range(read, read + size)), read + size
        self._generations[data.budget] = read, survivors
        living = self._selected(data, survivors, range(read, count)) if read < count else survivors
        ids: list[int] = data.trial_ids[living].tolist()
        return ids

    def _selected(self, data: RungData, survivors: Indices, children: range) -> Indices:
        """The rows that survive, best first."""
        rows = np.concatenate([survivors, np.array(children, np.int64)])
        return rows[crowded_order(data.losses[rows])][: self.population_size]

    def _parents(self, population: list[int], rng: np.random.Generator) -> list[int]:
        """One trial or two different ones, each the better of two."""
        first = int(rng.choice(len(population), 2, replace=False).min())
        if rng.random() >= self.crossover_probability:
            return [population[first]]
        second = int(rng.choice(len(population) - 1, 2, replace=False).min())
        return [population[first], population[second + (second >= first)]]

    def _filled(self, history: History, units: Floats, parents: list[int], rng: np.random.Generator) -> list[Floats]:
        """Where the parents stand; what only one of them has as it is there, and what neither has anywhere."""
        points = [units[parent].copy() for parent in parents]
        if not self.space.conditions:
            return points
        has = [np.array([name in history.trials[parent].params for name in self.space.names]) for parent in parents]
        anywhere = rng.random(len(self.space.names))
        for point, own, other, others in zip(points, has, reversed(points), reversed(has), strict=True):
            point[~own] = np.where(others, other, anywhere)[~own]
        return points

    def _child(self, points: list[Floats], rng: np.random.Generator) -> Floats:
        child = points[0]
        if len(points) == 2:
            first, second = points
            either = np.where(rng.random(len(child)) < 0.5, first, second)
            blended = simulated_binary_crossover(first, second, self.crossover_index, rng)
            child = np.where(self._chosen, either, blended)
        anywhere = np.where(rng.random(len(child)) < self.mutation_probability, rng.random(len(child)), child)
        moved = polynomial_mutation(child, self.mutation_probability, self.mutation_index, rng)
        return np.where(self._chosen, anywhere, moved)
