"""A scheduler on a history in memory, without a task, a store or a controller: thousands of decisions a second."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.strategy import Done, Resume, Scheduler, StartNew, Wait
from controller.trial import Continue, Failure, FailureKind, Job, Objective, Report

Loss = Callable[[int, int], float | Sequence[float] | None]  # of (trial, budget), one an objective; None: the job fails
Move = tuple[int, int]  # (trial, budget it is trained to)


def new_history(horizon: int, *, objectives: int = 1, seed: int = 0) -> History:
    """A history whose objectives are called 0, 1, and so on."""
    return History(seed=seed, objectives=[Objective(str(place)) for place in range(objectives)], horizon=horizon)


def submit(history: History, decision: StartNew | Resume) -> Move:
    """Do what a scheduler decided, up to the start of the job."""
    if isinstance(decision, StartNew):
        trial_id, start, source = len(history.trials), 0, None
        history.apply(TrialCreated(trial_id, {}, 0, labels=decision.labels))
    else:
        trial_id, start = decision.trial_id, history.trials[decision.trial_id].budget
        source = Continue(trial_id, start)
    history.apply(JobCreated(len(history.jobs), trial_id, start, decision.budget, source))
    return trial_id, decision.budget


def finish(history: History, job: Job, loss: float | Sequence[float] | None) -> None:
    """End a job with losses, or with a failure."""
    if loss is None:
        history.apply(Failed(Failure(job.job_id, FailureKind.OOM, "too large")))
    else:
        losses = [loss] if isinstance(loss, float) else loss
        metrics = {str(place): value for place, value in enumerate(losses)}
        history.apply(Reported(Report(job.job_id, job.to_budget, metrics, 1.0)))


@dataclass
class Simulation:
    """Workers whose jobs end in an order that the seed decides.

    `on_move` is called after each job was started, `on_result` after each one ended, `on_wait` with the number of
    idle workers.
    """

    scheduler: Scheduler
    loss: Loss
    workers: int = 1
    seed: int = 0
    horizon: int = 27
    objectives: int = 1
    on_result: Callable[[History], None] = lambda history: None
    on_move: Callable[[Move, History], None] = lambda move, history: None
    on_wait: Callable[[int, History], None] = lambda idle, history: None

    def run(self, history: History | None = None) -> tuple[History, list[Move]]:
        """The history at the end and the jobs in order; of a new study, or of one that is taken up."""
        history = history or new_history(self.horizon, objectives=self.objectives, seed=self.seed)
        rng = np.random.default_rng(self.seed)
        moves: list[Move] = []
        running: list[tuple[float, int]] = []
        clock = 0.0
        while True:
            while len(running) < self.workers:
                decision = self.scheduler.next(history)
                if isinstance(decision, Wait | Done):
                    self.on_wait(self.workers - len(running), history)
                    break
                moves.append(submit(history, decision))
                self.on_move(moves[-1], history)
                job = history.jobs[-1]
                heapq.heappush(running, (clock + (job.to_budget - job.from_budget) * rng.uniform(0.5, 2), job.job_id))
            if not running:
                assert isinstance(decision, Done)
                return history, moves
            for _ in range(rng.integers(len(running)) + 1):  # some results come in together
                clock, job_id = heapq.heappop(running)
                job = history.jobs[job_id]
                finish(history, job, self.loss(job.trial_id, job.to_budget))
                self.on_result(history)


def noisy(seed: int, *, failing: float = 0.0, objectives: int = 0) -> Loss:
    """Losses that fall with the budget and change ranks from rung to rung; a share of the jobs fails.

    With objectives, that many; without, a number by itself.
    """
    rng = np.random.default_rng([seed, 1])
    table = rng.random((500, 1, max(1, objectives))) + 0.5 * rng.random((500, 32, max(1, objectives)))
    fails = rng.random((500, 32)) < failing

    def loss(trial: int, budget: int) -> float | Sequence[float] | None:
        if fails[trial, budget]:
            return None
        row: list[float] = (table[trial, budget] + 1.0 / budget).tolist()
        return row if objectives else row[0]

    return loss


@dataclass
class Discarding:
    """Discards what a scheduler does not retain, after every result, and remembers what was wanted again.

    Attributes:
        missed: the moves that resumed a trial that had been discarded.
        sizes: how many trials were retained, each time.
    """

    scheduler: Scheduler

    def __post_init__(self) -> None:
        self.missed: list[Move] = []
        self.sizes: list[int] = []
        self._dropped: set[int] = set()

    def on_result(self, history: History) -> None:
        kept = self.scheduler.retain(history)
        self.sizes.append(len(kept))
        busy = {job.trial_id for job in history.running.values()}
        self._dropped.update(trial.trial_id for trial in history.trials if trial.trial_id not in kept | busy)

    def on_move(self, move: Move, history: History) -> None:
        if move[0] in self._dropped:
            self.missed.append(move)
            self._dropped.remove(move[0])  # it is trained again


class Reference(Protocol):
    """Another way to the same decisions."""

    def get_job(self, history: History) -> Move | None:
        """The job that is due, if any."""
        ...


@dataclass
class Compared:
    """Asks a reference about every decision too."""

    scheduler: Scheduler
    reference: Reference

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        decision = self.scheduler.next(history)
        move = None
        if isinstance(decision, StartNew):
            move = len(history.trials), decision.budget
        elif isinstance(decision, Resume):
            move = decision.trial_id, decision.budget
        assert move == self.reference.get_job(history)
        return decision

    def retain(self, history: History) -> set[int]:
        return self.scheduler.retain(history)
