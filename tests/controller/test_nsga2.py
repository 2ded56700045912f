from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.pareto import hypervolume
from controller.samplers.nsga2 import NSGA2Sampler, polynomial_mutation, simulated_binary_crossover
from controller.samplers.random import RandomSampler
from controller.strategy import Proposal, Sampler
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Params, Space

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(8)})


class Given:
    """A generator that gives what it was given."""

    def __init__(self, *arrays: Any) -> None:
        self.arrays = list(arrays)

    def random(self, shape: Any) -> Any:
        array = np.asarray(self.arrays.pop(0))
        assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
        return array


def empty(objectives: int = 2, seed: int = 0) -> History:
    return History(seed=seed, objectives=[Objective(f"f{i}") for i in range(objectives)], horizon=9)


def add(history: History, proposal: Proposal, losses: Sequence[float] | None, budget: int = 1) -> None:
    number, job_id = len(history.trials), len(history.jobs)
    history.apply(TrialCreated(number, proposal.params, 0, labels=proposal.labels))
    history.apply(JobCreated(job_id, number, 0, budget))
    if losses is None:
        history.apply(Failed(Failure(job_id, FailureKind.OOM, "")))
    else:
        metrics = {f"f{i}": float(loss) for i, loss in enumerate(losses)}
        history.apply(Reported(Report(job_id, budget, metrics, 1.0)))


def played(
    sampler: Sampler, losses: Callable[[Params], Sequence[float] | None], count: int, objectives: int = 2, seed: int = 0
) -> History:
    history = empty(objectives, seed)
    for _ in range(count):
        proposal = sampler.propose(history, history.generator())
        add(history, proposal, losses(proposal.params))
    return history


def filled(losses: Any, space: Space = CUBE) -> History:
    """A random trial for each row of losses."""
    history = empty(len(losses[0]))
    for number, row in enumerate(losses):
        add(history, Proposal(space.sample(np.random.default_rng(number))), row)
    return history


def zdt1(params: Params) -> tuple[float, float]:
    """Zitzler, Deb and Thiele 2000, test function 1."""
    first, *others = (float(value) for value in params.values())
    g = 1.0 + 9.0 * sum(others) / len(others)
    return first, g * (1.0 - (first / g) ** 0.5)


@pytest.mark.parametrize("index", [2.0, 20.0])
def test_the_crossover_is_that_of_pymoo(index: float) -> None:
    rng = np.random.default_rng(0)
    count = 200
    first, second = rng.random((2, count))
    second[:5] = first[:5]  # too close
    first[5:8], second[8:11] = 0.0, 1.0
    crossed, share, side = rng.random((3, count))
    ours = simulated_binary_crossover(first, second, index, Given([crossed, share, side]))  # type: ignore[arg-type]
    takes = (crossed < 0.5) & (np.abs(first - second) > 1e-14)
    exchange = np.where(side < 0.5, first > second, first < second)[takes]  # as theirs comes to ours
    theirs = cross_sbx(
        np.stack([first, second])[:, None],
        np.zeros(count),
        np.ones(count),
        np.full((1, 1), index),
        0.5,
        np.full((1, 1), 0.5),
        random_state=Given(crossed[None], share[takes], np.where(exchange, 0.0, 1.0)),
    )
    assert ours[~takes].tolist() == first[~takes].tolist()
    assert np.minimum(*theirs[:, 0])[takes & (side < 0.5)] == pytest.approx(ours[takes & (side < 0.5)], abs=1e-12)
    assert np.maximum(*theirs[:, 0])[takes & (side >= 0.5)] == pytest.approx(ours[takes & (side >= 0.5)], abs=1e-12)


