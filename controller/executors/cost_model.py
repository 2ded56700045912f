"""What a job costs on the clock of a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, final

from controller.trial import Job

WARM_SWITCH_SECONDS: Final = 0.87
"""Between two trials on one warm worker, SmolLM2-135M on two cores: benchmarks/results/warm_worker.json."""


class Costs(Protocol):
    """Tells how long a job takes."""

    def of(self, job: Job) -> float:
        """Seconds of one worker, from taking the job to its report; above or equal to 0."""
        ...


@final
@dataclass(frozen=True, slots=True)
class CostModel:
    """A sum of what every job takes, what taking up a checkpoint takes, the training, and the measuring.

    Attributes:
        unit: seconds of training for each unit of budget.
        job: seconds that every job takes, whatever it does.
        switch: seconds for loading the checkpoint that a job continues or inherits from. A job that starts from the
            base model does not pay it.
        evaluation: seconds of a measurement on the validation set.
        test: seconds of a measurement on the test set; None takes `evaluation`.
        training: seconds of the training of a job alone, from `job.from_budget` to `job.to_budget`, where they differ
            between configurations (a table knows, or a model of the hardware); None takes `unit`.
    """

    unit: float = 1.0
    job: float = 0.0
    switch: float = WARM_SWITCH_SECONDS
    evaluation: float = 0.0
    test: float | None = None
    training: Callable[[Job], float] | None = None

    def __post_init__(self) -> None:
        for name in ("unit", "job", "switch", "evaluation", "test"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < math.inf:
                raise ValueError(f"expected {name} >= 0 seconds, got {value}; 0 leaves it out")

    def of(self, job: Job) -> float:
        """See Costs."""
        trained = job.to_budget - job.from_budget
        training = trained * self.unit if self.training is None else self.training(job)
        loading = 0.0 if job.source is None else self.switch
        measuring = self.test if job.split == "test" and self.test is not None else self.evaluation
        return self.job + loading + training + measuring
