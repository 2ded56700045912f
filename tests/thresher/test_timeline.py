from __future__ import annotations

from controller.events import AttemptFailed, AttemptStarted, Event, Failed, Noted, Reported, SessionStarted
from controller.trial import Failure, FailureKind, Report
from thresher.timeline import Attempt, Timeline

GONE = Failure(0, FailureKind.CRASH, "gone")


def timeline(*entries: tuple[float, Event]) -> Timeline:
    return Timeline.of((number, moment, event) for number, (moment, event) in enumerate(entries))


def reported(job_id: int) -> Reported:
    return Reported(Report(job_id, 8, {"loss": 1.0}, 1.0))


def test_of_nothing() -> None:
    assert timeline() == Timeline((), 0.0, 0.0)


def test_attempts_and_how_they_ended() -> None:
    found = timeline(
        (10.0, SessionStarted()),
        (11.0, AttemptStarted(0, 1)),
        (12.0, AttemptStarted(1, 1)),
        (15.0, AttemptFailed(GONE)),
        (15.0, AttemptStarted(0, 2)),
        (16.0, Noted(1, "a note")),
        (18.0, reported(1)),
        (20.0, Failed(GONE)),
    )
    assert (found.first, found.last) == (10.0, 20.0)
    assert found.attempts == (
        Attempt(0, 1, 11.0, 15.0, "failed", GONE),
        Attempt(1, 1, 12.0, 18.0, "reported"),
        Attempt(0, 2, 15.0, 20.0, "failed", GONE),
    )


def test_an_interrupted_attempt_ends_with_the_last_word_of_its_run() -> None:
    found = timeline(
        (1.0, SessionStarted()),
        (1.0, AttemptStarted(0, 1)),
        (2.0, AttemptStarted(1, 1)),
        (5.0, reported(1)),
        (100.0, SessionStarted()),
        (101.0, AttemptStarted(0, 2)),
    )
    assert found.attempts[0] == Attempt(0, 1, 1.0, 5.0, "interrupted")
    assert found.attempts[2] == Attempt(0, 2, 101.0)


def test_a_journal_without_sessions() -> None:
    found = timeline((1.0, AttemptStarted(0, 1)), (2.0, Noted(0, "a word")), (50.0, AttemptStarted(0, 2)))
    assert found.attempts == (Attempt(0, 1, 1.0, 2.0, "interrupted"), Attempt(0, 2, 50.0))


def test_a_clock_that_was_set_back() -> None:
    found = timeline((10.0, AttemptStarted(0, 1)), (4.0, reported(0)))
    assert found.attempts == (Attempt(0, 1, 10.0, 10.0, "reported"),)
