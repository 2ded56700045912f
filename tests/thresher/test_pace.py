from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from controller.events import AttemptStarted, Event, JobCreated, Reported, TrialCreated
from controller.finalists import Finalists
from controller.history import History
from controller.limits import Limits
from controller.trial import Continue, Objective, Report
from thresher.pace import Pace, examples_left, pace_of

BUDGETS = (100, 300, 900)
NO_LIMITS = Limits()


class Study:
    """A history that jobs are added to."""

    def __init__(self) -> None:
        self.history = History(seed=0, objectives=[Objective("loss")], horizon=900)

    def apply(self, events: Iterable[Event]) -> None:
        for event in events:
            self.history.apply(event)

    def train(self, trial_id: int, start: int, end: int, *, repeat_of: int | None = None, ends: bool = True) -> None:
        job = len(self.history.jobs)
        if trial_id == len(self.history.trials):
            self.apply([TrialCreated(trial_id, {"x": trial_id}, 0, repeat_of=repeat_of)])
        source = Continue(trial_id, start) if start else None
        self.apply([JobCreated(job, trial_id, start, end, source), AttemptStarted(job, 1)])
        if ends:
            self.apply([Reported(Report(job, end, {"loss": 1.0}, 1.0))])

    def left(self, limits: Limits = NO_LIMITS, most: int | None = 9, repeats: int = 0) -> tuple[int, int] | None:
        finalists = Finalists(2, repeats)
        return examples_left(self.history, budgets=BUDGETS, max_trials=most, limits=limits, finalists=finalists)

    def pace(self, seconds: float, limits: Limits = NO_LIMITS, most: int | None = 9) -> Pace:
        return pace_of(self.history, budgets=BUDGETS, max_trials=most, limits=limits, finalists=None, seconds=seconds)


def test_before_anything_is_measured() -> None:
    study = Study()
    study.train(0, 0, 100, ends=False)
    assert study.pace(10.0) == Pace(None, None, None)


def test_what_is_left_of_successive_halving() -> None:
    study = Study()
    # Nine at 100, three of them 200 further, one of these 600 further.
    assert study.left() == (900 + 600 + 600, 0)
    study.train(0, 0, 100)
    study.train(0, 100, 300)
    assert study.left() == (2100 - 300, 0)
    assert study.left(repeats=2) == (1800, 3 * 2 * 900)
    assert study.left(Limits(max_examples=1000)) == (700, 0)
    assert study.left(most=None) is None
    assert study.left(Limits(max_examples=1000), most=None) == (700, 0)


def test_a_job_at_work_is_still_to_be_done() -> None:
    study = Study()
    for trial_id in range(9):
        study.train(trial_id, 0, 100)
        study.train(trial_id, 100, 300)
    study.train(0, 300, 900, ends=False)
    assert study.left() == (600, 0)


def test_after_the_search() -> None:
    study = Study()
    study.train(0, 0, 900)
    study.train(1, 0, 900, repeat_of=0)
    assert study.left(repeats=1) == (0, 2 * 900)
    assert study.left(repeats=0) == (0, 0)


def test_pace_and_time_left() -> None:
    study = Study()
    study.train(0, 0, 100)
    study.train(1, 0, 200)
    pace = study.pace(30.0)
    assert pace.jobs_per_hour == pytest.approx(240)
    assert pace.examples_per_hour == pytest.approx(36_000)
    assert pace.seconds_left == pytest.approx((2100 - 300) / 10)
    assert replace(pace, seconds_left=20.0) == study.pace(30.0, Limits(max_seconds=50.0))
    assert study.pace(30.0, Limits(max_seconds=20.0)).seconds_left == 0
    assert study.pace(30.0, most=None).seconds_left is None
