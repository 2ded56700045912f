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
            hosts several trials finds them all in its inbox. A stop that is asked for while they are at
            work is seen after them, since the controller has its turn then.
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
        """See Executor: trains the jobs that were submitted first, `capacity` of them, before it returns.

        What the task raises is not caught: a mistake in a function of one's own wants its traceback.
        """
        self._inbox.left = self._capacity
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
    """An inbox that closes when it is empty, since nobody else could fill it while the task runs.

    It also closes when `left` jobs were taken: a resumed study submits all of its open jobs at once, and it must
    be possible to stop between them.
    """

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.left = 0
        self.stopping = False

    def get(self) -> Job | None:
        """See Inbox."""
        if not self.jobs or self.stopping or not self.left:
            return None
        self.left -= 1
        return self.jobs.popleft()

    def poll(self) -> Job | None:
        """See Inbox."""
        return self.get()
