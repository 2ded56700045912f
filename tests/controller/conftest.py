"""A small world to search in: a task that is cheap, exact and deterministic, workers with a clock, a study on disk."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.controller import Controller
from controller.events import Enqueued
from controller.executors.inline import InlineExecutor
from controller.history import History
from controller.store import Store
from controller.strategy import Decision, Strategy
from controller.task import Emit, Inbox
from controller.trial import (
    Continue,
    Declined,
    Failure,
    FailureKind,
    Inherit,
    Job,
    Message,
    Objective,
    Progress,
    Report,
)
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Params, Space

LOSS = Objective("loss")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: one weight, the optimizer's momentum, the place in the schedule."""

    weight: float = 10.0
    momentum: float = 0.0
    position: int = 0


class FakeTask:
    """Momentum descent on one weight under a linear schedule, one step per unit of budget.

    The loss is the distance of the weight from zero plus `quality(params)`. It depends on the whole path: what is
    continued goes on exactly as if it had never paused, what is inherited starts its schedule again.

    Args:
        quality: an offset of the loss for some parameters; NaN makes a trial diverge.
        slots: how many trials are trained at a time. One more may join at every step boundary.
        fails: the failure, if any, of a job that is about to start.
        fits: whether a job may join those that are hosted already.
    """

    def __init__(
        self,
        quality: Callable[[Params], float] = lambda params: 0.0,
        *,
        slots: int = 1,
        fails: Callable[[Job], FailureKind | None] = lambda job: None,
        fits: Callable[[Job, Sequence[Job]], bool] = lambda job, hosted: True,
    ) -> None:
        self.quality = quality
        self.slots = slots
        self.fails = fails
        self.fits = fits
        self.checkpoints: dict[tuple[int, int], State] = {}
        self.hosted: list[list[int]] = []  # the trials on the worker, step by step
        self.trained = 0  # units of budget in all

    def run(self, inbox: Inbox, emit: Emit) -> None:
        """See Task."""
        running: list[tuple[Job, State]] = []
        while True:
            job = None
            if not running:
                job = inbox.get()
                if job is None:
                    return
            elif len(running) < self.slots:
                job = inbox.poll()
            if job is not None:
                running += self._admit(job, [other for other, _ in running], emit)
            self.hosted.append([hosted.trial_id for hosted, _ in running])
            stepped = [(hosted, self._step(hosted, state, emit)) for hosted, state in running]
            running = [(hosted, state) for hosted, state in stepped if state is not None]

    def _admit(self, job: Job, hosted: Sequence[Job], emit: Emit) -> list[tuple[Job, State]]:
        if hosted and not self.fits(job, hosted):
            emit(Declined(job.job_id, "it does not fit beside the others"))
            return []
        failure = self.fails(job)
        if failure is not None:
            emit(Failure(job.job_id, failure, "as the test asked"))
            return []
        return [(job, self.load(job))]

    def _step(self, job: Job, state: State, emit: Emit) -> State | None:
        state = self.train(job, state, min(state.position + 1, job.to_budget))
        emit(Progress(job.job_id, state.position, "train"))
        if state.position < job.to_budget:
            return state
        emit(self.measure(job, state))
        return None

    def finish(self, job: Job) -> Message:
        """All of a job at once."""
        failure = self.fails(job)
        if failure is not None:
            return Failure(job.job_id, failure, "as the test asked")
        return self.measure(job, self.train(job, self.load(job), job.to_budget))

    def load(self, job: Job) -> State:
        """The state that a job starts from. KeyError: the checkpoint is gone."""
        match job.source:
            case Continue(trial_id, budget):
                return self.checkpoints[trial_id, budget]
            case Inherit(trial_id, budget):
                return State(weight=self.checkpoints[trial_id, budget].weight)
            case None:
                return State()

    def train(self, job: Job, state: State, to_budget: int) -> State:
        """The state after steps up to a budget."""
        rate = float(job.params.get("optimizer.learning_rate", 0.05))
        self.trained += to_budget - state.position
        for position in range(state.position, to_budget):
            momentum = 0.5 * state.momentum + state.weight
            weight = state.weight - rate * (1 - position / job.horizon) * momentum
            state = State(weight, momentum, position + 1)
        return state

    def measure(self, job: Job, state: State) -> Report:
        """Write the checkpoint and report."""
        if job.split == "validation":
            self.checkpoints[job.trial_id, job.to_budget] = state
        loss = abs(state.weight) + self.quality(job.params)
        return Report(job.job_id, state.position, {"loss": loss}, seconds=float(job.to_budget - job.from_budget))


