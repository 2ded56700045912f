"""A study played through without training: how many jobs there will be, and how long they may take.

Strategy, controller and journal are the real ones; the workers are simulated, and the losses random numbers.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, final

import numpy as np

from controller.controller import Controller
from controller.events import Enqueued
from controller.executors.simulated import SimulatedExecutor
from controller.history import History
from controller.store import Store
from controller.strategy import Strategy
from controller.trial import Job, Objective
from search_spaces.space import Params

REHEARSALS: Final = 20
PATIENCE_SECONDS: Final = 10.0
"""No further rehearsal begins after this long: those of thousands of trials are slow, and alike."""

_NOISE: Final = 0.3
"""Standard deviation of a measurement, where trials differ by 1: rankings change from rung to rung, but not wildly."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one worker.

    Attributes:
        job: what every job takes before and after its examples: adapters are put on, a checkpoint is written.
        training_example: a training example.
        validation: one measurement on the validation set.
        test: one measurement on the test set, with the answers that are written for the report.
    """

    job: float
    training_example: float
    validation: float
    test: float

    def of(self, job: Job) -> float:
        """The seconds of a job."""
        training = (job.to_budget - job.from_budget) * self.training_example
        return self.job + training + (self.test if job.split == "test" else self.validation)


EXAMPLES_ONLY: Final = Costs(job=0.0, training_example=1.0, validation=0.0, test=0.0)
"""A clock that counts training examples, for where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What one study came to.

    Attributes:
        jobs: jobs of the search by the rung that they lead to.
        repeats: jobs that repeat finalists; `tests`: measurements on the test set.
        examples: training examples of the search; `repeat_examples`: those of the repeats.
        seconds: of the clock, from the first job to the last, all workers together at work.
    """

    jobs: Mapping[int, int]
    repeats: int
    tests: int
    examples: int
    repeat_examples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Range:
    """The middle one of some figures, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Range:
        """The range of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def plus(self, figure: float) -> Range:
        """The range with something added to each figure."""
        return Range(self.median + figure, self.low + figure, self.high + figure)


def rehearse(
    make_strategy: Callable[[Callable[[], float]], Strategy],
    objectives: Sequence[Objective],
    horizon: int,
    *,
    enqueued: Sequence[Params],
    workers: int = 1,
    costs: Costs = EXAMPLES_ONLY,
    seed: int = 0,
) -> list[Rehearsal]:
    """Play a study through with different random losses, REHEARSALS times or for PATIENCE_SECONDS.

    Args:
        make_strategy: the strategy of the study, given the function that tells the seconds on the rehearsal's clock.
        enqueued: configurations that are tried first, the default one among them.
        workers: how many jobs run at the same time.
        costs: how fast the clock goes.
        seed: of the study; losses and proposals of the rehearsals derive from it.
    """
    rehearsals: list[Rehearsal] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thresher-plan-") as directory:
        while len(rehearsals) < REHEARSALS and (not rehearsals or time.monotonic() - started < PATIENCE_SECONDS):
            number = len(rehearsals)
            history = History(seed=seed + number, objectives=objectives, horizon=horizon)
            losses = _Losses(history, np.random.default_rng([seed, number]))
            executor = SimulatedExecutor(losses, costs, workers=workers)
            with Store.open(Path(directory) / str(number)) as store:
                for params in enqueued:
                    event = Enqueued(params)
                    store.append([event])
                    history.apply(event)
                Controller(make_strategy(partial(_seconds, executor)), executor, store, history).run()
            rehearsals.append(_summary(history, executor.now))
    return rehearsals


def _seconds(executor: SimulatedExecutor) -> float:
    return executor.now


def _summary(history: History, seconds: float) -> Rehearsal:
    jobs: Counter[int] = Counter()
    repeats = tests = examples = repeat_examples = 0
    for job in history.jobs:
        trained = job.to_budget - job.from_budget
        if job.split == "test":
            tests += 1
        elif history.trials[job.trial_id].repeat_of is not None:
            repeats += 1
            repeat_examples += trained
        else:
            jobs[job.to_budget] += 1
            examples += trained
    return Rehearsal(jobs, repeats, tests, examples, repeat_examples, seconds)


@final
@dataclass(slots=True)
class _Losses:
    """Curves of trials whose quality is a random number; see `rehearse`."""

    history: History
    rng: np.random.Generator
    _qualities: dict[int, float] = field(default_factory=dict)

    def measure(self, job: Job) -> Mapping[str, float]:
        """See Curves."""
        trial = self.history.trials[job.trial_id]
        original = job.trial_id if trial.repeat_of is None else trial.repeat_of
        quality = self._qualities.setdefault(original, float(self.rng.normal()))
        # More training helps everybody by the same, so that a rung's losses are comparable, and those of two are not.
        loss = quality + _NOISE * float(self.rng.normal()) - math.log(max(1, job.to_budget))
        return {
            name: loss if objective.direction == "minimize" else -loss
            for objective in self.history.objectives
            for name in (objective.metric, objective.metric.replace("validation_", "test_"))
        }
