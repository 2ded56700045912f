"""The study of a function, as its user sees it."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import thresher
from controller.controller import StudyHalted
from controller.importance import ImportanceError
from controller.requests import Stop, file_request
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.store import StoreError, writer_of
from controller.strategy import Composed
from controller.trial import MetricError
from search_spaces.space import SpaceError
from thresher import Choice, Float, Int, ObjectiveError, Space, Study, StudyError

X = {"x": Float(0.0, 1.0)}


def parabola(params: dict[str, Any]) -> float:
    return float((params["x"] - 0.3) ** 2)


def curve(params: dict[str, Any], budget: int) -> float:
    return float((params["x"] - 0.3) ** 2 + 1 / budget)


def quiet(study: Study, **options: Any) -> Study:
    return study.run(progress=False, **options)


class TestRun:
    def test_a_function_of_the_parameters_is_enough(self) -> None:
        study = quiet(Study(X, parabola, trials=10))
        assert study.finished
        assert len(study.trials) == 10
        assert set(study.trials.status) == {"complete"}
        assert study.best.value == study.trials.objective.min()
        assert study.best.params == {"x": study.trials.x[study.best.trial]}

    def test_with_a_budget_the_best_are_promoted(self) -> None:
        study = quiet(Study(X, curve, budget=9, trials=9, strategy="evolution-asha"))
        assert sorted(study.trials.budget.unique()) == [1, 3, 9]
        assert study.best.budget == 9
        assert study.reports.budget.sum() < 9 * 9

    def test_the_largest_is_best_if_asked_for(self) -> None:
        study = quiet(Study(X, lambda params: {"accuracy": params["x"]}, metric="accuracy", direction="maximize"))
        assert study.best.value == study.trials.accuracy.max()
        assert study.best.metric == "accuracy"

    def test_the_same_seed_gives_the_same_study(self) -> None:
        columns = ["x", "budget", "objective", "seed"]
        first, second, other = (quiet(Study(X, curve, budget=9, seed=seed)).trials[columns] for seed in (1, 1, 2))
        assert first.equals(second)
        assert not first.equals(other)

    def test_the_default_comes_first(self) -> None:
        study = quiet(Study(X, parabola, default={"x": 0.25}, trials=3))
        assert study.trials.x[0] == 0.25
        assert study.trials.origin[0] == "enqueued"

    def test_numbers_of_numpy_are_numbers(self) -> None:
        study = Study(
            {"x": Float(0.0, 1.0), "n": Int(1, 9)}, parabola, trials=2, default={"x": np.float64(0.5), "n": 2}
        )
        study.enqueue({"x": np.float32(0.25), "n": np.int64(3)})
        assert quiet(study).trials[["x", "n"]].to_numpy().tolist() == [[0.5, 2], [0.25, 3]]

    def test_what_is_enqueued_comes_next(self) -> None:
        study = Study(X, parabola, trials=3)
        study.enqueue({"x": 0.5})
        quiet(study)
        assert study.trials.x[0] == 0.5
        with pytest.raises(SpaceError):
            study.enqueue({"x": 2.0})

    def test_more_trials_are_added_to_those_there_are(self) -> None:
        study = quiet(Study(X, parabola, trials=3))
        before = study.trials
        quiet(study, trials=6)
        assert len(study.trials) == 6
        assert study.trials[["x", "objective"]].head(3).equals(before[["x", "objective"]])

    def test_finalists_are_trained_again_with_other_seeds(self) -> None:
        def noisy(params: dict[str, Any], seed: int) -> float:
            return parabola(params) + (seed % 100) / 1000

        study = quiet(Study(X, noisy, trials=5, finalists=2, repeats=3))
        repeats = study.trials[study.trials.repeat_of.notna()]
        assert set(study.finalists.trial) <= {*repeats.repeat_of}
        assert len(repeats) == 3 * len(study.finalists)
        winner = study.finalists.iloc[0]
        of_winner = repeats[repeats.repeat_of == winner.trial].objective
        assert winner.objective == pytest.approx(of_winner.mean())
        assert (study.best.trial, study.best.value) == (winner.trial, winner.objective)

    def test_a_strategy_of_ones_own(self) -> None:
        space = Space(X)
        strategy = Composed(RandomSampler(space), ASHA((2, 8), max_trials=6))
        study = quiet(Study(space, curve, strategy=strategy, budget=8))
        assert set(study.reports.rung) == {2, 8}
        with pytest.raises(StudyError, match="only with a strategy that goes by a word"):
            quiet(study, trials=9)

    def test_time_is_up_after_the_timeout(self) -> None:
        def slow(params: dict[str, Any]) -> float:
            time.sleep(0.05)
            return 0.0

        study = quiet(Study(X, slow, trials=1000), timeout=0.2)
        assert not study.finished
        assert 1 <= len(study.trials) < 20
        assert set(study.trials.status) == {"complete"}

    def test_somebody_else_may_ask_it_to_stop(self) -> None:
        def asks(params: dict[str, Any]) -> float:
            if len(os.listdir(place)) and not (place / "asked").exists():
                (place / "asked").touch()
                file_request(place, Stop(writer_of(place) or ""))
            time.sleep(0.02)
            return 0.0

        study = Study(X, asks, trials=1000)
        place = study.directory
        assert not quiet(study).finished

    def test_it_says_what_happens(self, capsys: pytest.CaptureFixture[str]) -> None:
        Study(X, curve, budget=9, trials=3, budget_unit="epochs", strategy="asha").run()
        said = capsys.readouterr().out
        assert "3 trials, compared at 1, 3, 9 epochs" in said
        assert "trial 0 at 1: objective" in said
        quiet(Study(X, parabola))
        assert capsys.readouterr().out == ""

    def test_a_running_study_runs_once(self) -> None:
        def again(params: dict[str, Any]) -> float:
            with pytest.raises(StudyError, match="not running, got one that is"):
                study.run()
            with pytest.raises(StudyError, match="not running, got one that is"):
                study.close()
            return 0.0

        study = Study(X, again, trials=1)
        assert quiet(study).finished

    def test_it_runs_in_any_thread(self) -> None:
        study = Study(X, parabola, trials=3)
        thread = threading.Thread(target=quiet, args=(study,))
        thread.start()
        thread.join()
        assert study.finished


class TestCheckpoints:
    def test_a_trial_goes_on_from_what_it_left(self) -> None:
        stretches = []

        def objective(params: dict[str, Any], budget: int, checkpoint_dir: Path) -> float:
            path = checkpoint_dir / "epochs"
            done = int(path.read_text()) if path.exists() else 0
            stretches.append((done, budget))
            path.write_text(str(budget))
            return curve(params, budget)

        study = quiet(Study(X, objective, budget=9, trials=9, strategy="asha"))
        assert set(stretches) == {(0, 1), (1, 3), (3, 9)}
        best = study.best.trial
        kept = sorted(path.name for path in (study.directory / "checkpoints").iterdir())
        assert f"trial-{best:04d}" in kept
        assert len(kept) < 9

    def test_no_directories_for_who_wants_none(self) -> None:
        study = quiet(Study(X, parabola, trials=3))
        assert not (study.directory / "checkpoints").exists()


class TestFailures:
    def test_a_failed_trial_does_not_end_the_study(self) -> None:
        def objective(params: dict[str, Any]) -> float:
            if params["x"] > 0.7:
                raise ValueError("no such region")
            return parabola(params)

        study = quiet(Study(X, objective, default={"x": 0.5}, strategy="random"))
        failed = study.trials[study.trials.status == "failed"]
        assert (failed.x > 0.7).all()
        assert len(failed) > 1
        assert set(failed.failure) == {"crash"}
        assert failed.message.str.endswith("ValueError: no such region").all()
        assert failed.objective.isna().all()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_function_that_exits_has_failed_its_trial(self, workers: int) -> None:
        def objective(params: dict[str, Any]) -> float:
            if params["x"] > 0.7:
                sys.exit("expected an option")
            return float(params["x"])

        study = quiet(Study({"x": Float(0.0, 1.0)}, objective, trials=4), workers=workers, fail_fast=False)
        assert sorted(study.trials.status) == ["complete", "complete", "complete", "failed"]
        assert study.trials.message.dropna().iloc[0].endswith("SystemExit: expected an option")

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_fork_does_not_go_on_with_the_study(self, tmp_path: Path) -> None:
        def forks(params: dict[str, Any]) -> float:
            child = os.fork()
            if child == 0:
                raise ValueError("a child that should have ended itself")
            return float(os.waitpid(child, 0)[1])

        study = quiet(Study({"x": Float(0.0, 1.0)}, forks, trials=2, directory=tmp_path))
        assert study.trials.objective.tolist() == [256.0, 256.0]  # exit code 1
        assert len(study.reports) == 2

    def test_the_first_is_raised_and_the_mended_function_goes_on(self, tmp_path: Path) -> None:
        def mistaken(params: dict[str, Any]) -> float:
            return float(params["y"])

        with Study(X, mistaken, directory=tmp_path, trials=3) as study:
            with pytest.raises(ObjectiveError, match="KeyError: 'y'") as raised:
                quiet(study)
            assert isinstance(raised.value.__cause__, KeyError)
            assert set(study.trials.status) == {"running"}
        mended = quiet(Study(X, parabola, directory=tmp_path, trials=3))
        assert set(mended.trials.status) == {"complete"}

    def test_or_counts_as_failed(self) -> None:
        study = quiet(Study(X, lambda params: params["y"], trials=3), fail_fast=False)
        assert set(study.trials.failure) == {"crash"}
        assert study.finished
        with pytest.raises(StudyError, match=r"expected a trial that was measured .* 3 failed, the first with: KeyErr"):
            _ = study.best

    def test_a_call_is_repeated_as_often_as_asked(self) -> None:
        calls: list[float] = []

        def flaky(params: dict[str, Any]) -> float:
            calls.append(params["x"])
            if len(calls) > 1 and calls.count(params["x"]) == 1:
                raise ConnectionError("the line was bad")
            return 0.0

        study = quiet(Study(X, flaky, trials=3), retries=1)
        assert set(study.trials.status) == {"complete"}
        assert len(calls) == 5

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_no_number_is_a_trial_that_diverged(self, value: float) -> None:
        study = quiet(Study(X, lambda params: value, trials=2))
        assert set(study.trials.failure) == {"diverged"}

    def test_a_missing_metric_is_an_error(self) -> None:
        study = Study(X, lambda params: {"accuracy": 0.5}, metric="loss", trials=2)
        with pytest.raises(MetricError, match=r"expected the metric 'loss' in the report, got \['accuracy'\]"):
            quiet(study)

    def test_an_interrupt_ends_the_run_and_the_next_goes_on(self) -> None:
        calls = []

        def interrupted(params: dict[str, Any]) -> float:
            calls.append(params["x"])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return parabola(params)

        study = Study(X, interrupted, trials=5)
        with pytest.raises(KeyboardInterrupt):
            quiet(study)
        assert list(study.trials.status) == ["complete", "complete", "running"]
        quiet(study)
        assert calls[2] == calls[3]
        undisturbed = quiet(Study(X, parabola, trials=5))
        assert study.trials[["x", "objective"]].equals(undisturbed.trials[["x", "objective"]])


class TestWorkers:
    def test_functions_run_in_processes_that_are_gone_afterwards(self) -> None:
        scale = 2.0

        def objective(params: dict[str, Any], budget: int, checkpoint_dir: Path, seed: int) -> dict[str, float]:
            (checkpoint_dir / "pid").write_text(str(os.getpid()))
            return {"objective": scale * curve(params, budget), "pid": os.getpid()}

        study = quiet(Study(X, objective, budget=9, trials=9), workers=2)
        assert study.finished
        pids = {int(pid) for pid in study.reports.pid}
        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2
        assert not any(map(psutil.pid_exists, pids))
        assert not psutil.Process().children()

    def test_a_worker_that_is_killed_fails_one_trial(self) -> None:
        def objective(params: dict[str, Any]) -> float:
            if params["x"] > 0.7:
                os.kill(os.getpid(), signal.SIGKILL)
            return float(params["x"])

        # Without fail_fast, since the first to be measured depends on which of the workers starts sooner.
        study = quiet(Study(X, objective, trials=8, strategy="random"), workers=2, fail_fast=False)
        failed = study.trials[study.trials.x > 0.7]
        assert len(failed) >= 1
        assert failed.message.str.contains("was killed by SIGKILL").all()
        assert set(study.trials[study.trials.x <= 0.7].status) == {"complete"}

    def test_the_first_mistake_is_raised_from_there_too(self) -> None:
        with pytest.raises(ObjectiveError, match="KeyError: 'y'"):
            quiet(Study(X, lambda params: params["y"]), workers=2)

    def test_a_task_that_no_worker_can_make_halts_the_study(self) -> None:
        class Stubborn:
            def __call__(self, params: dict[str, Any]) -> float:
                return 0.0

            def __reduce__(self) -> Any:
                return os.path.realpath, (0,)

        with pytest.raises(StudyHalted, match="expected a task that a worker process can make"):
            quiet(Study(X, Stubborn()), workers=2)

    def test_an_interrupt_ends_the_workers(self) -> None:
        def hangs(params: dict[str, Any]) -> float:
            time.sleep(600)
            return 0.0

        study = Study(X, hangs)

        def interrupt() -> None:
            while len(psutil.Process().children()) < 2:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            quiet(study, workers=2)
        thread.join()
        assert not psutil.Process().children()
        assert set(study.trials.status) == {"running"}
        study.close()

    def test_output_of_workers_is_kept(self) -> None:
        def talks(params: dict[str, Any]) -> float:
            print(f"x is {params['x']}", flush=True)
            return 0.0

        study = quiet(Study(X, talks, trials=1), workers=2)
        logs = "".join(path.read_text() for path in (study.directory / "logs").iterdir())
        assert f"x is {study.best.params['x']}" in logs


SCRIPT = """
import os, signal, sys
from pathlib import Path
from thresher import Float, Study