@pytest.mark.parametrize("index", [2.0, 20.0])
def test_the_mutation_is_that_of_pymoo(index: float) -> None:
    rng = np.random.default_rng(1)
    count = 300
    point, moved, share = rng.random((3, count))
    point[:4], point[4:8] = 0.0, 1.0
    ours = polynomial_mutation(point, 0.4, index, Given([moved, share]))  # type: ignore[arg-type]
    theirs = mut_pm(
        point[None],
        np.zeros(count),
        np.ones(count),
        np.array([index]),
        np.array([0.4]),
        False,
        random_state=Given(moved[None], share[moved < 0.4]),
    )
    assert ours == pytest.approx(theirs[0], abs=1e-12)
    assert ((ours >= 0) & (ours <= 1)).all()


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_survivors_are_those_of_pymoo(objectives: int) -> None:
    size, generations = 12, 5
    losses = np.random.default_rng(objectives).random((size * generations, objectives))
    survivors = list(range(size))
    for generation in range(2, generations + 1):
        ours = NSGA2Sampler(CUBE, population_size=size).population(filled(losses[: size * generation]))
        merged = [*survivors, *range(size * (generation - 1), size * generation)]
        everyone = Population.new(F=losses[merged], place=np.array(merged))
        problem = Problem(n_var=1, n_obj=objectives)
        kept = RankAndCrowding().do(problem, everyone, n_survive=size, random_state=np.random.RandomState(0))
        standing = {one.get("place"): (one.get("rank"), one.get("crowding")) for one in everyone}
        # As good as theirs one by one: which of several corners of a front survive is left to chance there.
        assert sorted(standing[one] for one in ours) == sorted(standing[one.get("place")] for one in kept)
        survivors = ours


def test_results_of_a_generation_that_is_not_complete_are_parents_too() -> None:
    losses = [(4, 5), (5, 4), (6, 6), (7, 7), (1, 1), (9, 9)]
    sampler = NSGA2Sampler(CUBE, population_size=4)
    assert sampler.population(filled(losses[:3])) == []  # too few
    assert sampler.population(filled(losses[:4])) == [0, 1, 2, 3]
    assert sampler.population(filled(losses)) == [4, 0, 1, 2]


def test_growing_equals_reading_at_once() -> None:
    warm = NSGA2Sampler(CUBE, population_size=5)
    history = empty()
    rng = np.random.default_rng(0)
    for _ in range(40):
        add(history, Proposal(CUBE.sample(rng)), None if rng.random() < 0.2 else rng.random(2).tolist())
        cold = NSGA2Sampler(CUBE, population_size=5)
        assert warm.population(history) == cold.population(history)
        assert warm.propose(history, np.random.default_rng(1)) == cold.propose(history, np.random.default_rng(1))


def test_the_population_lives_at_the_highest_rung_with_enough_results() -> None:
    history = filled(np.random.default_rng(0).random((20, 2)))
    sampler = NSGA2Sampler(CUBE, population_size=8)
    for trial_id in (3, 5, 7, 11):
        assert len(sampler.population(history)) == 8
        job_id = len(history.jobs)
        history.apply(JobCreated(job_id, trial_id, 1, 3))
        history.apply(Reported(Report(job_id, 3, {"f0": 1.0, "f1": 1.0}, 1.0)))
    assert sampler.population(history) == [3, 5, 7, 11]


def test_a_failed_trial_is_no_parent() -> None:
    history = empty()
    for number in range(12):
        proposal = Proposal(CUBE.sample(np.random.default_rng(number)))
        add(history, proposal, None if number % 2 else (number, -number))
    assert sorted(NSGA2Sampler(CUBE, population_size=8).population(history)) == [0, 2, 4, 6, 8, 10]


def test_parents_win_tournaments_of_two() -> None:
    history = filled([(float(loss),) for loss in range(8)])
    sampler = NSGA2Sampler(CUBE, population_size=8, mutation_probability=1.0)  # so that no child is its parent again
    drawn = [sampler.propose(history, np.random.default_rng(seed)).labels for seed in range(2000)]
    counts = np.bincount([int(labels["parent"]) for labels in drawn], minlength=8) / 2000
    assert counts == pytest.approx([2 * (7 - rank) / (8 * 7) for rank in range(8)], abs=0.03)
    crossed = [labels for labels in drawn if "other_parent" in labels]
    assert len(crossed) / 2000 == pytest.approx(0.9, abs=0.02)
    assert all(labels["parent"] != labels["other_parent"] for labels in crossed)


