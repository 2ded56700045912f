"""The values that the search is made of: jobs, what comes back from them, and the trials they add up to.

Everything here holds no resources and can be written to the journal as JSON; all but Trial is frozen.
A *budget* is an integer in the unit that the Task declares (training examples for fine-tuning).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from search_spaces.space import Params

Label = str | int | float
Split = Literal["validation", "test"]
Direction = Literal["minimize", "maximize"]


class MetricError(ValueError):
    """A report lacks the metric that the study optimises."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric with the direction in which it improves. There is no default and no fallback metric."""

    metric: str
    direction: Direction = "minimize"

    def loss(self, metrics: Mapping[str, float]) -> float:
        """The metric as a loss: lower is better, whatever the direction.

        Raises MetricError if the metric was not measured; NaN stays NaN.
        """
        if self.metric not in metrics:
            raise MetricError(
                f"expected the metric {self.metric!r} in the report, got {sorted(metrics)}; "
                "name a metric that the task measures"
            )
        value = metrics[self.metric]
        return value if self.direction == "minimize" else -value


@dataclass(frozen=True, slots=True)
class Continue:
    """Take over everything of another run: weights, optimizer, schedule position, data order.

    The structure is frozen; the trial starts at the budget of the checkpoint. A paused trial
    continues from itself; population-based training continues from a stronger trial.
    """

    trial_id: int
    budget: int


@dataclass(frozen=True, slots=True)
class Inherit:
    """Take over weights only: the trial starts at budget 0 and the cost of its lineage is counted."""

    trial_id: int
    budget: int


Source = Continue | Inherit


@dataclass(frozen=True, slots=True)
class Job:
    """Train a trial from one budget to another, then measure it.

    Attributes:
        from_budget: where this stretch starts (0, or the budget of the checkpoint it continues).
        to_budget: the rung at which the job ends. Equal to `from_budget` for a job that only measures.
        horizon: the full budget for which the learning-rate schedule is laid out. Fixed per study,
            so that a trial paused and resumed equals one that was never interrupted.
        source: the checkpoint to start from; None means from the base model.
        split: the held-out set the result is measured on.
    """

    job_id: int
    trial_id: int
    params: Params
    seed: int
    from_budget: int
    to_budget: int
    horizon: int
    source: Source | None = None
    split: Split = "validation"

    def __post_init__(self) -> None:
        if not 0 <= self.from_budget <= self.to_budget <= self.horizon:
            raise ValueError(
                f"expected 0 <= from_budget <= to_budget <= horizon, got {self.from_budget}, "
                f"{self.to_budget}, {self.horizon}"
            )


@dataclass(frozen=True, slots=True)
class Report:
    """What a finished job measured.

    Attributes:
        budget: what was actually consumed: the first optimizer step at or past the job's `to_budget`.
        seconds: wall-clock cost of this job, with what earlier attempts spent up to their last checkpoint.
        per_example: (value, weight) for each held-out example, whose weighted mean is the metric
            (test jobs only; the material of paired bootstrap intervals).
        generations: the model's answers to the first test prompts (test jobs only).
    """

    job_id: int
    budget: int
    metrics: Mapping[str, float]
    seconds: float
    per_example: tuple[tuple[float, float], ...] = ()
    generations: tuple[str, ...] = ()


class FailureKind(StrEnum):
    """Why a job gave no report."""

    OOM = "oom"
    CRASH = "crash"
    TIMEOUT = "timeout"
    DIVERGED = "diverged"

    @property
    def is_transient(self) -> bool:
        """Whether another attempt may succeed: the process failed, not the configuration."""
        return self in (FailureKind.CRASH, FailureKind.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that ended without a result. Data, not an exception.

    `budget` is the last budget known to be reached; `seconds` the wall-clock cost of the attempt.
    """

    job_id: int
    kind: FailureKind
    message: str
    budget: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Declined:
    """A worker that hosts other trials has no room for this job (shape, memory): it goes back to the queue."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from a running job. Shown, used to tell a hung worker, never journaled.

    Attributes:
        phase: what the worker is doing ("load", "train", "evaluate", "save").
        loss: training loss of the last step, if any.
    """

    job_id: int
    budget: int
    phase: str
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person must be able to find later, journaled with the job (a corrupt checkpoint, a retraining)."""

    job_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The worker's surroundings are unfit (disk full, read-only directory): no configuration is to blame.

    The study stops, its running jobs stay open in the journal and are taken up by the next start.
    """

    text: str
    job_id: int | None = None


Message = Report | Failure | Declined | Progress | Notice | Halt


def is_measured(loss: float) -> bool:
    """Whether a loss can be ranked: neither NaN nor infinite."""
    return math.isfinite(loss)


class Status(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(slots=True)
class Trial:
    """One assignment of parameters with all that happened to it. Only the History changes it.

    Attributes:
        seed: seeds initialisation, data order and dropout of its training.
        source: where its first weights come from; None means from the base model.
        labels: why this trial exists, recorded by the strategy (`{"bracket": 2}`), so that a
            strategy can read its own decisions back from the history.
        repeat_of: the trial that this one repeats with another seed. Repeats stay out of the rungs.
        reports: validation reports by rung (the `to_budget` of their job), lowest first.
        tests: reports on the test set by the budget of the tested weights.
        failure: what ended the trial, if it failed.
        running: its job at work, if any. A trial has one at a time.
    """

    trial_id: int
    params: Params
    seed: int
    source: Source | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    repeat_of: int | None = None
    reports: dict[int, Report] = field(default_factory=dict)
    tests: dict[int, Report] = field(default_factory=dict)
    failure: Failure | None = None
    running: Job | None = None

    @property
    def budget(self) -> int:
        """The highest rung with a report, else the budget at which the trial starts."""
        if self.reports:
            return next(reversed(self.reports))
        return self.source.budget if isinstance(self.source, Continue) else 0

    @property
    def seconds(self) -> float:
        """Wall-clock cost of its training so far."""
        return sum(report.seconds for report in self.reports.values())

    def status(self, horizon: int) -> Status:
        """Where the trial stands in a study whose full budget is `horizon`."""
        if self.running is not None:
            return Status.RUNNING
        if self.failure is not None:
            return Status.FAILED
        return Status.COMPLETE if self.budget >= horizon else Status.PAUSED
