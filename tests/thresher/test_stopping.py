from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.requests import Stop, pending_requests
from controller.store import Store, writer_of
from tests.thresher.journal import Journal
from thresher.stopping import StopError, ask_to_stop


def test_after_the_jobs_at_work(journal: Journal) -> None:
    journal.begin(journal.create({"origin": "random"}), 8)
    sentence = ask_to_stop(journal.directory, now=False)
    assert re.fullmatch(
        r"asked process \d+ on .+ to stop: 1 running job will reach the next rung first; --now saves them at once",
        sentence,
    )
    (filed,) = pending_requests(journal.directory)
    assert filed.request == Stop(writer_of(journal.directory) or "", now=False)


def test_now(journal: Journal) -> None:
    assert ask_to_stop(journal.directory, now=True).endswith(" to save what is running and stop")
    (filed,) = pending_requests(journal.directory)
    assert filed.request == Stop(writer_of(journal.directory) or "", now=True)


def test_a_study_that_is_being_prepared(tmp_path: Path) -> None:
    with Store.open(tmp_path / "study"):
        assert ask_to_stop(tmp_path / "study", now=False).endswith(" to stop, before it starts any job")


def test_nobody_runs_it(journal: Journal) -> None:
    journal.store.close()
    with pytest.raises(
        StopError, match=r"expected a study that somebody runs, got .*, which nobody does; it is stopped"
    ):
        ask_to_stop(journal.directory, now=False)
    assert pending_requests(journal.directory) == []


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(StopError, match=r"expected the directory of a study, got .* without a journal\.sqlite"):
        ask_to_stop(tmp_path, now=False)


def test_the_study_of_a_function_takes_no_requests(tmp_path: Path) -> None:
    settings = {"metric": "loss", "direction": "minimize", "budgets": [3], "seed": 1}
    with Store.open(tmp_path / "study") as store:
        store.write_manifest({"function": settings, "trials": 7, "finalists": 0, "repeats": 0})
        with pytest.raises(StopError, match="got one of a Python function; interrupt the process that runs it"):
            ask_to_stop(tmp_path / "study", now=False)
