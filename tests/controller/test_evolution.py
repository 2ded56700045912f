from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Done, Sampler, Start
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.domains import Float
from search_spaces.space import Params, Space

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(5)})


def history_of(rungs: dict[int, Sequence[tuple[int, float]]], failed: Sequence[int] = ()) -> History:
    """Trials with a loss at some rungs: by budget, (trial, loss) in the order of arrival."""
    history = History(seed=0, objectives=[Objective("loss")], horizon=27)
    count = 1 + max(trial_id for entries in rungs.values() for trial_id, _ in entries)
    for trial_id in range(count + len(failed)):
        params = dict.fromkeys(CUBE.names, (trial_id + 1) / 100)
        history.apply(TrialCreated(trial_id, params, 0))
    for budget, entries in rungs.items():
        for trial_id, loss in entries:
            job_id = len(history.jobs)
            history.apply(JobCreated(job_id, trial_id, 0, budget))
            history.apply(Reported(Report(job_id, budget, {"loss": loss}, 1.0)))
    for trial_id in range(count, count + len(failed)):
        job_id = len(history.jobs)
        history.apply(JobCreated(job_id, trial_id, 0, failed[trial_id - count]))
        history.apply(Failed(Failure(job_id, FailureKind.OOM, "")))
    return history


@pytest.mark.parametrize(("size", "reports", "enough"), [(16, 7, False), (16, 8, True), (4, 3, False), (4, 4, True)])
@pytest.mark.parametrize("budget", [1, 9])
def test_a_population_needs_half_its_size_and_at_least_four(size: int, reports: int, enough: bool, budget: int) -> None:
    history = history_of({budget: [(trial_id, 0.5) for trial_id in range(reports)]})
    population = EvolutionSampler(CUBE, population_size=size, tournament_size=2).population(history)
    assert len(population) == (reports if enough else 0)


@pytest.mark.parametrize(("size", "needed"), [(2, 4), (9, 5), (10, 5), (11, 6)])
def test_half_of_an_odd_population_is_rounded_up(size: int, needed: int) -> None:
    sampler = EvolutionSampler(CUBE, population_size=size, tournament_size=2)
    assert not sampler.population(history_of({1: [(i, 0.5) for i in range(needed - 1)]}))
    assert sampler.population(history_of({1: [(i, 0.5) for i in range(needed)]}))


def test_the_highest_rung_with_enough_reports_is_taken() -> None:
    first = [(trial_id, 0.5) for trial_id in range(12)]
    sampler = EvolutionSampler(CUBE, population_size=8, tournament_size=2)
    history = history_of({1: first, 3: [(i, 0.3) for i in (5, 2, 7, 1)], 9: [(2, 0.1), (5, 0.1), (7, 0.2)]})
    assert sampler.population(history) == [(0.3, 5), (0.3, 2), (0.3, 7), (0.3, 1)]


def test_the_youngest_live_in_the_order_of_their_reports() -> None:
    arrivals = [(4, 0.1), (0, 0.2), (3, 0.3), (1, 0.4), (2, 0.5), (5, 0.6)]
    sampler = EvolutionSampler(CUBE, population_size=4, tournament_size=2)
    assert sampler.population(history_of({1: arrivals})) == [(0.3, 3), (0.4, 1), (0.5, 2), (0.6, 5)]


def test_a_failed_trial_is_no_parent() -> None:
    history = history_of({1: [(i, 0.5) for i in range(4)]}, failed=[1, 1, 3, 3, 3, 3])
    assert EvolutionSampler(CUBE, population_size=8).population(history) == [(0.5, i) for i in range(4)]


def test_before_there_is_a_population_proposals_are_random() -> None:
    history = history_of({1: [(i, 0.5) for i in range(3)]})
    proposal = EvolutionSampler(CUBE).propose(history, np.random.default_rng(0))
    assert proposal.labels == {"origin": "random"}


