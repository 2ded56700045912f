from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.differential_evolution import (
    DifferentialEvolutionSampler,
    binomial_crossover,
    bounded,
    mutant,
)
from controller.samplers.random import RandomSampler
from controller.strategy import Sampler
from controller.trial import Failure, FailureKind, Label, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Params, Space

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(5)})


def empty(seed: int = 0) -> History:
    return History(seed=seed, objectives=[Objective("loss")], horizon=9)


def start(history: History, params: Params, labels: dict[str, Label], budget: int = 1) -> int:
    number = len(history.trials)
    history.apply(TrialCreated(number, params, 0, labels=labels))
    history.apply(JobCreated(len(history.jobs), number, 0, budget))
    return number


def report(history: History, trial_id: int, loss: float) -> None:
    job = history.trials[trial_id].running
    assert job is not None
    history.apply(Reported(Report(job.job_id, job.to_budget, {"loss": loss}, 1.0)))


def played(sampler: Sampler, loss: Callable[[Params], float], count: int, seed: int = 0) -> History:
    """Trials one after the other."""
    history = empty(seed)
    for _ in range(count):
        proposal = sampler.propose(history, history.generator())
        report(history, start(history, proposal.params, dict(proposal.labels)), loss(proposal.params))
    return history


def filled(losses: Sequence[float]) -> History:
    """A trial for each slot, with a loss."""
    history = empty()
    for slot, loss in enumerate(losses):
        params = CUBE.sample(np.random.default_rng(slot))
        report(history, start(history, params, {"slot": slot}), loss)
    return history


def distance(params: Params) -> float:
    return sum((float(params[f"x{i}"]) - 0.1 - 0.2 * i) ** 2 for i in range(5))


def test_a_mutant_adds_a_scaled_difference() -> None:
    first, second, third = np.array([0.5, 0.5]), np.array([0.9, 0.2]), np.array([0.1, 0.4])
    assert mutant(first, second, third, 0.5) == pytest.approx([0.9, 0.4])
    assert mutant(first, second, third, 1.0) == pytest.approx([1.3, 0.3])


def test_only_what_is_outside_is_drawn_anew() -> None:
    vector = np.array([0.0, -0.1, 0.3, 1.2, 1.0, np.nan])
    inside = bounded(vector, np.random.default_rng(4))
    drawn = np.random.default_rng(4).random(3)
    assert inside.tolist() == [0.0, drawn[0], 0.3, drawn[1], 1.0, drawn[2]]
    assert vector[1] == -0.1  # the given one stays as it is
    means = np.mean([bounded(vector, np.random.default_rng(seed))[1] for seed in range(2000)])
    assert means == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.9, 1.0])
def test_a_crossover_takes_its_share_and_one_coordinate_at_least(probability: float) -> None:
    target, mixed = np.zeros(6), np.ones(6)
    taken = np.array([binomial_crossover(target, mixed, probability, np.random.default_rng(s)) for s in range(3000)])
    assert (taken.sum(axis=1) >= 1).all()
    share = probability + (1 - probability) / 6
    assert taken.mean(axis=0) == pytest.approx(np.full(6, share), abs=0.035)


@pytest.mark.parametrize("mutation", ["rand/1", "best/1", "current-to-best/1"])
def test_one_at_a_time_it_is_the_textbook(mutation: Any) -> None:
    size, scale, crossover, count = 6, 0.7, 0.4, 60
    history = played(
        DifferentialEvolutionSampler(
            CUBE, population_size=size, scale=scale, crossover_probability=crossover, mutation=mutation
        ),
        distance,
        count,
    )
    population: list[tuple[float, list[float]]] = []
    for number in range(count):  # written down once more, coordinate by coordinate
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0, number, 0)))
        slot = number % size
        if number < size:
            child = rng.random(5).tolist()
        else:
            a, b, c = (population[one + (one >= slot)][1] for one in rng.choice(size - 1, 3, replace=False))
            target, best = population[slot][1], min(population)[1]
            if mutation == "best/1":
                a = best
            elif mutation == "current-to-best/1":
                a = [t + scale * (p - t) for t, p in zip(target, best, strict=True)]
            child = [x + scale * (y - z) for x, y, z in zip(a, b, c, strict=True)]
            child = [x if 0 <= x <= 1 else rng.random() for x in child]
            takes = rng.random(5) < crossover
            takes[rng.integers(5)] = True
            child = [x if take else t for x, take, t in zip(child, takes, target, strict=True)]
        assert list(history.trials[number].params.values()) == pytest.approx(child, abs=1e-12)
        assert history.trials[number].labels["slot"] == slot
        entry = distance(history.trials[number].params), child
        if number < size:
            population.append(entry)
        elif entry[0] <= population[slot][0]:
            population[slot] = entry


def test_a_child_takes_its_slot_over_when_it_is_as_good() -> None:
    sampler = DifferentialEvolutionSampler(CUBE, population_size=4)
    history = filled([0.5, 0.5, 0.5, 0.5])
    for loss, holder in ((0.6, 1), (0.5, 5), (0.4, 6), (0.45, 6)):
        report(history, start(history, CUBE.sample(np.random.default_rng()), {"slot": 1}), loss)
        assert sampler.population(history) == {0: 0, 1: holder, 2: 2, 3: 3}


