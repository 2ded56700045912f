from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from controller.events import Event, JobCreated, Reported
from controller.finalists import Finalists, runs_of
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.standings import standings
from controller.strategy import Composed, Decision, Done, InTurn, Resume, Start, Strategy, Wait
from controller.trial import Continue, FailureKind, Inherit, Job
from search_spaces.space import Space

RATE = "optimizer.learning_rate"
DEFAULT = {RATE: 0.001, "lora.dropout": 0.1, "lora.rank": 64, "schedule.kind": "linear"}


def asha_then(finalists: Finalists, space: Space, max_trials: int = 12) -> Strategy:
    return InTurn([Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=max_trials)), finalists])


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_the_best_and_the_default_are_repeated_then_tested_once(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int | None
) -> None:
    finalists = Finalists(count=2, repeats=2)
    events: list[Event] = []
    history = study(asha_then(finalists, space), fake_task(quality), horizon=9, checked=True).run(
        workers, enqueue=[DEFAULT], on_event=events.append
    )

    default = history.trials[0]
    assert default.params == DEFAULT
    assert 9 in default.reports  # the search had pruned it
    chosen = finalists.chosen(history)
    assert chosen[-1] is default
    assert len(chosen) == 3
    losses = [history.loss(trial.trial_id, 9) for trial in chosen]
    assert losses[0] <= losses[1] <= losses[2]
    runs = [run for trial in chosen for run in runs_of(history, trial)]
    assert len(runs) == 9
    for trial in chosen:
        first, *repeats = runs_of(history, trial)
        assert first is trial
        assert [repeat.labels["repeat"] for repeat in repeats] == [1, 2]
        assert all(repeat.params == trial.params and list(repeat.reports) == [9] for repeat in repeats)
        assert len({run.seed for run in (trial, *repeats)}) == 3
    assert all(list(run.tests) == [9] for run in runs if run is not default)
    assert set(default.tests) == {0, 9}  # budget 0 is the base model
    assert {t.trial_id for t in history.trials if t.tests} == {run.trial_id for run in runs}
    tests = [job for job in history.jobs if job.split == "test"]
    assert len(tests) == 10
    # Nothing is trained any more when the first test begins.
    first_test = events.index(JobCreated(tests[0].job_id, tests[0].trial_id, 9, 9, tests[0].source, "test"))
    reports = [event for event in events[:first_test] if isinstance(event, Reported)]
    assert len(reports) == len(history.jobs) - len(tests)
    assert finalists.retain(history) == {run.trial_id for run in runs}


