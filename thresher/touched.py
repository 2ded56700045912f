"""When the test set was used, for which trials and how often, as the journal tells it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from controller.events import AttemptStarted, Event, Failed, JobCreated, Reported
from thresher.section import counted

Outcome = Literal["measured", "failed", "unfinished"]


@dataclass(frozen=True, slots=True)
class TestUse:
    """One model measured on the test set.

    Attributes:
        trial_id: whose weights; those of the base model are measured on behalf of a trial, at budget 0.
        started: when the job was created, in seconds since the epoch.
        ended: when its result came, or it failed for good; None before.
        attempts: how often a worker was given the job.
    """

    __test__ = False  # not a test case, whatever a test runner makes of the name
    job_id: int
    trial_id: int
    budget: int
    started: float
    ended: float | None = None
    attempts: int = 0
    outcome: Outcome = "unfinished"


@dataclass(frozen=True, slots=True)
class TestUses:
    """All uses of a study's test set. What other studies did with the same data nobody knows from here."""

    __test__ = False
    uses: tuple[TestUse, ...] = ()

    @property
    def sentence(self) -> str:
        """What a reader must know of it."""
        if not self.uses:
            return "The test set was not touched."
        trained = {use.trial_id for use in self.uses if use.budget}
        base = " and the base model" if any(not use.budget for use in self.uses) else ""
        repeated = len(self.uses) - len({(use.trial_id, use.budget) for use in self.uses})
        attempts = sum(max(0, use.attempts - 1) for use in self.uses)
        again = "each once" if not repeated else f"{counted(repeated, 'time')} more than once"
        if attempts:
            again += f", {counted(attempts, 'attempt')} started again"
        moments = [use.started for use in self.uses] + [use.ended for use in self.uses if use.ended is not None]
        return (
            f"The test set was touched from {_shown(min(moments))} to {_shown(max(moments))}, after the choice: "
            f"{counted(len(trained), 'trained model')}{base}, {again}. "
            "Whether other studies used the same data is not known here."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data, with times in seconds since the epoch."""
        return {
            "touched": bool(self.uses),
            "measurements": len(self.uses),
            "trials": sorted({use.trial_id for use in self.uses if use.budget}),
            "base_model": any(not use.budget for use in self.uses),
            "first": min((use.started for use in self.uses), default=None),
            "last": max((use.ended or use.started for use in self.uses), default=None),
            "uses": [asdict(use) for use in self.uses],
            "other_studies": "not known",
        }


def uses_of_test_set(entries: Iterable[tuple[int, float, Event]]) -> TestUses:
    """The uses of the test set in a journal, in the order in which they began.

    Args:
        entries: (sequence number, seconds since the epoch, event), as `Store.events` gives them.
    """
    found: dict[int, TestUse] = {}
    for _, moment, event in entries:
        match event:
            case JobCreated(job_id, trial_id, split="test"):
                found[job_id] = TestUse(job_id, trial_id, event.to_budget, moment)
            case AttemptStarted(job_id, attempt) if job_id in found:
                found[job_id] = replace(found[job_id], attempts=attempt)
            case Reported(report) if report.job_id in found:
                found[report.job_id] = replace(found[report.job_id], ended=moment, outcome="measured")
            case Failed(failure) if failure.job_id in found:
                found[failure.job_id] = replace(found[failure.job_id], ended=moment, outcome="failed")
    return TestUses(tuple(found.values()))


def _shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
