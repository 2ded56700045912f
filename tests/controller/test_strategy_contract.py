"""What every strategy of its own must keep to: one that is no composition of a sampler and a scheduler."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from controller.events import Event
from controller.finalists import Finalists
from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.tpe import TPESampler
from controller.schedulers.asha import ASHA
from controller.store import Store
from controller.strategies.coarse_to_fine import CoarseToFine
from controller.strategies.dehb import DEHB
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategies.population_based import PopulationBasedTraining
from controller.strategy import Composed, Decision, InTurn, Resume, Start, Strategy
from controller.trial import Continue, FailureKind, Job, Status
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Divides, Sum
from search_spaces.space import Space

HORIZON = 27
STRATEGIES: dict[str, Callable[[Space, int], Strategy]] = {
    # A strategy that begins with so many trials, or as many of them as it has any use for.
    "dehb": lambda space, trials: DEHB(space, (1, 3, 9, 27), max_trials=trials),
    "dehb-two-rungs": lambda space, trials: DEHB(space, (9, 27), max_trials=trials, reduction_factor=2),
    "dehb-promoting": lambda space, trials: DEHB(space, (3, 9, 27), max_trials=trials, promoting_brackets=3),
    "population": lambda space, trials: PopulationBasedTraining(space, (3, 9, 15, 27), population_size=trials),
    "population-synchronous": lambda space, trials: PopulationBasedTraining(
        space, (9, 18, 27), population_size=trials, quorum=1.0, quantile=0.5
    ),
    "population-hasty": lambda space, trials: PopulationBasedTraining(
        space, (2, 4, 6, 27), population_size=trials, quorum=0.0, quantile=0.4
    ),
    "freeze-thaw": lambda space, trials: FreezeThaw(space, (1, 3, 9, 27), max_trials=trials, max_points=40),
    "coarse-to-fine": lambda space, trials: CoarseToFine(
        space,
        Composed(EvolutionSampler(space), ASHA((3, 9, 27), max_trials=trials)),
        lambda narrow: Composed(TPESampler(narrow), ASHA((9, 27), max_trials=trials)),
    ),
}


@pytest.fixture(params=STRATEGIES)
def make_strategy(request: pytest.FixtureRequest) -> Callable[[Space, int], Strategy]:
    return STRATEGIES[request.param]


def some_fail(job: Job) -> FailureKind | None:
    kinds = (FailureKind.OOM, FailureKind.DIVERGED, FailureKind.CRASH)
    return kinds[job.job_id % 3] if job.job_id % 5 == 4 else None


def sound(history: History, space: Space) -> None:
    """Check what holds for any search that has ended."""
    assert not history.running
    for trial in history.trials:
        space.validate(trial.params)
        assert trial.labels["origin"]
        jobs = [job for job in history.jobs if job.trial_id == trial.trial_id]
        start = trial.source.budget if isinstance(trial.source, Continue) else 0
        assert [job.from_budget for job in jobs] == [start, *(job.to_budget for job in jobs[:-1])]
        assert trial.status(HORIZON) in (Status.PAUSED, Status.COMPLETE, Status.FAILED)
    assert history.rung(HORIZON).arrivals or all(trial.failure for trial in history.trials)


# --- it ends, in the space, and a warm answer equals a cold one after every event ------------------------


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("trials", [1, 2, 12])  # the first two are fewer than eta, and hardly a population
def test_everything_ends(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any, workers: int, trials: int
) -> None:
    def diverging(params: Any) -> float:
        return float("nan") if params["lora.rank"] > 50 else quality(params)

    strategy = make_strategy(space, trials)
    history = study(strategy, fake_task(diverging, fails=some_fail), checked=True).run(workers)
    assert min(trials, 2) <= len(history.trials) <= 4 * trials
    sound(history, space)


def test_many_workers_have_work(study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any) -> None:
    history = study(make_strategy(space, 80), fake_task(quality, fails=some_fail)).run(64)
    sound(history, space)
    first_end = next(i for i, job in enumerate(history.jobs) if job.source is not None or job.job_id >= 64)
    assert first_end >= 64  # as many are started before the first result
    assert len({tuple(trial.params.items()) for trial in history.trials[:64]}) == 64  # no two alike


def test_it_depends_on_the_seed_alone(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any, project: Any
) -> None:
    def run(seed: int) -> Any:
        np.random.seed(seed)  # the global generators must not matter
        random.seed(seed)
        return study(make_strategy(space, 10), fake_task(quality), seed=seed).run(2)

    first, again, other = run(1), run(1), run(2)
    assert project(first) == project(again)
    assert first.trials == again.trials
    assert not {tuple(t.params.items()) for t in first.trials} & {tuple(t.params.items()) for t in other.trials}


def test_it_leaves_the_history_and_the_global_generators_as_they_are(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any
) -> None:
    @dataclass
    class Watched:
        inner: Strategy
        asked: int = 0

        def next(self, history: History) -> Decision:
            before = copy.deepcopy(vars(history)), repr((np.random.get_state(), random.getstate()))
            decision = self.inner.next(history)
            assert self.inner.next(history) == decision  # asking is no event
            self.inner.retain(history)
            assert (vars(history), repr((np.random.get_state(), random.getstate()))) == before
            self.asked += 1
            return decision

        def retain(self, history: History) -> set[int]:
            return self.inner.retain(history)

    strategy = Watched(make_strategy(space, 6))
    study(strategy, fake_task(quality, fails=some_fail)).run(2)
    assert strategy.asked > 6


# --- spaces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain", [Choice(("only",)), Float(0.5, 0.5), Int(3, 3)], ids=lambda domain: type(domain).__name__
)
def test_a_space_of_one_point_is_enough(study: Any, fake_task: Any, make_strategy: Any, domain: Any) -> None:
    space = Space({"optimizer.schedule": domain})
    sound(study(make_strategy(space, 8), fake_task(), checked=True).run(2), space)


def test_conditions_rules_and_priors_hold_in_every_proposal(study: Any, fake_task: Any, make_strategy: Any) -> None:
    space = Space(
        {
            "optimizer.learning_rate": Float(1e-3, 1e-1, log=True),
            "optimizer.batch_size": Choice((8, 16)),
            "schedule.kind": Choice(("linear", "wsd")),
            "schedule.warmup": Float(0.0, 0.9),
            "schedule.decay": Float(0.1, 0.9),
            "architecture.heads": Int(1, 12),
            "architecture.kv_heads": Int(1, 12),
        },
        conditions=(OneOf("schedule.decay", "schedule.kind", ("wsd",)),),
        rules=(
            Divides("architecture.kv_heads", "architecture.heads"),
            Sum(("schedule.warmup", "schedule.decay"), high=1.0),
        ),
        priors={
            "optimizer.learning_rate": Normal(1e-2, 0.3, ScaledBy("optimizer.batch_size", 8, 0.5)),
            "optimizer.batch_size": Weights((1, 3)),
        },
    )
    task = fake_task(lambda params: float(params.get("schedule.decay", 0.5)))
    history = study(make_strategy(space, 20), task, checked=True).run(2)
    sound(history, space)
    assert {"schedule.decay" in trial.params for trial in history.trials} == {True, False}


# --- failures ----------------------------------------------------------------------------------------


def test_it_ends_when_everything_fails(study: Any, fake_task: Any, space: Space, make_strategy: Any) -> None:
    task = fake_task(fails=lambda job: FailureKind.DIVERGED)
    history = study(make_strategy(space, 9), task, checked=True).run(3)
    assert len(history.trials) >= 2
    assert all(trial.failure for trial in history.trials)
    assert history.best() is None


def test_what_works_is_brought_to_the_full_budget_when_the_rest_fails(
    study: Any, fake_task: Any, space: Space, make_strategy: Any
) -> None:
    task = fake_task(fails=lambda job: FailureKind.OOM if job.source is None and job.trial_id != 5 else None)
    history = study(make_strategy(space, 9), task, checked=True).run(2)
    assert history.rung(HORIZON).arrivals
    sound(history, space)


# --- what was asked for comes first ------------------------------------------------------------------


def test_enqueued_configurations_are_tried_first(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any
) -> None:
    wanted = [{name: domain.decode(place) for name, domain in space.domains.items()} for place in (0.9, 0.1, 0.6)]
    history = study(make_strategy(space, 9), fake_task(quality), checked=True).run(2, enqueue=wanted)
    assert [trial.params for trial in history.trials[:3]] == wanted
    assert [trial.labels["origin"] for trial in history.trials[:3]] == ["enqueued"] * 3
    assert all(trial.labels["origin"] != "enqueued" for trial in history.trials[3:])
    assert history.next_queued() is None


# --- checkpoints -------------------------------------------------------------------------------------


@dataclass
class Strict:
    """Fails the test if a job builds on a trial that was not retained ever since its last report."""

    inner: Strategy
    dropped: set[int] = field(default_factory=set)
    sizes: list[int] = field(default_factory=list)

    def next(self, history: History) -> Decision:
        decision = self.inner.next(history)
        if isinstance(decision, Resume):
            assert decision.trial_id not in self.dropped
        elif isinstance(decision, Start) and decision.source is not None:
            assert decision.source.trial_id not in self.dropped
        return decision

    def retain(self, history: History) -> set[int]:
        kept = self.inner.retain(history)
        idle = {trial.trial_id for trial in history.trials if trial.running is None}
        self.dropped.update(idle - kept)
        self.sizes.append(len(kept))
        return kept


class Shelf:
    """The checkpoints of a fake task, by trial."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def trials(self) -> set[int]:
        return {trial_id for trial_id, _ in self.task.checkpoints}

    def discard(self, trial_id: int) -> None:
        for key in [key for key in self.task.checkpoints if key[0] == trial_id]:
            del self.task.checkpoints[key]


