"""The contract between the controller and whatever runs the jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.trial import Job, Message


class Executor(Protocol):
    """Runs jobs on workers."""

    def has_room(self) -> bool:
        """Whether a worker wants work now."""
        ...

    def submit(self, job: Job) -> None:
        """Give a job to a worker, or to a queue if none has room."""
        ...

    def poll(self) -> Sequence[Message]:
        """What the workers said since the last call; waits a moment for something to come.

        A crash or a timeout of a worker comes as a Failure of each of its jobs; the worker is
        replaced by the executor itself.
        """
        ...

    def stop(self) -> Sequence[Message]:
        """Ask every worker to save and leave, and wait for it. What they said in the meantime."""
        ...
