from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.controller import MAX_DECLINES, Controller, StudyHalted
from controller.events import AttemptFailed, AttemptStarted, Event, JobCreated, Noted, Reported, TrialCreated
from controller.history import History
from controller.store import Store
from controller.strategy import Decision, Done, Resume, Start, StrategyError, Test, Wait
from controller.trial import (
    Continue,
    Declined,
    Failure,
    FailureKind,
    Halt,
    Inherit,
    Job,
    Message,
    MetricError,
    Notice,
    Objective,
    Progress,
    Report,
    Status,
)

Answer = Callable[[Job], Sequence[Message]]


def report(job: Job, loss: float = 0.5) -> list[Message]:
    return [Report(job.job_id, job.to_budget, {"loss": loss}, seconds=1.0)]


def fails(kind: FailureKind) -> Answer:
    return lambda job: [Failure(job.job_id, kind, "as the test asked", budget=1, seconds=2.0)]


class Scripted:
    """An executor that answers the submissions one after the other as it is told, then with reports.

    Every submission checks that the journal on disk knows of the attempt already.
    """

    def __init__(self, directory: Path, *answers: Answer, room: int = 1, at_stop: Answer | None = None) -> None:
        self.directory = directory
        self.answers = list(answers)
        self.room = room
        self.at_stop = at_stop
        self.submitted: list[Job] = []
        self.waiting: list[Job] = []
        self.stops = 0

    def has_room(self) -> bool:
        return len(self.waiting) < self.room

    def submit(self, job: Job) -> None:
        assert not self.stops, "nothing is submitted to an executor that was stopped"
        with Store.read_only(self.directory) as store:
            assert any(isinstance(e, AttemptStarted) and e.job_id == job.job_id for _, _, e in store.events())
        self.submitted.append(job)
        self.waiting.append(job)

    def poll(self) -> Sequence[Message]:
        """The answer to the oldest submission."""
        job = self.waiting.pop(0)
        answer = self.answers.pop(0) if self.answers else report
        return answer(job)

    def stop(self) -> Sequence[Message]:
        self.stops += 1
        return [message for job in self.waiting for message in self.at_stop(job)] if self.at_stop else []


class Listed:
    """Decisions in a fixed order, the next one being the one that the history has no job for. Then Done."""

    def __init__(self, *decisions: Decision, retained: Callable[[History], set[int]] = lambda history: set()) -> None:
        self.decisions = decisions
        self.retained = retained

    def next(self, history: History) -> Decision:
        if len(history.jobs) < len(self.decisions):
            return self.decisions[len(history.jobs)]
        return Wait() if history.running else Done("the list is over")

    def retain(self, history: History) -> set[int]:
        return self.retained(history)


