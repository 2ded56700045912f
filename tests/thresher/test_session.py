"""The session below a study, where the API does not reach."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from controller.store import Store, StoreError
from controller.strategy import Composed
from controller.trial import Objective
from search_spaces.domains import Float
from search_spaces.space import Space
from thresher.functions import FunctionObjective
from thresher.results import FUNCTION_KEY, StudyError
from thresher.session import Session, Settings
from thresher.strategies import make_strategy

SPACE = Space({"x": Float(0.0, 1.0)})


def settings(**options: object) -> Settings:
    values = {"space": SPACE, "objective": Objective("loss"), "budgets": (1, 3), "strategy": "auto", "max_trials": 4}
    return Settings(**{**values, **options})  # type: ignore[arg-type]


def run(session: Session, function: object = lambda params, budget: params["x"] / budget) -> None:
    session.run(
        FunctionObjective.of(function, "loss"),  # type: ignore[arg-type]
        workers=1,
        timeout=None,
        progress=False,
        budget_unit="units",
        retries=0,
        fail_fast=True,
        devices=None,
    )


def test_what_a_study_is_made_of_is_plain_data() -> None:
    identity = settings(default={"x": 0.5}).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["budgets"] == [1, 3]
    assert identity["strategy"] == "auto"
    strategy = make_strategy("random", SPACE, (1, 3), 4)
    assert isinstance(strategy, Composed)
    assert settings(strategy=strategy).identity()["strategy"] == "Composed"


def test_the_manifest_says_how_it_was_started(tmp_path: Path) -> None:
    session = Session(settings(), tmp_path)
    run(session)
    session.close()
    with Store.read_only(tmp_path) as store:
        manifest = store.manifest()
    assert manifest[FUNCTION_KEY] == settings().identity()
    assert (manifest["trials"], manifest["finalists"], manifest["finished"]) == (4, 0, True)


def test_a_study_that_grows_is_finished_no_more(tmp_path: Path) -> None:
    session = Session(settings(), tmp_path)
    run(session)
    assert session.snapshot().finished
    session.extend(settings(max_trials=8))
    assert not session.snapshot().finished
    run(session)
    assert session.history.num_started() == 8
    session.close()


def test_the_directory_of_a_fine_tuning_study_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.write_manifest({"config": {}, "plan": {}})
    with pytest.raises(StudyError, match=r"expected the study of a function in .*, got one of fine-tuning"):
        Session(settings(), tmp_path)
    Store.open(tmp_path).close()  # the lock was given back


def test_a_running_study_keeps_its_lock_from_a_second_object(tmp_path: Path) -> None:
    session = Session(settings(), tmp_path)
    at_work, go_on = threading.Event(), threading.Event()

    def waits(params: dict[str, float]) -> float:
        at_work.set()
        assert go_on.wait(20)
        return 0.0

    thread = threading.Thread(target=run, args=(session, waits))
    thread.start()
    assert at_work.wait(20)
    with pytest.raises(StoreError, match="runs it; wait for it"):
        Session(settings(), tmp_path)
    with pytest.raises(StudyError, match="another thread runs"):
        session.ask()
    go_on.set()
    thread.join()
    session.close()
