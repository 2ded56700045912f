"""Regularised evolution (Real et al. 2019, arXiv:1802.01548, Alg. 1) over the rungs of a study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.history import History
from controller.strategy import Proposal
from controller.trial import Label
from search_spaces.space import Params, Space


@dataclass(frozen=True, slots=True)
class EvolutionSampler:
    """Children of tournament winners of a population that forgets its oldest members.

    The population is the youngest P of the highest rung that holds at least max(4, P/2) reports, in
    the order in which the reports came: losses at different budgets are never compared. Before any
    rung holds that many, proposals are random.

    Deviations from the paper: crossover with a second tournament winner (the paper only mutates), a
    share of random proposals, and several trials at a time.

    Args:
        space: where the children live.
        population_size: P.
        tournament_size: S, drawn without replacement; the best of them is the parent.
        crossover_probability: chance that a child has two parents before it is mutated.
        random_probability: chance of a random proposal.
    """

    space: Space
    population_size: int = 16
    tournament_size: int = 4
    crossover_probability: float = 0.5
    random_probability: float = 0.1

    def __post_init__(self) -> None:
        if self.population_size < 2 or not 1 <= self.tournament_size <= self.population_size:
            raise ValueError(
                "expected population_size >= 2 and 1 <= tournament_size <= population_size, "
                f"got {self.population_size} and {self.tournament_size}; the defaults are 16 and 4"
            )
        if not (0.0 <= self.crossover_probability <= 1.0 and 0.0 <= self.random_probability <= 1.0):
            raise ValueError(
                f"expected probabilities from 0 to 1, got {self.crossover_probability} for crossover and "
                f"{self.random_probability} for random proposals; the defaults are 0.5 and 0.1"
            )

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        population = self.population(history)
        if not population or rng.random() < self.random_probability:
            return Proposal(self.space.sample(rng), {"origin": "random"})
        parent = self._tournament(population, rng)
        labels: dict[str, Label] = {"origin": "mutation", "parent": parent[1]}
        child: Params = history.trials[parent[1]].params
        if rng.random() < self.crossover_probability:
            other = self._tournament(population, rng)
            if other[1] != parent[1]:
                child = self.space.crossover(child, history.trials[other[1]].params, rng)
                labels = {"origin": "crossover", "parent": parent[1], "other_parent": other[1]}
        return Proposal(self.space.mutate(child, rng), labels)

    def population(self, history: History) -> list[tuple[float, int]]:
        """(loss, trial id) of the living, oldest first; empty while no rung holds enough reports."""
        enough = max(4, (self.population_size + 1) // 2)
        for budget in reversed(history.budgets):
            arrivals = history.rung(budget).arrivals
            if len(arrivals) >= enough:
                youngest = arrivals[-self.population_size :]
                return [(history.loss(trial_id, budget), trial_id) for trial_id in youngest]
        return []

    def _tournament(self, population: list[tuple[float, int]], rng: np.random.Generator) -> tuple[float, int]:
        size = min(self.tournament_size, len(population))
        drawn: list[int] = rng.choice(len(population), size, replace=False).tolist()
        return min(population[index] for index in drawn)