def test_repeats_run_side_by_side(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    most = 0

    @dataclass(frozen=True)
    class Watching:
        inner: Strategy

        def next(self, history: History) -> Decision:
            nonlocal most
            most = max(most, sum(history.trials[j.trial_id].repeat_of is not None for j in history.running.values()))
            return self.inner.next(history)

        def retain(self, history: History) -> set[int]:
            return self.inner.retain(history)

    strategy = Watching(asha_then(Finalists(count=2, repeats=2), space))
    study(strategy, fake_task(quality), horizon=9).run(4, enqueue=[DEFAULT])
    assert most == 3  # with three at work a fourth is asked for


def test_without_a_default_or_a_test_set(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    strategy = InTurn([Composed(RandomSampler(space), FullBudget(4)), Finalists(count=1, repeats=1, test=False)])
    history = study(strategy, fake_task(quality), horizon=9).run()
    assert [trial.repeat_of for trial in history.trials] == [None] * 4 + [
        history.rung(9).ranking[0][1],
        0,  # trial 0 counts as the default whoever proposed it
    ]
    assert not any(trial.tests for trial in history.trials)


def test_nothing_is_tested_if_no_trial_reached_the_full_budget(study: Any, fake_task: Any, space: Space) -> None:
    task = fake_task(fails=lambda job: FailureKind.OOM)
    history = study(asha_then(Finalists(), space, max_trials=3), task, horizon=9).run()
    assert isinstance(Finalists().next(history), Done)
    assert len(history.jobs) == 3
    assert standings(history, Finalists()) == []
    assert Finalists().retain(history) == {0}


def test_a_failed_default_is_left_out_and_the_base_is_tested_all_the_same(
    study: Any, fake_task: Any, space: Space
) -> None:
    task = fake_task(fails=lambda job: FailureKind.OOM if job.trial_id == 0 else None)
    finalists = Finalists(count=1, repeats=0)
    history = study(asha_then(finalists, space), task, horizon=9).run()
    (winner,) = finalists.chosen(history)
    assert winner.trial_id != 0
    assert set(winner.tests) == {0, 9}


def test_a_failed_repeat_or_test_is_not_tried_for_ever(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    def fails(job: Job) -> FailureKind | None:
        return FailureKind.OOM if job.split == "test" or job.trial_id == 13 else None

    finalists = Finalists(count=2, repeats=1)
    history = study(asha_then(finalists, space), fake_task(quality, fails=fails), horizon=9).run(3, enqueue=[DEFAULT])
    assert history.trials[13].repeat_of is not None
    assert history.trials[13].failure is not None
    assert not any(trial.tests for trial in history.trials)
    assert sum(job.split == "test" for job in history.jobs) == 6  # 3 finalists, 2 repeats that worked, the base
    assert [len(row.runs) for row in standings(history, finalists)].count(1) == 1


def test_a_finished_study_is_never_tested_again(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    finished = study(asha_then(Finalists(count=2, repeats=1), space), fake_task(quality), horizon=9)
    history = finished.run(2, enqueue=[DEFAULT])
    jobs = len(history.jobs)

    again = finished.run(2)

    assert len(again.jobs) == jobs
    assert len(again.tests) == len({(job.trial_id, job.to_budget) for job in again.tests}) == 7  # 6 runs and the base


@dataclass(frozen=True)
class LowRungs:
    """A search that ends before the full budget: so many trials at 3, the given ones also at 6."""

    space: Space
    count: int
    promoted: tuple[int, ...] = ()

    def next(self, history: History) -> Decision:
        if history.searching:
            return Wait()
        if len(history.trials) < self.count:
            return Start(DEFAULT if not history.trials else self.space.sample(history.generator()), 3)
        for trial_id in self.promoted:
            if history.trials[trial_id].budget == 3:
                return Resume(trial_id, 6)
        return Done("the budget is used up")

    def retain(self, history: History) -> set[int]:
        return set()


def ended_early(study: Any, task: Any, space: Space, promoted: tuple[int, ...] = ()) -> History:
    strategy = InTurn([LowRungs(space, 6, promoted), Finalists(count=3, repeats=1)])
    return study(strategy, task, horizon=9, checked=True).run()


def best_of(history: History, budget: int, *left_out: int) -> int:
    return next(trial_id for _, trial_id in history.rung(budget).ranking if trial_id not in left_out)


def full(history: History) -> set[int]:
    return {trial.trial_id for trial in history.trials if 9 in trial.reports and trial.repeat_of is None}


def test_a_search_that_ended_early_has_its_best_trial_finished(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    history = ended_early(study, fake_task(quality), space)
    best = best_of(history, 3, 0)
    assert full(history) == {0, best}
    assert [trial.trial_id for trial in history.trials if trial.repeat_of is None and 9 in trial.tests] == [0, best]


def test_the_highest_rung_counts_before_the_loss(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    history = ended_early(study, fake_task(quality), space, (4,))
    assert best_of(history, 3, 0) != 4
    assert full(history) == {0, 4}


def test_the_next_best_takes_the_place_of_one_that_fails(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    first = best_of(ended_early(study, fake_task(quality), space), 3, 0)
    task = fake_task(
        quality, fails=lambda job: FailureKind.OOM if (job.trial_id, job.to_budget) == (first, 9) else None
    )
    history = ended_early(study, task, space)
    assert full(history) == {0, best_of(history, 3, 0, first)}


def test_nobody_is_finished_who_was_behind_the_default(study: Any, fake_task: Any, space: Space) -> None:
    task = fake_task(lambda params: 0.0 if params == DEFAULT else 100.0)
    assert full(ended_early(study, task, space)) == {0}


def test_a_default_that_failed_stands_in_nobodys_way(study: Any, fake_task: Any, space: Space) -> None:
    task = fake_task(
        lambda params: 0.0 if params == DEFAULT else 100.0,
        fails=lambda job: FailureKind.OOM if (job.trial_id, job.to_budget) == (0, 9) else None,
    )
    history = ended_early(study, task, space)
    assert full(history) == {best_of(history, 3, 0)}


@dataclass(frozen=True)
class Family:
    """A grandparent, a parent that continues from it, and a child that inherits from the parent."""

    def next(self, history: History) -> Decision:
        if history.searching:
            return Wait()
        match len(history.trials):
            case 0:
                return Start({RATE: 0.01}, 3)
            case 1:
                return Start({RATE: 0.02}, 6, Continue(0, 3))
            case 2:
                return Start({RATE: 0.03}, 9, Inherit(1, 6))
        return Done("the family is trained")

    def retain(self, history: History) -> set[int]:
        return {trial.trial_id for trial in history.trials}


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_a_repeat_replays_the_lineage(study: Any, fake_task: Any, workers: int | None) -> None:
    task = fake_task()
    finalists = Finalists(count=1, repeats=2, test=False)
    history = study(InTurn([Family(), finalists]), task, horizon=9, checked=True).run(workers)

    child = history.trials[2]
    assert finalists.chosen(history)[0] is child
    runs = runs_of(history, child)
    assert [run.repeat_of for run in runs] == [None, 2, 2]
    for number, run in enumerate(runs[1:], start=1):
        parent, grandparent = (ancestor.trial for ancestor in history.lineage(run.trial_id))
        assert (parent.repeat_of, grandparent.repeat_of) == (1, 0)
        assert run.source == Inherit(parent.trial_id, 6)
        assert parent.source == Continue(grandparent.trial_id, 3)
        assert [trial.params[RATE] for trial in (run, parent, grandparent)] == [0.03, 0.02, 0.01]
        assert {trial.labels["repeat"] for trial in (run, parent, grandparent)} == {number}
        assert run.seed != child.seed
        assert parent.seed != history.trials[1].seed
        # The fake task has no noise, so the same path gives the same loss.
        assert run.reports[9].metrics == child.reports[9].metrics
        assert {run.trial_id, parent.trial_id, grandparent.trial_id} <= finalists.retain(history)


def test_finalists_wait_for_the_search(study: Any, fake_task: Any) -> None:
    """Also on their own: what is chosen must not change while it is repeated."""
    history = study(Family(), fake_task(), horizon=9).run()
    first = history.jobs[0]
    history.running[first.job_id] = first
    assert Finalists().next(history) == Wait()
    del history.running[first.job_id]
    assert Finalists().next(history) == Resume(0, 9)


@pytest.mark.parametrize("options", [{"count": 0}, {"repeats": -1}])
def test_what_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected count >= 1 and repeats >= 0"):
        Finalists(**options)
