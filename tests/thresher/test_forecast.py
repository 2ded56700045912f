"""What `thresher plan` tells, of tiny studies, with a real probe where time is told."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.thresher.tiny_study import StudyPlace, descendants, finish, is_alive, start_command, wait_until
from thresher.config import load_config
from thresher.forecast import show_plan

MakeStudy = Callable[..., StudyPlace]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's temporary directories are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tiny studies train, also where there is a GPU."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def planned(place: StudyPlace, *overrides: str, probe: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_plan(load_config(place.config, overrides), console, probe)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_rungs_and_what_is_trained(make_study: MakeStudy, temporary: Path) -> None:
    place = make_study()
    told = planned(place)
    assert re.search(r"^ +8 +0\.20 +5 +5 *$", told, re.MULTILINE), told
    assert re.search(r"^ +16 +0\.40 +[23] +2 to [34] *$", told, re.MULTILINE), told
    assert re.search(r"finalists: 3 repeats \(2 to 3\) of 16 examples; 7 tests \(5 to 7\) on 8 examples", told)
    assert re.search(
        r"training examples of the search: \d+ expected .* of the 80 that 5 full trainings would take", told
    )
    assert "time: not estimated without the probe" in told
    assert "disk: checkpoints up to 0.54 MB (all of rank 8)" in told
    assert "a worker by the sizes of the model" in told
    assert not place.directory.exists(), "a plan is no study"
    assert not list(temporary.iterdir())


def test_the_time_comes_from_a_probe(make_study: MakeStudy, temporary: Path) -> None:
    place = make_study(search={"max_hours": 1e-9})  # reached at once, if time is counted in
    told = planned(place, probe=True)
    assert "probing this device: 3 training steps" in told
    assert re.search(r"time: \d+s expected \(\d+s to \d+s\) with 1 worker on cpu: \d+% training, \d+% measuring", told)
    assert re.search(r"speed: [\d.e+]+ training examples a second, [\d.e+]+ held-out ones", told)
    assert "measured by the probe with the default configuration" in told
    assert re.search(r"^ +8 +0\.20 +1 +1 *$", told, re.MULTILINE), told
    assert not place.directory.exists()
    assert not list(temporary.iterdir())


def test_limits_are_counted_in(make_study: MakeStudy) -> None:
    told = planned(make_study(), "search.trials=50", "search.max_examples=80", "search.max_hours=1")
    jobs = re.search(r"^ +8 +0\.20 +(\d+) ", told, re.MULTILINE)
    assert jobs is not None, told
    assert int(jobs[1]) <= 10
    assert "search.max_hours: not counted in without the probe" in told


def test_without_rungs_and_without_a_test_set(make_study: MakeStudy, tiny_data: Path) -> None:
    told = planned(make_study(), "search.scheduler={kind: full}", "data.test=null", "data.split.test=0")
    assert re.search(r"^ +16 +0\.40 +5 +5 *$", told, re.MULTILINE), told
    assert "; no test set" in told
    assert "100% of the 80" in told


def test_launched_processes_are_workers(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_study()
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert planned(place) == "", "the first process tells"
    monkeypatch.setenv("RANK", "0")
    assert "rank 8" in planned(place)
    with pytest.raises(ValueError, match="gpus_per_trial"):
        planned(place, "resources.gpus_per_trial=3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": "none.jsonl"}}, "none.jsonl"),
        ({"data": {"max_length": 4096}}, "data.max_length: expected at most 128"),
        ({"search": {"budget": 7, "scheduler": {"kind": "full"}}}, "expected a lowest rung of at least 8"),
        ({"model": {"name": "./nowhere"}}, "expected a model at"),
        ({"resources": {"max_checkpoint_gb": 1e-6}}, "resources.max_checkpoint_gb"),
    ],
)
def test_what_is_wrong_is_told_as_by_run(changes: dict[str, Any], message: str, make_study: MakeStudy) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(make_study(**changes), probe=True)


def test_an_interrupt_leaves_nothing_behind(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, temporary = make_study(), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start_command(sys.executable, "-m", "thresher", "plan", place.config)
    try:
        wait_until(lambda: list(temporary.glob("thresher-probe-*/log")) or process.poll() is not None, "a probe")
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        ran = finish(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert ran.code == 130, ran
    assert "Traceback" not in ran.errors
    assert children
    assert not any(map(is_alive, children))
    assert not list(temporary.iterdir())
    assert not place.directory.exists()