directory, kill_at, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
calls = directory.with_name("calls")

def objective(params, budget, checkpoint_dir, seed):
    with calls.open("a") as file:
        file.write("call\\n")
    state = checkpoint_dir / "state"
    path = state.read_text() if state.exists() else ""
    state.write_text("torn")
    if kill_at and len(calls.read_text().splitlines()) >= kill_at:  # two workers may both add a line before they count
        os.kill(os.getpid() if workers == 1 else os.getppid(), signal.SIGKILL)
    state.write_text(f"{path} {budget}")
    return {"loss": (params["x"] - 0.3) ** 2 + 1 / budget, "history": len(path), "noise": seed % 1000}

study = Study({"x": Float(0, 1)}, objective, metric="loss", budget=9, trials=9, finalists=1, directory=directory)
study.run(workers=workers, progress=False)
print(study.trials.drop(columns="seconds").to_json())
"""


def run_script(directory: Path, kill_at: int = 0, workers: int = 1) -> subprocess.CompletedProcess[str]:
    path = directory.with_name("script.py")
    path.write_text(SCRIPT)
    command = [sys.executable, str(path), str(directory), str(kill_at), str(workers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


class TestKills:
    def test_killed_and_resumed_is_the_same_as_never_interrupted(self, tmp_path: Path) -> None:
        for name in ("whole", "killed"):
            (tmp_path / name).mkdir()
        whole = run_script(tmp_path / "whole" / "study")
        assert whole.returncode == 0, whole.stderr
        for kill_at in (3, 12):
            killed = run_script(tmp_path / "killed" / "study", kill_at)
            assert killed.returncode == -signal.SIGKILL
        resumed = run_script(tmp_path / "killed" / "study")
        assert resumed.stdout == whole.stdout
        assert "torn" not in whole.stdout

    def test_nothing_outlives_a_killed_study(self, tmp_path: Path) -> None:
        killed = run_script(tmp_path / "study", kill_at=3, workers=2)
        assert killed.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while any("controller.executors.process_worker" in " ".join(command) for command in commands_in(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert run_script(tmp_path / "study", workers=2).returncode == 0


def commands_in(directory: Path) -> Iterator[list[str]]:
    """The commands of all processes that have something of a directory open."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(directory) in file.path for file in process.open_files()):
                yield process.cmdline()


