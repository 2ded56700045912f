"""What a person sees who made a mistake, or whose machine did: through the command line, from end to end.

Each time: an exit code of its own, a message that says what was expected, what came and what to do, no traceback,
nothing trained that could have been refused before, and a study that can go on afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.thresher.tiny_study import (
    CONTEXT,
    SLOWER,
    FinishedStudy,
    InterruptedStudy,
    Ran,
    StudyPlace,
    flip_a_byte,
    run_here,
    write_jsonl,
)

pytestmark = pytest.mark.timeout(300)  # the first test of a file may pay for a whole study

Make = Callable[..., StudyPlace]

WRONG_INPUT, HALTED = 2, 3


def refusal(ran: Ran, code: int = WRONG_INPUT) -> str:
    """The message of a command that was refused, after checking what holds for all of them."""
    assert ran.code == code, ran
    assert "Traceback" not in ran.output + ran.errors
    message = ran.errors
    assert message.startswith("thresher: ")
    assert "expected" in message
    assert ", got" in message or " but " in message
    assert ";" in message or message.count("\n") > 1
    return message.removeprefix("thresher: ").removesuffix("\n")


class TestConfig:
    """Refused before anything is read or written."""

    def test_a_misspelt_key(self, make_study: Make) -> None:
        place = make_study(search={"trails": 3})
        assert refusal(place.run()) == (
            f"{place.config}: search.trails: expected a known key, got 'trails'; did you mean 'trials'?"
        )
        assert not place.directory.exists()

    def test_a_value_out_of_range(self, make_study: Make) -> None:
        place = make_study(search={"trials": 0})
        assert refusal(place.run()) == (
            f"{place.config}: search.trials: expected at least 1, got 0; correct it "
            "(how many configurations are tried, at most; default 20)"
        )
        assert not place.directory.exists()

    def test_several_mistakes(self, make_study: Make) -> None:
        place = make_study(search={"trials": 0}, modle={"name": "x"}, hyperparameters={"lora.rnk": 3})
        assert refusal(place.run()).splitlines() == [
            f"{place.config}: search.trials: expected at least 1, got 0; correct it "
            "(how many configurations are tried, at most; default 20)",
            f"{place.config}: modle: expected a known key, got 'modle'; did you mean 'model'?",
            f"{place.config}: hyperparameters.lora.rnk: expected the name of a hyperparameter, got 'lora.rnk'; did you "
            "mean 'lora.rank'?",
        ]

    def test_a_key_twice(self, make_study: Make) -> None:
        place = make_study()
        line = len(place.config.read_text().splitlines()) + 1
        with place.config.open("a") as file:
            file.write("search: {budget: 3}\n")
        message = refusal(place.run())
        assert message.startswith(f"{place.config}:{line}: search: expected the key once, got it in line ")
        assert message.endswith(" too; remove one of them")

    def test_a_missing_config(self, make_study: Make, tmp_path: Path) -> None:
        ran = make_study().thresher("run", tmp_path / "none.yaml")
        assert refusal(ran) == (
            f"expected a config file at {tmp_path}/none.yaml, got No such file or directory; check the path"
        )


class TestData:
    def test_a_missing_file(self, make_study: Make, tmp_path: Path) -> None:
        place = make_study(data={"validation": str(tmp_path / "valid.jsonl")})
        assert refusal(place.run()) == (
            f"data.validation: expected a data file at {tmp_path}/valid.jsonl, got none; {tmp_path} holds no file of "
            "a similar name"
        )

    def test_an_empty_file(self, make_study: Make, tmp_path: Path) -> None:
        train = tmp_path / "train.jsonl"
        train.write_text("\n")
        place = make_study(data={"train": str(train)})
        assert refusal(run_here("run", place.config)) == (
            f"data.train: {train}: expected at least one example, got an empty file; add rows to it"
        )
        assert place.journal() == []

    def test_a_broken_line(self, make_study: Make, tmp_path: Path) -> None:
        train = tmp_path / "train.jsonl"
        train.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n')
        ran = run_here("run", make_study(data={"train": str(train)}).config)
        assert ran.code == WRONG_INPUT
        assert ran.errors.startswith(f"thresher: data.train: {train}:2: expected one JSON object per line")

    def test_texts_longer_than_allowed(self, make_study: Make, tmp_path: Path) -> None:
        train = tmp_path / "train.jsonl"
        write_jsonl(train, [("short", "word"), ("x" * 100, "word")])
        place = make_study(data={"train": str(train), "too_long": "error"})
        message = refusal(run_here("run", place.config))
        assert message.startswith(
            "train: expected examples of at most 64 tokens, got: 1 of 2 examples are longer, the longest has 108; set "
        )
        assert message.endswith("too_long: truncate-prompt or drop")
        assert place.journal() == []

    def test_more_than_the_model_takes(self, make_study: Make) -> None:
        place = make_study(data={"max_length": CONTEXT + 1})
        assert refusal(place.run()) == (
            f"data.max_length: expected at most {CONTEXT}, the context of the model in tokens, got {CONTEXT + 1}; "
            f"lower it to {CONTEXT} or less"
        )
        assert place.journal() == []


class TestModel:
    def test_a_missing_directory(self, make_study: Make, tmp_path: Path) -> None:
        (tmp_path / "modle").mkdir()
        message = refusal(make_study(model={"name": str(tmp_path / "model")}).run())
        assert message == f"expected a model at {tmp_path}/model, got nothing there; did you mean modle?"

    def test_a_name_that_cannot_be_fetched(self, make_study: Make) -> None:
        message = refusal(make_study(model={"name": "nobody/nothing"}).run())
        assert message.startswith(
            "expected a local directory or a model on the Hugging Face hub named 'nobody/nothing', got: "
        )
        assert "without a network name a local directory" in message

    @pytest.mark.slow
    def test_damaged_weights(self, make_study: Make, tiny_model: Path, tmp_path: Path) -> None:
        """Found by the first worker: the study halts, and goes on once the model is whole."""
        model = tmp_path / "model"
        shutil.copytree(tiny_model, model)
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        place = make_study(model={"name": str(model)})
        message = refusal(place.run(), HALTED)
        assert message.startswith(f"expected a causal language model in {model}, got: ")
        assert message.endswith("fetch or convert it again")
        kinds = ["Enqueued", "SessionStarted", "TrialCreated", "JobCreated", "AttemptStarted"]
        assert [kind for kind, _ in place.journal()] == kinds


class TestDirectory:
    def test_a_file_in_its_place(self, make_study: Make) -> None:
        place = make_study()
        place.directory.write_text("mine")
        assert refusal(place.run()) == (
            f"expected a study directory that can be written, got {place.directory} (File exists); choose another "
            "`output.directory` or change its permissions"
        )
        assert place.directory.read_text() == "mine"

    def test_read_only(self, make_study: Make, read_only_directory: Path) -> None:
        place = make_study(output={"directory": str(read_only_directory / "study")})
        message = refusal(place.run())
        assert message.startswith(f"expected a study directory that can be written, got {read_only_directory}/study (")
        assert message.endswith("choose another `output.directory` or change its permissions")

    def test_another_study(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = finished.copy_to(tmp_path, search={"seed": 2, "trials": 50})
        before = place.journal()
        assert refusal(place.run()).splitlines() == [
            f"{place.directory} holds another study:",
            "  search.trials: expected 5, as the study was started with, got 50",
            "  search.seed: expected 1, as the study was started with, got 2",
            "restore these settings to go on with it, or choose another output.directory",
        ]
        assert place.journal() == before
        assert not any((tmp_path / "copy").glob("*.unfinished"))

    def test_another_model_of_the_same_name(self, finished: FinishedStudy, tiny_model: Path, tmp_path: Path) -> None:
        model = tmp_path / "model"
        shutil.copytree(tiny_model, model)
        flip_a_byte(model / "model.safetensors")
        place = finished.copy_to(tmp_path)
        tiny_model.rename(tiny_model.with_name("aside"))
        try:
            tiny_model.symlink_to(model)
            message = refusal(place.run())
        finally:
            tiny_model.unlink()
            tiny_model.with_name("aside").rename(tiny_model)
        assert "hash of the base model's files: expected " in message

    def test_a_second_controller(self, interrupted: InterruptedStudy) -> None:
        message = refusal(interrupted.second)
        assert message.startswith(
            f"expected to be the only controller of the study in {interrupted.place.directory}, but process "
        )
        assert message.endswith(" runs it; wait for it, stop it, or choose another `output.directory`")
        assert interrupted.ran.code == 130, "the first went on"

    def test_a_journal_that_is_none(self, finished: FinishedStudy, tmp_path: Path) -> None:
        place = finished.copy_to(tmp_path)
        (place.directory / "journal.sqlite").write_bytes(b"not a database" * 1000)
        message = refusal(place.run())
        assert "got 'file is not a database' from SQLite; the file is damaged or not a journal" in message


def test_a_damaged_checkpoint_is_trained_again_and_the_journal_says_so(resumed: FinishedStudy) -> None:
    """`resumed` flipped a byte of a paused trial's checkpoint before it went on."""
    assert resumed.ran.code == 0, resumed.ran
    notes = [note["text"] for _, note in resumed.place.journal("Noted")]
    assert (
        "checkpoint of trial 0 at 400 is damaged (optimizer.safetensors: expected the sha256 in the manifest, got "
        "another): set aside as rung-000000400.corrupt"
    ) in notes
    assert "checkpoint of trial 0 at 400 is missing: trained again from 0" in notes
    jobs = {job["job_id"]: job for _, job in resumed.place.journal("JobCreated")}
    reports = [report for _, report in resumed.place.journal("Reported")]
    assert any((jobs[r["job_id"]]["trial_id"], jobs[r["job_id"]]["to_budget"]) == (0, 800) for r in reports)
    assert "damaged" in (resumed.place.directory / "report.md").read_text()


