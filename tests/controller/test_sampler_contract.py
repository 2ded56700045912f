"""What every sampler must keep to."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.samplers.cma_es import CMAESSampler
from controller.samplers.differential_evolution import DifferentialEvolutionSampler
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.expert_prior import PriorBandSampler
from controller.samplers.gaussian_process import GaussianProcessSampler
from controller.samplers.grid import GridSampler
from controller.samplers.nsga2 import NSGA2Sampler
from controller.samplers.random import RandomSampler
from controller.samplers.sobol import SobolSampler
from controller.samplers.tpe import TPESampler
from controller.samplers.warm_start import EarlierTrial, WarmStartSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Sampler, Scheduler
from controller.trial import FailureKind, Job
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.per_layer import per_layer
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Divides, Sum
from search_spaces.space import Space


def warm_started(space: Space) -> Sampler:
    """After an earlier study of random trials."""
    rng = np.random.default_rng(0)
    earlier = [EarlierTrial(space.sample(rng), float(rng.random()), 9) for _ in range(12)]
    return WarmStartSampler(space, EvolutionSampler(space), [earlier], num_first=0)


SAMPLERS: dict[str, Callable[[Space], Sampler]] = {
    "random": RandomSampler,
    "grid": GridSampler,
    "sobol": SobolSampler,
    "differential-evolution": lambda space: DifferentialEvolutionSampler(space, population_size=5),
    "cma-es": lambda space: CMAESSampler(space, population_size=5),
    "nsga2": lambda space: NSGA2Sampler(space, population_size=6),
    "tpe": lambda space: TPESampler(space, num_startup=6),
    "prior-band": lambda space: PriorBandSampler(space, rung=1),
    "warm-start": warm_started,
    "gaussian-process": lambda space: GaussianProcessSampler(space, num_startup=10, max_points=12, fantasies=2),
    "evolution": EvolutionSampler,
    "evolution-small": lambda space: EvolutionSampler(space, population_size=4, tournament_size=2),
    "evolution-greedy": lambda space: EvolutionSampler(
        space, population_size=8, tournament_size=8, crossover_probability=1.0, random_probability=0.0
    ),
}
SCHEDULERS: dict[str, Scheduler] = {"full": FullBudget(24), "asha": ASHA((1, 3, 9), max_trials=24)}


@pytest.fixture(params=SAMPLERS)
def make_sampler(request: pytest.FixtureRequest) -> Callable[[Space], Sampler]:
    return SAMPLERS[request.param]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    return SCHEDULERS[request.param]


def some_fail(job: Job) -> FailureKind | None:
    return FailureKind.OOM if job.params["lora.rank"] > 40 or job.trial_id % 7 == 3 else None


@pytest.mark.parametrize("workers", [None, 1, 2, 7, 64])
def test_it_stays_in_the_space_and_a_warm_answer_equals_a_cold_one(
    study: Any, fake_task: Any, quality: Any, space: Space, make_sampler: Any, scheduler: Scheduler, workers: int | None
) -> None:
    strategy = Composed(make_sampler(space), scheduler)
    task = fake_task(quality, fails=some_fail)
    history = study(strategy, task, horizon=9, checked=True).run(workers)
    assert len(history.trials) == 24
    assert any(trial.failure for trial in history.trials)
    for trial in history.trials:
        space.validate(trial.params)
        assert trial.labels["origin"]
    assert len({tuple(trial.params.items()) for trial in history.trials}) == 24  # none is tried twice


def test_it_depends_on_the_seed_alone(
    study: Any, fake_task: Any, quality: Any, space: Space, make_sampler: Any, scheduler: Scheduler, project: Any
) -> None:
    def run(seed: int) -> Any:
        np.random.seed(seed)  # the global generators must not matter
        random.seed(seed)
        strategy = Composed(make_sampler(space), scheduler)
        return study(strategy, fake_task(quality), horizon=9, seed=seed).run(2)

    first, again, other = run(1), run(1), run(2)
    assert project(first) == project(again)
    assert first.trials == again.trials
    assert not {tuple(t.params.items()) for t in first.trials} & {tuple(t.params.items()) for t in other.trials}


def test_it_draws_from_its_generator_alone_and_leaves_the_history_as_it_is(
    study: Any, fake_task: Any, quality: Any, space: Space, make_sampler: Any
) -> None:
    history = study(Composed(make_sampler(space), FullBudget(20)), fake_task(quality), horizon=9).run()
    before = copy.deepcopy(vars(history))
    sampler = make_sampler(space)
    global_states = repr((np.random.get_state(), random.getstate()))
    first = [sampler.propose(history, np.random.default_rng(seed)) for seed in range(50)]
    again = [make_sampler(space).propose(history, np.random.default_rng(seed)) for seed in reversed(range(50))]
    assert first == again[::-1]
    assert len({tuple(proposal.params.items()) for proposal in first}) > 20
    assert vars(history) == before
    assert repr((np.random.get_state(), random.getstate())) == global_states


@pytest.mark.parametrize(
    "domain", [Choice(("only",)), Float(0.5, 0.5), Int(3, 3)], ids=lambda domain: type(domain).__name__
)
def test_a_space_of_one_point_is_enough(study: Any, fake_task: Any, make_sampler: Any, domain: Any) -> None:
    space = Space({"optimizer.schedule": domain})
    history = study(Composed(make_sampler(space), ASHA((1, 3, 9), max_trials=12)), fake_task(), horizon=9).run(2)
    assert len(history.trials) == 12
    for trial in history.trials:
        space.validate(trial.params)


def test_a_small_space_is_used_up_before_anything_repeats(study: Any, fake_task: Any, make_sampler: Any) -> None:
    space = Space({"a": Choice((1, 2, 3)), "b": Choice(("x", "y"))})
    strategy = Composed(make_sampler(space), FullBudget(6), max_redraws=300)
    history = study(strategy, fake_task(), horizon=9).run()
    assert len({tuple(sorted(t.params.items())) for t in history.trials}) == 6


def test_it_goes_on_when_everything_fails(
    study: Any, fake_task: Any, space: Space, make_sampler: Any, scheduler: Scheduler
) -> None:
    task = fake_task(fails=lambda job: FailureKind.DIVERGED)
    history = study(Composed(make_sampler(space), scheduler), task, horizon=9).run(3)
    assert len(history.trials) == 24
    assert history.best() is None


def test_conditions_rules_and_priors_hold_in_every_proposal(
    study: Any, fake_task: Any, make_sampler: Any, project: Any
) -> None:
    layers, exists = per_layer("architecture.ffn", Choice((64, 128, 256)), Int(1, 4), "architecture.num_layers")
    space = Space(
        {
            "optimizer.learning_rate": Float(1e-3, 1e-1, log=True),
            "optimizer.batch_size": Choice((8, 16)),
            "schedule.kind": Choice(("linear", "wsd")),
            "schedule.warmup": Float(0.0, 0.9),
            "schedule.decay": Float(0.1, 0.9),
            "architecture.heads": Int(1, 12),
            "architecture.kv_heads": Int(1, 12),
            "architecture.num_layers": Int(1, 4),
            **layers,
        },
        conditions=(OneOf("schedule.decay", "schedule.kind", ("wsd",)), *exists),
        rules=(
            Divides("architecture.kv_heads", "architecture.heads"),
            Sum(("schedule.warmup", "schedule.decay"), high=1.0),
            Sum(tuple(layers), high=500),
        ),
        priors={
            "optimizer.learning_rate": Normal(1e-2, 0.3, ScaledBy("optimizer.batch_size", 8, 0.5)),
            "optimizer.batch_size": Weights((1, 3)),
        },
    )

    def run() -> Any:
        task = fake_task(lambda params: float(params.get("schedule.decay", 0.5)))
        return study(Composed(make_sampler(space), ASHA((1, 3, 9), max_trials=24)), task, horizon=9, checked=True).run(
            2
        )

    history = run()
    assert len(history.trials) == 24
    for trial in history.trials:
        space.validate(trial.params)
    assert {"schedule.decay" in trial.params for trial in history.trials} == {True, False}
    assert project(run()) == project(history)