class TestDirectory:
    def test_the_same_directory_is_the_same_study(self, tmp_path: Path) -> None:
        with Study(X, curve, budget=9, trials=4, directory=tmp_path / "study") as study:
            quiet(study)
            before = study.trials
        calls: list[float] = []
        with Study(
            X, lambda params, budget: calls.append(0) or 0.0, budget=9, trials=4, directory=tmp_path / "study"
        ) as study:
            assert study.finished
            quiet(study)
            assert study.trials.equals(before)
        assert not calls

    def test_another_study_is_refused(self, tmp_path: Path) -> None:
        Study(X, curve, budget=9, directory=tmp_path).close()
        with pytest.raises(StudyError) as refused:
            Study({"x": Float(0.0, 2.0)}, curve, budget=27, seed=3, metric="loss", directory=tmp_path)
        text = str(refused.value)
        assert f"{tmp_path} holds another study:" in text
        assert "seed: expected 0, as the study was started with, got 3" in text
        assert "budgets: expected [1, 2, 3, 4, 6, 9]" in text
        assert "metric: expected 'objective'" in text
        assert "space: expected" in text
        assert "choose another directory" in text
        Study(X, curve, budget=9, trials=50, directory=tmp_path).close()

    def test_a_temporary_one_goes_with_the_study(self) -> None:
        study = quiet(Study(X, parabola, trials=1))
        directory = study.directory
        assert directory.is_dir()
        del study
        gc.collect()
        assert not directory.exists()

    def test_the_newer_object_of_a_process_takes_over(self, tmp_path: Path) -> None:
        older = quiet(Study(X, parabola, trials=2, directory=tmp_path))
        newer = Study(X, parabola, trials=3, directory=tmp_path)
        with pytest.raises(StudyError, match="expected an open study, got one that was closed"):
            quiet(older)
        assert len(older.trials) == 2
        assert len(quiet(newer).trials) == 3

    def test_another_process_is_refused_and_told_who_holds_it(self, tmp_path: Path) -> None:
        holder = "import sys; from thresher import Float, Study; s = Study({'x': Float(0, 1)}, directory=sys.argv[1]);"
        command = [sys.executable, "-c", f"{holder} print('open', flush=True); input()", str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(StoreError, match=f"but process {process.pid} on .* runs it"):
                Study(X, directory=tmp_path)
            process.communicate("\n", timeout=10)
        Study(X, directory=tmp_path).close()

    def test_a_closed_study_can_be_read_but_not_run(self, tmp_path: Path) -> None:
        study = quiet(Study(X, parabola, trials=2, directory=tmp_path))
        study.close()
        study.close()
        assert len(study.trials) == 2
        with pytest.raises(StudyError, match="closed"):
            study.ask()


class TestOpen:
    def test_it_reads_what_another_object_writes(self, tmp_path: Path) -> None:
        study = Study(X, curve, budget=9, trials=6, finalists=1, directory=tmp_path)
        reader = Study.open(tmp_path)
        assert len(reader.trials) == 0
        assert not reader.finished
        quiet(study)
        assert reader.trials.equals(study.trials)
        assert reader.reports.equals(study.reports)
        assert reader.finalists.equals(study.finalists)
        assert reader.best == study.best
        assert reader.finished
        assert repr(reader) == repr(study)

    def test_it_only_reads(self, tmp_path: Path) -> None:
        Study(X, parabola, directory=tmp_path).close()
        reader = Study.open(tmp_path)
        for attempt in (reader.run, reader.ask, lambda: reader.enqueue({"x": 0.5}), lambda: reader.space):
            with pytest.raises(StudyError, match="open for reading"):
                attempt()
        reader.close()

    def test_there_must_be_a_study(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="expected the directory of a study"):
            Study.open(tmp_path)

    def test_a_function_has_no_report_and_no_adapter(self, tmp_path: Path) -> None:
        study = quiet(Study(X, parabola, trials=1, directory=tmp_path))
        with pytest.raises(StudyError, match="expected the report of a finished fine-tuning study"):
            _ = study.report
        with pytest.raises(StudyError, match="expected a fine-tuning study"):
            study.export(tmp_path / "adapter")


class TestUnderstanding:
    def test_importance(self, tmp_path: Path) -> None:
        space = {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}
        study = quiet(Study(space, lambda params: params["x"], trials=30, strategy="random", directory=tmp_path))
        frame = study.importance()
        assert (len(frame), frame.parameter[0], frame.interacts_with.notna().sum()) == (3, "x", 1)
        assert frame.importance[0] > 0.8
        assert set(frame.trials) == {30}
        assert frame.equals(study.importance(seed=0))
        assert len(study.importance(interactions=False)) == 2
        assert Study.open(tmp_path).importance().equals(frame)
        with pytest.raises(ImportanceError, match="expected at least 40 trials"):
            study.importance(min_trials=40)

    def test_pareto_and_hypervolume(self, tmp_path: Path) -> None:
        study = quiet(Study(X, curve, budget=9, trials=9, directory=tmp_path))
        front = study.pareto()
        assert list(front.trial) == [study.best.trial]
        assert front.objective[0] == study.best.value
        growth = study.hypervolume({"objective": 2.0})
        assert list(growth.hypervolume) == sorted(growth.hypervolume)
        assert growth.hypervolume.iloc[-1] == pytest.approx(2.0 - study.best.value)
        assert (growth.seconds.diff().dropna() >= 0).all()
        assert Study.open(tmp_path).pareto().equals(front)

    def test_to_optuna_and_back(self, tmp_path: Path) -> None:
        optuna = pytest.importorskip("optuna")
        first = quiet(Study(X, parabola, trials=8))
        storage = tmp_path / "optuna.db"
        assert first.to_optuna(storage, name="parabola") == "parabola"
        theirs = optuna.load_study(study_name="parabola", storage=f"sqlite:///{storage}")
        assert theirs.best_value == first.best.value
        second = Study(X, parabola, trials=3)
        assert second.enqueue_from_optuna(storage, best=2)[0] == first.best.params
        assert quiet(second).trials.origin.tolist()[:2] == ["enqueued", "enqueued"]
        assert second.trials.x[0] == first.best.params["x"]
        second.close()
        with pytest.raises(StudyError, match="open for reading"):
            Study.open(first.directory).enqueue_from_optuna(storage)


class TestArguments:
    @pytest.mark.parametrize(
        "space",
        [
            Space({"x": Float(0.0, 1.0), "kind": Choice(("a", "b"))}),
            {"x": Float(0.0, 1.0), "kind": Choice(("a", "b"))},
            {"x": Float(0.0, 1.0), "kind": ["a", "b"]},
            {"x": {"kind": "float", "low": 0, "high": 1}, "kind": {"kind": "choice", "values": ["a", "b"]}},
        ],
    )
    def test_a_space_can_be_written_in_several_ways(self, space: Any) -> None:
        assert Study(space).space == Space({"x": Float(0.0, 1.0), "kind": Choice(("a", "b"))})

    @pytest.mark.parametrize("space", [{}, [], {"x": 3}, {"x": {"kind": "flaot"}}])
    def test_no_space_is_refused(self, space: Any) -> None:
        with pytest.raises(SpaceError):
            Study(space)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"direction": "up"}, "expected direction 'minimize' or 'maximize', got 'up'"),
            ({"strategy": "evolutoin"}, "expected a kind of search among"),
            ({"trials": 0}, "expected max_trials >= 1, got 0"),
            ({"budget": 9}, "expected no budget, since the function does not take one"),
            ({"default": {"x": 7.0}}, "x: expected"),
            ({"finalists": 1, "repeats": -1}, "repeats >= 0"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options: dict[str, Any], message: str) -> None:
        with (
            pytest.raises(ValueError, match=message)
            if "budget" not in options
            else pytest.raises(ObjectiveError, match=message)
        ):
            Study(X, parabola, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "expected the full budget of a trial, since the function takes `budget`, got none"),
            ({"budget": 0}, "expected a budget that is a whole number from 1, got 0"),
            ({"budget": 0.5}, "expected a budget that is a whole number from 1, got 0.5"),
            ({"budget": 9, "min_budget": 10}, "expected 1 <= min_budget <= max_budget, got 10 and 9"),
            ({"budget": 9, "min_budget": 3, "strategy": "random"}, "expected no min_budget with strategy 'random'"),
        ],
    )
    def test_budgets_must_make_sense(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, ObjectiveError), match=message):
            Study(X, curve, **options)

    def test_run_needs_a_function_and_a_worker(self) -> None:
        with pytest.raises(StudyError, match="expected a study with an objective, got one without; use ask and tell"):
            Study(X).run()
        with pytest.raises(StudyError, match="expected workers >= 1, got 0"):
            Study(X, parabola).run(workers=0)


