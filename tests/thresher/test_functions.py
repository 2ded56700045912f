from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controller.events import JobCreated, Reported, TrialCreated
from controller.history import History
from controller.trial import (
    Continue,
    Failure,
    FailureKind,
    Halt,
    Job,
    Message,
    Notice,
    Objective,
    Progress,
    Report,
)
from thresher.functions import FailFast, FunctionObjective, FunctionTask, ObjectiveError, read_outcome
from thresher.trial_directories import TrialDirectories

JOB = Job(0, 0, {"x": 2.0}, 77, 0, 3, 9)


def called(function: Callable[..., Any]) -> dict[str, float]:
    return FunctionObjective.of(function, "loss")(JOB, Path("place"))


class TestSignature:
    def test_a_function_takes_what_it_names(self) -> None:
        def objective(params: dict[str, Any], budget: int, checkpoint_dir: Path, seed: int) -> float:
            assert (params, budget, checkpoint_dir, seed) == ({"x": 2.0}, 3, Path("place"), 77)
            return 0.5

        assert called(objective) == {"loss": 0.5}

    def test_it_may_take_less(self) -> None:
        assert called(lambda params: params["x"]) == {"loss": 2.0}
        assert called(lambda params, seed: seed) == {"loss": 77.0}
        assert called(lambda budget, params: budget) == {"loss": 3.0}
        assert called(lambda config, /, budget: budget + config["x"]) == {"loss": 5.0}

    def test_it_may_take_anything(self) -> None:
        def objective(params: dict[str, Any], **rest: Any) -> float:
            return len(rest)

        assert called(objective) == {"loss": 3.0}

    def test_the_first_argument_is_the_parameters_whatever_its_name(self) -> None:
        assert called(lambda configuration: configuration["x"]) == {"loss": 2.0}

    def test_methods_partials_and_objects_are_functions(self) -> None:
        class Objective:
            def __call__(self, params: dict[str, float], budget: int) -> float:
                return params["x"] * budget

            def method(self, params: dict[str, float]) -> float:
                return params["x"]

        assert called(Objective()) == {"loss": 6.0}
        assert called(Objective().method) == {"loss": 2.0}
        assert called(functools.partial(lambda table, params: params["x"] + table, 40.0)) == {"loss": 42.0}

    def test_arguments_with_a_default_are_left_alone(self) -> None:
        assert called(lambda params, scale=10.0: scale) == {"loss": 10.0}

    @pytest.mark.parametrize(
        "function", [lambda: 0.0, lambda budget: 0.0, lambda checkpoint_dir, budget: 0.0, lambda *, seed: 0.0]
    )
    def test_it_must_take_the_parameters(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ObjectiveError, match="expected an objective whose first argument receives the parameters"):
            FunctionObjective.of(function, "loss")

    def test_it_must_not_want_what_nobody_gives(self) -> None:
        def objective(params: dict[str, Any], epochs: int) -> float:
            return epochs

        with pytest.raises(ObjectiveError, match=r"got objective\(params.*\) with 'epochs'; give it a default"):
            FunctionObjective.of(objective, "loss")

    def test_it_must_be_a_function(self) -> None:
        with pytest.raises(ObjectiveError, match=r"expected a function as objective, got 0\.5; give the function"):
            FunctionObjective.of(0.5, "loss")  # type: ignore[arg-type]

    def test_what_it_takes_is_known(self) -> None:
        assert FunctionObjective.of(lambda params, budget: 0.0, "loss").takes_budget
        assert not FunctionObjective.of(lambda params: 0.0, "loss").takes_budget
        assert FunctionObjective.of(lambda params, checkpoint_dir: 0.0, "loss").takes_directory


