"""Jobs in the controller's own process and thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from controller.task import Task
from controller.trial import Job, Message


class InlineExecutor:
    """Runs a Task in this process: for functions, for tests, and where a worker process is not wanted.

    Args:
        task: what trains the jobs.
        capacity: how many jobs are handed to the task at a time. With more than one, a task that
            hosts several trials finds them all in its inbox.
    """

    def __init__(self, task: Task, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"expected capacity >= 1, got {capacity}; the task needs room for a job")
        self._task = task
        self._capacity = capacity
        self._inbox = _DequeInbox()
        self._messages: list[Message] = []

    def has_room(self) -> bool:
        """See Executor."""
        return len(self._inbox.jobs) < self._capacity

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._inbox.jobs.append(job)

    def poll(self) -> Sequence[Message]:
        """See Executor: trains all that was submitted before it returns.

        What the task raises is not caught: a mistake in a function of one's own wants its traceback.
        """
        self._task.run(self._inbox, self._messages.append)
        return self._take_messages()

    def stop(self) -> Sequence[Message]:
        """See Executor: nothing runs between two polls. Messages are left only if the task raised."""
        self._inbox.stopping = True
        return self._take_messages()

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages


class _DequeInbox:
    """An inbox that closes when it is empty, since nobody else could fill it while the task runs."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.stopping = False

    def get(self) -> Job | None:
        """See Inbox."""
        return self.jobs.popleft() if self.jobs and not self.stopping else None

    def poll(self) -> Job | None:
        """See Inbox."""
        return self.get()