def test_choices_come_from_either_parent_or_anywhere() -> None:
    space = Space({f"c{i}": Choice(tuple(range(10))) for i in range(12)})
    history = filled([(float(loss),) for loss in range(6)], space)
    sampler = NSGA2Sampler(space, population_size=6, crossover_probability=1.0)
    own = []
    for seed in range(300):
        proposal = sampler.propose(history, np.random.default_rng(seed))
        parents = [history.trials[int(proposal.labels[name])].params for name in ("parent", "other_parent")]
        own += [proposal.params[name] not in (one[name] for one in parents) for name in space.names]
    assert np.mean(own) == pytest.approx(1 / 12 * 0.8, abs=0.02)


def test_what_does_not_exist_in_one_parent_comes_from_the_other() -> None:
    space = Space(
        {"kind": Choice(("linear", "wsd")), "decay": Float(0.1, 0.9), "rate": Float(0.0, 1.0)},
        conditions=(OneOf("decay", "kind", ("wsd",)),),
    )
    history = empty(1)
    for number in range(8):
        kind: Params = {"kind": "linear"} if number % 2 else {"kind": "wsd", "decay": 0.3}
        add(history, Proposal({**kind, "rate": number / 10}), [1.0])
    sampler = NSGA2Sampler(space, crossover_probability=1.0, mutation_probability=0.0)
    from_one = 0
    for seed in range(100):
        child = sampler.propose(history, np.random.default_rng(seed))
        parents = [history.trials[int(child.labels[name])].params for name in ("parent", "other_parent")]
        having = sum("decay" in parent for parent in parents)
        if "decay" in child.params:
            assert having > 0
            assert child.params["decay"] == pytest.approx(0.3)
            from_one += having == 1
    assert from_one > 10


def test_it_covers_more_of_zdt1_than_random_search() -> None:
    def covered(sampler: Sampler, seed: int) -> float:
        history = played(sampler, zdt1, 30 * 16, seed=seed)
        return hypervolume([history.losses(trial.trial_id, 1) for trial in history.trials], (1.1, 11.0))

    best = 1.1 * 11 - 1 / 3  # under the front f2 = 1 - sqrt(f1), and right of it
    random = [best - covered(RandomSampler(CUBE), seed) for seed in range(3)]
    ours = [best - covered(NSGA2Sampler(CUBE), seed) for seed in range(3)]
    assert max(ours) < 0.5 * min(random)


def test_one_objective_will_do() -> None:
    def loss(params: Params) -> list[float]:
        return [sum((float(value) - 0.3) ** 2 for value in params.values())]

    random = played(RandomSampler(CUBE), loss, 200, 1).rung(1).ranking[0][0]
    assert played(NSGA2Sampler(CUBE), loss, 200, 1).rung(1).ranking[0][0] < 0.5 * random


def test_children_of_a_mixed_space_lie_in_it() -> None:
    space = Space({"a": Float(1e-4, 1.0, log=True), "b": Int(1, 9), "c": Choice(("x", "y", "z")), "d": Int(3, 3)})
    history = played(NSGA2Sampler(space), lambda params: (float(params["a"]), -float(params["b"])), 80)
    for trial in history.trials:
        space.validate(trial.params)
    assert len({tuple(trial.params.values()) for trial in history.trials}) > 75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 3}, "expected population_size >= 4, got 3"),
        ({"crossover_probability": 1.5}, "expected probabilities from 0 to 1, got 1.5"),
        ({"mutation_probability": -0.5}, "and -0.5 for mutation"),
        ({"mutation_index": -1.0}, "expected indices from 0 to 1000, got 20.0 and -1.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NSGA2Sampler(CUBE, **options)