@contextlib.contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory, if this process may mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "thresher-test", str(directory)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def read_only_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory that cannot be written: by its permissions, or for root, who may, by its file system."""
    directory = tmp_path / "read-only"
    if os.geteuid():
        directory.mkdir(mode=0o555)
        yield directory
    else:
        with mounted(directory, "ro,size=1m"):
            yield directory


class TestFullDisk:
    def test_the_study_halts_and_goes_on_when_there_is_room(self, make_study: Make, tmp_path: Path) -> None:
        with mounted(tmp_path / "disk", "size=640k") as disk:
            place = make_study(output={"directory": str(disk / "study")})
            ran = place.run()
            message = refusal(ran, HALTED)
            assert "free" in message
            assert "the same command" in message
            before = place.journal()
            done = [report for kind, report in before if kind == "Reported"]
            assert done, "something was trained before the disk was full"
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            again = place.run()
            assert again.code == 0, again
            journal = place.journal()
            assert journal[: len(before)] == before, "nothing that was committed is lost"
            reports = [report["job_id"] for kind, report in journal if kind == "Reported"]
            assert len(reports) == len(set(reports))
            notes = [note["text"] for kind, note in journal if kind == "Noted"]
            assert not any("again from 0" in note for note in notes)

    def test_too_little_from_the_start(self, make_study: Make, tmp_path: Path) -> None:
        with mounted(tmp_path / "disk", "size=200k") as disk:
            place = make_study(output={"directory": str(disk / "study")})
            message = refusal(place.run())
            assert message.startswith("output.directory: expected room for at least three checkpoints of ")
            assert message.endswith("free some space or choose another disk")


@pytest.mark.slow
def test_all_trials_fail(make_study: Make) -> None:
    """Not wrong input, but no result either."""
    place = make_study(
        hyperparameters={"optimizer.learning_rate": 1e30},
        space={"optimizer.learning_rate": {"kind": "float", "low": 1e29, "high": 1e31, "log": True}},
        search={**SLOWER["search"], "trials": 2, "budget": 32, "scheduler": {"kind": "full"}},
    )
    ran = place.run()
    assert ran.code == 1, ran
    failures = [failure for _, failure in place.journal("Failed")]
    assert {failure["kind"] for failure in failures} == {"diverged"}
    message = ran.errors.removeprefix("thresher: ")
    assert message.startswith(f"expected a trial that was measured in {place.directory}, got none; 2 failed, the first")
    assert "lower optimizer.learning_rate" in message
    summary: dict[str, Any] = json.loads((place.directory / "report.json").read_text())
    assert len(summary["trials"]) == 2


def test_the_messages_do_not_depend_on_the_launcher(make_study: Make) -> None:
    place = make_study(search={"trails": 3})
    script = subprocess.run(
        [sys.executable, "scripts/tune.py", place.config],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (script.returncode, script.stderr) == (WRONG_INPUT, place.run().errors)
    assert yaml.safe_load(place.config.read_text())["search"]["trails"] == 3
