"""Simulated studies with the real Controller, and the executor alone against times worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.controller import Controller
from controller.executors.cost_model import CostModel
from controller.executors.simulated import Chances, Preemption, SimulatedExecutor
from controller.history import History
from controller.limits import Limited, Limits
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.store import Store
from controller.strategy import Composed, Strategy
from controller.trial import Continue, Failure, FailureKind, Job, Objective, Report
from search_spaces.domains import Float
from search_spaces.space import Params, Space

SPACE = Space({"x": Float(0.0, 1.0)})
FREE_SWITCH = CostModel(switch=0.0)


class Formula:
    """A loss that is a function of parameters and budget."""

    def __init__(self, loss: Callable[[Params, int], float] = lambda params, budget: params["x"] + 1 / budget) -> None:
        self.loss = loss
        self.measured: list[int] = []

    def measure(self, job: Job) -> Mapping[str, float]:
        self.measured.append(job.job_id)
        loss = self.loss(job.params, job.to_budget)
        return {"loss": loss, "size": -job.params["x"], "epoch": float(job.to_budget)}


def job(number: int, to_budget: int = 10, from_budget: int = 0, x: float = 0.5) -> Job:
    source = Continue(number, from_budget) if from_budget else None
    return Job(number, number, {"x": x}, 0, from_budget, to_budget, 100, source)


def run(
    directory: Path,
    strategy: Strategy | Callable[[Callable[[], float]], Strategy],
    executor: SimulatedExecutor,
    *,
    objectives: tuple[Objective, ...] = (Objective("loss"),),
    horizon: int = 9,
    **options: Any,
) -> History:
    made = strategy(lambda: executor.now) if callable(strategy) else strategy
    history = History(seed=0, objectives=objectives, horizon=horizon)
    with Store.open(directory) as store:
        Controller(made, executor, store, history, **options).run()
    return history


def search(scheduler: Any) -> Composed:
    return Composed(RandomSampler(SPACE), scheduler)


# --- the executor alone ---------------------------------------------------------------------------


def test_jobs_end_in_the_order_of_the_clock_and_ties_in_that_of_their_numbers() -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=3)
    for number, to_budget in enumerate((30, 10, 10)):
        assert executor.has_room()
        executor.submit(job(number, to_budget))
    assert not executor.has_room()
    ended = [(message.job_id, executor.now) for _ in range(3) for message in executor.poll()]
    assert ended == [(1, 10.0), (2, 10.0), (0, 30.0)]
    assert executor.has_room()
    assert list(executor.poll()) == []  # nobody works: no time passes
    assert executor.now == 30.0
    assert executor.busy_fraction == pytest.approx((30 + 10 + 10) / 90)


def test_a_report_tells_what_was_measured_and_what_it_cost() -> None:
    executor = SimulatedExecutor(Formula(), CostModel(unit=2.0, switch=5.0, evaluation=1.0))
    executor.submit(job(0, 30, from_budget=10))
    (report,) = executor.poll()
    assert report == Report(0, 30, {"loss": 0.5 + 1 / 30, "size": -0.5, "epoch": 30.0}, 2.0 * 20 + 5.0 + 1.0)
    assert executor.now == 46.0


def test_jobs_beyond_the_workers_wait_their_turn() -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=2)
    for number in range(5):  # a resumed study submits all open jobs at once
        executor.submit(job(number))
    assert [(message.job_id, executor.now) for _ in range(5) for message in executor.poll()] == [
        (0, 10.0),
        (1, 10.0),
        (2, 20.0),
        (3, 20.0),
        (4, 30.0),
    ]
    assert {span.worker for span in executor.spans} == {0, 1}


def test_stop_gives_up_what_runs_without_a_word() -> None:
    curves = Formula()
    executor = SimulatedExecutor(curves, FREE_SWITCH, workers=2)
    for number in range(3):
        executor.submit(job(number, 10 + number))
    executor.poll()
    assert list(executor.stop()) == []
    assert list(executor.poll()) == []
    assert curves.measured == [0]
    assert [(span.job_id, span.finished) for span in executor.spans] == [(0, True), (1, False), (2, False)]


def test_stragglers_depend_on_the_seed_and_the_job_alone() -> None:
    def seconds(order: list[int], seed: int, workers: int) -> dict[int, float]:
        executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=workers, straggling=0.5, seed=seed)
        for number in order:
            executor.submit(job(number))
        reports = [message for _ in order for message in executor.poll()]
        return {report.job_id: report.seconds for report in reports if isinstance(report, Report)}

    order = list(range(400))
    first = seconds(order, 0, 3)
    assert first == seconds(order[::-1], 0, 7)
    assert first != seconds(order, 1, 3)
    logarithms = np.log(np.array(list(first.values())) / 10)
    assert abs(np.median(logarithms)) < 0.1
    assert np.std(logarithms) == pytest.approx(0.5, rel=0.1)


def test_failures_come_with_their_probabilities_part_of_the_way() -> None:
    chances = Chances({FailureKind.OOM: 0.2, FailureKind.CRASH: 0.1})
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=50, failures=chances)
    for number in range(1000):
        executor.submit(job(number))
    messages = [message for _ in range(1000) for message in executor.poll()]
    kinds = Counter(message.kind if isinstance(message, Failure) else "report" for message in messages)
    assert 160 < kinds[FailureKind.OOM] < 240
    assert 70 < kinds[FailureKind.CRASH] < 130
    assert kinds["report"] == 1000 - kinds[FailureKind.OOM] - kinds[FailureKind.CRASH]
    for message in messages:
        if isinstance(message, Failure):
            assert 0 <= message.seconds < 10
            assert message.budget == math.floor(message.seconds)  # a second a unit


def test_failures_may_be_a_function_of_the_job() -> None:
    too_big = SimulatedExecutor(Formula(), failures=lambda job, rng: FailureKind.OOM if job.params["x"] > 0.4 else None)
    too_big.submit(job(0, x=0.5))
    too_big.submit(job(1, x=0.3))
    assert [type(message) for _ in range(2) for message in too_big.poll()] == [Failure, Report]


def test_workers_that_are_taken_away_fail_their_jobs_and_come_back() -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=4, preemption=Preemption(30.0, 10.0))
    for number in range(200):
        executor.submit(job(number))
    outcomes: dict[int, list[type]] = {}
    lost = 0.0
    while len([number for number, seen in outcomes.items() if seen[-1] is Report]) < 200:
        for message in executor.poll():
            outcomes.setdefault(message.job_id or 0, []).append(type(message))
            if isinstance(message, Failure):
                assert message.kind is FailureKind.CRASH
                assert "was taken away" in message.message
                lost += message.seconds
                executor.submit(job(message.job_id))
    assert any(len(seen) > 1 for seen in outcomes.values())
    assert {span.worker for span in executor.spans} == {0, 1, 2, 3}
    assert executor.busy_seconds == pytest.approx(200 * 10 + lost)
    assert 0.6 < executor.present_seconds / (4 * executor.now) < 0.9  # 30 of 40 seconds
    at_work = [
        (earlier, later)
        for worker in range(4)
        for spans in [[span for span in executor.spans if span.worker == worker]]
        for earlier, later in pairwise(spans)
    ]
    assert all(earlier.end <= later.start for earlier, later in at_work)


def test_no_time_passes_while_workers_that_come_and_go_have_nothing_to_do() -> None:
    executor = SimulatedExecutor(Formula(), workers=2, preemption=Preemption(1.0, 1.0))
    assert list(executor.poll()) == []
    assert executor.now == 0.0


def test_when_all_workers_are_away_time_passes_until_one_is_back() -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, preemption=Preemption(3.0, 5.0))
    executor.submit(job(0, 100))
    (failure,) = executor.poll()
    assert isinstance(failure, Failure)
    assert not executor.has_room()
    gone = executor.now
    assert list(executor.poll()) == []
    assert executor.has_room()
    assert executor.now > gone


def test_what_was_saved_is_not_trained_again() -> None:
    fails = iter([FailureKind.CRASH, FailureKind.TIMEOUT, None])
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, failures=lambda job, rng: next(fails), save_seconds=2.0)
    for _ in range(3):
        executor.submit(job(0, 100))
    first, second, third = (executor.poll()[0] for _ in range(3))
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert isinstance(third, Report)
    saved = first.seconds // 2 * 2 + second.seconds // 2 * 2
    assert saved > 0
    assert second.budget == int(first.seconds // 2 * 2 + second.seconds)
    assert executor.now == pytest.approx(first.seconds + second.seconds + 100 - saved)
    assert third.seconds == pytest.approx(100)  # with what earlier attempts spent up to their last save


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "expected workers >= 1, got 0"),
        ({"straggling": -0.1}, "expected straggling >= 0, got -0.1"),
        ({"save_seconds": 0}, "expected save_seconds > 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedExecutor(Formula(), **options)


def test_chances_and_preemption_are_checked() -> None:
    for chances in ({FailureKind.OOM: -0.1}, {FailureKind.OOM: 0.6, FailureKind.CRASH: 0.6}):
        with pytest.raises(ValueError, match="expected probabilities >= 0 with a sum <= 1"):
            Chances(chances)
    for seconds in ((0.0, 1.0), (1.0, -1.0), (math.inf, 1.0)):
        with pytest.raises(ValueError, match="expected present_seconds > 0 and away_seconds >= 0"):
            Preemption(*seconds)


# --- with the Controller --------------------------------------------------------------------------


def test_one_worker_is_always_busy_and_gives_what_an_inline_run_gives(
    tmp_path: Path, study: Any, fake_task: Any, project: Any
) -> None:
    task = fake_task(lambda params: float(params["x"]))

    class Training:
        def measure(self, job: Job) -> Mapping[str, float]:
            return {"loss": abs(task.train(job, task.load(job), job.to_budget).weight) + job.params["x"]}

    class Keeping(Training):
        def measure(self, job: Job) -> Mapping[str, float]:
            report = task.finish(job)
            assert isinstance(report, Report)
            return report.metrics

    executor = SimulatedExecutor(Keeping(), FREE_SWITCH)
    history = run(tmp_path / "simulated", search(ASHA((1, 3, 9), max_trials=20)), executor)
    inline = study(search(ASHA((1, 3, 9), max_trials=20)), fake_task(lambda params: float(params["x"])), horizon=9)
    assert project(history) == project(inline.run())
    assert executor.busy_fraction == 1.0
    assert executor.now == history.examples == history.worker_seconds


def test_asynchronous_halving_keeps_many_workers_busy_in_spite_of_stragglers(tmp_path: Path) -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=100, straggling=0.5)
    strategy = search(ASHA((1, 3, 9, 27), max_trials=100_000))
    history = run(tmp_path, Limited(strategy, Limits(max_examples=4_000)), executor, horizon=27)
    last_start = max(span.start for span in executor.spans)
    idle = sum(max(0.0, last_start - max(s.end for s in executor.spans if s.worker == worker)) for worker in range(100))
    assert idle / (100 * last_start) < 0.01
    assert len(history.trials) > 1000


def test_the_same_seed_gives_the_same_study_whatever_goes_wrong(tmp_path: Path, project: Any) -> None:
    def one(directory: Path, seed: int) -> tuple[Any, list[Any], float]:
        executor = SimulatedExecutor(
            Formula(),
            workers=7,
            straggling=0.3,
            failures=Chances({FailureKind.OOM: 0.1, FailureKind.CRASH: 0.1}),
            preemption=Preemption(20.0, 5.0),
            seed=seed,
        )
        history = run(directory, search(ASHA((1, 3, 9), max_trials=40)), executor)
        return project(history), executor.spans, executor.now

    first = one(tmp_path / "a", 0)
    assert first == one(tmp_path / "b", 0)
    assert first != one(tmp_path / "c", 1)


def test_the_controller_tries_preempted_jobs_again(tmp_path: Path) -> None:
    executor = SimulatedExecutor(Formula(), FREE_SWITCH, workers=5, preemption=Preemption(15.0, 3.0))
    history = run(tmp_path, search(FullBudget(60)), executor, max_retries=50)
    assert history.failed_attempts
    assert not history.failures
    assert all(trial.reports for trial in history.trials)
    lost = sum(failure.seconds for failures in history.failed_attempts.values() for failure in failures)
    assert executor.busy_seconds == pytest.approx(60 * 9 + lost)
    assert history.worker_seconds == pytest.approx(executor.busy_seconds)


def test_a_curve_that_is_no_number_is_a_trial_that_diverged(tmp_path: Path) -> None:
    curves = Formula(lambda params, budget: math.nan if params["x"] < 0.2 and budget > 1 else params["x"])
    history = run(tmp_path, search(ASHA((1, 3, 9), max_trials=30)), SimulatedExecutor(curves))
    kinds = {failure.kind for failure in history.failures}
    assert kinds == {FailureKind.DIVERGED}
    assert all(trial.failure is None or trial.params["x"] < 0.2 for trial in history.trials)


def test_several_objectives_are_measured(tmp_path: Path) -> None:
    objectives = (Objective("loss"), Objective("size", "maximize"))
    history = run(tmp_path, search(FullBudget(5)), SimulatedExecutor(Formula()), objectives=objectives)
    for trial in history.trials:
        assert history.losses(trial.trial_id, 9) == (trial.params["x"] + 1 / 9, trial.params["x"])


def test_limits_read_the_simulated_clock(tmp_path: Path) -> None:
    def limited(elapsed: Callable[[], float]) -> Strategy:
        return Limited(search(FullBudget(1000)), Limits(max_seconds=100.0), elapsed)

    executor = SimulatedExecutor(Formula(), CostModel(unit=2.0), workers=3)
    history = run(tmp_path, limited, executor)
    assert len(history.trials) == 3 * 6  # 18 seconds each: the last begin at 90
    assert executor.now == 108.0


def test_a_study_that_was_stopped_is_taken_up_where_it_was(tmp_path: Path, project: Any) -> None:
    """With one worker, whose jobs do not overlap, the interruption leaves no trace."""

    class Interrupted:
        """Passes everything on, and asks the controller to stop after some polls."""

        def __init__(self, inner: SimulatedExecutor, polls: int) -> None:
            self.inner, self.left = inner, polls
            self.stop_asked: Callable[[], None] = lambda: None

        def has_room(self) -> bool:
            return self.inner.has_room()

        def submit(self, job: Job) -> None:
            self.inner.submit(job)

        def poll(self) -> Any:
            self.left -= 1
            if self.left == 0:
                self.stop_asked()
                return []
            return self.inner.poll()

        def stop(self) -> Any:
            return self.inner.stop()

    strategy = search(ASHA((1, 3, 9), max_trials=20))
    whole = run(tmp_path / "whole", strategy, SimulatedExecutor(Formula(), straggling=0.4))
    now = 0.0
    for polls in (5, 9, 1000):
        with Store.open(tmp_path / "parts") as store:
            events = [event for _, _, event in store.events()]
            history = History.replay(events, seed=0, objectives=[Objective("loss")], horizon=9)
            inner = SimulatedExecutor(Formula(), straggling=0.4, now=now)
            executor = Interrupted(inner, polls)
            controller = Controller(strategy, executor, store, history)
            executor.stop_asked = controller.request_stop
            controller.run()
            now = inner.now
    assert project(history) == project(whole)
    assert [trial.reports for trial in history.trials] == [trial.reports for trial in whole.trials]
