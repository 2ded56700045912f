from __future__ import annotations

from controller.events import AttemptFailed, AttemptStarted, Reported, SessionStarted, TrialCreated
from controller.trial import Failure, FailureKind, Inherit, Report
from tests.thresher.written_study import DEFAULT, WrittenStudy, finished_study
from thresher.effort import effort_of, effort_sentences, failure_sentences, failures_to_json


def test_what_was_trained_is_counted() -> None:
    study = finished_study()
    job_id = study.job(study.start(), 0, 100)
    study.apply(
        AttemptFailed(Failure(job_id, FailureKind.CRASH, "killed", 30, 7.0)),
        AttemptStarted(job_id, 2),
        Reported(Report(job_id, 104, {"validation_loss": 2.45}, 60.0)),
    )

    effort = effort_of(study.history, 754.0)

    searched = 3 * 904 + 2 * 304 + 104 + 40 + 140 + 30 + 104
    assert effort["search_budget"] == searched
    assert effort["search_budget_without_early_stopping"] == 9 * 900
    assert effort["repeats_budget"] == 6 * 900
    assert (effort["trials"], effort["repeats"], effort["retried"]) == (9, 6, 1)
    assert effort["failures"] == {"oom": 1, "diverged": 1}
    assert effort["search_worker_seconds"] == (3 * 3 + 2 * 2 + 1 + 1 + 1) * 60 + 2 * 5 + 7
    assert effort["worker_seconds"] == effort["search_worker_seconds"] + 6 * 120 + 10 * 9
    sentences = effort_sentences(effort)
    assert sentences[0] == "9 trials and 6 repeats of finalists, in 34 jobs; failed: 1 oom, 1 diverged; tried again: 1."
    assert sentences[1] == (
        f"The search trained on {searched:,} examples, {searched / 8100:.0%} of the 8,100 of 9 full trainings; "
        "the repeats on 5,400 more."
    )
    assert sentences[2].startswith("It took 12m34s from first to last, ")


def test_time_at_work_is_told_apart_from_pauses() -> None:
    study = WrittenStudy()
    study.apply(SessionStarted(), SessionStarted())
    sentences = effort_sentences(effort_of(study.history, 7200.0, 600.0))
    assert sentences[2] == "It took 2h00m from first to last, 10m00s at work in 2 sessions, 0s of worker time."


def test_inherited_training_is_counted_once() -> None:
    study = WrittenStudy()
    study.train(study.start(), 2.5, 2.4, 2.3)
    study.apply(TrialCreated(1, DEFAULT, 1, Inherit(0, 900)))
    study.train(1, 2.2)

    assert effort_of(study.history, None)["search_budget"] == 904 + 104


def test_failures_are_summed_up_by_kind() -> None:
    study = finished_study()
    for _ in range(9):
        study.fail(study.start(), FailureKind.OOM, "too large")
    job_id = study.job(study.start(), 0, 100)
    study.apply(AttemptFailed(Failure(job_id, FailureKind.CRASH, "killed\nby signal 9")))

    assert failure_sentences(study.history) == (
        "10 oom (trials 6, 14, 15, 16, 17, 18, 19, 20, ...), the first: CUDA out of memory. … Tried to allocate "
        "1.2 GiB [of 8]",
        "1 diverged (trial 7): training loss is nan",
        "1 crash, tried again (trial 23): killed … by signal 9",
    )


def test_failures_as_data_tell_their_stage() -> None:
    study = WrittenStudy()
    study.found(2.0)
    study.repeat(0, FailureKind.OOM)
    study.test(0, FailureKind.CRASH)

    failures = failures_to_json(study.history)

    assert [(failure["trial"], failure["stage"], failure["kind"]) for failure in failures] == [
        (1, "repeats", "oom"),
        (0, "tests", "crash"),
    ]
    assert failures[0] == {
        "trial": 1,
        "job": 1,
        "stage": "repeats",
        "kind": "oom",
        "message": "no luck",
        "budget": 0,
        "seconds": 0.0,
        "tried_again": False,
    }