@pytest.mark.parametrize("workers", [1, 4, 20])
def test_what_is_built_on_was_retained(
    study: Any, fake_task: Any, space: Space, make_strategy: Any, workers: int
) -> None:
    """With losses that say nothing about the next rung. A discarded checkpoint raises KeyError in the task."""
    for seed in range(3):
        noise = np.random.default_rng(seed)
        task = fake_task(lambda params, noise=noise: float(noise.random()))
        strategy = Strict(make_strategy(space, 20))
        history = study(strategy, task, seed=seed).run(workers, checkpoints=Shelf(task))
        assert max(strategy.sizes) <= 2 * 20  # members on their way, and as many that they may continue
        assert (history.rung(HORIZON).ranking[0][1], HORIZON) in task.checkpoints
        assert len(Shelf(task).trials()) <= 2  # nothing but the best is kept in the end


# --- kills -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """kill -9, as far as a process can do it to itself."""


class Deadly:
    """A store that lets so many commits through, then kills: just before the next one, or just after the last."""

    def __init__(self, store: Store, commits: int, *, after: bool) -> None:
        self.store = store
        self.left = commits
        self.after = after

    def append(self, events: Sequence[Event]) -> None:
        if self.left == 0:
            raise Killed
        self.store.append(events)
        self.left -= 1
        if self.left == 0 and self.after:
            raise Killed


