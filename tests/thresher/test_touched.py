from __future__ import annotations

import json

from controller.events import AttemptStarted, JobCreated, Reported
from controller.trial import FailureKind, Report
from tests.thresher.written_study import DIFFICULTY, FULL, WrittenStudy
from thresher.touched import TestUse, TestUses, uses_of_test_set


def test_every_use_is_told_with_its_time() -> None:
    study = WrittenStudy()
    study.found(2.0)
    study.found(1.9)
    began = len(study.entries)
    study.test(1, DIFFICULTY)
    study.test(0, FailureKind.OOM)
    study.test(0, DIFFICULTY, budget=0)

    uses = uses_of_test_set(study.entries)

    moment = WrittenStudy.START + began
    assert uses.uses == (
        TestUse(2, 1, FULL, moment, moment + 2, 1, "measured"),
        TestUse(3, 0, FULL, moment + 3, moment + 5, 1, "failed"),
        TestUse(4, 0, 0, moment + 6, moment + 8, 1, "measured"),
    )
    assert uses.sentence == (
        "The test set was touched from 2023-11-14 22:13 UTC to 2023-11-14 22:13 UTC, after the choice: "
        "2 trained models and the base model, each once. Whether other studies used the same data is not known here."
    )
    data = json.loads(json.dumps(uses.to_json()))
    assert data["touched"] is True
    assert (data["measurements"], data["trials"], data["base_model"]) == (3, [0, 1], True)
    assert (data["first"], data["last"]) == (moment, moment + 8)
    assert [use["outcome"] for use in data["uses"]] == ["measured", "failed", "measured"]
    assert data["other_studies"] == "not known"


def test_interrupted_tests_are_told() -> None:
    study = WrittenStudy()
    study.found(2.0)
    job_id = study.job(0, FULL, FULL, "test")
    assert uses_of_test_set(study.entries).uses[0].outcome == "unfinished"
    study.apply(AttemptStarted(job_id, 2), Reported(Report(job_id, FULL, {"test_loss": 2.0}, 1.0)))

    uses = uses_of_test_set(study.entries)

    assert uses.uses[0].attempts == 2
    assert "1 trained model, each once, 1 attempt started again." in uses.sentence


def test_a_second_measurement_would_not_go_unnoticed() -> None:
    study = WrittenStudy()
    study.found(2.0)
    for _ in range(2):
        study.test(0, DIFFICULTY)
    assert "1 trained model, 1 time more than once." in uses_of_test_set(study.entries).sentence


def test_a_test_set_that_was_not_touched() -> None:
    study = WrittenStudy()
    study.found(2.0)
    uses = uses_of_test_set(study.entries)
    assert uses == TestUses()
    assert uses.sentence == "The test set was not touched."
    assert uses.to_json()["touched"] is False
    assert uses.to_json()["first"] is None


def test_jobs_of_the_search_are_no_uses() -> None:
    study = WrittenStudy()
    study.found(2.0)
    assert any(isinstance(event, JobCreated) for _, _, event in study.entries)
    assert uses_of_test_set(study.entries).uses == ()
