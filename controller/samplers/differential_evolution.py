"""Differential evolution (Storn and Price 1997), asynchronous: its operators and a sampler of them."""

from __future__ import annotations

import math
from typing import Final, Literal, final, get_args

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.observations import Observations
from controller.strategy import Proposal
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]
Mutation = Literal["rand/1", "best/1", "current-to-best/1"]

_TRIES: Final = 8  # children before a random proposal takes the place of one that was tried


def mutant(first: Floats, second: Floats, third: Floats, scale: float) -> Floats:
    """A point plus the scaled difference of two others, shape [d] as theirs; it may lie outside the cube.

    Storn and Price 1997, eq. 2 (DE/rand/1, where `first` is drawn at random like the others).
    """
    return first + scale * (second - third)


def bounded(vector: Floats, rng: np.random.Generator) -> Floats:
    """The vector with every coordinate outside [0, 1] drawn anew, uniformly, shape [d].

    One random number for each such coordinate, in their order. The paper leaves bounds open; DEHB (Awad et al.
    2021, arXiv:2105.09821) does this.
    """
    outside = ~((vector >= 0.0) & (vector <= 1.0))
    inside = vector.copy()
    inside[outside] = rng.random(int(outside.sum()))
    return inside


def binomial_crossover(target: Floats, mutant: Floats, probability: float, rng: np.random.Generator) -> Floats:
    """Each coordinate of the mutant with a probability, else that of the target, shape [d].

    One coordinate, drawn uniformly, is the mutant's in any case (Storn and Price 1997, eq. 4). Draws d uniform
    numbers, then one integer.
    """
    taken = rng.random(len(target)) < probability
    taken[rng.integers(len(target))] = True
    return np.where(taken, mutant, target)


@final
class DifferentialEvolutionSampler:
    """A population of slots, each held by the best of the trials that were tried for it.

    A new trial is a child for the slot with the fewest trials: a mutant of other members, crossed with the member
    that holds the slot. It takes the slot over when it is as good at the same rung. A slot whose trials have no result
    yet gets another random trial, and so do all slots while fewer than four are held.

    Deviations from the paper: children are proposed one by one from the population as it is, so several may be on
    their way to a slot; a member that reached a higher rung is above all that did not, and losses of different
    rungs are never compared; coordinates outside the bounds are drawn anew; choices and integers live in the unit
    cube at the centres of their cells; a child that was tried before is made again, and in the end random.

    Trials that carry no slot (enqueued ones) count for slot `trial_id % population_size`.

    Args:
        space: where the children live.
        population_size: how many slots, at least 4.
        scale: F, what differences are multiplied by.
        crossover_probability: Cr, the share of coordinates from the mutant.
        mutation: what differences are added to: a random member, the best, or the slot's own moved towards the best.
    """

    def __init__(
        self,
        space: Space,
        *,
        population_size: int = 10,
        scale: float = 0.5,
        crossover_probability: float = 0.5,
        mutation: Mutation = "rand/1",
    ) -> None:
        if population_size < 4:
            raise ValueError(f"expected population_size >= 4, got {population_size}; a mutant needs a target and three")
        if not 0.0 < scale <= 2.0 or not 0.0 <= crossover_probability <= 1.0:
            raise ValueError(
                f"expected scale in (0, 2] and crossover_probability in [0, 1], got {scale} and "
                f"{crossover_probability}; the defaults are 0.5 and 0.5"
            )
        if mutation not in get_args(Mutation):
            raise ValueError(f"expected mutation to be one of {get_args(Mutation)}, got {mutation!r}; rand/1 is usual")
        self.space = space
        self.population_size = population_size
        self.scale = scale
        self.crossover_probability = crossover_probability
        self.mutation = mutation
        self._observations = Observations(space)
        self._forget(None)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        self._read(history)
        slot = min(range(self.population_size), key=self._tried.__getitem__)
        if slot in self._best and len(self._best) >= 4:
            units = self._observations.units(history)
            vectors = {one: units[trial_id] for one, trial_id in self.population(history).items()}
            for _ in range(_TRIES):
                mixed = self._mutant(vectors, slot, rng)
                child = binomial_crossover(vectors[slot], mixed, self.crossover_probability, rng)
                params = self.space.decode(child)
                if not history.was_tried(params):
                    return Proposal(params, {"origin": "differential-evolution", "slot": slot})
        return Proposal(self.space.sample(rng), {"origin": "random", "slot": slot})

    def population(self, history: History) -> dict[int, int]:
        """The trial that holds each slot that is held."""
        self._read(history)
        return {slot: -trial for slot, (_, _, trial) in sorted(self._best.items())}

    def _mutant(self, vectors: dict[int, Floats], slot: int, rng: np.random.Generator) -> Floats:
        """A vector inside the cube, from members other than the slot's own, all different."""
        others = [one for one in vectors if one != slot]
        first, second, third = (vectors[others[place]] for place in rng.choice(len(others), 3, replace=False))
        if self.mutation != "rand/1":
            best = vectors[min(vectors, key=self._best.__getitem__)]
            first = best if self.mutation == "best/1" else mutant(vectors[slot], best, vectors[slot], self.scale)
        return bounded(mutant(first, second, third, self.scale), rng)

    def _read(self, history: History) -> None:
        """Take in what is new: trials for the slots, and results."""
        if history is not self._history or len(history.trials) < len(self._slots):
            self._forget(history)
        units = self._observations.units(history)
        for trial in history.trials[len(self._slots) :]:
            slot = trial.labels.get("slot")
            if not isinstance(slot, int) or not 0 <= slot < self.population_size:
                slot = trial.trial_id % self.population_size
            counts = trial.repeat_of is None and not np.isnan(units[trial.trial_id, 0])  # and lies in the space
            self._slots.append(slot if counts else None)
            if counts:
                self._tried[slot] += 1
        for budget in history.budgets:
            arrivals = history.rung(budget).arrivals
            for trial_id in arrivals[self._results.get(budget, 0) :]:
                holder = -budget, history.loss(trial_id, budget), -trial_id
                place = self._slots[trial_id]
                if place is not None and math.isfinite(holder[1]):
                    self._best[place] = min(holder, self._best.get(place, holder))
            self._results[budget] = len(arrivals)

    def _forget(self, history: History | None) -> None:
        """Be empty, for a history."""
        self._history = history
        self._slots: list[int | None] = []  # of each trial
        self._tried = [0] * self.population_size
        self._best: dict[int, tuple[int, float, int]] = {}  # by slot: -budget, loss, -trial
        self._results: dict[int, int] = {}  # how many were read at each budget
