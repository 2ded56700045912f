"""The worker process at the end of a real socket, with the real task."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.executors.channel import Channel
from controller.executors.link import ORPHANED_EXIT_CODE
from controller.executors.wire import job_to_json, message_from_json
from controller.trial import Halt, Job, Message, Report
from llm_tuning.recipe import FineTuningSpec
from llm_tuning.worker import DeviceError, check_device

SECONDS = 60.0
REPOSITORY = Path(__file__).parents[2]


class Worker:
    """A worker process, seen from the place of its supervisor."""

    def __init__(self, specification: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llm_tuning.worker", str(theirs.fileno())],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                cwd=REPOSITORY,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            )
        self.channel = Channel(ours)
        self._received: list[dict[str, Any]] = []
        self.channel.send({"task": specification})

    def next(self) -> dict[str, Any] | None:
        """What it says next; None when it has gone."""
        while not self._received and not self.channel.closed:
            self._received += self.channel.receive()
        return self._received.pop(0) if self._received else None

    def next_of(self, kind: type[Message]) -> Message | None:
        """Its next message of a kind."""
        while (said := self.next()) is not None:
            if "message" in said:
                message = message_from_json(said["message"])
                if isinstance(message, kind):
                    return message
        return None

    def end(self) -> tuple[int, str]:
        """Wait for it to leave: its exit code and output."""
        output, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, output.decode()


@pytest.fixture
def start() -> Iterator[Callable[[dict[str, Any]], Worker]]:
    workers: list[Worker] = []

    def start_one(specification: dict[str, Any]) -> Worker:
        workers.append(Worker(specification))
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()
        worker.channel.close()


def test_builds_the_task_once_and_trains_job_after_job(
    start: Callable[[dict[str, Any]], Worker], spec: FineTuningSpec
) -> None:
    worker = start(spec.to_dict())
    assert worker.next() == {"ready": True}
    losses = []
    for number in range(2):
        worker.channel.send({"job": job_to_json(Job(number, number, {"lora.rank": 2 + number}, 7, 0, 12, 24))})
        report = worker.next_of(Report)
        assert isinstance(report, Report)
        assert (report.job_id, report.budget) == (number, 12)
        losses.append(report.metrics["validation_loss"])
    assert losses[0] != losses[1]
    worker.channel.send({"stop": True})
    assert worker.end()[0] == 0
    assert {path.name for path in Path(spec.checkpoint_directory).iterdir()} == {"trial-0000", "trial-0001"}


def test_what_no_other_start_would_mend_halts_the_study(
    start: Callable[[dict[str, Any]], Worker], spec: FineTuningSpec, tmp_path: Path
) -> None:
    worker = start(replace(spec, model_directory=str(tmp_path / "none")).to_dict())
    halt = worker.next_of(Halt)
    assert isinstance(halt, Halt)
    assert halt.text.startswith("expected")
    assert str(tmp_path / "none") in halt.text
    code, output = worker.end()
    assert code == 1
    assert "BaseModelError" in output, "its log has the traceback"


def test_ends_with_its_supervisor(start: Callable[[dict[str, Any]], Worker], spec: FineTuningSpec) -> None:
    worker = start(spec.to_dict())
    worker.channel.close()
    assert worker.end()[0] == ORPHANED_EXIT_CODE


@pytest.mark.parametrize(
    ("has_devices", "environment"),
    [
        (False, {"CUDA_VISIBLE_DEVICES": "1"}),
        (True, {"CUDA_VISIBLE_DEVICES": ""}),
        (True, {}),
        (True, {"CUDA_VISIBLE_DEVICES": "1", "ACCELERATE_USE_CPU": "True"}),
    ],
)
def test_the_cpu_where_it_is_meant(has_devices: bool, environment: dict[str, str]) -> None:
    check_device(has_devices, environment)


def test_no_silent_training_on_the_cpu_beside_others_on_devices() -> None:
    with pytest.raises(DeviceError) as caught:
        check_device(True, {"CUDA_VISIBLE_DEVICES": "1"})
    assert str(caught.value) == (
        "expected the CUDA device 1 for this worker, got none; launch with --num_processes equal to the number of "
        "devices, or set ACCELERATE_USE_CPU=true to train on the CPU"
    )
