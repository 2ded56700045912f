"""Ask and tell, for training loops of one's own."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.trial import MetricError
from thresher import FailureKind, Float, MustWait, OpenTrial, Study, StudyError

X = {"x": Float(0.0, 1.0)}


def value(trial: OpenTrial) -> float:
    return (float(trial.params["x"]) - 0.3) ** 2 + 1 / trial.budget


def loop(study: Study) -> list[OpenTrial]:
    asked = []
    while (trial := study.ask()) is not None:
        asked.append(trial)
        study.tell(trial, value(trial))
    return asked


def test_a_loop_of_ones_own_finds_what_run_finds() -> None:
    asked = Study(X, budget=9, trials=9)
    loop(asked)
    ran = Study(X, lambda params, budget: (params["x"] - 0.3) ** 2 + 1 / budget, budget=9, trials=9)
    ran.run(progress=False)
    columns = ["trial", "x", "budget", "objective", "status", "seed"]
    assert asked.trials[columns].equals(ran.trials[columns])
    assert asked.finished
    assert asked.best == ran.best


def test_a_trial_says_what_is_wanted() -> None:
    asked = loop(Study(X, budget=9, trials=9, strategy="asha"))
    assert {(trial.from_budget, trial.budget) for trial in asked} == {(0, 1), (1, 3), (3, 9)}
    again = next(trial for trial in asked if trial.from_budget == 1)
    first = next(trial for trial in asked if trial.trial_id == again.trial_id)
    assert (first.params, first.seed) == (again.params, again.seed)
    assert repr(first).startswith(f"OpenTrial({first.trial_id}, params=")


def test_files_are_there_when_the_trial_comes_again() -> None:
    study = Study(X, budget=9, trials=9)
    while (trial := study.ask()) is not None:
        path = trial.checkpoint_dir / "epochs"
        assert (path.read_text() if path.exists() else "0") == str(trial.from_budget)
        path.write_text(str(trial.budget))
        study.tell(trial, value(trial))
    assert (study.directory / "checkpoints").is_dir()


def test_no_directory_unless_it_is_used() -> None:
    study = Study(X, budget=9, trials=3)
    loop(study)
    assert not (study.directory / "checkpoints").exists()


def test_files_that_are_gone_are_noted() -> None:
    study = Study(X, budget=9, trials=3, strategy="asha")
    while (trial := study.ask()) is not None:
        if trial.from_budget == 1:  # where nothing was left, for nobody had looked at the directory
            assert list(trial.checkpoint_dir.iterdir()) == []
        study.tell(trial, value(trial))
    assert len(study.history.notes) == 1
    assert "all is trained again" in study.history.notes[0].text


def test_several_may_be_open_and_told_in_any_order() -> None:
    study = Study(X, trials=4)
    trials = [study.ask() for _ in range(4)]
    assert [trial.trial_id for trial in trials if trial] == [0, 1, 2, 3]
    assert set(study.trials.status) == {"running"}
    with pytest.raises(MustWait, match="expected trials to be told before the next can be asked, got none of 0, 1"):
        study.ask()
    for trial in reversed(trials):
        assert trial is not None
        study.tell(trial, {"objective": value(trial), "other": 1})
    assert study.ask() is None
    assert set(study.trials.other) == {1.0}


def test_failures_are_told_as_a_kind_or_as_what_was_raised() -> None:
    study = Study(X, trials=4)
    outcomes: list[Any] = [FailureKind.TIMEOUT, MemoryError(), ValueError("no such region"), math.nan]
    for outcome in outcomes:
        trial = study.ask()
        assert trial is not None
        study.tell(trial, outcome)
    assert list(study.trials.failure) == ["timeout", "oom", "crash", "diverged"]
    assert study.trials.message[2] == "ValueError: no such region"
    assert study.ask() is None


def test_what_cannot_be_told_leaves_the_trial_open() -> None:
    study = Study(X, metric="loss", trials=1)
    trial = study.ask()
    assert trial is not None
    with pytest.raises(TypeError, match="expected the objective to return a number"):
        study.tell(trial, "low")  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="expected the metric 'loss'"):
        study.tell(trial, {"accuracy": 1.0})
    study.tell(trial, {"loss": 1.0})
    with pytest.raises(StudyError, match="it was told before"):
        study.tell(trial, {"loss": 1.0})


def test_what_is_no_trial_leaves_all_of_them_open() -> None:
    study = Study(X, trials=3)
    trials = [study.ask() for _ in range(2)]
    assert trials[0] is not None
    for wrong in (0, None, {"x": 0.5}):
        with pytest.raises(StudyError, match="expected a trial that ask"):
            study.tell(wrong, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected the objective to return a number"):
        study.tell(trials[0], 10**400)  # more than a float holds
    for trial in trials:
        assert trial is not None
        study.tell(trial, 0.5)
    assert list(study.trials.status) == ["complete", "complete"]


def test_run_takes_what_is_open() -> None:
    study = Study(X, lambda params: 0.5, trials=2)
    trial = study.ask()
    assert trial is not None
    study.run(progress=False)
    assert list(study.trials.objective) == [0.5, 0.5]
    with pytest.raises(StudyError, match="expected a trial that is open"):
        study.tell(trial, 0.1)


def test_open_trials_come_again_after_a_restart(tmp_path: Path) -> None:
    with Study(X, budget=9, trials=5, directory=tmp_path) as study:
        first, second = study.ask(), study.ask()
        assert first is not None
        assert second is not None
        (first.checkpoint_dir / "torn").touch()
        study.tell(second, value(second))
    with Study(X, budget=9, trials=5, directory=tmp_path) as study:
        again = study.ask()
        assert again is not None
        assert (again.trial_id, again.params, again.budget) == (first.trial_id, first.params, first.budget)
        assert list(again.checkpoint_dir.iterdir()) == []
        with pytest.raises(StudyError, match="expected a trial that is open"):
            study.tell(first, 0.0)
        study.tell(again, value(again))
        loop(study)
        assert study.finished


SCRIPT = """
import os, signal, sys
from thresher import Float, Study

study = Study({"x": Float(0, 1)}, budget=9, trials=6, directory=sys.argv[1])
asked = 0
while (trial := study.ask()) is not None:
    asked += 1
    if asked == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    study.tell(trial, trial.params["x"] + 1 / trial.budget)
print(study.trials.drop(columns="seconds").to_json())
"""


def test_killed_and_resumed_is_the_same_as_never_interrupted(tmp_path: Path) -> None:
    def script(directory: str, kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / directory), str(kill_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert script("killed", 4).returncode == -signal.SIGKILL
    assert script("killed", 0).stdout == script("whole", 0).stdout != ""
