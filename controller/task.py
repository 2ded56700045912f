"""The contract between a worker and what it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from controller.trial import Job, Message

Emit = Callable[[Message], None]


class Inbox(Protocol):
    """Where a worker finds its jobs."""

    def get(self) -> Job | None:
        """Wait for the next job. None: there will be no more, leave `run`."""
        ...

    def poll(self) -> Job | None:
        """The next job if one is there, without waiting; a worker with room asks at step boundaries."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether to save every running job at the next step boundary and leave `run` without reporting."""
        ...


class Task(Protocol):
    """Trains jobs on one worker.

    A worker may host several trials: it pulls jobs from the inbox, may decline one while it hosts
    others (a worker that hosts nothing must take what it gets), and emits for each job it took any
    number of Progress and Notice and exactly one Report or Failure, unless it is stopped or emits Halt.
    """

    def run(self, inbox: Inbox, emit: Emit) -> None:
        """Take job after job until the inbox is closed or asks to stop."""
        ...