class Bench:
    """A controller on a journal in a directory, with what it did."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events: list[Event] = []
        self.progress: list[Progress] = []

    def replay(self) -> History:
        with Store.open(self.directory) as store:
            return self._replay(store)

    def journal(self) -> list[Event]:
        with Store.read_only(self.directory) as store:
            return [event for _, _, event in store.events()]

    def run(self, strategy: Any, executor: Any, **options: Any) -> tuple[Done | None, History]:
        with Store.open(self.directory) as store:
            history = self._replay(store)
            controller = Controller(
                strategy,
                executor,
                store,
                history,
                on_event=self.events.append,
                on_progress=self.progress.append,
                **options,
            )
            executor.controller = controller
            return controller.run(), history

    def _replay(self, store: Store) -> History:
        events = (event for _, _, event in store.events())
        return History.replay(events, seed=0, objectives=[Objective("loss")], horizon=9)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def start(budget: int = 9, **options: Any) -> Start:
    return Start({"x": 1}, budget, **options)


def test_a_study_runs_to_its_end(bench: Bench) -> None:
    executor = Scripted(bench.directory, lambda job: report(job, 0.3), lambda job: report(job, 0.2))
    done, history = bench.run(Listed(start(3), Resume(0, 9), Test(0, 9), Test(0, 0)), executor)
    assert done == Done("the list is over")
    seed = history.trials[0].seed
    assert executor.submitted == [
        Job(0, 0, {"x": 1}, seed, 0, 3, 9),
        Job(1, 0, {"x": 1}, seed, 3, 9, 9, Continue(0, 3)),
        Job(2, 0, {"x": 1}, seed, 9, 9, 9, Continue(0, 9), "test"),
        Job(3, 0, {"x": 1}, seed, 0, 0, 9, None, "test"),
    ]
    assert [history.loss(0, 3), history.loss(0, 9)] == [0.3, 0.2]
    assert history.trials[0].tests.keys() == {0, 9}
    assert executor.stops == 1
    assert bench.journal() == bench.events
    assert [type(event) for event in bench.events[:5]] == [
        TrialCreated,
        JobCreated,
        AttemptStarted,
        Reported,
        JobCreated,
    ]


def test_sources_and_labels_reach_the_job(bench: Bench) -> None:
    executor = Scripted(bench.directory)
    decisions = (
        start(3),
        start(9, source=Continue(0, 3), labels={"origin": "exploit"}),
        start(9, source=Inherit(0, 3), repeat_of=0),
    )
    _, history = bench.run(Listed(*decisions), executor)
    assert [(job.from_budget, job.to_budget, job.source) for job in executor.submitted[1:]] == [
        (3, 9, Continue(0, 3)),
        (0, 9, Inherit(0, 3)),
    ]
    assert history.trials[1].labels == {"origin": "exploit"}
    assert history.trials[2].repeat_of == 0


@pytest.mark.parametrize("kind", [FailureKind.CRASH, FailureKind.TIMEOUT])
def test_a_crash_is_tried_again_once(bench: Bench, kind: FailureKind) -> None:
    executor = Scripted(bench.directory, fails(kind))
    _, history = bench.run(Listed(start(), start()), executor)
    assert [job.job_id for job in executor.submitted] == [0, 0, 1]
    assert executor.submitted[0] == executor.submitted[1]
    assert history.attempts == {0: 2, 1: 1}
    assert [failure.kind for failure in history.failed_attempts[0]] == [kind]
    assert history.trials[0].status(9) is Status.COMPLETE
    assert [type(event) for event in bench.events[2:6]] == [AttemptStarted, AttemptFailed, AttemptStarted, Reported]


def test_a_job_that_crashes_again_is_a_failure_and_the_study_goes_on(bench: Bench) -> None:
    executor = Scripted(bench.directory, fails(FailureKind.CRASH), fails(FailureKind.TIMEOUT))
    done, history = bench.run(Listed(start(), start()), executor)
    assert done is not None
    assert [job.job_id for job in executor.submitted] == [0, 0, 1]
    assert history.trials[0].status(9) is Status.FAILED
    assert history.trials[0].failure == Failure(0, FailureKind.TIMEOUT, "as the test asked", 1, 2.0)
    assert history.trials[1].status(9) is Status.COMPLETE


@pytest.mark.parametrize("retries", [0, 3])
def test_how_often_is_an_option(bench: Bench, retries: int) -> None:
    executor = Scripted(bench.directory, *[fails(FailureKind.CRASH)] * 9)
    bench.run(Listed(start()), executor, max_retries=retries)
    assert len(executor.submitted) == 1 + retries


@pytest.mark.parametrize("kind", [FailureKind.OOM, FailureKind.DIVERGED])
def test_what_the_configuration_is_to_blame_for_is_not_tried_again(bench: Bench, kind: FailureKind) -> None:
    executor = Scripted(bench.directory, fails(kind))
    _, history = bench.run(Listed(start()), executor)
    assert len(executor.submitted) == 1
    assert history.trials[0].failure is not None
    assert history.trials[0].failure.kind is kind


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_has_diverged(bench: Bench, loss: float) -> None:
    _, history = bench.run(Listed(start(), start()), Scripted(bench.directory, lambda job: report(job, loss)))
    failure = history.trials[0].failure
    assert failure == Failure(0, FailureKind.DIVERGED, f"loss is {loss}", 9, 1.0)
    assert len(history.rung(9).failed) == 1
    assert history.best() is history.trials[1]


def test_a_test_may_give_any_number(bench: Bench) -> None:
    executor = Scripted(bench.directory, report, lambda job: report(job, math.nan))
    _, history = bench.run(Listed(start(), Test(0, 9)), executor)
    assert math.isnan(history.trials[0].tests[9].metrics["loss"])
    assert history.trials[0].failure is None


def test_a_metric_that_is_not_measured_ends_the_study_before_it_is_journaled(bench: Bench) -> None:
    executor = Scripted(bench.directory, lambda job: [Report(0, 9, {"eval_loss": 0.5}, 1.0)])
    with pytest.raises(MetricError, match="expected the metric 'loss'"):
        bench.run(Listed(start()), executor)
    assert executor.stops == 1
    assert list(bench.replay().running) == [0]  # mended, the study goes on


def test_progress_is_passed_on_and_not_journaled(bench: Bench) -> None:
    executor = Scripted(bench.directory, lambda job: [Progress(0, 3, "train", 0.5), *report(job)])
    bench.run(Listed(start()), executor)
    assert bench.progress == [Progress(0, 3, "train", 0.5)]
    assert len(bench.journal()) == 4


def test_a_notice_is_journaled(bench: Bench) -> None:
    executor = Scripted(bench.directory, lambda job: [Notice(0, "trained again"), *report(job)])
    bench.run(Listed(start()), executor)
    assert bench.replay().notes == [Noted(0, "trained again")]


def test_late_words_are_ignored(bench: Bench) -> None:
    late: list[Message] = [
        Report(0, 9, {"loss": 0.0}, 1.0),
        Failure(0, FailureKind.CRASH, "too late"),
        Declined(0, "too late"),
        Notice(0, "too late"),
        Progress(0, 5, "train"),
        Report(77, 9, {"loss": 0.0}, 1.0),
    ]
    executor = Scripted(bench.directory, report, lambda job: [*late, *report(job)])
    _, history = bench.run(Listed(start(), start()), executor)
    assert history.loss(0, 9) == 0.5
    assert len(executor.submitted) == 2
    assert bench.progress == []
    assert [type(event) for event in bench.events].count(Reported) == 2


def test_a_declined_job_is_held_back_until_another_has_ended(bench: Bench) -> None:
    declines: Answer = lambda job: [Declined(job.job_id, "no memory left")]  # noqa: E731

    class Executor(Scripted):
        def poll(self) -> Sequence[Message]:
            if len(self.submitted) == len(self.waiting) == 2:
                return declines(self.waiting.pop(1))
            return super().poll()

    executor = Executor(bench.directory, room=2)
    _, history = bench.run(Listed(start(), start(), start()), executor)
    # Job 1 is declined while 0 runs. Job 2 does not get ahead of it, though there is room.
    assert [job.job_id for job in executor.submitted] == [0, 1, 1, 2]
    assert history.attempts == {0: 1, 1: 1, 2: 1}
    assert all(trial.status(9) is Status.COMPLETE for trial in history.trials)


def test_a_job_that_an_empty_worker_declines_is_given_up(bench: Bench) -> None:
    declines: Answer = lambda job: [Declined(job.job_id, "I do not want to")]  # noqa: E731
    executor = Scripted(bench.directory, *[declines] * (MAX_DECLINES + 1))
    _, history = bench.run(Listed(start(), start()), executor)
    assert [job.job_id for job in executor.submitted] == [0] * (MAX_DECLINES + 1) + [1]
    failure = history.trials[0].failure
    assert failure is not None
    assert failure.message == "declined 9 times by a worker that hosts no other job: I do not want to"
    assert history.trials[1].failure is None


def test_a_job_may_be_declined_any_number_of_times_while_others_run(bench: Bench) -> None:
    class Busy(Scripted):
        """Declines job 1 while it has another one."""

        def poll(self) -> Sequence[Message]:
            reluctant = [job for job in self.waiting if job.job_id == 1]
            if reluctant and len(self.waiting) > 1:
                self.waiting.remove(reluctant[0])
                return [Declined(1, "too large beside the others")]
            return super().poll()

    executor = Busy(bench.directory, room=12)
    _, history = bench.run(Listed(*[start()] * 12), executor)
    assert [job.job_id for job in executor.submitted].count(1) == 12  # at first, and after each of the others
    assert all(trial.status(9) is Status.COMPLETE for trial in history.trials)


@pytest.mark.parametrize("also", [[], [Failure(1, FailureKind.CRASH, "the disk")], [Declined(1, "the disk")]])
def test_a_halt_stops_the_study_and_keeps_its_jobs_open(bench: Bench, also: list[Message]) -> None:
    executor = Scripted(bench.directory, lambda job: [*also, Halt("no space left"), *report(job)], room=2)
    with pytest.raises(StudyHalted, match="no space left"):
        bench.run(Listed(start(), start(), start()), executor)
    assert executor.stops == 1
    history = bench.replay()
    assert 9 in history.trials[0].reports  # what came with it is kept
    assert list(history.running) == [1]
    assert history.failed_attempts == {}

    executor = Scripted(bench.directory, room=2)
    done, history = bench.run(Listed(start(), start(), start()), executor)
    assert done is not None
    assert [job.job_id for job in executor.submitted] == [1, 2]
    assert history.attempts[1] == 2


def test_an_error_stops_the_workers_and_what_they_say_then_starts_nothing(bench: Bench) -> None:
    class Broken(Scripted):
        def poll(self) -> Sequence[Message]:
            raise ZeroDivisionError

    executor = Broken(bench.directory, room=3, at_stop=fails(FailureKind.CRASH))
    with pytest.raises(ZeroDivisionError):
        bench.run(Listed(start(), start(), start()), executor)
    assert executor.stops == 1
    assert list(bench.replay().running) == [0, 1, 2]


def test_open_jobs_are_taken_up_first(bench: Bench) -> None:
    killed = Scripted(bench.directory, lambda job: [Halt("killed")], room=3)
    with pytest.raises(StudyHalted):
        bench.run(Listed(start(), start(3), start()), killed)
    executor = Scripted(bench.directory, room=1)
    _, history = bench.run(Listed(start(), start(3), start(), Resume(1, 9)), executor)
    assert [job.job_id for job in executor.submitted] == [0, 1, 2, 3]
    assert executor.submitted[:3] == killed.submitted
    assert history.attempts == {0: 2, 1: 2, 2: 2, 3: 1}


def test_a_retry_is_not_granted_again_after_a_restart(bench: Bench) -> None:
    with pytest.raises(StudyHalted):
        bench.run(Listed(start()), Scripted(bench.directory, fails(FailureKind.CRASH), lambda job: [Halt("killed")]))
    executor = Scripted(bench.directory, fails(FailureKind.CRASH))
    _, history = bench.run(Listed(start()), executor)
    assert len(executor.submitted) == 1
    assert history.trials[0].status(9) is Status.FAILED


def test_a_finished_study_runs_nothing(bench: Bench) -> None:
    bench.run(Listed(start()), Scripted(bench.directory))
    before = bench.journal()
    executor = Scripted(bench.directory)
    done, _ = bench.run(Listed(start()), executor)
    assert done is not None
    assert executor.submitted == []
    assert bench.journal() == before


class Interrupted(Scripted):
    """The study is asked to stop while the first job is at work."""

    controller: Controller

    def poll(self) -> Sequence[Message]:
        messages = super().poll()
        self.controller.request_stop()
        return messages


def test_a_stop_keeps_what_is_running_open(bench: Bench) -> None:
    executor = Interrupted(bench.directory, room=3, at_stop=fails(FailureKind.CRASH))
    done, _ = bench.run(Listed(*[start()] * 5), executor)
    assert done is None
    assert executor.stops == 1
    history = bench.replay()
    assert len(history.jobs) == 3
    assert list(history.running) == [1, 2]  # a worker that dies of the stop is not to blame
    assert history.failed_attempts == {}

    done, history = bench.run(Listed(*[start()] * 5), Scripted(bench.directory))
    assert done is not None
    assert len(history.rung(9).ranking) == 5


def test_what_is_measured_during_a_stop_is_kept(bench: Bench) -> None:
    bench.run(Listed(*[start()] * 5), Interrupted(bench.directory, room=3, at_stop=report))
    assert [trial.status(9) for trial in bench.replay().trials] == [Status.COMPLETE] * 3


REFUSED: list[tuple[Decision, str]] = [
    (start(0), "a budget above 0 and up to 9"),
    (start(10), "a budget above 0 and up to 9"),
    (start(3, source=Continue(0, 3)), "a budget above 3 and up to 9"),
    (start(9, source=Continue(0, 1)), "a source at a rung for which its trial has a report"),
    (start(9, source=Inherit(7, 3)), "a source at a rung for which its trial has a report"),
    (Resume(0, 3), "a budget above 3 and up to 9"),
    (Resume(0, 27), "a budget above 3 and up to 9"),
    (Resume(1, 9), "a paused trial"),
    (Resume(2, 9), "a trial that exists and is not running"),
    (Resume(7, 9), "a trial that exists and is not running"),
    (Test(0, 9), "weights that were trained and are not tested yet"),
    (Test(0, 0), "weights that were trained and are not tested yet"),
    (Test(2, 0), "a trial that exists and is not running"),
]


@pytest.mark.parametrize(("decision", "expected"), REFUSED)
def test_what_cannot_be_done_is_refused_before_it_is_journaled(bench: Bench, decision: Decision, expected: str) -> None:
    """Trial 0 is paused at 3 and its base is tested, trial 1 failed, trial 2 is running."""
    decisions = (start(3), start(3), Test(0, 0), start(3), decision)

    class Executor(Scripted):
        def poll(self) -> Sequence[Message]:
            return [] if self.waiting[0].job_id == 3 else super().poll()

        def has_room(self) -> bool:
            return len(self.waiting) < 1 or len(self.submitted) == 4

    executor = Executor(bench.directory, report, fails(FailureKind.OOM))
    with pytest.raises(StrategyError, match=f"expected {expected}, got .*; mend the strategy"):
        bench.run(Listed(*decisions), executor)
    assert len(bench.replay().jobs) == 4  # the journal can be read, and the study can go on
    done, _ = bench.run(Listed(*decisions[:4]), Scripted(bench.directory))
    assert done is not None


def test_to_wait_for_nothing_is_refused(bench: Bench) -> None:
    with pytest.raises(StrategyError, match="got Wait, which would last forever"):
        bench.run(Listed(Wait()), Scripted(bench.directory))


class Shelf:
    """Checkpoints by trial."""

    def __init__(self, *trials: int) -> None:
        self.present = set(trials)

    def trials(self) -> set[int]:
        return set(self.present)

    def discard(self, trial_id: int) -> None:
        self.present.remove(trial_id)


def test_checkpoints_that_nothing_needs_are_discarded(bench: Bench) -> None:
    shelf = Shelf()

    class Executor(Scripted):
        def poll(self) -> Sequence[Message]:
            shelf.present.add(self.waiting[0].trial_id)
            return super().poll()

    losses = [0.3, 0.2, 0.4, 0.5]
    answers = [lambda job, loss=loss: report(job, loss) for loss in losses]
    bench.run(
        Listed(*[start()] * 4, retained=lambda history: {2}), Executor(bench.directory, *answers), checkpoints=shelf
    )
    assert shelf.present == {1, 2}  # the strategy's own, and the best, to be shown


def test_checkpoints_of_running_jobs_and_their_sources_are_kept(bench: Bench) -> None:
    shelf = Shelf()
    seen = []

    class Executor(Scripted):
        def poll(self) -> Sequence[Message]:
            seen.append(set(shelf.present))
            shelf.present.update(job.trial_id for job in self.waiting)  # they also save in the middle
            return super().poll()

        def has_room(self) -> bool:
            return len(self.waiting) < (3 if len(self.submitted) > 1 else 1)

    answers = [lambda job, loss=loss: report(job, loss) for loss in (0.9, 0.1, 0.5, 0.6)]
    heir = start(9, source=Inherit(0, 3))
    bench.run(Listed(start(3), start(9), start(9), heir), Executor(bench.directory, *answers), checkpoints=shelf)
    # 1 is the best, 2 and 3 are at work for a while, and 0 is needed as long as its heir 3 runs.
    assert seen == [set(), {0}, {0, 1, 2, 3}, {0, 1, 3}]
    assert shelf.present == {1}
