"""`thresher enqueue` and `thresher stop` on a study that another process runs, and `thresher resume` afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.thresher.tiny_study import (
    SLOWER,
    Ran,
    StudyPlace,
    finish,
    paused,
    place_study,
    run_here,
    start_command,
    wait_until,
)

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Asked:
    """A study of two trials that was asked for things during its first job, and what came of it."""

    place: StudyPlace
    enqueued: Ran
    refused: Ran
    stopped: Ran
    again: Ran
    status: Ran
    ran: Ran


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Asked:
    sections = {**SLOWER, "search": {**SLOWER["search"], "trials": 2}}
    place = place_study(tmp_path_factory.mktemp("asked"), tiny_model, tiny_data, **sections)
    process = start_command(sys.executable, "-m", "thresher", "run", place.config)
    try:
        wait_until(lambda: place.journal("JobCreated") or process.poll() is not None, "a first job", 120)
        with paused(process):
            enqueued = run_here("enqueue", place.directory, "lora.rank=8")
            refused = run_here("enqueue", place.directory, "lora.rank=3")
            (place.directory / "requests" / "broken.json").write_text("{")
            stopped = run_here("stop", place.directory)
            again = run_here("stop", place.config)
            status = run_here("status", place.directory)
        ran = finish(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Asked(place, enqueued, refused, stopped, again, status, ran)


def test_the_study_lets_its_job_end_and_stops(asked: Asked) -> None:
    assert asked.stopped.code == asked.again.code == 0, (asked.stopped, asked.again)
    assert "to stop: 1 running job will reach the next rung first" in asked.stopped.output
    assert asked.ran.code == 130
    assert "asked to stop: 1 running job will reach the next rung first" in asked.ran.output
    assert asked.ran.output.endswith("stopped; what was running is saved, the same command goes on\n")
    assert [report["job_id"] for _, report in asked.place.journal("Reported")[:1]] == [0]


def test_a_configuration_is_enqueued_once_and_a_wrong_one_refused(asked: Asked) -> None:
    assert asked.enqueued.code == 0, asked.enqueued
    assert "it is tried as the next trial that starts (process " in asked.enqueued.output
    assert asked.refused.code == 2
    queued = [event for _, event in asked.place.journal("Enqueued") if "request" in event]
    assert [event["params"]["lora.rank"] for event in queued] == [8]
    assert "enqueued: learning_rate 3e-3, rank 8" in asked.ran.output
    assert "request broken was refused: expected a request in JSON" in asked.ran.output
    left = sorted(path.name for path in (asked.place.directory / "requests").rglob("*"))
    assert left == ["broken.json", "broken.txt", "refused"]


def test_status_told_of_it(asked: Asked) -> None:
    assert asked.status.code == 0
    assert "at work" in asked.status.output
    assert "refused requests" in run_here("status", asked.place.directory).output


def test_it_goes_on_with_what_was_enqueued(asked: Asked) -> None:
    before = json.loads(run_here("status", asked.place.directory, "--json").output)
    assert (before["state"], len(before["trials"])) == ("stopped", 1)
    ran = finish(start_command(sys.executable, "-m", "thresher", "resume", asked.place.directory))
    assert ran.code == 0, ran
    created = [event for _, event in asked.place.journal("TrialCreated")]
    assert created[1]["params"]["lora.rank"] == 8
    assert [event.get("enqueued", False) for event in created] == [True, True]
    assert json.loads(run_here("status", asked.place.directory, "--json").output)["state"] == "finished"