class TestLooks:
    def test_repr_says_where_it_stands(self) -> None:
        study = Study(X, parabola, trials=3)
        assert repr(study) == f"Study(0 of 3 trials started, in {study.directory})"
        quiet(study)
        assert repr(study).startswith("Study(3 of 3 trials started, 3 complete; best objective ")

    def test_html_is_a_table_of_the_best(self) -> None:
        study = Study({"x": Int(1, 50), "kind": ["<b>", "&"]}, lambda params: params["x"], trials=15)
        assert "<table>" not in study._repr_html_()
        html = quiet(study)._repr_html_()
        assert html.count("<tr>") == 11
        assert f"<td>{study.best.trial}</td>" in html
        assert "<td><b></td>" not in html


class TestImport:
    def test_it_is_light(self) -> None:
        code = (
            "import sys, thresher; heavy = {'torch', 'pandas', 'numpy', 'transformers', 'rich', 'sqlalchemy'};"
            "assert not heavy & set(sys.modules); thresher.Study, thresher.Float, thresher.tune;"
            "assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def test_all_that_is_promised_is_there(self) -> None:
        for name in thresher.__all__:
            assert getattr(thresher, name) is not None
            assert name in dir(thresher)
        with pytest.raises(AttributeError, match="module 'thresher' has no attribute 'Stduy'"):
            thresher.Stduy  # noqa: B018


def test_no_process_of_these_tests_is_left() -> None:
    assert not psutil.Process().children(recursive=True)
