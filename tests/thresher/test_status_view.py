from __future__ import annotations

import json
import re
import time
from io import StringIO

import pytest
from rich.console import Console

from controller.events import AttemptFailed, AttemptStarted, Enqueued, SessionStarted
from controller.requests import Enqueue, Stop, file_request
from controller.trial import Failure, FailureKind
from tests.thresher.journal import Journal
from thresher.status_view import names_of, status_data, status_of, status_view


def shown(journal: Journal, seconds_later: float = 0.0, width: int = 100) -> str:
    """The status as it is printed, some seconds after the last entry."""
    record = journal.record
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(status_view(status_of(record, record.entries[-1][1] + seconds_later)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def busy(journal: Journal) -> Journal:
    """Trial 0 was promoted and is at work, 1 is paused, 2 failed."""
    journal.start(3.0)
    journal.start(3.5, rank=8)
    journal.fail("CUDA out of memory", FailureKind.OOM)
    journal.begin(0, 16)
    return journal


def test_a_study_at_work(busy: Journal) -> None:
    text = shown(busy, seconds_later=62.0)
    table = rows(text)
    assert ["8", "2", "1", "1", "1", "3.0000", "trial", "0"] in table
    assert ["16", "·", "·", "·", "·", "·"] in table
    assert ["trial", "0", "default", "8", "to", "16", "examples", "1", "1m02s"] in table
    assert ["trials", "3", "5", "2"] in table
    assert ["examples", "16", "–", "–"] in table
    assert "1 oom (trial 2): CUDA out of memory" in text
    assert "time left, an estimate: " in text
    assert re.search(r"\n3 of 5 trials started, 1 failed, 1 job open; run by process \d+ on .+\n$", text)


def test_as_data(busy: Journal) -> None:
    record = busy.record
    data = json.loads(json.dumps(status_data(status_of(record, time.time()))))
    assert data["state"] == "running"
    assert [trial["status"] for trial in data["trials"]] == ["running", "paused", "failed"]
    assert data["trials"][1]["params"] == {"optimizer.learning_rate": 3e-3, "lora.rank": 8}
    assert data["trials"][2]["validation_loss"] is None
    assert data["rungs"][0] == {
        "budget": 8, "results": 2, "failed": 1, "waiting": 1, "promoted": 1, "best": 3.0, "best_trial": 0,
    }  # fmt: skip
    (job,) = data["open_jobs"]
    assert (job["trial"], job["from_budget"], job["to_budget"], job["attempt"]) == (0, 8, 16, 1)
    assert data["budget"][0] == {"what": "trials", "used": 3, "limit": 5, "left": 2}
    assert data["examples_per_hour"] > 0
    assert data["failures"][0]["kind"] == "oom"


def test_a_study_that_was_killed(busy: Journal) -> None:
    busy.store.close()
    text = shown(busy, seconds_later=1000.0)
    assert "interrupted" in text
    assert ["trial", "0", "default", "8", "to", "16", "examples", "1", "0s"] in rows(text)
    assert f"it goes on with: thresher resume {busy.directory}" in text
    assert text.endswith("3 of 5 trials started, 1 failed, 1 job open; nobody is running it\n")


def test_another_attempt_and_another_session(busy: Journal) -> None:
    failure = Failure(3, FailureKind.CRASH, "the worker was killed")
    busy.store.append([AttemptFailed(failure), AttemptStarted(3, 2)])
    assert ["trial", "0", "default", "8", "to", "16", "examples", "2", "5s"] in rows(shown(busy, 5.0))
    assert "tried again (trial 0): the worker was killed" in shown(busy)
    busy.store.append([SessionStarted(), AttemptStarted(3, 3)])
    assert ["trial", "0", "default", "8", "to", "16", "examples", "3", "5s"] in rows(shown(busy, 5.0))


def test_before_the_first_job(journal: Journal) -> None:
    text = shown(journal)
    assert "0 of 5 trials started, 0 failed, 0 jobs open; run by" in text
    assert "pace" not in text
    assert "queue: 1 configuration to be tried next" in text


def test_the_queue_and_refused_requests(busy: Journal) -> None:
    params = {"optimizer.learning_rate": 3e-3, "lora.rank": 2}
    busy.store.append([Enqueued(params, "one")])
    file_request(busy.directory, Enqueue(params))
    file_request(busy.directory, Stop("process 1"))
    refused = busy.directory / "requests" / "refused"
    refused.mkdir()
    (refused / "7-me.json").write_text("{}")
    (refused / "7-me.txt").write_text("expected a request\nto do something")
    text = shown(busy)
    assert "queue: 3 configurations to be tried next" in text, "the default, which no trial of this journal took, too"
    assert "refused requests\n  7-me: expected a request … to do something\n" in text


def test_a_study_with_an_open_job_is_not_finished(busy: Journal) -> None:
    busy.store.close()
    (busy.directory / "report.json").write_text("{}")
    assert status_of(busy.record, 0.0).state == "stopped"


def test_a_finished_study(journal: Journal) -> None:
    journal.train(journal.start(3.0), 16, 2.0)
    journal.store.close()
    (journal.directory / "report.json").write_text("{}")
    text = shown(journal)
    assert f"finished: see {journal.directory}/report.md" in text
    assert "time left" not in text
    data = status_data(status_of(journal.record, time.time()))
    assert (data["state"], data["estimated_seconds_left"]) == ("finished", 0.0)


def test_it_fits_a_narrow_terminal(busy: Journal) -> None:
    text = shown(busy, width=40)
    assert max(map(len, text.splitlines())) <= 40


def test_trials_need_not_have_the_same_parameters(journal: Journal) -> None:
    journal.start(3.0)
    record = journal.record
    record.history.trials[0].params = {"a": 1}
    journal.start(2.0)
    trials = [*record.history.trials, *journal.record.history.trials[1:]]
    record.history.trials[:] = trials
    assert names_of(record.history) == ("a", "optimizer.learning_rate", "lora.rank")
