"""A job at work, as far as it was heard of."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from controller.trial import Job, Progress

RATE_WINDOW = 60.0  # seconds over which the speed of a job is measured


@dataclass(slots=True)
class RunningJob:
    """A job at work, as far as it was heard of.

    Attributes:
        budget: how far it has come.
        loss: training loss of the last step.
        rate: examples per second of training.
        points: (seconds, budget) of what was heard in the last RATE_WINDOW seconds of training.
    """

    job: Job
    attempt: int
    last_line: float
    budget: int
    phase: str = "waiting"
    loss: float | None = None
    rate: float | None = None
    points: deque[tuple[float, int]] = field(default_factory=deque)

    def hear(self, message: Progress, now: float) -> None:
        """Take in a sign of life."""
        self.phase, self.budget = message.phase, message.budget
        self.loss = self.loss if message.loss is None else message.loss
        if message.phase != "train":
            self.points.clear()  # saving and measuring must not count as slow training
            return
        self.points.append((now, message.budget))
        while now - self.points[0][0] > RATE_WINDOW and len(self.points) > 2:
            self.points.popleft()
        seconds, examples = now - self.points[0][0], message.budget - self.points[0][1]
        if seconds >= 1 and examples > 0:
            self.rate = examples / seconds

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training to the end of the job at the measured rate; None before that is known."""
        left = self.job.to_budget - self.budget
        return left / self.rate if self.phase == "train" and self.rate is not None and left > 0 else None
