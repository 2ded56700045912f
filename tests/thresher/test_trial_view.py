from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from controller.events import AttemptFailed, AttemptStarted, Noted, Reported
from controller.trial import Continue, Failure, FailureKind, Inherit, Label, Report, Source, Trial
from tests.thresher.journal import Journal
from thresher.record import RecordError
from thresher.trial_view import find_trial, origin_sentence, trial_data, trial_view


def shown(journal: Journal, trial_id: int, width: int = 110) -> str:
    record = journal.record
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(trial_view(record, find_trial(record, trial_id)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def full(journal: Journal) -> Journal:
    """Trial 1 went through both rungs at the second attempt, was repeated as trial 2, and tested."""
    journal.start(3.0)
    trial_id = journal.create({"origin": "crossover", "parent": 0, "other_parent": 5}, rank=8)
    job = journal.begin(trial_id, 8)
    crash = Failure(job, FailureKind.CRASH, "worker 0 was killed by SIGKILL;\n\nKeyError: 'a'")
    journal.store.append([AttemptFailed(crash), AttemptStarted(job, 2), Noted(job, "the checkpoint was damaged")])
    journal.store.append([Reported(Report(job, 9, {"validation_loss": 2.5, "train_loss": 2.75}, 90.0))])
    journal.budgets[trial_id] = 8
    journal.train(trial_id, 16, 2.0)
    journal.start(2.1, rank=8, repeat_of=1, budget=16)
    journal.test(trial_id, [1.0, 2.0])
    for name in ("checkpoints/trial-0001/rung-000000016", "checkpoints/trial-0001/.writing-x", "logs"):
        (journal.directory / name).mkdir(parents=True)
    (journal.directory / "checkpoints/trial-0001/rung-000000016/adapter").write_bytes(b"x" * 2_000_000)
    (journal.directory / "logs" / "worker-0.log").write_text("")
    return journal


def test_all_of_a_trial(full: Journal) -> None:
    text = shown(full, 1)
    table = rows(text)
    lines = text.splitlines()
    assert lines[0] == "trial 1: complete at 16 of 16"
    assert lines[1] == "crossover of trials 0 and 5; repeated in trial 2; seed 101"
    assert ["lora.rank", "8", "4", "searched"] in table
    assert ["lora.dropout", "0.1", "fixed"] in table
    assert ["8", "9", "2.5000", "2.7500", "–", "1", "of", "2", "1m30s"] in table
    assert ["16", "16", "2.0000", "1.9000", "7.0000", "1", "of", "1", "1s"] in table
    assert "validation_loss by rung  █▁  2.5000 to 2.0000" in lines
    assert "train_loss by rung  █▁  2.7500 to 1.9000" in lines
    assert ["at", "16", "examples", "1.5000", "1s"] in table
    assert "crash: worker 0 was killed by SIGKILL; … KeyError: 'a'" in text
    assert "note: the checkpoint was damaged" in lines
    assert f"checkpoint: {full.directory}/checkpoints/trial-0001/rung-000000016 (2.0 MB)" in text.replace("\n", "")
    assert "worker-0.log" in text
    assert ".writing" not in text


def test_as_data(full: Journal) -> None:
    record = full.record
    data = json.loads(json.dumps(trial_data(record, record.history.trials[1])))
    assert data["params"] == {"optimizer.learning_rate": 3e-3, "lora.rank": 8}
    assert data["fixed"] == {"lora.dropout": 0.1}
    assert [(rung["rung"], rung["rank"], rung["of"]) for rung in data["rungs"]] == [(8, 1, 2), (16, 1, 1)]
    assert data["rungs"][0]["metrics"] == {"validation_loss": 2.5, "train_loss": 2.75}
    assert [(attempt["attempt"], attempt["ending"]) for attempt in data["attempts"][:2]] == [
        (1, "failed"),
        (2, "reported"),
    ]
    assert data["tests"][0]["metrics"] == {"test_loss": 1.5}
    assert [Path(path).name for path in data["checkpoints"]] == ["rung-000000016"]
    assert data["notes"] == ["the checkpoint was damaged"]


def test_a_repeat_has_no_rank(full: Journal) -> None:
    text = shown(full, 2)
    assert "repeats trial 1 with another seed; seed 102" in text
    assert ["16", "16", "2.1000", "7.0000", "2.0000", "–", "1s"] in rows(text)


def test_a_trial_that_failed_and_one_at_work(journal: Journal) -> None:
    journal.fail("RuntimeError: no such layer")
    journal.begin(journal.create({"origin": "random"}), 8)
    text = shown(journal, 0)
    assert text.startswith("trial 0: failed at 0 of 16\n")
    assert "crash: RuntimeError: no such layer" in text
    assert "checkpoint: none on disk" in text.replace("checkpoints:", "checkpoint:")
    text = shown(journal, 1, width=60)
    assert text.startswith("trial 1: running at 0 of 16\na random draw; seed 101\n")
    assert "not ended" in text
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize("number", [-1, 1])
def test_no_such_trial(journal: Journal, number: int) -> None:
    journal.start(3.0)
    with pytest.raises(RecordError, match=rf"expected the number of a trial of .* \(0 to 0\), got {number}; "):
        find_trial(journal.record, number)


def test_no_trial_yet(journal: Journal) -> None:
    with pytest.raises(RecordError, match=r"\(none yet\), got 0"):
        find_trial(journal.record, 0)


@pytest.mark.parametrize(
    ("trial_id", "labels", "repeat_of", "source", "sentence"),
    [
        (0, {}, None, None, "the default configuration; seed 7"),
        (0, {"origin": "enqueued"}, None, None, "the default configuration; seed 7"),
        (3, {"origin": "enqueued"}, None, None, "enqueued by somebody; seed 7"),
        (3, {"origin": "random"}, None, None, "a random draw; seed 7"),
        (3, {"origin": "grid"}, None, None, "origin: grid; seed 7"),
        (3, {"origin": "mutation", "parent": 1}, None, None, "mutation of trial 1; seed 7"),
        (
            3,
            {"origin": "mutation", "parent": 1},
            None,
            Inherit(1, 8),
            "mutation of trial 1; starts with the weights of trial 1 at 8; seed 7",
        ),
        (3, {"origin": "exploit"}, None, Continue(1, 8), "origin: exploit; goes on from trial 1 at 8; seed 7"),
        (
            3,
            {"origin": "repeat", "finalist": 2},
            1,
            None,
            "repeats trial 1 with another seed, on behalf of finalist 2; seed 7",
        ),
    ],
)
def test_origins(
    journal: Journal,
    trial_id: int,
    labels: dict[str, Label],
    repeat_of: int | None,
    source: Source | None,
    sentence: str,
) -> None:
    trial = Trial(trial_id, {}, 7, source, labels, repeat_of)
    assert origin_sentence(journal.record.history, trial) == sentence
