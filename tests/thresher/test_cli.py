from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.controller import StudyHalted
from controller.executors.world import World
from controller.store import Store
from tests.thresher.tiny_study import FinishedStudy, InterruptedStudy, Ran, StudyPlace, place_study, run_here
from thresher import Choice, Float, Study, __version__, study
from thresher.cli import app
from thresher.record import RecordError, StudyRecord

COMMANDS = sorted(info.name or info.callback.__name__ for info in app.registered_commands if info.callback)

pytestmark = pytest.mark.timeout(300)  # the first test of a file may pay for a whole study


def cut_off(finished: FinishedStudy, directory: Path, *, after: str, count: int) -> StudyPlace:
    """A copy of the study as a kill would have left it, just after the given entry came for the `count`-th time."""
    place = finished.copy_to(directory)
    (place.directory / "report.json").unlink()
    with contextlib.closing(sqlite3.connect(place.directory / "journal.sqlite")) as connection:
        query = "SELECT sequence FROM journal WHERE kind = ? ORDER BY sequence LIMIT 1 OFFSET ?"
        (last,) = connection.execute(query, (after, count - 1)).fetchone()
        connection.execute("DELETE FROM journal WHERE sequence > ?", (last,))
        connection.commit()
    return place


class TestStatus:
    def test_of_a_finished_study(self, finished: FinishedStudy) -> None:
        result = run_here("status", finished.place.directory)
        assert result.code == 0
        assert "default" in result.output
        assert f"finished: see {finished.place.directory}/report.md" in result.output
        assert result.output.endswith("5 of 5 trials started, 0 failed, 0 jobs open; nobody is running it\n")

    def test_by_its_config(self, finished: FinishedStudy) -> None:
        assert run_here("status", finished.place.config).output == run_here("status", finished.place.directory).output

    def test_while_it_runs(self, interrupted: InterruptedStudy) -> None:
        assert interrupted.status.code == 0, interrupted.status
        last = interrupted.status.output.splitlines()[-1]
        assert re.fullmatch(r"[12] of 2 trials started, 0 failed, 1 job open; run by process \d+ on .+", last)
        assert "at work" in interrupted.status.output

    def test_as_json(self, finished: FinishedStudy) -> None:
        status = json.loads(run_here("status", finished.place.directory, "--json").output)
        assert status["state"] == "finished"
        assert len([trial for trial in status["trials"] if trial["repeat_of"] is None]) == 5
        assert [rung["budget"] for rung in status["rungs"]] == [8, 16]

    def test_of_a_study_that_was_killed(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = cut_off(finished, tmp_path, after="AttemptStarted", count=3)
        result = run_here("status", place.directory)
        assert result.code == 0
        assert "interrupted" in result.output
        assert result.output.splitlines()[-1].endswith(" 1 job open; nobody is running it")
        status = json.loads(run_here("status", place.directory, "--json").output)
        assert status["state"] == "stopped"
        assert len(status["open_jobs"]) == 1

    def test_of_a_study_without_a_trial(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = cut_off(finished, tmp_path, after="Enqueued", count=1)
        result = run_here("status", place.directory)
        assert result.code == 0
        assert "0 of 5 trials started, 0 failed, 0 jobs open; nobody is running it" in result.output

    @pytest.mark.parametrize(
        "command",
        [
            *("status", "best", "trial", "compare", "enqueue", "stop", "export", "resume"),
            *("importance", "pareto", "to-optuna", "from-optuna"),
        ],
    )
    def test_of_nothing(self, command: str, tmp_path: Path) -> None:
        more = {"trial": ["0"], "compare": [str(tmp_path)], "enqueue": ["lora.rank=8"], "export": ["--to", "x"]}
        more |= {"to-optuna": ["optuna.db"], "from-optuna": ["optuna.db"]}
        result = run_here(command, tmp_path, *more.get(command, []))
        assert result.code == 2
        assert result.errors == (
            f"thresher: expected the directory of a study, got {tmp_path} without a journal.sqlite; give the "
            "`output.directory` of a study that was started\n"
        )

    @pytest.mark.parametrize("command", ["status", "best", "trial", "enqueue", "resume"])
    def test_of_a_half_written_study(self, command: str, make_study: Callable[..., StudyPlace]) -> None:
        place = make_study()
        with Store.open(place.directory):
            pass
        more = {"trial": ["0"], "enqueue": ["lora.rank=8"]}
        result = run_here(command, place.directory, *more.get(command, []))
        assert result.code == 2
        assert "expected a study that was started in" in result.errors

    def test_of_a_file_that_is_no_journal(self, tmp_path: Path) -> None:
        (tmp_path / "journal.sqlite").write_text("no database")
        result = run_here("status", tmp_path)
        assert result.code == 2
        assert "the file is damaged or not a journal" in result.errors


class TestBest:
    def test_as_json(self, finished: FinishedStudy) -> None:
        result = run_here("best", finished.place.directory, "--json")
        assert result.code == 0
        summary = json.loads(result.output)
        report = json.loads((finished.place.directory / "report.json").read_text())
        first = report["comparison"]["contenders"][0]
        assert summary["trial"] == first["trial_id"]
        assert summary["metric"] == "validation_loss"
        assert summary["value"] == pytest.approx(first["mean"])
        assert set(summary["mean_of"]) < set(summary["runs"])
        assert summary["budget"] == 16
        assert summary["params"]["optimizer.batch_size"] == 1
        assert summary["searched"] == ["optimizer.learning_rate", "lora.rank"]

    def test_for_people(self, finished: FinishedStudy) -> None:
        lines = run_here("best", finished.place.directory).output.splitlines()
        assert re.fullmatch(r"trial \d: validation_loss \d\.\d{4} \(mean of 1 repeat\) at 16 of 16 examples", lines[0])
        assert "  optimizer.batch_size: 1  (fixed)" in lines
        assert any(re.fullmatch(r"  lora\.rank: [248]", line) for line in lines)


class TestTrial:
    def test_for_people(self, finished: FinishedStudy) -> None:
        result = run_here("trial", finished.place.directory, "0")
        assert result.code == 0
        lines = result.output.splitlines()
        assert lines[0] == "trial 0: complete at 16 of 16"
        assert lines[1].startswith("the default configuration; repeated in trial ")
        assert any(line.startswith("validation_loss by rung  ") for line in lines)
        assert any(line.startswith("checkpoint: ") for line in lines)

    def test_as_json(self, finished: FinishedStudy) -> None:
        trial = json.loads(run_here("trial", finished.place.config, "0", "--json").output)
        assert trial["status"] == "complete"
        assert [rung["rung"] for rung in trial["rungs"]] == [8, 16]
        assert all(attempt["ending"] == "reported" for attempt in trial["attempts"])

    def test_there_is_no_such_trial(self, finished: FinishedStudy) -> None:
        result = run_here("trial", finished.place.directory, "99")
        assert result.code == 2
        assert "expected the number of a trial of" in result.errors


class TestCompare:
    def test_a_study_with_its_copy(self, finished: FinishedStudy, tmp_path: Path) -> None:
        copy = finished.copy_to(tmp_path)
        result = run_here("compare", finished.place.directory, copy.directory)
        assert result.code == 0
        assert "none but the output" in result.output
        assert "study against copy: a tie, the difference may be 0; loss +0.0000 [+0.0000, +0.0000]" in result.output
        data = json.loads(run_here("compare", finished.place.config, copy.config, "--json").output)
        assert data["tests"][0]["verdict"] == "tie"
        assert len(data["studies"]) == 2

    def test_one_is_too_few(self, finished: FinishedStudy) -> None:
        result = run_here("compare", finished.place.directory)
        assert result.code == 2
        assert "expected at least two studies, got 1" in result.errors


class TestEnqueue:
    def test_in_a_study_that_nobody_runs(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = cut_off(finished, tmp_path, after="AttemptStarted", count=2)
        file = tmp_path / "params.yaml"
        file.write_text("optimizer.learning_rate: 2e-3\n")
        result = run_here("enqueue", place.directory, "lora.rank=8", "--file", file)
        assert result.code == 0
        assert result.output.splitlines() == [
            "  optimizer.learning_rate: 0.002",
            "  lora.rank: 8",
            "nobody runs this study: it is tried as the next trial that starts when the study goes on: "
            f"thresher resume {place.directory}",
        ]
        assert len(list((place.directory / "requests").glob("*.json"))) == 1
        assert "queue: 1 configuration to be tried next" in run_here("status", place.directory).output

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("lora.rank=3", "lora.rank: expected "),
            ("lora.rnk=8", "did you mean 'lora.rank'"),
            ("lora.rank", "NAME=VALUE"),
        ],
    )
    def test_what_does_not_fit(self, finished: FinishedStudy, tmp_path: Path, value: str, message: str) -> None:
        place = cut_off(finished, tmp_path, after="AttemptStarted", count=2)
        result = run_here("enqueue", place.directory, value)
        assert result.code == 2
        assert message in result.errors
        assert not (place.directory / "requests").exists()

    def test_in_a_finished_study(self, finished: FinishedStudy) -> None:
        result = run_here("enqueue", finished.place.directory, "lora.rank=8")
        assert result.code == 2
        assert "5 of 5 are started, and its finalists were repeated or tested; start a study with" in result.errors


@pytest.fixture
def of_a_function(tmp_path: Path) -> Path:
    """The directory of a finished study of a Python function."""
    space = {"x": Float(0.0, 1.0), "y": Choice(("a", "b"))}
    with Study(space, lambda p: p["x"] + (p["y"] == "a") / 9, trials=20, directory=tmp_path / "run") as made:
        return made.run(progress=False).directory


class TestImportance:
    def test_for_people(self, of_a_function: Path) -> None:
        result = run_here("importance", of_a_function)
        assert result.code == 0
        assert "what explains objective" in result.output
        assert "20 trials at 1 of 1 units" in result.output

    def test_as_json(self, of_a_function: Path) -> None:
        found = json.loads(run_here("importance", of_a_function, "--json").output)
        assert found["importances"][0]["parameters"] == ["x"]
        assert len(found["importances"]) == 3

    def test_of_fine_tuning(self, finished: FinishedStudy) -> None:
        options = ("--min-trials", "4", "--metric", "train_loss", "--budget", "8", "--failures", "worst", "--json")
        found = json.loads(run_here("importance", finished.place.config, *options).output)
        assert (found["metric"], found["budget"], found["trials"]) == ("train_loss", 8, 5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--min-trials", "21"], "expected at least 21 trials"),
            (["--failures", "drop"], "expected failures 'omit' or 'worst', got 'drop'"),
            (["--metric", "accuracy"], "with the metric 'accuracy'"),
        ],
    )
    def test_what_cannot_be_told(self, of_a_function: Path, options: list[str], message: str) -> None:
        result = run_here("importance", of_a_function, *options)
        assert result.code == 2
        assert message in result.errors