class TestOutcome:
    @pytest.mark.parametrize("outcome", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
    def test_numbers_of_any_library(self, outcome: Any) -> None:
        assert read_outcome(outcome, "loss") == {"loss": 0.5}

    def test_several_by_name(self) -> None:
        assert read_outcome({"loss": 1, "accuracy": np.float64(0.25)}, "loss") == {"loss": 1.0, "accuracy": 0.25}

    def test_nan_is_a_number_here(self) -> None:
        assert math.isnan(read_outcome(math.nan, "loss")["loss"])

    @pytest.mark.parametrize("outcome", [None, "0.5", [1.0, 2.0], {"loss": None}, {1: 2.0}, {"loss": "low"}])
    def test_anything_else_is_refused(self, outcome: Any) -> None:
        with pytest.raises(TypeError, match="expected the objective to return a number, or a mapping"):
            read_outcome(outcome, "loss")

    def test_what_is_no_number_is_shown_in_short(self) -> None:
        with pytest.raises(TypeError, match="got None for 'note'; return"):
            read_outcome({"loss": 0.5, "note": None}, "loss")
        with pytest.raises(TypeError) as caught:
            read_outcome({"loss": [0.5] * 10_000}, "loss")
        assert len(str(caught.value)) < 400


class Inbox:
    stopping = False

    def __init__(self, *jobs: Job) -> None:
        self.jobs = deque(jobs)

    def get(self) -> Job | None:
        return self.jobs.popleft() if self.jobs else None

    poll = get


class TestTask:
    def run(self, function: Callable[..., Any], directory: Path, *jobs: Job) -> list[Message]:
        messages: list[Message] = []
        self.task = FunctionTask(FunctionObjective.of(function, "loss"), TrialDirectories(directory))
        self.task.run(Inbox(*jobs or (JOB,)), messages.append)
        return messages

    def test_a_result_is_a_report(self, tmp_path: Path) -> None:
        progress, report = self.run(lambda params: {"loss": 0.5, "other": 1}, tmp_path)
        assert isinstance(progress, Progress)
        assert isinstance(report, Report)
        assert (report.job_id, report.budget, report.metrics) == (0, 3, {"loss": 0.5, "other": 1.0})
        assert 0 <= report.seconds < 5
        assert list(tmp_path.iterdir()) == []

    def test_an_exception_is_a_failure_with_its_place_and_its_text(self, tmp_path: Path) -> None:
        def objective(params: dict[str, Any]) -> float:
            raise ZeroDivisionError("no such region")

        failure = self.run(objective, tmp_path)[-1]
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.CRASH
        first, *_, last = failure.message.splitlines()
        assert first.startswith(f'File "{__file__}", line ')
        assert last == "ZeroDivisionError: no such region"
        assert isinstance(self.task.error, ZeroDivisionError)

    @pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
    def test_lack_of_memory_is_a_kind_of_its_own(self, tmp_path: Path, error: BaseException) -> None:
        def objective(params: dict[str, Any]) -> float:
            raise error

        failure = self.run(objective, tmp_path)[-1]
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.OOM

    def test_no_number_is_a_failure(self, tmp_path: Path) -> None:
        failure = self.run(lambda params: None, tmp_path)[-1]
        assert isinstance(failure, Failure)
        assert "expected the objective to return a number" in failure.message

    def test_what_it_leaves_is_there_at_the_next_budget(self, tmp_path: Path) -> None:
        seen = []

        def objective(params: dict[str, Any], budget: int, checkpoint_dir: Path) -> float:
            path = checkpoint_dir / "history"
            seen.append(path.read_text() if path.exists() else "")
            path.write_text(f"{seen[-1]}{budget},")
            if budget == 9 and len(seen) == 2:
                raise RuntimeError("in the middle of it")
            return 0.0

        further = Job(1, 0, {}, 0, 3, 9, 9, Continue(0, 3))
        messages = self.run(objective, tmp_path, JOB, further, further)
        assert seen == ["", "3,", "3,"]
        assert [type(message) for message in messages if not isinstance(message, Progress)] == [Report, Failure, Report]
        assert self.task.error is None  # it has returned before, so this is data

    def test_files_that_are_gone_are_told(self, tmp_path: Path) -> None:
        def objective(params: dict[str, Any], checkpoint_dir: Path) -> float:
            return len(list(checkpoint_dir.iterdir()))

        _, notice, report = self.run(objective, tmp_path, Job(1, 0, {}, 0, 3, 9, 9, Continue(0, 3)))
        assert notice == Notice(1, "the files of budget 3 are gone: the directory is empty and all is trained again")
        assert isinstance(report, Report)

    def test_a_disk_that_refuses_is_no_fault_of_the_function(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").write_text("no directory")
        message = self.run(lambda params, checkpoint_dir: 0.0, tmp_path / "checkpoints")[-1]
        assert isinstance(message, Halt)
        assert "expected to write the checkpoints of trial 0" in message.text

    def test_there_is_no_test_set(self, tmp_path: Path) -> None:
        message = self.run(lambda params: 0.0, tmp_path, Job(1, 0, {}, 0, 3, 3, 9, Continue(0, 3), "test"))[-1]
        assert isinstance(message, Failure)


class Says:
    """An executor that says what it was told to."""

    def __init__(self, *batches: Sequence[Message]) -> None:
        self.batches = deque(batches)

    def has_room(self) -> bool:
        return True

    def submit(self, job: Job) -> None:
        raise AssertionError("nothing is submitted here")

    def poll(self) -> Sequence[Message]:
        return self.batches.popleft()

    def stop(self) -> Sequence[Message]:
        return ()


class TestFailFast:
    CRASH = Failure(0, FailureKind.CRASH, "KeyError: 'x'")

    def history(self) -> History:
        return History(seed=0, objectives=[Objective("loss")], horizon=9)

    def test_the_first_crash_is_raised(self) -> None:
        cause = KeyError("x")
        executor = FailFast(Says([self.CRASH]), self.history(), lambda: cause)
        with pytest.raises(ObjectiveError, match="expected the objective to measure a first trial, got") as raised:
            executor.poll()
        assert raised.value.__cause__ is cause

    def test_after_a_report_a_crash_is_data(self) -> None:
        executor = FailFast(Says([Report(0, 3, {"loss": 0.0}, 0.1)], [self.CRASH]), self.history(), lambda: None)
        executor.poll()
        assert executor.poll() == [self.CRASH]

    def test_a_report_of_an_earlier_run_counts(self) -> None:
        history = self.history()
        for event in (TrialCreated(0, {}, 0), JobCreated(0, 0, 0, 9), Reported(Report(0, 9, {"loss": 1.0}, 0.1))):
            history.apply(event)
        executor = FailFast(Says([self.CRASH]), history, lambda: None)
        assert executor.poll() == [self.CRASH]

    def test_lack_of_memory_is_data(self) -> None:
        failure = Failure(0, FailureKind.OOM, "MemoryError")
        assert FailFast(Says([failure]), self.history(), lambda: None).poll() == [failure]
