"""A worker's end of its connection, in a process of its own: it ends that process when the connection closes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from controller.executors.channel import Channel
from controller.executors.link import ORPHANED_EXIT_CODE
from controller.executors.wire import job_to_json
from controller.trial import Job

SECONDS = 20.0
SCRIPT = """
import sys, time
from controller.executors.link import WorkerLink
from controller.trial import Progress, Report
link = WorkerLink(int(sys.argv[1]))
print(link.specification()["number"], flush=True)
link.ready()
while (job := link.get()) is not None:
    for step in range(200):
        link.emit(Progress(job.job_id, step, "train"))
    link.emit(Report(job.job_id, job.to_budget, {"polled": float(link.poll() is not None)}, 0.0))
print("left", link.stopping, flush=True)
time.sleep(600)
"""


class Worker:
    """The process, and the supervisor's end of its connection."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", SCRIPT, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdout=subprocess.PIPE, text=True)
        ours.settimeout(SECONDS)
        self.channel = Channel(ours)
        self.channel.send({"task": {"number": 17}})

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def hear_until(self, kind: str) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1].get("message", heard[-1]).get("kind", "ready") != kind:
            received = self.channel.receive()
            assert received, f"no {kind}, only {heard}"
            heard += received
        return heard


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    with worker.process as process, closing(worker.channel):
        yield worker
        process.kill()


def job(number: int) -> dict[str, Any]:
    return {"job": job_to_json(Job(number, number, {}, 0, 0, 10, 10))}


def test_jobs_come_and_reports_go_with_little_progress_between(worker: Worker) -> None:
    assert worker.says() == "17"
    worker.channel.send(job(0))
    heard = worker.hear_until("Report")
    kinds = [message["message"]["kind"] for message in heard if "message" in message]
    assert heard[0] == {"ready": True}
    assert kinds[-1] == "Report"
    assert 1 <= kinds.count("Progress") < 10, "200 signs of life within a moment are thinned out"
    assert heard[-1]["message"]["content"]["metrics"] == {"polled": 0.0}


def test_asked_to_stop_it_takes_no_more_jobs(worker: Worker) -> None:
    assert worker.says() == "17"
    worker.channel.send({"stop": True})
    assert worker.says() == "left True"


def test_it_does_not_outlive_its_supervisor(worker: Worker) -> None:
    assert worker.says() == "17"
    worker.channel.close()
    assert worker.process.wait(SECONDS) == ORPHANED_EXIT_CODE
