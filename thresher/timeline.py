"""When what happened in a study: the attempts at its jobs, from the times in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from controller.events import AttemptFailed, AttemptStarted, Event, Failed, Reported, SessionStarted
from controller.trial import Failure

Ending = Literal["reported", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job. Times are seconds since the epoch.

    Attributes:
        number: from 1.
        ended: None while it may still run.
        ending: None while it may still run. "interrupted": the run of the study ended first, and `ended` is the time
            of its last word, which may be a while after this attempt's last step or before it.
        failure: why it failed.
    """

    job_id: int
    number: int
    began: float
    ended: float | None = None
    ending: Ending | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The attempts of a study in the order in which they began, and its first and last entry."""

    attempts: tuple[Attempt, ...]
    first: float
    last: float

    @classmethod
    def of(cls, entries: Iterable[tuple[int, float, Event]]) -> Timeline:
        """The timeline of a journal, given as `Store.events` gives it."""
        attempts: list[Attempt] = []
        places: dict[int, int] = {}  # of the open attempts, by job
        first = last = 0.0

        def close(job_id: int, moment: float, ending: Ending, failure: Failure | None = None) -> None:
            place = places.pop(job_id, -1)
            if place >= 0:
                moment = max(moment, attempts[place].began)
                attempts[place] = replace(attempts[place], ended=moment, ending=ending, failure=failure)

        for _, moment, event in entries:
            match event:
                case SessionStarted():
                    for job_id in list(places):
                        close(job_id, last, "interrupted")
                case AttemptStarted(job_id, number):
                    close(job_id, last, "interrupted")  # no word of the one before: the study was stopped or killed
                    places[job_id] = len(attempts)
                    attempts.append(Attempt(job_id, number, moment))
                case AttemptFailed(failure) | Failed(failure):
                    close(failure.job_id, moment, "failed", failure)
                case Reported(report):
                    close(report.job_id, moment, "reported")
            first, last = first or moment, max(last, moment)
        return cls(tuple(attempts), first, last)