class TestPareto:
    def test_for_people(self, finished: FinishedStudy) -> None:
        result = run_here("pareto", finished.place.directory, "--reference", "validation_loss=9")
        assert result.code == 0
        assert "to the reference point validation_loss 9" in result.output

    def test_as_json(self, finished: FinishedStudy) -> None:
        found = json.loads(run_here("pareto", finished.place.config, "--json").output)
        assert len(found["front"]) == 1
        assert found["front"][0]["metrics"]["validation_loss"] > 0

    def test_a_reference_that_makes_no_sense(self, finished: FinishedStudy) -> None:
        result = run_here("pareto", finished.place.directory, "--reference", "accuracy=1")
        assert result.code == 2
        assert "expected a reference value for each of validation_loss, got accuracy" in result.errors


class TestOptuna:
    def test_there_and_back(self, finished: FinishedStudy, tmp_path: Path) -> None:
        pytest.importorskip("optuna")
        storage = tmp_path / "optuna.log"
        result = run_here("to-optuna", finished.place.directory, storage, "--name", "tiny")
        assert (result.code, result.output) == (0, f"5 trials written to {storage} as the study tiny\n")
        again = run_here("to-optuna", finished.place.directory, storage, "--name", "tiny")
        assert again.code == 2
        assert "got one that holds an earlier export under this name" in again.errors
        assert run_here("to-optuna", finished.place.directory, storage, "--name", "tiny", "--replace").code == 0
        place = cut_off(finished, tmp_path / "other", after="AttemptStarted", count=2)
        result = run_here("from-optuna", place.directory, storage, "--best", "2")
        assert result.code == 0
        assert result.output.startswith("5 trials of tiny tell about this space\nasked for: learning_rate ")
        assert len(list((place.directory / "requests").glob("*.json"))) == 2

    def test_what_does_not_fit(self, finished: FinishedStudy, tmp_path: Path) -> None:
        pytest.importorskip("optuna")
        result = run_here("from-optuna", finished.place.directory, tmp_path / "none.db")
        assert result.code == 2
        assert result.errors.startswith(f"thresher: expected a storage of Optuna in {tmp_path}/none.db, got no such")
        result = run_here("from-optuna", finished.place.directory, "x.db", "--rename", "lr")
        assert (result.code, "expected THEIRS=OURS such as" in result.errors) == (2, True)


