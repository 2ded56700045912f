"""kill -9 at random moments of a small real study: the same command ends it, and nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.events import JobCreated, Noted, Reported, TrialCreated
from controller.history import History
from controller.store import Store
from controller.trial import Objective
from tests.thresher.tiny_study import StudyPlace, descendants, place_study

KILLS = 10
ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
LAUNCHERS = {
    1: (ACCELERATE, "launch"),
    2: (ACCELERATE, "launch", "--multi_gpu", "--num_processes", "2"),
}
HORIZON = 4320
SECTIONS: dict[str, dict[str, Any]] = {
    "search": {
        "trials": 6,
        "budget": HORIZON,
        "scheduler": {"kind": "asha", "reduction_factor": 3, "min_budget": 1440},
    },
    "resources": {"save_every_minutes": 0.005},
    "finalists": {"count": 2, "repeats": 1},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random(workers: int, tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    killed, untouched = (study_in(tmp_path / name, tiny_model, tiny_data) for name in ("killed", "untouched"))
    targets = ["worker", "controller", "group"] + ["supervisor"] * (workers == 2)
    rng = random.Random(workers)
    kills: dict[str, int] = defaultdict(int)
    with watched(killed.directory / "checkpoints") as watch:
        while (code := run_and_kill(killed, workers, rng, targets, kills, watch)) is None:
            pass
    assert code == 0
    assert sum(kills.values()) == KILLS, f"the study was over after {dict(kills)}: make it longer"
    assert not watch.steps_back, f"trained again where a checkpoint existed: {watch.steps_back}"
    events, history = journal(killed.directory)
    assert not [event for event in events if isinstance(event, Noted)]
    assert not [trial for trial in history.trials if trial.failure]
    assert all(trial.running is None for trial in history.trials)
    assert history.num_started() == 6
    assert len({event.trial_id for event in events if isinstance(event, TrialCreated)}) == len(history.trials)
    assert (killed.directory / "export" / "adapter_model.safetensors").exists()
    if workers == 1:
        assert untouched.run().code == 0
        assert projection(killed.directory) == projection(untouched.directory)


def study_in(directory: Path, model: Path, data: Path) -> StudyPlace:
    directory.mkdir()
    return place_study(directory, model, data, **SECTIONS)


def run_and_kill(
    study: StudyPlace, workers: int, rng: random.Random, targets: list[str], kills: dict[str, int], watch: Watch
) -> int | None:
    """Run the study and kill something of it at random, as long as kills are left. Its exit code if it ended."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_PORT": "29612"}
    command = [*LAUNCHERS[workers], "-m", "thresher", "run", str(study.config)]
    log = study.directory.parent / "killed.log"
    with log.open("a") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    try:
        while sum(kills.values()) < KILLS:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(rng.uniform(0, 14))
            target = rng.choice(targets)
            if target == "worker" and was_retried(study.directory):
                continue  # a second crash of the same job is a Failure by design
            if not kill(process, target):
                continue
            kills[target] += 1
            watch.note(target)
            if target != "worker":
                return None
        return process.wait(600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in leftovers(study.config):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill(process: subprocess.Popen[bytes], target: str) -> bool:
    """kill -9 of a part of the study; False if there is no such part at the moment."""
    family = sorted(descendants(process.pid) - {process.pid})
    workers = [pid for pid in family if "llm_tuning.worker" in command_line(pid)]
    ranks = {environment(pid).get("RANK", "0"): pid for pid in family if pid not in workers}
    if target == "group":
        for pid in [process.pid, *family]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True
    chosen = {"worker": workers[:1], "controller": [ranks.get("0")], "supervisor": [ranks.get("1")]}[target]
    if not chosen or chosen[0] is None:
        return False
    os.kill(chosen[0], signal.SIGKILL)
    return True


class Watch:
    """Looks at the checkpoints of all trials while they come and go, and notes where training went back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.steps_back: list[str] = []
        self.last_kill = ""
        self._furthest: dict[str, int] = defaultdict(int)
        self._seen: set[tuple[Path, int]] = set()
        self.over = threading.Event()

    def note(self, target: str) -> None:
        self.last_kill = target

    def look(self) -> None:
        for path in sorted(self.directory.glob("trial-*/[pr]*-*")):
            match = re.fullmatch(r"(partial|rung)-(\d+)", path.name)
            try:
                key = (path, path.stat().st_ino)
            except FileNotFoundError:
                continue
            if match is None or key in self._seen:
                continue
            self._seen.add(key)
            trial, number = path.parent.name, int(match[2])
            if number <= self._furthest[trial]:
                self.steps_back.append(f"{trial} {path.name} after {self._furthest[trial]} ({self.last_kill} killed)")
            self._furthest[trial] = max(self._furthest[trial], number)

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.look()


@contextlib.contextmanager
def watched(directory: Path) -> Iterator[Watch]:
    watch = Watch(directory)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


def journal(directory: Path) -> tuple[list[Any], History]:
    with Store.read_only(directory) as store:
        events = [event for _, _, event in store.events()]
    objectives = (Objective("validation_loss"),)
    return events, History.replay(events, seed=1, objectives=objectives, horizon=HORIZON)


def was_retried(directory: Path) -> bool:
    """Whether a running job had a crash already, or cannot be known yet."""
    if not (directory / "journal.sqlite").exists():
        return True
    try:
        _, history = journal(directory)
    except ValueError:
        return True
    return not history.running or any(job_id in history.failed_attempts for job_id in history.running)


def projection(directory: Path) -> list[tuple[Any, ...]]:
    """Trials, parameters, budgets and objectives in the order of the journal."""
    rows: list[tuple[Any, ...]] = []
    for event in journal(directory)[0]:
        match event:
            case TrialCreated():
                rows.append(("trial", event.trial_id, json.dumps(dict(event.params)), event.seed, event.repeat_of))
            case JobCreated():
                rows.append(("job", event.job_id, event.trial_id, event.from_budget, event.to_budget, event.split))
            case Reported(report):
                rows.append(("report", report.job_id, report.budget, dict(report.metrics), report.per_example))
    return rows


def leftovers(config: Path) -> list[int]:
    """Launched ranks of this study that are still there."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if f"run\0{config}" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def environment(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