class Workers:
    """Workers with a clock: the job that ends first, ends first. An Executor.

    Args:
        task: trains the jobs.
        count: how many workers.
        seed: of their speeds, which differ from job to job.
    """

    def __init__(self, task: FakeTask, count: int, seed: int = 0) -> None:
        self._task = task
        self._count = count
        self._rng = np.random.default_rng(seed)
        self._clock = 0.0
        self._running: list[tuple[float, int, Job]] = []

    def has_room(self) -> bool:
        return len(self._running) < self._count

    def submit(self, job: Job) -> None:
        duration = (job.to_budget - job.from_budget + 0.1) * float(self._rng.uniform(0.5, 2.0))
        heapq.heappush(self._running, (self._clock + duration, job.job_id, job))

    def poll(self) -> Sequence[Message]:
        self._clock, _, job = heapq.heappop(self._running)
        return [self._task.finish(job)]

    def stop(self) -> Sequence[Message]:
        return ()


@dataclass
class ColdEqualsWarm:
    """A strategy that is also asked about a history replayed from disk, before every decision.

    A difference between the two fails the test that runs it.
    """

    strategy: Strategy
    directory: Path
    decisions: list[Decision] = field(default_factory=list)

    def next(self, history: History) -> Decision:
        decision = self.strategy.next(history)
        with Store.read_only(self.directory) as store:
            cold = History.replay(
                (event for _, _, event in store.events()),
                seed=history.seed,
                objectives=history.objectives,
                horizon=history.horizon,
            )
        assert decision == self.strategy.next(cold)
        assert self.strategy.retain(history) == self.strategy.retain(cold)
        assert history.trials == cold.trials
        assert history.running == cold.running
        assert history.trial_seed() == cold.trial_seed()
        self.decisions.append(decision)
        return decision

    def retain(self, history: History) -> set[int]:
        return self.strategy.retain(history)


class Study:
    """A study in a directory, which can be run, stopped and taken up again.

    Args:
        directory: where its journal lies.
        strategy: what it runs; every decision is compared with that of a replayed history if `checked`.
        task: what trains.
    """

    def __init__(
        self,
        directory: Path,
        strategy: Strategy,
        task: FakeTask,
        *,
        horizon: int = 27,
        seed: int = 0,
        objective: Objective = LOSS,
        checked: bool = False,
    ) -> None:
        self.directory = directory
        self.strategy = ColdEqualsWarm(strategy, directory) if checked else strategy
        self.task = task
        self.horizon = horizon
        self.seed = seed
        self.objective = objective

    def replay(self) -> History:
        """The history that the journal on disk adds up to."""
        with Store.read_only(self.directory) as store:
            return self._replay(store)

    def run(
        self,
        workers: int | None = None,
        *,
        capacity: int = 1,
        enqueue: Sequence[Params] = (),
        wrap: Callable[[Store], Any] = lambda store: store,
        **options: Any,
    ) -> History:
        """Run it to its end: on workers with a clock, or inline with a capacity.

        `enqueue` is what is tried first in a new study; `wrap` puts something between controller and store.
        """
        executor = InlineExecutor(self.task, capacity) if workers is None else Workers(self.task, workers, self.seed)
        with Store.open(self.directory) as store:
            if not list(store.events()):
                store.append([Enqueued(params) for params in enqueue])
            history = self._replay(store)
            Controller(self.strategy, executor, wrap(store), history, **options).run()
        return history

    def _replay(self, store: Store) -> History:
        return History.replay(
            (event for _, _, event in store.events()),
            seed=self.seed,
            objectives=[self.objective],
            horizon=self.horizon,
        )


def projection(history: History) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: the jobs in order, with parameters, budgets and what they gave."""
    rows = []
    for job in history.jobs:
        trial = history.trials[job.trial_id]
        results = trial.tests if job.split == "test" else trial.reports
        report = results.get(job.to_budget)
        outcome = None if report is None else (report.budget, dict(report.metrics))
        failed = trial.failure is not None and trial.failure.job_id == job.job_id
        rows.append((job, outcome, trial.failure.kind if failed and trial.failure else None))
    return rows


@pytest.fixture
def fake_task() -> type[FakeTask]:
    return FakeTask


@pytest.fixture
def workers() -> type[Workers]:
    return Workers


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Makes studies, each in a directory of its own."""
    count = 0

    def make(strategy: Strategy, task: FakeTask, **options: Any) -> Study:
        nonlocal count
        count += 1
        return Study(tmp_path / f"study-{count}", strategy, task, **options)

    return make


@pytest.fixture
def project() -> Callable[[History], list[tuple[Any, ...]]]:
    return projection


@pytest.fixture
def space() -> Space:
    """A space with a domain of every kind."""
    return Space(
        {
            "optimizer.learning_rate": Float(0.001, 0.3, log=True),
            "lora.dropout": Choice((0.0, 0.05, 0.1)),
            "lora.rank": Int(4, 64, log=True),
            "schedule.kind": Choice(("linear", "cosine")),
        }
    )


@pytest.fixture
def quality() -> Callable[[Mapping[str, Any]], float]:
    """A smooth loss over `space`, best in its middle."""

    def loss(params: Mapping[str, Any]) -> float:
        rate = math.log10(params["optimizer.learning_rate"] / 0.02)
        return rate**2 + abs(math.log2(params["lora.rank"] / 16)) / 4 + params["lora.dropout"]

    return loss
