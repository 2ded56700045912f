"""The probe runs for real, in a process of its own, on the tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from controller.trial import Continue, Failure, FailureKind, Job, Progress, Report
from llm_tuning import probe
from llm_tuning.batches import example_indices
from llm_tuning.data import load_splits
from llm_tuning.probe import Probe, ProbeError, run_probe
from llm_tuning.recipe import FineTuningSpec
from llm_tuning.tokenized_split import TokenizedSplit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's temporary directories are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_a_probe_measures_and_leaves_nothing_behind(
    make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path, place: Path
) -> None:
    measured = run_probe(make_spec(tmp_path / "checkpoints").to_dict(), dict(os.environ))
    assert isinstance(measured, Probe)
    assert measured.device == "cpu"
    for seconds in (measured.load_seconds, measured.training_seconds, measured.evaluation_seconds):
        assert 0 < seconds < 60
    assert measured.training_seconds < 1
    assert measured.job_seconds > 0
    assert measured.answer_seconds >= 0
    assert measured.peak_bytes > 50e6
    assert not list(place.iterdir())
    assert not (tmp_path / "checkpoints").exists()


def test_a_probe_that_cannot_start_says_why(make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path) -> None:
    spec = {**make_spec(tmp_path).to_dict(), "model_directory": str(tmp_path)}
    with pytest.raises(ProbeError, match="expected 3 training steps and an evaluation, got an error: expected"):
        run_probe(spec, dict(os.environ))


def test_a_child_that_dies_is_an_error_with_its_last_words(
    make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nprint('no device', flush=True)\nos._exit(9)\n")
    with pytest.raises(ProbeError, match="got exit code 9: no device"):
        run_probe(make_spec(tmp_path).to_dict(), environment)


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Killed as it may be, the parent leaves no probe behind: its end of the pipe closes."""
    command = [sys.executable, "-c", "from llm_tuning.probe import _end_with_parent; _end_with_parent()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(60) == 1


def test_an_interrupt_ends_the_child_and_removes_its_files(
    make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path, place: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    spec = make_spec(tmp_path).to_dict()

    def interrupt(number: int, frame: object) -> None:
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_probe(spec, environment)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not list(place.iterdir())


def test_the_sample_has_the_longest_first_and_then_the_mean(data_directory: Path, tmp_path: Path) -> None:
    batch = 6
    probe._write_sample(data_directory, tmp_path / "sample", batch, 4)
    whole, sample = load_splits(data_directory).splits, load_splits(tmp_path / "sample").splits
    lengths = np.diff(sample["train"].offsets)[example_indices(probe._SEED, 0, 3 * batch, 3 * batch)]
    of_all = np.diff(whole["train"].offsets)
    assert sorted(lengths[:batch]) == sorted(of_all)[-batch:]
    assert lengths[batch:].mean() == pytest.approx(of_all.mean(), rel=0.1)
    assert lengths[batch : 2 * batch].mean() == pytest.approx(lengths[2 * batch :].mean(), rel=0.2)
    assert len(sample["validation"]) == len(sample["test"]) == 4
    assert set(sample) == {"train", "validation", "test"}


def test_examples_are_repeated_where_there_are_too_few(data_directory: Path, tmp_path: Path) -> None:
    probe._write_sample(data_directory, tmp_path / "sample", 100, 100)
    sample = load_splits(tmp_path / "sample").splits
    assert len(sample["train"]) == 300
    assert len(sample["validation"]) == 10


def test_a_selection_holds_the_examples_that_were_asked_for(make_split: Callable[..., TokenizedSplit]) -> None:
    split = make_split(9)
    chosen = probe._selection(split, np.array([4, 4, 0]))
    assert [chosen.tokens(i).tolist() for i in range(3)] == [split.tokens(i).tolist() for i in (4, 4, 0)]
    again = probe._selection(chosen, np.array([2]))
    assert again.fingerprint == probe._selection(split, np.array([0])).fingerprint


def test_large_batches_do_not_make_the_probe_long(make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path) -> None:
    spec = make_spec(tmp_path).to_dict()
    assert probe._batch_size(spec) == 6
    assert probe._batch_size({**spec, "defaults": {"optimizer.batch_size": 512}}) == 8


class Scripted:
    """A task that says what it is told to, job by job, each after some seconds."""

    def __init__(self, *jobs: list[tuple[float, object]]) -> None:
        self._jobs = list(jobs)

    def run(self, inbox: object, emit: Callable[[object], None]) -> None:
        """See Task."""
        inbox.get()  # type: ignore[attr-defined]
        for seconds, message in self._jobs.pop(0):
            time.sleep(seconds)
            emit(message)


def test_a_failure_is_told_with_its_remedy() -> None:
    failing = Scripted([(0, Failure(0, FailureKind.OOM, "out of memory"))])
    outcome = probe._measure(failing, 2, {}, 1.0)  # type: ignore[arg-type]
    assert outcome == {"failure": "oom", "message": "out of memory"}
    assert "lower resources.micro_batch_size" in probe._refusal(outcome["failure"], outcome["message"])


def test_what_is_measured_is_told_apart(data_directory: Path) -> None:
    """The first step warms up and does not count; each of the others has seconds of its own."""
    steps = [(1.0, Progress(0, 2, "train")), (0.1, Progress(0, 4, "train")), (0.1, Progress(0, 6, "train"))]
    ending = [(0.0, Progress(0, 6, "save")), (0.3, Progress(0, 6, "evaluate")), (0.2, Report(0, 6, {}, 1))]
    test = [(0.1, Progress(1, 6, "evaluate")), (0.7, Report(1, 6, {}, 1))]
    specification = {"data_directory": str(data_directory), "generations": 1}
    outcome = probe._measure(Scripted([*steps, *ending], test), 2, specification, 1.5)  # type: ignore[arg-type]
    assert outcome["load_seconds"] == 1.5
    assert 0.05 <= outcome["training_seconds"] < 0.15
    assert 0.02 <= outcome["evaluation_seconds"] < 0.04
    assert 0.4 <= outcome["job_seconds"] < 0.8
    assert 0.3 <= outcome["answer_seconds"] < 0.7


def test_the_second_job_tests_the_weights_of_the_first() -> None:
    seen: list[Job] = []

    class Remembering(Scripted):
        def run(self, inbox: object, emit: Callable[[object], None]) -> None:
            seen.append(inbox.get())  # type: ignore[attr-defined]
            emit(Report(len(seen) - 1, 6, {}, 1))

    with pytest.raises(StopIteration):
        probe._measure(Remembering(), 2, {"data_directory": "", "generations": 0}, 0.0)  # type: ignore[arg-type]
    assert [(job.from_budget, job.to_budget, job.split) for job in seen] == [(0, 6, "validation"), (6, 6, "test")]
    assert seen[1].source == Continue(0, 6)