def test_a_killed_study_ends_as_if_it_had_not_been(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any, project: Any
) -> None:
    """Killed again and again, after so many commits each time."""
    default = {name: domain.decode(0.9) for name, domain in space.domains.items()}

    def make() -> Any:
        strategy = InTurn([make_strategy(space, 8), Finalists(count=1, repeats=1)])
        return study(strategy, fake_task(quality, fails=some_fail))

    whole = make().run(enqueue=[default])
    assert any(trial.failure for trial in whole.trials)
    for commits, after in ((5, True), (7, False)):
        interrupted, kills = make(), 0
        while True:
            try:
                resumed = interrupted.run(
                    enqueue=[default],
                    wrap=lambda store, commits=commits, after=after: Deadly(store, commits, after=after),
                )
                break
            except Killed:
                kills += 1
        assert kills > 2
        assert project(resumed) == project(whole)
        assert resumed.trials == whole.trials


def test_a_study_killed_with_many_jobs_at_work_ends(
    study: Any, fake_task: Any, quality: Any, space: Space, make_strategy: Any
) -> None:
    interrupted = study(make_strategy(space, 12), fake_task(quality))
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        try:
            history = interrupted.run(7, wrap=lambda store: Deadly(store, int(rng.integers(4, 12)), after=False))
        except Killed:
            kills += 1
            continue
        break
    assert kills > 2
    sound(history, space)
    assert len({(job.trial_id, job.to_budget, job.split) for job in history.jobs}) == len(history.jobs)
