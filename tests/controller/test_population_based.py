"""Population-based training on two toys whose best schedules are known, and against a short reference program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from controller.history import History
from controller.strategies.population_based import PopulationBasedTraining, every, perturbed, schedule_of
from controller.strategy import Decision, Resume, Start
from controller.trial import Continue, Failure, FailureKind, Job, Message, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Domain, Float, Int, ParamValue
from search_spaces.rules import Divides
from search_spaces.space import Params, Space

RATE = "optimizer.learning_rate"
RATES = Space({RATE: Float(0.001, 1.0, log=True)})


class Toy:
    """A task whose training is a step function on a state, and whose checkpoints are such states.

    Args:
        first: the state before any training.
        step: the state after a unit of budget.
        loss: of a state.
    """

    def __init__(
        self,
        first: Any,
        step: Callable[[Any, Params], Any],
        loss: Callable[[Any], float],
        fails: Callable[[Job], bool] = lambda job: False,
    ) -> None:
        self.first, self.step, self.loss, self.fails = first, step, loss, fails
        self.checkpoints: dict[tuple[int, int], Any] = {}

    def finish(self, job: Job) -> Message:
        """All of a job at once, as the clocked workers want it. KeyError: what it continues is gone."""
        if self.fails(job):
            return Failure(job.job_id, FailureKind.OOM, "as the test asked")
        assert job.source is None or (isinstance(job.source, Continue) and job.source.budget == job.from_budget)
        state = self.first if job.source is None else self.checkpoints[job.source.trial_id, job.source.budget]
        for _ in range(job.from_budget, job.to_budget):
            state = self.step(state, job.params)
        self.checkpoints[job.trial_id, job.to_budget] = state
        return Report(job.job_id, job.to_budget, {"loss": self.loss(state)}, seconds=1.0)

    def along(self, schedule: list[tuple[int, Params]], budget: int) -> float:
        """The loss of one run that goes through a schedule."""
        state = self.first
        for position in range(budget):
            params = [params for start, params in schedule if start <= position][-1]
            state = self.step(state, params)
        return self.loss(state)


def noisy_descent(**options: Any) -> Toy:
    """Expected squared error of stochastic gradient descent on a quadratic with gradient noise of variance 1.

    One step with rate r takes e to (1 - r)^2 e + r^2. The best rate is e / (1 + e), after which 1/e has grown by 1: no
    schedule ends below 1 / (1 + n) after n steps, and the one that does is 1/2, 1/3, 1/4, ...
    """
    return Toy(1.0, lambda error, params: (1 - params[RATE]) ** 2 * error + params[RATE] ** 2, lambda e: e, **options)


BUDGETS = every(5, 60)


@pytest.mark.parametrize("workers", [1, 8, 16])
def test_it_finds_the_decay_of_the_learning_rate(study: Any, workers: int) -> None:
    best, fixed = 1 / 61, min(noisy_descent().along([(0, {RATE: r})], 60) for r in np.geomspace(0.001, 1.0, 500))
    assert fixed > 1.6 * best
    reached = []
    for seed in range(3):
        task = noisy_descent()
        strategy = PopulationBasedTraining(RATES, every(2, 60), population_size=16)
        history = study(strategy, task, horizon=60, seed=seed).run(workers)
        winner = history.best()
        assert winner is not None
        schedule = schedule_of(history, winner.trial_id)
        reached.append(history.loss(winner.trial_id, 60))
        assert reached[-1] == task.along(schedule, 60)  # exactly that of one run with this schedule
        assert schedule[0][0] == 0
        assert [start for start, _ in schedule] == sorted({start for start, _ in schedule})
        for position in (5, 20, 50):  # the best schedule, up to a factor
            rate = [params[RATE] for start, params in schedule if start <= position][-1]
            assert 1 / 3 < rate * (position + 2) < 4
    assert best <= min(reached)
    assert np.mean(reached) < best + (fixed - best) / 4


def test_the_toy_of_the_paper(study: Any) -> None:
    """Figure 2: each of two members sees one coordinate of the objective 1.2 - x^2 - y^2; neither gets beyond 0.4.

    The surrogate that is descended has weights h, the true objective is what is reported.
    """
    space = Space({"h.x": Float(0.0, 1.0), "h.y": Float(0.0, 1.0)})

    def step(state: tuple[float, float], params: Params) -> tuple[float, float]:
        return state[0] * (1 - 0.02 * float(params["h.x"])), state[1] * (1 - 0.02 * float(params["h.y"]))

    def make() -> Toy:
        return Toy((0.9, 0.9), step, lambda state: -(1.2 - state[0] ** 2 - state[1] ** 2))

    starts: list[Params] = [{"h.x": 1.0, "h.y": 0.0}, {"h.x": 0.0, "h.y": 1.0}]
    assert all(-make().along([(0, params)], 200) < 0.4 for params in starts)
    for seed in range(3):
        strategy = PopulationBasedTraining(space, every(4, 200), population_size=2)
        history = study(strategy, make(), horizon=200, seed=seed).run(2, enqueue=starts)
        assert [trial.params for trial in history.trials[:2]] == starts
        assert -history.loss(history.best().trial_id, 200) > 1.0


# --- the algorithm ------------------------------------------------------------------------------------


def reference(space: Space, budgets: tuple[int, ...], size: int, toy: Toy, seed: int) -> list[tuple[Any, ...]]:
    """One member after the other: (trial, continued trial, parameters, budget, loss) of all jobs. Quantile 0.2."""
    rows: list[tuple[Any, ...]] = []
    members: list[tuple[int, Params, Any]] = []  # (trial, hyperparameters, state)
    trials = 0
    for level, budget in enumerate(budgets):
        before = list(members)
        order = sorted(range(size), key=lambda m: (toy.loss(before[m][2]), before[m][0])) if level else []
        share = min(-(-size // 5), size // 2)
        for member in range(size):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, len(rows), 0)))
            if level == 0:
                trial, source, params, state = trials, None, space.sample(rng), toy.first
                trials += 1
            elif order.index(member) < size - share:
                trial, params, state = before[member]
                source = trial
            else:
                source, old, state = before[order[rng.integers(share)]]
                trial, params = trials, dict(space.sample(rng))
                trials += 1
                for name, value in old.items():
                    if rng.random() >= 0.25:
                        domain, factor = space.domains[name], (0.8, 1.2)[rng.integers(2)]
                        params[name] = min(max(value * factor, domain.low), domain.high)
            for _ in range(budget - (budgets[level - 1] if level else 0)):
                state = toy.step(state, params)
            members[member : member + 1] = [(trial, params, state)]
            rows.append((trial, source, params, budget, toy.loss(state)))
    return rows


def rows_of(history: History) -> list[tuple[Any, ...]]:
    return [
        (
            job.trial_id,
            None if job.source is None else job.source.trial_id,
            job.params,
            job.to_budget,
            history.loss(job.trial_id, job.to_budget),
        )
        for job in history.jobs
    ]


@pytest.mark.parametrize("size", [2, 5, 11])
@pytest.mark.parametrize(("workers", "quorum"), [(1, 0.0), (1, 0.5), (7, 1.0), (64, 1.0)])
def test_it_does_what_the_algorithm_does(study: Any, size: int, workers: int, quorum: float) -> None:
    """With one worker, all members are ranked at every rung; synchronously, whatever the number of workers."""
    space = Space({RATE: Float(0.001, 1.0, log=True), "other": Float(1.0, 2.0)})
    strategy = PopulationBasedTraining(space, BUDGETS, population_size=size, quorum=quorum)
    for seed in range(3):
        history = study(strategy, noisy_descent(), horizon=60, seed=seed).run(workers)
        assert rows_of(history) == reference(space, BUDGETS, size, noisy_descent(), seed)


@dataclass
class Referee:
    """Fails the test if a member goes on from whom it should not, with what was known at that time."""

    inner: PopulationBasedTraining
    exploits: int = 0
    comparisons: int = 0

    def next(self, history: History) -> Decision:
        decision = self.inner.next(history)
        if isinstance(decision, Start) and isinstance(decision.source, Continue):
            own = next(t for t in reversed(history.trials) if t.labels["member"] == decision.labels["member"])
            self.judge(history, own.trial_id, decision.source.budget, decision.source.trial_id)
            assert self.inner.budgets.index(decision.budget) == self.inner.budgets.index(decision.source.budget) + 1
            self.exploits += 1
        elif isinstance(decision, Resume):
            self.judge(history, decision.trial_id, history.trials[decision.trial_id].budget, None)
        return decision

    def judge(self, history: History, own: int, budget: int, parent: int | None) -> None:
        """A rung of n results: the last and the first 20 % of them, rounded up, at most half."""
        ranking = [trial_id for _, trial_id in history.rung(budget).ranking]
        assert len(ranking) >= self.inner.quorum * self.inner.population_size
        share = min(math.ceil(len(ranking) / 5), len(ranking) // 2)
        assert (own in ranking[len(ranking) - share :]) == (parent is not None)
        assert parent is None or parent in ranking[:share]
        self.comparisons += 1

    def retain(self, history: History) -> set[int]:
        return self.inner.retain(history)


@pytest.mark.parametrize(("workers", "quorum"), [(3, 0.5), (10, 0.0), (10, 0.5), (64, 0.8)])
def test_each_is_ranked_among_the_results_at_its_rung(study: Any, workers: int, quorum: float) -> None:
    referee = Referee(PopulationBasedTraining(RATES, BUDGETS, population_size=10, quorum=quorum))
    history = study(referee, noisy_descent(), horizon=60, seed=1).run(workers)
    assert referee.comparisons == 10 * (len(BUDGETS) - 1)
    assert 0.1 < referee.exploits / referee.comparisons < 0.35
    assert len(history.trials) == 10 + referee.exploits
    assert {trial.budget for trial in referee.inner.members(history)} == {60}
    assert history.examples == 10 * 60  # as many full trainings as members


def test_a_failed_member_goes_on_from_one_of_the_best(study: Any) -> None:
    def fails(job: Job) -> bool:
        return job.trial_id == 3 and job.to_budget == 15

    strategy = PopulationBasedTraining(RATES, BUDGETS, population_size=5, quantile=0.4)
    history = study(strategy, noisy_descent(fails=fails), horizon=60, seed=2, checked=True).run(2)
    heir = next(trial for trial in history.trials if trial.labels["member"] == 3 and trial.trial_id > 4)
    if history.trials[3].failure is None:  # it had been replaced before
        pytest.fail("expected trial 3 to get to 15 with this seed")
    assert heir.source is not None
    assert heir.source.budget == 15
    assert heir.source.trial_id in [trial_id for _, trial_id in history.rung(15).ranking[:2]]
    assert len(history.rung(60).arrivals) == 5


def test_members_whose_first_jobs_all_fail_are_given_up(study: Any) -> None:
    strategy = PopulationBasedTraining(RATES, BUDGETS, population_size=4)
    history = study(strategy, noisy_descent(fails=lambda job: True), horizon=60, checked=True).run(2)
    assert len(history.jobs) == 4
    late = study(strategy, noisy_descent(fails=lambda job: job.to_budget > 30), horizon=60, checked=True).run(2)
    assert late.best().budget == 30  # they tried to go on, one rung and one failure each, and the rest as a last resort
    assert {job.to_budget for job in late.jobs} == {*BUDGETS[:7]}


# --- exploring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "value", "factor", "expected"),
    [
        (Float(0.001, 1.0, log=True), 0.1, 0.8, 0.08),
        (Float(0.0, 1.0), 0.5, 1.2, 0.6),
        (Float(0.0, 1.0), 0.95, 1.2, 1.0),
        (Float(0.0, 0.5), 0.0, 1.2, 0.1),
        (Float(0.0, 0.5), 0.0, 0.8, 0.0),
        (Float(-1.0, 1.0), -0.5, 1.2, -0.6),
        (Float(0.3, 0.3), 0.3, 1.2, 0.3),
        (Int(1, 100, log=True), 50, 1.2, 60),
        (Int(1, 100), 2, 1.2, 3),
        (Int(1, 100), 2, 0.8, 1),
        (Int(1, 100), 1, 0.8, 1),
        (Int(-9, 9), -2, 1.2, -3),
        (Choice((8, 16, 32)), 16, 1.2, 32),
        (Choice((8, 16, 32)), 16, 0.8, 8),
        (Choice((8, 16, 32)), 8, 0.8, 8),
        (Choice(("linear", "cosine")), "linear", 1.2, "linear"),
        (Choice((True, False)), True, 0.8, True),
        (Float(0.0, 1.0), 0.5, 1.0, 0.5),
        (Int(1, 9), 5, 1.0, 5),
    ],
)
def test_perturbing_multiplies(domain: Domain, value: ParamValue, factor: float, expected: ParamValue) -> None:
    found = perturbed(domain, value, factor)
    assert found == pytest.approx(expected)
    assert type(found) is type(expected)
    assert domain.contains(found)


def test_frozen_hyperparameters_are_those_of_the_continued_trial(study: Any, fake_task: Any) -> None:
    space = Space(
        {
            RATE: Float(0.001, 0.3, log=True),
            "lora.rank": Int(4, 64, log=True),
            "architecture.heads": Int(1, 12),
            "architecture.kv_heads": Int(1, 12),
            "schedule.kind": Choice(("linear", "wsd")),
            "schedule.decay": Float(0.1, 0.9),
            "optimizer.batch_size": Choice((4, 8, 16)),
        },
        conditions=(OneOf("schedule.decay", "schedule.kind", ("wsd",)),),
        rules=(Divides("architecture.kv_heads", "architecture.heads"),),
    )
    frozen = ("lora.rank", "architecture.*", "optimizer.batch_size")
    strategy = PopulationBasedTraining(space, (1, 2, 4, 6, 9), population_size=12, frozen=frozen)
    assert strategy.frozen == {"lora.rank", "architecture.heads", "architecture.kv_heads", "optimizer.batch_size"}
    history = study(strategy, fake_task(), horizon=9, checked=True).run(3)
    explored = [trial for trial in history.trials if trial.source is not None]
    assert len(explored) > 10
    for trial in explored:
        space.validate(trial.params)
        parent = history.trials[trial.source.trial_id].params
        assert {name: trial.params[name] for name in strategy.frozen} == {
            name: parent[name] for name in strategy.frozen
        }
        assert trial.params != parent
    assert {"schedule.decay" in trial.params for trial in explored} == {True, False}


def test_exploring_draws_anew_as_often_as_it_is_told() -> None:
    space = Space({f"x.{i}": Float(0.001, 1.0, log=True) for i in range(40)})
    rng = np.random.default_rng(0)
    params = dict.fromkeys(space.names, 0.03)
    strategy = PopulationBasedTraining(space, (1, 2), population_size=2, resample_probability=0.1)
    anew = 0
    for _ in range(50):
        ratios = [value / params[name] for name, value in strategy.explore(params, rng).items()]
        anew += sum(not (math.isclose(r, 0.8) or math.isclose(r, 1.2)) for r in ratios)
    assert anew / 2000 == pytest.approx(0.1, abs=0.03)


# --- what is told -------------------------------------------------------------------------------------


def test_a_trial_that_continued_nobody_has_one_setting(study: Any) -> None:
    history = study(PopulationBasedTraining(RATES, (5,), population_size=3), noisy_descent(), horizon=5).run(1)
    assert [schedule_of(history, trial.trial_id) for trial in history.trials] == [
        [(0, trial.params)] for trial in history.trials
    ]
    assert len(history.trials) == len(history.jobs) == 3


def test_rungs_a_fixed_interval_apart() -> None:
    assert every(100, 350) == (100, 200, 350)
    assert every(100, 400) == (100, 200, 300, 400)
    assert every(3, 5) == (5,)
    assert every(5, 5) == (5,)
    with pytest.raises(ValueError, match="interval <= max_budget"):
        every(6, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": ()}, "strictly increasing"),
        ({"budgets": (3, 2)}, "strictly increasing"),
        ({"population_size": 0}, "population_size >= 1"),
        ({"quantile": 0.0}, "quantile above 0"),
        ({"quantile": 0.6}, "quantile above 0"),
        ({"resample_probability": 1.1}, "resample_probability"),
        ({"quorum": 2}, "quorum from 0 to 1"),
        ({"factors": ()}, "factor above 0"),
        ({"factors": (0.8, -1.2)}, "factor above 0"),
        ({"frozen": ("optimizer.learning_rat",)}, "did you mean 'optimizer.learning_rate'"),
        ({"frozen": ("architecture.*",)}, "architecture"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"budgets": (1, 3), "population_size": 4, **options}
    with pytest.raises(ValueError, match=message):
        PopulationBasedTraining(RATES, settings.pop("budgets"), **settings)
