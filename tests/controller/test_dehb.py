"""DEHB against a short sequential program of the paper's algorithm, and what the paper leaves open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from controller.history import History
from controller.schedulers.rungs import geometric_rungs
from controller.strategies.dehb import DEHB
from controller.strategy import Decision, Resume, Start
from controller.trial import FailureKind, Job
from search_spaces.domains import Choice, Float
from search_spaces.space import Params, Space

BUDGETS = (1, 3, 9, 27)
ROUND = 27 + (9 + 3 + 1) + (6 + 2) + 4
"""Trials of a first round: the first bracket promotes its own, all others start new ones at every rung."""


# --- the paper's algorithm, one evaluation after the other -------------------------------------------


def reference(
    space: Space, budgets: Sequence[int], brackets: int, loss: Callable[[Params, int], float], seed: int
) -> list[tuple[Params, int]]:
    """What DEHB evaluates with one worker: (parameters, budget), in order. eta = 3, F = Cr = 0.5."""
    rungs, dimensions = len(budgets), len(space.names)
    table = [[rungs // (s + 1) * 3**s // 3**i for i in range(s + 1)] for s in reversed(range(rungs))]
    slots = [max(table[start][level - start] for start in range(level + 1)) for level in range(rungs)]
    members: list[list[tuple[float, int] | None]] = [[None] * count for count in slots]  # (fitness, evaluation)
    turns = [0] * rungs
    done: list[tuple[Params, int]] = []
    names: list[int] = []  # which trial an evaluation belongs to: ties go to the older one

    def ranked(level: int) -> list[tuple[float, int]]:
        return sorted(member for member in members[level] if member is not None)

    for bracket in range(brackets):
        start = bracket % rungs
        below: list[tuple[float, int, Params]] = []
        for step, count in enumerate(table[start]):
            level, here = start + step, []
            for turn in range(count):
                rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, len(done), 0)))
                slot = turns[level] % slots[level]
                turns[level] += 1
                target = members[level][slot]
                name = max(names, default=-1) + 1
                if bracket == 0 and step > 0:
                    _, name, params = sorted(below)[turn]
                elif bracket == 0:
                    params = space.sample(rng)
                else:
                    pool = [n for _, n in ranked(level) if target is None or n != target[1]]
                    if step > 0:
                        pool = [n for _, n in ranked(level - 1)[:count]]
                    if len(pool) < 3:
                        union = {n for each in range(rungs) for _, n in ranked(each)}
                        others = sorted(union - {*pool, -1 if target is None else target[1]})
                        pool += [others[i] for i in rng.choice(len(others), 3 - len(pool), replace=False)]
                    where = {n: space.encode(p) for n, (p, _) in zip(names, done, strict=True)}
                    a, b, c = (where[pool[i]] for i in rng.choice(len(pool), 3, replace=False))
                    own = space.encode(space.sample(rng)) if target is None else where[target[1]]
                    vector = a + 0.5 * (b - c)
                    taken = rng.random(dimensions) < 0.5
                    taken[rng.integers(dimensions)] = True
                    vector = np.where(taken, vector, own)
                    for i in range(dimensions):
                        if not 0 <= vector[i] <= 1:
                            vector[i] = rng.random()
                    params = space.decode(vector)
                names.append(name)
                done.append((params, budgets[level]))
                fitness = loss(params, budgets[level])
                here.append((fitness, name, params))
                if target is None or fitness <= target[0]:
                    members[level][slot] = (fitness, name)
            below = here
    return done


@pytest.fixture
def continuous() -> Space:
    """A space in which no two draws are alike."""
    return Space({"optimizer.learning_rate": Float(0.001, 0.3, log=True), "x": Float(-1.0, 1.0), "y": Float(0.0, 4.0)})


def hills(params: Params) -> float:
    return abs(float(params["x"]) - 0.3) + (float(params["y"]) - 1.0) ** 2 / 4


def untrained(task: Any) -> Any:
    """A task whose loss is 10 more than its quality at every budget."""
    task.train = lambda job, state, to_budget: type(state)(position=to_budget)
    return task


def evaluations(history: History) -> list[tuple[Params, int]]:
    return [(job.params, job.to_budget) for job in history.jobs]


@pytest.mark.parametrize("seed", range(5))
def test_it_evaluates_what_the_papers_algorithm_does(study: Any, fake_task: Any, continuous: Space, seed: int) -> None:
    task = fake_task(hills)

    def loss(params: Params, budget: int) -> float:
        job = Job(0, 0, params, 0, 0, budget, 27)
        return float(task.measure(job, task.train(job, task.load(job), budget)).metrics["loss"])

    trials = 2 * ROUND + 9 + 3 + 1  # in the second round the first bracket evolves its 13 trials above the lowest rung
    strategy = DEHB(continuous, BUDGETS, max_trials=trials, max_redraws=0)
    history = study(strategy, fake_task(hills), seed=seed).run(1)
    assert evaluations(history) == reference(continuous, BUDGETS, 8, loss, seed)
    assert history.num_started() == trials


@pytest.mark.parametrize("budgets", [(1, 3), (3, 9, 27), geometric_rungs(1, 27, 3)])
def test_other_ladders_too(study: Any, fake_task: Any, continuous: Space, budgets: tuple[int, ...]) -> None:
    expected = reference(continuous, budgets, 2 * len(budgets), lambda params, budget: 10 + hills(params), 3)
    trials = len(expected) - sum(3**level for level in range(len(budgets) - 1))  # without promotions
    strategy = DEHB(continuous, budgets, max_trials=trials, max_redraws=0)
    history = study(strategy, untrained(fake_task(hills)), horizon=budgets[-1], seed=3).run(1)
    assert evaluations(history) == expected


# --- brackets ----------------------------------------------------------------------------------------


@dataclass
class Orderly:
    """Fails the test if a rung of a bracket begins before the rung below is complete."""

    inner: DEHB
    overlaps: int = 0
    begun: Counter[tuple[int, int]] = field(default_factory=Counter)

    def next(self, history: History) -> Decision:
        decision = self.inner.next(history)
        if isinstance(decision, Start | Resume):
            labels = decision.labels if isinstance(decision, Start) else history.trials[decision.trial_id].labels
            bracket, level = int(labels["bracket"]), self.inner.budgets.index(decision.budget)
            running = {(history.trials[job.trial_id].labels["bracket"], job.to_budget) for job in history.searching}
            self.overlaps += any(other != bracket for other, _ in running)
            self.begun[bracket, level] += 1
            if level > bracket % 4:
                assert (bracket, self.inner.budgets[level - 1]) not in running
                wanted = self.inner.brackets[bracket % 4].sizes[level - 1 - bracket % 4]
                assert self.begun[bracket, level - 1] == wanted or isinstance(decision, Resume)
        return decision

    def retain(self, history: History) -> set[int]:
        return self.inner.retain(history)


@pytest.mark.parametrize("workers", [1, 7, 64])
def test_brackets_have_hyperbands_sizes_and_workers_need_not_wait(
    study: Any, fake_task: Any, space: Space, quality: Any, workers: int
) -> None:
    strategy = Orderly(DEHB(space, BUDGETS, max_trials=ROUND))
    history = study(strategy, fake_task(quality)).run(workers)
    assert history.num_started() == ROUND
    if workers < 64:  # with as many, trials are all started while the first rungs are running
        for bracket, sizes in enumerate([(27, 9, 3, 1), (9, 3, 1), (6, 2), (4,)]):
            assert tuple(strategy.begun[bracket, level] for level in range(bracket, 4)) == sizes
    assert (strategy.overlaps > 0) == (workers > 1)
    for level, budget in enumerate(BUDGETS):  # the best that challenged a slot owns it
        jobs = [job for job in history.jobs if job.to_budget == budget]
        slots = (27, 9, 6, 4)[level]
        best = {
            min((history.loss(job.trial_id, budget), job.trial_id) for job in jobs[slot::slots])
            for slot in range(slots)
        }
        assert strategy.inner.subpopulation(history, level) == [trial_id for _, trial_id in sorted(best)]
        for turn, job in enumerate(jobs):
            if job.source is None:
                assert history.trials[job.trial_id].labels["slot"] == turn % slots


def test_only_the_first_bracket_promotes_unless_told_otherwise(
    study: Any, fake_task: Any, space: Space, quality: Any
) -> None:
    def promoted(brackets: int) -> Counter[int]:
        strategy = DEHB(space, BUDGETS, max_trials=ROUND, promoting_brackets=brackets)
        history = study(strategy, fake_task(quality)).run(3)
        return Counter(history.trials[job.trial_id].labels["bracket"] for job in history.jobs if job.source)

    assert promoted(1) == {0: 13}
    assert {bracket: count for bracket, count in promoted(4).items() if bracket < 4} == {0: 13, 1: 4, 2: 2}


def test_a_bracket_that_is_cut_short_promotes_its_best(study: Any, fake_task: Any, space: Space, quality: Any) -> None:
    history = study(DEHB(space, BUDGETS, max_trials=27 + 6), fake_task(quality), checked=True).run(2)
    late = [trial for trial in history.trials if trial.labels["bracket"] == 1]
    assert [max(trial.reports) for trial in sorted(late, key=lambda trial: history.loss(trial.trial_id, 3))] == [
        27, 9, 3, 3, 3, 3,
    ]  # fmt: skip
    assert Counter(max(trial.reports) for trial in history.trials[:27]) == {1: 18, 3: 6, 9: 2, 27: 1}


@pytest.mark.parametrize(("trials", "sizes"), [(1, (1, 1, 1, 1)), (2, (2, 1, 1, 1)), (13, (13, 4, 1, 1))])
def test_fewer_trials_than_a_bracket_keep_its_proportions(
    study: Any, fake_task: Any, space: Space, quality: Any, trials: int, sizes: tuple[int, ...]
) -> None:
    history = study(DEHB(space, BUDGETS, max_trials=trials), fake_task(quality), checked=True).run(2)
    assert tuple(len(history.rung(budget).ranking) for budget in BUDGETS) == sizes


def test_later_trials_are_better_than_random_ones(study: Any, fake_task: Any, space: Space, quality: Any) -> None:
    strategy = DEHB(space, (1, 3, 9), max_trials=150)
    history = study(strategy, untrained(fake_task(quality)), horizon=9).run(2)
    found = [quality(trial.params) for trial in history.trials]
    assert np.mean(found[-27:]) < np.mean(found[:27]) / 2
    assert {trial.labels["origin"] for trial in history.trials} == {"random", "differential-evolution"}
    assert len({tuple(trial.params.items()) for trial in history.trials}) == 150


def test_what_failed_owns_no_slot_and_is_no_parent(study: Any, fake_task: Any, space: Space, quality: Any) -> None:
    def fails(job: Job) -> FailureKind | None:
        return FailureKind.OOM if job.params["lora.rank"] > 30 else None

    strategy = DEHB(space, BUDGETS, max_trials=120)
    history = study(strategy, fake_task(quality, fails=fails)).run(3)
    failed = {trial.trial_id for trial in history.trials if trial.failure is not None}
    assert failed
    parents = {trial.labels[key] for trial in history.trials for key in ("parent", "target") if key in trial.labels}
    assert not failed & parents
    assert not failed & {owner for level in range(4) for owner in strategy.subpopulation(history, level)}
    early, late = ([trial.trial_id in failed for trial in part] for part in (history.trials[:27], history.trials[-27:]))
    assert np.mean(late) < np.mean(early)


def test_a_small_space_is_used_up_before_anything_repeats(study: Any, fake_task: Any) -> None:
    space = Space({"a": Choice(tuple(range(6))), "b": Choice(("x", "y", "z"))})
    history = study(DEHB(space, (1, 3), max_trials=18, max_redraws=500), fake_task(), horizon=3).run(2)
    assert len({tuple(sorted(trial.params.items())) for trial in history.trials}) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": (27,)}, "at least two rungs"),
        ({"budgets": (3, 3, 9)}, "strictly increasing"),
        ({"max_trials": 0}, "max_trials >= 1"),
        ({"reduction_factor": 1}, "reduction_factor >= 2"),
        ({"scale": 0.0}, "scale in"),
        ({"crossover_probability": 1.5}, "crossover_probability"),
        ({"promoting_brackets": 0}, "promoting_brackets >= 1"),
        ({"max_redraws": -1}, "max_redraws >= 0"),
    ],
)
def test_mistakes_are_named(space: Space, options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"budgets": BUDGETS, "max_trials": 9, **options}
    with pytest.raises(ValueError, match=message):
        DEHB(space, settings.pop("budgets"), **settings)