def test_losses_of_different_rungs_are_not_compared() -> None:
    sampler = DifferentialEvolutionSampler(CUBE, population_size=4)
    history = filled([0.5, 0.5, 0.5, 0.5])
    history.apply(JobCreated(len(history.jobs), 0, 1, 3))
    report(history, 0, 0.9)
    better = start(history, CUBE.sample(np.random.default_rng()), {"slot": 0})
    report(history, better, 0.1)
    assert sampler.population(history)[0] == 0  # it went further
    history.apply(JobCreated(len(history.jobs), better, 1, 3))
    report(history, better, 0.8)
    assert sampler.population(history)[0] == better
    assert DifferentialEvolutionSampler(CUBE, population_size=4).population(history) == sampler.population(history)


def test_the_slot_with_the_fewest_trials_is_next_and_pending_ones_count() -> None:
    sampler = DifferentialEvolutionSampler(CUBE, population_size=5)
    history = filled([0.1, 0.2, 0.3, 0.4])
    slots = []
    for seed in range(7):
        proposal = sampler.propose(history, np.random.default_rng(seed))
        start(history, proposal.params, dict(proposal.labels))
        slots.append((proposal.labels["slot"], proposal.labels["origin"] == "random"))
    assert slots == [(4, True), (0, False), (1, False), (2, False), (3, False), (4, True), (0, False)]


def test_a_failed_trial_holds_no_slot() -> None:
    sampler = DifferentialEvolutionSampler(CUBE, population_size=4)
    history = filled([0.1, 0.2, 0.3])
    start(history, CUBE.sample(np.random.default_rng(9)), {"slot": 3})
    history.apply(Failed(Failure(3, FailureKind.OOM, "")))
    assert sampler.population(history) == {0: 0, 1: 1, 2: 2}
    proposal = sampler.propose(history, np.random.default_rng(0))
    assert proposal.labels == {"origin": "random", "slot": 0}  # three are too few for a mutant and a target


def test_enqueued_trials_belong_to_the_population() -> None:
    sampler = DifferentialEvolutionSampler(CUBE, population_size=4)
    history = empty()
    for _ in range(2):
        report(history, start(history, CUBE.sample(np.random.default_rng()), {"origin": "enqueued"}), 0.5)
    assert sampler.population(history) == {0: 0, 1: 1}
    assert sampler.propose(history, np.random.default_rng(0)).labels["slot"] == 2


def test_repeats_and_what_lies_outside_the_space_are_left_out() -> None:
    narrow = Space({**CUBE.domains, "x0": Float(0.0, 0.5)})
    history = empty()
    for place in (0.2, 0.4, 0.7):
        report(history, start(history, dict.fromkeys(CUBE.names, place), {}), 0.5)
    history.apply(TrialCreated(3, dict.fromkeys(CUBE.names, 0.2), 0, repeat_of=0))
    sampler = DifferentialEvolutionSampler(narrow, population_size=4)
    assert sampler.population(history) == {0: 0, 1: 1}
    assert sampler.propose(history, np.random.default_rng(0)).labels["slot"] == 2


def test_a_space_that_is_nearly_used_up_is_used_up() -> None:
    space = Space({"a": Choice((1, 2, 3)), "b": Int(1, 7)})
    history = played(DifferentialEvolutionSampler(space, population_size=4), lambda params: float(params["b"]), 18)
    tried = {tuple(trial.params.values()) for trial in history.trials}
    assert len(tried) >= 14
    sampler = DifferentialEvolutionSampler(space, population_size=4)
    proposals = [sampler.propose(history, np.random.default_rng(seed)) for seed in range(300)]
    new = {tuple(proposal.params.values()) for proposal in proposals} - tried
    assert len(tried | new) == 21


def test_children_meet_conditions() -> None:
    space = Space(
        {"kind": Choice(("linear", "wsd")), "decay": Float(0.1, 0.9), "layers": Int(1, 30)},
        conditions=(OneOf("decay", "kind", ("wsd",)),),
    )
    history = played(DifferentialEvolutionSampler(space), lambda params: float(params.get("decay", 0.5)), 60)
    for trial in history.trials:
        space.validate(trial.params)
    assert history.best() is not None
    assert history.rung(1).ranking[0][0] < 0.15


@pytest.mark.parametrize("mutation", ["rand/1", "best/1", "current-to-best/1"])
def test_it_converges_faster_than_random_search(mutation: Any) -> None:
    def best(sampler: Sampler, seed: int) -> float:
        return played(sampler, distance, 150, seed).rung(1).ranking[0][0]

    random = [best(RandomSampler(CUBE), seed) for seed in range(7)]
    ours = [best(DifferentialEvolutionSampler(CUBE, mutation=mutation), seed) for seed in range(7)]
    assert np.median(ours) < 0.3 * np.median(random)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 3}, "expected population_size >= 4, got 3"),
        ({"scale": 0.0}, r"expected scale in \(0, 2\]"),
        ({"crossover_probability": 1.1}, r"crossover_probability in \[0, 1\], got 0.5 and 1.1"),
        ({"mutation": "rand/2"}, "expected mutation to be one of .*'best/1'.*, got 'rand/2'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifferentialEvolutionSampler(CUBE, **options)
