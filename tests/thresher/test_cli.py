from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.controller import StudyHalted
from controller.executors.world import World
from controller.store import Store
from tests.thresher.tiny_study import FinishedStudy, InterruptedStudy, Ran, StudyPlace, place_study, run_here
from thresher import study
from thresher.record import RecordError

pytestmark = pytest.mark.timeout(300)  # the first test of a file may pay for a whole study


class TestStatus:
    def test_of_a_finished_study(self, finished: FinishedStudy) -> None:
        result = run_here("status", finished.place.directory)
        assert result.code == 0
        assert "default" in result.output
        assert result.output.endswith("5 of 5 trials started, 0 failed, 0 jobs open; nobody is running it\n")

    def test_by_its_config(self, finished: FinishedStudy) -> None:
        assert run_here("status", finished.place.config).output == run_here("status", finished.place.directory).output

    def test_while_it_runs(self, interrupted: InterruptedStudy) -> None:
        assert interrupted.status.code == 0, interrupted.status
        last = interrupted.status.output.splitlines()[-1]
        assert re.fullmatch(r"[12] of 2 trials started, 0 failed, 1 jobs open; run by process \d+ on .+", last)

    def test_of_nothing(self, tmp_path: Path) -> None:
        result = run_here("status", tmp_path)
        assert result.code == 2
        assert result.errors == (
            f"thresher: expected the directory of a study, got {tmp_path} without a journal.sqlite; give the "
            "`output.directory` of a study that was started\n"
        )


class TestBest:
    def test_as_json(self, finished: FinishedStudy) -> None:
        result = run_here("best", finished.place.directory, "--json")
        assert result.code == 0
        summary = json.loads(result.output)
        report = json.loads((finished.place.directory / "report.json").read_text())
        first = report["comparison"]["contenders"][0]
        assert summary["trial"] == first["trial_id"]
        assert summary["validation_loss"] == pytest.approx(first["mean"])
        assert summary["runs"] == 2
        assert summary["budget"] == 16
        assert summary["params"]["optimizer.batch_size"] == 1
        assert set(summary["params"]) > {"lora.rank", "optimizer.learning_rate"}

    def test_for_people(self, finished: FinishedStudy) -> None:
        lines = run_here("best", finished.place.directory).output.splitlines()
        assert re.fullmatch(r"trial \d: validation_loss \d\.\d{4} \(mean of 2 runs\) at 16 of 16 examples", lines[0])
        assert "  optimizer.batch_size: 1  (fixed)" in lines
        assert any(re.fullmatch(r"  lora\.rank: [248]", line) for line in lines)

    def test_too_early(self, make_study: Callable[..., StudyPlace]) -> None:
        place = make_study()
        with Store.open(place.directory):
            pass
        result = run_here("best", place.directory)
        assert result.code == 2
        assert "expected a study that was started in" in result.errors


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


@pytest.mark.parametrize("arguments", [["run"], ["run", "a.yaml", "b.yaml"], ["expotr"], ["export", "runs/x"]])
def test_usage(arguments: list[str]) -> None:
    result = run_here(*arguments)
    assert result.code == 2
    assert "Usage" in result.errors
