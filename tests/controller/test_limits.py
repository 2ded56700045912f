from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from controller.events import Enqueued, Event, JobCreated, SessionStarted
from controller.finalists import Finalists
from controller.history import History
from controller.limits import Limited, Limits, Stopwatch, Usage, active_seconds
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Done, InTurn, Strategy
from controller.trial import Objective
from search_spaces.space import Space

DEFAULT = {"optimizer.learning_rate": 0.001, "lora.dropout": 0.1, "lora.rank": 64, "schedule.kind": "linear"}


def limited(space: Space, limits: Limits, *, elapsed: Callable[[], float] = lambda: 0.0, full: bool = True) -> Strategy:
    scheduler = FullBudget(50) if full else ASHA((1, 3, 9), max_trials=50)
    search = Limited(Composed(RandomSampler(space), scheduler), limits, elapsed)
    return InTurn([search, Finalists(count=1, repeats=1, test=False)])


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_the_limit_on_examples_is_passed_by_less_than_a_job(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int | None
) -> None:
    strategy = limited(space, Limits(max_examples=40))
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(workers, enqueue=[DEFAULT])
    assert history.num_started() == 5  # 45 examples, however many were under way
    assert history.examples == 45
    assert len(history.repeats) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_the_limit_on_worker_time_lets_jobs_at_work_end(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int
) -> None:
    strategy = limited(space, Limits(max_worker_seconds=30))
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(workers)
    assert 30 <= history.worker_seconds < 30 + 9 * workers
    assert len(history.repeats) == 2


def test_a_limit_before_the_full_budget_still_gives_a_result(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    strategy = limited(space, Limits(max_examples=8), full=False)
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(2, enqueue=[DEFAULT])
    finished = [trial for trial in history.trials if trial.repeat_of is None and 9 in trial.reports]
    assert len(finished) == 2
    assert finished[0].trial_id == 0
    assert len(history.repeats) == 2


@pytest.mark.parametrize("jobs", range(1, 12, 2))
def test_a_study_that_was_killed_ends_as_one_that_was_not(
    study: Any, fake_task: Any, quality: Any, space: Space, project: Any, jobs: int
) -> None:
    limits = Limits(max_examples=20, max_worker_seconds=50)
    whole = study(limited(space, limits, full=False), fake_task(quality), horizon=9).run(enqueue=[DEFAULT])
    task = fake_task(quality)

    class Killed(Exception):
        pass

    @dataclass
    class Dying:
        """A journal that is gone after so many jobs."""

        store: Any

        def append(self, events: list[Event]) -> None:
            if any(isinstance(event, JobCreated) and event.job_id == jobs for event in events):
                raise Killed
            self.store.append(events)

    place = study(limited(space, limits, full=False), task, horizon=9)
    with pytest.raises(Killed):
        place.run(enqueue=[DEFAULT], wrap=Dying)
    assert project(place.run()) == project(whole)


def test_the_limit_on_the_clock_adds_up_over_sessions(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 1.0
        return now

    strategy = limited(space, Limits(max_seconds=10.0), elapsed=Stopwatch(5.0, tick))
    history = study(strategy, fake_task(quality), horizon=9).run()
    assert history.num_started() == 4  # asked once for each, at 6, 7, 8 and 9 seconds
    assert len(history.repeats) == 2


def test_nothing_is_searched_for_once_the_repeats_have_begun_on_the_clock(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    """A clock that seems to go back, as it may when a study is taken up, must not change who the finalists are."""
    times = iter([0.0, 1.0, 2.0, 99.0, 99.0])
    strategy = limited(space, Limits(max_seconds=50), elapsed=lambda: next(times, 3.0))
    history = study(strategy, fake_task(quality), horizon=9).run()
    assert history.num_started() == 3
    assert [trial.repeat_of is None for trial in history.trials] == [True] * 3 + [False] * 2


def test_nothing_is_searched_for_once_the_test_set_was_used(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    def strategy(trials: int) -> Strategy:
        return InTurn([Limited(Composed(RandomSampler(space), FullBudget(trials)), Limits()), Finalists(1, 1)])

    place = study(strategy(3), fake_task(quality), horizon=9)
    jobs = len(place.run().jobs)
    place.strategy = strategy(6)
    assert len(place.run().jobs) == jobs


def test_the_first_trial_is_always_started(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    strategy = limited(space, Limits(max_seconds=1.0), elapsed=lambda: 100.0)
    history = study(strategy, fake_task(quality), horizon=9).run()
    assert history.num_started() == 1
    assert len(history.repeats) == 1


def test_what_it_says_when_a_limit_is_reached(study: Any, fake_task: Any, space: Space) -> None:
    search = Limited(Composed(RandomSampler(space), FullBudget(9)), Limits(max_examples=18))
    history = study(search, fake_task(), horizon=9).run()
    assert search.next(history) == Done("limit reached: 18 of 18 examples")
    assert search.retain(history) == search.strategy.retain(history)


def test_no_limits_change_nothing(study: Any, fake_task: Any, quality: Any, space: Space, project: Any) -> None:
    plain = Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=9))
    one = study(plain, fake_task(quality), horizon=9).run()
    other = study(Limited(plain, Limits()), fake_task(quality), horizon=9).run()
    assert project(one) == project(other)


def test_usages_tell_what_is_limited() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    history.spent["search"].examples = 40_000
    history.spent["search"].worker_seconds = 1800.0
    limits = Limits(50_000, 3600.0, 7200.0, gpus=4)
    assert [str(usage) for usage in limits.usages(history, 4320.0)] == [
        "40,000 of 50,000 examples",
        "2 of 4 GPU hours",
        "1.2 of 2 h",
    ]
    assert limits.reached(history, 4320.0) is None
    assert limits.reached(history, 7200.0) == Usage("seconds", 7200.0, 7200.0)
    assert Limits().usages(history, 1.0) == ()


@pytest.mark.parametrize("name", ["max_examples", "max_worker_seconds", "max_seconds"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} > 0, got 0; leave it out for no limit"):
        Limits(**{name: 0})


def test_active_seconds_leave_pauses_out() -> None:
    entry: Event = Enqueued({})
    moments: list[tuple[float, Event]] = [
        (100.0, SessionStarted()),
        (101.0, entry),
        (110.0, entry),
        (500.0, SessionStarted()),  # after a pause
        (503.0, entry),
        (502.0, entry),  # the clock was set back
        (900.0, SessionStarted()),  # and nothing happened in this one
    ]
    assert active_seconds((number, *entry) for number, entry in enumerate(moments)) == 13.0
    assert active_seconds([]) == 0.0


def test_a_stopwatch_goes_on_from_the_sessions_before() -> None:
    now = 50.0
    stopwatch = Stopwatch(13.0, lambda: now)
    now = 57.5
    assert stopwatch() == 20.5
