"""The worker process by itself, spoken to as its executor does."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from controller.executors.channel import Channel
from controller.executors.link import ORPHANED_EXIT_CODE
from controller.executors.processes import WORKER_COMMAND
from controller.executors.wire import job_to_json, message_from_json
from controller.task import Emit, Inbox
from controller.trial import Halt, Job, Report


def make() -> Callable[[], Any]:
    def made() -> Any:
        class Doubles:
            def run(self, inbox: Inbox, emit: Emit) -> None:
                while (job := inbox.get()) is not None:
                    emit(Report(job.job_id, job.to_budget, {"value": 2.0 * job.to_budget}, 0.0))

        return Doubles()

    return made


def start(payload: bytes) -> tuple[subprocess.Popen[bytes], Channel]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*WORKER_COMMAND, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(payload)
    return process, Channel(ours)


def heard(channel: Channel) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    while not messages and not channel.closed:
        messages = channel.receive()
    return messages[0]


def test_it_is_ready_reports_and_leaves_when_asked() -> None:
    process, channel = start(cloudpickle.dumps(make()))
    assert heard(channel) == {"ready": True}
    channel.send({"job": job_to_json(Job(3, 0, {}, 0, 0, 9, 9))})
    assert message_from_json(heard(channel)["message"]) == Report(3, 9, {"value": 18.0}, 0.0)
    channel.send({"stop": True})
    assert process.wait(10) == 0
    channel.close()


def test_it_says_why_it_cannot_make_its_task() -> None:
    process, channel = start(b"no pickle")
    message = message_from_json(heard(channel)["message"])
    assert isinstance(message, Halt)
    assert "expected a task that a worker process can make, got" in message.text
    assert process.wait(10) == 0
    channel.close()


def test_it_ends_when_nobody_is_there_any_more() -> None:
    process, channel = start(cloudpickle.dumps(make()))
    assert heard(channel) == {"ready": True}
    channel.close()
    assert process.wait(10) == ORPHANED_EXIT_CODE