def test_the_parent_is_the_best_of_the_drawn() -> None:
    losses = np.random.default_rng(3).permutation(8).tolist()
    history = history_of({1: list(enumerate(losses))})

    def parents(tournament_size: int, draws: int) -> list[int]:
        sampler = EvolutionSampler(CUBE, 8, tournament_size, crossover_probability=0.0, random_probability=0.0)
        proposals = (sampler.propose(history, np.random.default_rng(seed)) for seed in range(draws))
        return [losses[int(proposal.labels["parent"])] for proposal in proposals]

    assert set(parents(8, 20)) == {0}  # all are drawn
    assert set(parents(7, 200)) == {0, 1}  # without replacement: at worst the best is left out
    counts = np.bincount(parents(2, 4000), minlength=8) / 4000
    expected = np.array([2 * (7 - rank) for rank in range(8)]) / (8 * 7)  # the best of two distinct ones
    assert np.abs(counts - expected).max() < 0.03


def test_a_mutation_changes_its_parent_in_one_place() -> None:
    history = history_of({1: [(i, float(i)) for i in range(8)]})
    sampler = EvolutionSampler(CUBE, 8, 8, crossover_probability=0.0, random_probability=0.0)
    for seed in range(20):
        proposal = sampler.propose(history, np.random.default_rng(seed))
        assert proposal.labels == {"origin": "mutation", "parent": 0}
        parent = history.trials[0].params
        assert sum(proposal.params[name] != parent[name] for name in parent) == 1


def test_a_crossover_has_two_parents_and_is_mutated() -> None:
    history = history_of({1: [(i, 0.5) for i in range(8)]})
    sampler = EvolutionSampler(CUBE, 8, 1, crossover_probability=1.0, random_probability=0.0)
    mixed = 0
    for seed in range(200):
        proposal = sampler.propose(history, np.random.default_rng(seed))
        if proposal.labels["origin"] == "mutation":  # the second tournament had the same winner
            continue
        first = history.trials[int(proposal.labels["parent"])].params
        second = history.trials[int(proposal.labels["other_parent"])].params
        own = [n for n, value in proposal.params.items() if value not in (first[n], second[n])]
        assert first != second
        assert len(own) == 1
        mixed += 1
    assert mixed > 150


def test_a_share_of_the_proposals_is_random() -> None:
    history = history_of({1: [(i, 0.5) for i in range(16)]})
    sampler = EvolutionSampler(CUBE, random_probability=0.25)
    origins = [sampler.propose(history, np.random.default_rng(seed)).labels["origin"] for seed in range(2000)]
    assert origins.count("random") / 2000 == pytest.approx(0.25, abs=0.03)


def test_it_converges_faster_than_random_search() -> None:
    def best(sampler: Sampler, seed: int, trials: int = 80) -> float:
        history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
        strategy = Composed(sampler, FullBudget(trials))
        losses = []
        while not isinstance(decision := strategy.next(history), Done):
            assert isinstance(decision, Start)
            losses.append(_distance(decision.params))
            job_id = len(history.jobs)
            history.apply(TrialCreated(len(history.trials), decision.params, 0))
            history.apply(JobCreated(job_id, job_id, 0, 1))
            history.apply(Reported(Report(job_id, 1, {"loss": losses[-1]}, 1.0)))
        return min(losses)

    random = [best(RandomSampler(CUBE), seed) for seed in range(20)]
    evolution = [best(EvolutionSampler(CUBE), seed) for seed in range(20)]
    assert np.median(evolution) < 0.5 * np.median(random)
    assert sum(ours < theirs for ours, theirs in zip(evolution, random, strict=True)) >= 17


def _distance(params: Params) -> float:
    return sum((float(params[f"x{i}"]) - 0.1 - 0.2 * i) ** 2 for i in range(5))


@pytest.mark.parametrize("options", [{"population_size": 1}, {"tournament_size": 0}, {"tournament_size": 17}])
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected population_size >= 2 and 1 <= tournament_size <= population_size"):
        EvolutionSampler(CUBE, **options)


@pytest.mark.parametrize("options", [{"crossover_probability": 1.5}, {"random_probability": -0.1}])
def test_a_probability_is_from_zero_to_one(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected probabilities from 0 to 1"):
        EvolutionSampler(CUBE, **options)
