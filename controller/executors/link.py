"""A worker process's end of its connection: where its jobs come from and its messages go."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any

from controller.executors.channel import Channel
from controller.executors.wire import job_from_json, message_to_json
from controller.trial import Job, Message, Progress

PROGRESS_INTERVAL_SECONDS = 0.5
ORPHANED_EXIT_CODE = 70
PR_SET_PDEATHSIG = 1


class WorkerLink:
    """An Inbox fed by the supervisor, and the Emit that answers it.

    A worker never outlives its supervisor: when the connection closes, the process ends at once. What it
    trained since its last checkpoint is lost, by design: a successor may already be at work on the same trial.

    Args:
        descriptor: the socket that the supervisor passed to this process.
    """

    def __init__(self, descriptor: int) -> None:
        _die_with_parent()
        self._channel = Channel(socket.socket(fileno=descriptor))
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._specification: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._last_progress = 0.0
        self.stopping = False
        threading.Thread(target=self._listen, name="supervisor-link", daemon=True).start()

    def specification(self) -> dict[str, Any]:
        """What to build the task from. The first thing that the supervisor sends."""
        return self._specification.get()

    def ready(self) -> None:
        """Tell that the task is built and jobs are welcome."""
        self._channel.send({"ready": True})

    def emit(self, message: Message) -> None:
        """Send a message. Progress is thinned out to a few a second."""
        if isinstance(message, Progress):
            now = time.monotonic()
            if now - self._last_progress < PROGRESS_INTERVAL_SECONDS:
                return
            self._last_progress = now
        self._channel.send({"message": message_to_json(message)})

    def get(self) -> Job | None:
        """See Inbox."""
        return None if self.stopping else self._jobs.get()

    def poll(self) -> Job | None:
        """See Inbox."""
        try:
            return None if self.stopping else self._jobs.get_nowait()
        except queue.Empty:
            return None

    def _listen(self) -> None:
        while not self._channel.closed:
            for message in self._channel.receive():
                if "task" in message:
                    self._specification.put(message["task"])
                elif "job" in message:
                    self._jobs.put(job_from_json(message["job"]))
                elif "stop" in message:
                    self.stopping = True
                    self._jobs.put(None)
        os._exit(ORPHANED_EXIT_CODE)


def _die_with_parent() -> None:
    """On Linux, let the kernel kill this process when its supervisor dies, even while it is in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