def test_nobody_runs_what_should_be_stopped(finished: FinishedStudy) -> None:
    result = run_here("stop", finished.place.directory)
    assert result.code == 2
    assert "expected a study that somebody runs" in result.errors
    assert not (finished.place.directory / "requests").exists()


class TestExport:
    def test_gives_the_winner_s_adapter(self, finished: FinishedStudy, tmp_path: Path) -> None:
        result = run_here("export", finished.place.directory, "--to", tmp_path / "out")
        assert result.code == 0
        assert re.fullmatch(
            rf"adapter of trial \d( as repeated in trial \d)?, trained on 16 examples, written to {tmp_path}/out\n",
            result.output,
        )
        for name in ("adapter_config.json", "adapter_model.safetensors", "thresher.json"):
            own = finished.place.directory / "export" / name
            assert (tmp_path / "out" / name).read_bytes() == own.read_bytes()

    def test_merged(self, finished: FinishedStudy, tmp_path: Path) -> None:
        result = run_here("export", finished.place.directory, "--to", tmp_path / "out", "--merged")
        assert result.code == 0
        assert result.output.startswith("model with the adapter of trial ")
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            path.name for path in (tmp_path / "out").iterdir()
        }
        assert not (tmp_path / "out" / "adapter_config.json").exists()

    def test_merged_into_another_model(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = finished.copy_to(tmp_path)
        with Store.open(place.directory) as store:
            store.write_manifest({"surroundings": {**store.manifest()["surroundings"], "model": "another"}})
        result = run_here("export", place.directory, "--to", tmp_path / "out", "--merged")
        assert result.code == 2
        assert "expected the base model that the study was started with (hash another)" in result.errors
        assert not (tmp_path / "out").exists()

    def test_to_a_place_that_is_taken(self, finished: FinishedStudy, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("")
        result = run_here("export", finished.place.directory, "--to", tmp_path)
        assert result.code == 2
        assert result.errors.startswith("thresher: expected an empty or new directory to export to, got ")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


class TestRun:
    """How `run` ends, with the study itself replaced."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        return place_study(tmp_path, tmp_path / "model", tmp_path).config

    def run(
        self,
        monkeypatch: pytest.MonkeyPatch,
        config: Path,
        ending: BaseException | study.Outcome,
        name: str = "run_study",
    ) -> Ran:
        def end(*arguments: Any) -> study.Outcome:
            if isinstance(ending, BaseException):
                raise ending
            return ending

        monkeypatch.setattr(study, name, end)
        return run_here("run", config)

    def outcome(self, finished: bool) -> study.Outcome:
        nothing: Any = None
        return study.Outcome(finished, False, 1.0, nothing, nothing, ())

    def test_wrong_input(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        result = self.run(monkeypatch, config, ValueError("expected this, got that; do so"))
        assert (result.code, result.errors) == (2, "thresher: expected this, got that; do so\n")

    def test_halted(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        result = self.run(monkeypatch, config, StudyHalted("expected room, got none; free some"))
        assert (result.code, result.errors) == (3, "thresher: expected room, got none; free some\n")

    def test_a_disk_that_refuses(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        result = self.run(monkeypatch, config, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file"))
        assert result.code == 3
        assert result.errors == (
            "thresher: expected files that can be read and written, got No space left on device for /some/file; free "
            "some space or mend permissions, then run the same command again\n"
        )

    def test_stopped(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        result = self.run(monkeypatch, config, self.outcome(finished=False))
        assert (result.code, result.output) == (
            130,
            "stopped; what was running is saved, the same command goes on\n",
        )

    def test_stopped_at_once(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        result = self.run(monkeypatch, config, KeyboardInterrupt())
        assert (result.code, result.output) == (130, "interrupted; the same command goes on\n")

    def test_no_result(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        monkeypatch.setattr(study, "run_study", lambda *arguments: self.outcome(finished=True))
        result = self.run(monkeypatch, config, RecordError("expected a trial, got none; mend it"), "finish_study")
        assert (result.code, result.errors) == (1, "thresher: expected a trial, got none; mend it\n")

    def test_a_mistake_in_the_code_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
        with pytest.raises(KeyError):
            self.run(monkeypatch, config, KeyError("a mistake"))

    def test_other_ranks_supervise_and_leave_the_talking_to_rank_0(
        self, monkeypatch: pytest.MonkeyPatch, config: Path
    ) -> None:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "29511"}.items():
            monkeypatch.setenv(name, value)
        seen: list[World] = []
        monkeypatch.setattr(study, "supervise_only", lambda config, world: seen.append(world))
        assert run_here("run", config).code == 0
        assert [(world.rank, world.size) for world in seen] == [(1, 2)]
        config.write_text("modle: 3")
        result = run_here("run", config)
        assert (result.code, result.output, result.errors) == (2, "", "")


class TestOverrides:
    """`--set`, which only has to reach the config."""

    def test_take_the_place_of_what_the_config_says(
        self, monkeypatch: pytest.MonkeyPatch, config_data: dict[str, Any], tmp_path: Path
    ) -> None:
        config = tmp_path / "study.yaml"
        config.write_text(json.dumps(config_data))
        seen: list[Any] = []
        monkeypatch.setattr(study, "run_study", lambda config, *rest: seen.append(config) or stopped())
        run_here("run", config, "--set", "search.trials=7", "--set", "search.seed=9")
        assert [(config.search.trials, config.search.seed) for config in seen] == [(7, 9)]

    @pytest.mark.parametrize("command", ["run", "validate", "plan", "data"])
    @pytest.mark.parametrize("value", ["search.trails=7", "search.trials"])
    def test_that_make_no_sense(self, command: str, value: str, config_data: dict[str, Any], tmp_path: Path) -> None:
        config = tmp_path / "study.yaml"
        config.write_text(json.dumps(config_data))
        result = run_here(command, config, "--set", value)
        assert result.code == 2
        assert re.search(r"search\.trails: expected a known key|--set: expected NAME=VALUE", result.errors)


class TestResume:
    def test_takes_the_stored_config_and_the_given_directory(
        self, monkeypatch: pytest.MonkeyPatch, finished: FinishedStudy, tmp_path: Path
    ) -> None:
        moved = finished.copy_to(tmp_path).directory
        seen: list[Any] = []
        monkeypatch.setattr(study, "run_study", lambda config, *rest: seen.append(config) or stopped())
        assert run_here("resume", moved).code == 130
        assert seen[0].output.directory == moved
        assert seen[0].search == StudyRecord.open(finished.place.directory).config.search


def stopped() -> study.Outcome:
    nothing: Any = None
    return study.Outcome(False, False, 1.0, nothing, nothing, ())


def test_version() -> None:
    result = run_here("--version")
    assert (result.code, result.output) == (0, f"thresher {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = run_here(command, "--help")
    assert result.code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("arguments", [["run"], ["run", "a.yaml", "b.yaml"], ["expotr"], ["export", "runs/x"]])
def test_usage(arguments: list[str]) -> None:
    result = run_here(*arguments)
    assert result.code == 2
    assert "Usage" in result.errors
