from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.events import (
    AttemptFailed,
    AttemptStarted,
    Enqueued,
    Event,
    Failed,
    JobCreated,
    JournalError,
    Noted,
    Reported,
    SessionStarted,
    TrialCreated,
)
from controller.finalists import Finalists
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.strategy import Composed, InTurn
from controller.trial import Continue, Failure, FailureKind, Inherit, Objective, Report
from search_spaces.space import Space

LOSS = Objective("loss")


def replay(events: Sequence[Event] = (), *, seed: int = 0, objective: Objective = LOSS, horizon: int = 27) -> History:
    return History.replay(events, seed=seed, objectives=[objective], horizon=horizon)


class Script:
    """Writes the events of a study down in order."""

    def __init__(self, objective: Objective = LOSS) -> None:
        self.history = replay(objective=objective)

    def start(self, budget: int = 1, **options: object) -> int:
        trial_id = len(self.history.trials)
        params = options.pop("params", {"x": trial_id / 10})
        self.history.apply(TrialCreated(trial_id, params, seed=trial_id, **options))  # type: ignore[arg-type]
        return self.job(trial_id, 0, budget)

    def job(self, trial_id: int, start: int, end: int, **options: object) -> int:
        job_id = len(self.history.jobs)
        source = Continue(trial_id, start) if start else None
        self.history.apply(JobCreated(job_id, trial_id, start, end, source, **options))  # type: ignore[arg-type]
        self.history.apply(AttemptStarted(job_id, 1))
        return job_id

    def report(self, job_id: int, loss: float, name: str = "loss") -> None:
        self.history.apply(Reported(Report(job_id, self.history.jobs[job_id].to_budget, {name: loss}, seconds=1.0)))

    def fail(self, job_id: int) -> None:
        self.history.apply(Failed(Failure(job_id, FailureKind.OOM, "too large")))

    def trial(self, loss: float, budget: int = 1, **options: object) -> int:
        job_id = self.start(budget, **options)
        self.report(job_id, loss)
        return self.history.jobs[job_id].trial_id


def test_a_rung_is_ranked_and_ties_go_to_the_older() -> None:
    script = Script()
    for loss in (0.3, 0.1, 0.3, 0.2):
        script.trial(loss)
    rung = script.history.rung(1)
    assert rung.ranking == rung.waiting == [(0.1, 1), (0.2, 3), (0.3, 0), (0.3, 2)]
    assert rung.arrivals == [0, 1, 2, 3]
    assert [rung.rank(entry) for entry in rung.ranking] == [0, 1, 2, 3]
    assert (rung.promoted, len(rung.failed)) == (0, 0)


def test_arrivals_are_in_the_order_of_the_reports() -> None:
    script = Script()
    jobs = [script.start() for _ in range(3)]
    for job_id in reversed(jobs):
        script.report(job_id, 0.5)
    assert script.history.rung(1).arrivals == [2, 1, 0]


def test_a_promoted_trial_stays_in_the_ranking_but_waits_no_more() -> None:
    script = Script()
    for loss in (0.3, 0.1, 0.2):
        script.trial(loss)
    job_id = script.job(1, 1, 3)
    assert script.history.rung(1).waiting == [(0.2, 2), (0.3, 0)]
    assert len(script.history.rung(1).ranking) == 3
    assert script.history.rung(1).promoted == 1
    assert script.history.rung(3).ranking == []
    script.report(job_id, 0.05)
    assert script.history.rung(3).waiting == [(0.05, 1)]
    assert script.history.budgets == [1, 3]


def test_a_failure_ranks_last_in_the_rung_it_was_heading_for() -> None:
    script = Script()
    script.trial(0.3)
    script.fail(script.start())
    script.trial(0.5)
    rung = script.history.rung(1)
    assert rung.ranking == [(0.3, 0), (0.5, 2), (math.inf, 1)]
    assert rung.waiting == [(0.3, 0), (0.5, 2)]
    assert rung.arrivals == [0, 2]
    assert (rung.promoted, len(rung.failed)) == (0, 1)

    script.fail(script.job(0, 1, 3))
    assert script.history.rung(1).promoted == 1
    assert script.history.rung(3).ranking == [(math.inf, 0)]
    assert script.history.rung(3).promoted == 0
    assert script.history.trials[0].failure is not None


def test_repeats_and_tests_stay_out_of_the_rungs() -> None:
    script = Script()
    script.trial(0.3)
    script.trial(0.1, repeat_of=0, params={"x": 0.7})
    script.report(script.job(0, 1, 1, split="test"), 0.2)
    history = script.history
    assert history.rung(1).ranking == history.rung(1).waiting == [(0.3, 0)]
    assert history.trials[0].tests[1].metrics == {"loss": 0.2}
    assert history.trials[0].reports[1].metrics == {"loss": 0.3}
    assert history.num_started() == 1
    assert history.repeats == [history.trials[1]]
    assert history.best() is history.trials[0]
    assert not history.was_tried({"x": 0.7})

    script.fail(script.job(0, 1, 1, split="test"))
    assert history.trials[0].failure is None
    assert len(history.rung(1).failed) == 0


def test_brackets_have_rungs_of_their_own() -> None:
    script = Script()
    script.trial(0.3, labels={"bracket": 0})
    script.trial(0.1, labels={"bracket": 1})
    script.trial(0.2)
    history = script.history
    assert history.rung(1, 0).ranking == [(0.3, 0)]
    assert history.rung(1, 1).ranking == [(0.1, 1)]
    assert history.rung(1).ranking == [(0.1, 1), (0.2, 2), (0.3, 0)]
    assert [history.num_started(bracket) for bracket in (0, 1, 2, None)] == [1, 1, 0, 3]
    assert history.rung(1, 2).ranking == []
    assert history.budgets == [1]


def test_a_rung_knows_how_many_are_on_their_way() -> None:
    script = Script()
    first, second = script.start(labels={"bracket": 2}), script.start()
    history = script.history
    assert (history.rung(1).heading, history.rung(1, 2).heading, history.rung(3).heading) == (2, 1, 0)
    assert history.budgets == []  # a rung that holds no result is none yet
    script.report(first, 0.3)
    script.fail(second)
    assert (history.rung(1).heading, history.rung(1, 2).heading) == (0, 0)
    script.start(repeat_of=0)
    measuring = script.job(0, 1, 1, split="test")
    assert history.rung(1).heading == 0
    script.report(measuring, 0.2)
    script.job(0, 1, 3)
    assert (history.rung(3).heading, history.rung(3, 2).heading) == (1, 1)
    assert history.budgets == [1]


def test_a_rung_knows_who_waits() -> None:
    script = Script()
    script.trial(0.3)
    script.fail(script.start())
    script.trial(0.3)
    script.job(0, 1, 3)
    rung = script.history.rung(1)
    assert [rung.waits(entry) for entry in rung.ranking] == [False, True, False]
    assert not rung.waits((0.1, 2))


def test_searching_leaves_out_repeats_and_tests() -> None:
    script = Script()
    script.trial(0.3)
    script.start(repeat_of=0)
    script.job(0, 1, 1, split="test")
    assert script.history.searching == []
    job_id = script.start()
    assert [job.job_id for job in script.history.searching] == [job_id]


def test_best_is_of_the_highest_rung_with_a_measured_trial() -> None:
    script = Script()
    assert script.history.best() is None
    script.fail(script.start())
    assert script.history.best() is None
    script.trial(0.3)
    script.trial(0.1)
    assert script.history.best() is script.history.trials[2]
    script.fail(script.job(2, 1, 3))
    assert script.history.best() is script.history.trials[2]
    script.report(script.job(1, 1, 3), 0.9)
    assert script.history.best() is script.history.trials[1]


def test_a_metric_to_maximize_ranks_the_other_way_round() -> None:
    script = Script(Objective("accuracy", "maximize"))
    for accuracy in (0.5, 0.9):
        script.report(script.start(), accuracy, "accuracy")
    assert script.history.rung(1).ranking == [(-0.9, 1), (-0.5, 0)]


def test_lineage_counts_what_an_ancestor_trained_itself_up_to_the_hand_over() -> None:
    history = replay(
        [
            TrialCreated(0, {}, 0),
            JobCreated(0, 0, 0, 3),
            Reported(Report(0, 3, {"loss": 1.0}, seconds=3.5)),
            JobCreated(1, 0, 3, 9, Continue(0, 3)),
            Reported(Report(1, 9, {"loss": 1.0}, seconds=6.5)),
            TrialCreated(1, {}, 1, Continue(0, 3)),
            JobCreated(2, 1, 3, 9, Continue(0, 3)),
            Reported(Report(2, 9, {"loss": 1.0}, seconds=7.0)),
            TrialCreated(2, {}, 2, Inherit(1, 9)),
            JobCreated(3, 2, 0, 3, Inherit(1, 9)),
        ]
    )
    lineage = history.lineage(2)
    assert [(ancestor.trial.trial_id, ancestor.budget) for ancestor in lineage] == [(1, 9), (0, 3)]
    assert [(ancestor.trained, ancestor.seconds) for ancestor in lineage] == [(6, 7.0), (3, 3.5)]


def test_queue_is_taken_in_order() -> None:
    history = replay([Enqueued({"x": 1}), Enqueued({"x": 2})])
    assert history.next_queued() == {"x": 1}
    history.apply(TrialCreated(0, {"x": 1}, 0, enqueued=True))
    assert history.next_queued() == {"x": 2}
    history.apply(TrialCreated(1, {"x": 5}, 0))
    assert history.next_queued() == {"x": 2}
    history.apply(TrialCreated(2, {"x": 2}, 0, enqueued=True))
    assert history.next_queued() is None


def test_was_tried_ignores_the_order_of_names() -> None:
    history = replay([TrialCreated(0, {"a": 1, "b": "x"}, 0)])
    assert history.was_tried({"b": "x", "a": 1})
    assert not history.was_tried({"a": 2, "b": "x"})


def test_random_numbers_depend_on_seed_decision_and_attempt_only() -> None:
    script = Script()
    script.trial(0.3)

    def draws(history: History, attempt: int = 0) -> tuple[float, ...]:
        return tuple(history.generator(attempt).random(3))

    first = draws(script.history)
    assert draws(script.history) == first
    assert draws(script.history, 1) != first
    assert draws(replay()) != first  # another decision
    assert draws(replay(seed=1)) != draws(replay())
    job_id = script.start()
    after = draws(script.history)
    script.report(job_id, 0.1)  # a report is no decision: which comes first must not change the draw
    assert draws(script.history) == after != first
    seed = script.history.trial_seed()
    script.job(1, 1, 3)  # a promotion is a decision, but makes no trial
    assert draws(script.history) not in (first, after)
    assert script.history.trial_seed() == seed


def test_training_seeds_differ_and_fit_into_31_bits() -> None:
    script = Script()
    seeds = []
    for _ in range(100):
        seeds.append(script.history.trial_seed())
        script.trial(0.3)
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert replay(seed=1).trial_seed() != replay(seed=2).trial_seed()


def test_training_seeds_are_no_part_of_the_search_streams() -> None:
    history = replay(seed=5)
    state = history.generator().bit_generator.seed_seq.generate_state(4)  # type: ignore[attr-defined]
    assert history.trial_seed() not in [int(word) >> 1 for word in state]


def test_attempts_and_notes_are_kept() -> None:
    failure = Failure(0, FailureKind.CRASH, "killed")
    history = replay([TrialCreated(0, {}, 0), JobCreated(0, 0, 0, 1), AttemptStarted(0, 1)])
    for event in (AttemptFailed(failure), AttemptStarted(0, 2), Noted(0, "trained again")):
        history.apply(event)
    assert history.attempts == {0: 2}
    assert history.failed_attempts == {0: [failure]}
    assert history.notes == [Noted(0, "trained again")]
    assert list(history.running) == [0]


CREATED = [TrialCreated(0, {}, 0), JobCreated(0, 0, 0, 1)]
REPORT = Report(0, 1, {"loss": 1.0}, 1.0)


@pytest.mark.parametrize(
    "events",
    [
        [TrialCreated(1, {}, 0)],
        [TrialCreated(0, {}, 0), TrialCreated(0, {}, 0)],
        [TrialCreated(0, {}, 0, Inherit(0, 3))],
        [JobCreated(0, 0, 0, 1)],
        [*CREATED, JobCreated(1, 0, 0, 1)],
        [*CREATED, Reported(REPORT), JobCreated(2, 0, 1, 3)],
        [*CREATED, Reported(REPORT), Reported(REPORT)],
        [*CREATED, Reported(REPORT), AttemptStarted(0, 2)],
        [AttemptFailed(Failure(0, FailureKind.CRASH, ""))],
        [Failed(Failure(3, FailureKind.CRASH, ""))],
    ],
)
def test_entries_that_do_not_follow_are_refused(events: list[Event]) -> None:
    with pytest.raises(JournalError, match="expected"):
        replay(events)


def test_a_history_needs_an_objective() -> None:
    with pytest.raises(ValueError, match="expected at least one objective"):
        History(seed=0, objectives=[], horizon=1)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.2, 0.3, None]), st.integers(0, 1)), max_size=40))
def test_indices_equal_what_a_fresh_count_gives(steps: list[tuple[int, float | None, int]]) -> None:
    """Random studies: start a trial or send a waiting one on; its result is a loss, or None for a failure."""
    script = Script()
    history = script.history
    for choice, loss, bracket in steps:
        paused = [t for t in history.trials if t.failure is None and t.budget < 8]
        if choice == 0 or not paused:
            job_id = script.start(1, labels={"bracket": bracket})
        else:
            trial = paused[choice % len(paused)]
            job_id = script.job(trial.trial_id, trial.budget, 2 * trial.budget)
        if loss is None:
            script.fail(job_id)
        else:
            script.report(job_id, loss)
    for budget in (1, 2, 4, 8):
        for number in (0, 1, None):
            members = [t for t in history.trials if number in (None, t.labels["bracket"])]
            measured = {t.trial_id: t.reports[budget].metrics["loss"] for t in members if budget in t.reports}
            failed = [t.trial_id for t in members if t.failure and history.jobs[t.failure.job_id].to_budget == budget]
            rung = history.rung(budget, number)
            ranking = [(loss, trial_id) for trial_id, loss in measured.items()]
            assert rung.ranking == sorted([*ranking, *((math.inf, trial_id) for trial_id in failed)])
            idle = [e for e in ranking if history.trials[e[1]].budget == budget and not history.trials[e[1]].failure]
            assert rung.waiting == sorted(idle)
            assert sorted(rung.arrivals) == sorted(measured)
            assert rung.promoted == len(ranking) - len(idle)


def test_what_was_spent_is_told_by_stage() -> None:
    script = Script()
    history = script.history
    first = script.start(3)
    history.apply(AttemptFailed(Failure(first, FailureKind.CRASH, "killed", 2, 5.0)))
    history.apply(Reported(Report(first, 4, {"loss": 1.0}, 10.0)))  # a batch ends past the budget
    assert (history.examples, history.worker_seconds) == (2 + 4, 15.0)
    resumed = script.job(0, 3, 9)
    assert history.examples_underway == 6
    history.apply(Reported(Report(resumed, 10, {"loss": 0.9}, 20.0)))
    assert history.examples == 2 + 10
    assert history.examples_underway == 0
    failing = script.start(9, source=Continue(0, 9))
    history.apply(Failed(Failure(failing, FailureKind.OOM, "too large", 0, 1.0)))
    assert (history.examples, history.worker_seconds) == (12, 36.0)
    script.trial(0.8, 27, repeat_of=0)
    assert (history.examples, history.worker_seconds) == (12, 36.0)
    tested = script.job(0, 9, 9, split="test")
    history.apply(Reported(Report(tested, 9, {"test_loss": 0.8}, 3.0)))
    assert {stage: (spent.examples, spent.worker_seconds) for stage, spent in history.spent.items()} == {
        "search": (12, 36.0),
        "repeats": (27, 1.0),
        "tests": (0, 3.0),
    }
    assert [failure.job_id for failure in history.failures] == [failing]
    assert [job.job_id for job in history.tests] == [tested]


def test_what_a_trial_inherits_or_continues_is_not_spent_again() -> None:
    script = Script()
    history = script.history
    script.trial(1.0, 9)
    history.apply(TrialCreated(1, {}, 0, Continue(0, 9)))
    history.apply(JobCreated(1, 1, 9, 27, Continue(0, 9)))
    script.report(1, 0.5)
    assert history.examples == 27
    history.apply(TrialCreated(2, {}, 0, Inherit(1, 27)))
    history.apply(JobCreated(2, 2, 0, 3, Inherit(1, 27)))
    script.report(2, 0.5)
    assert history.examples == 30


def test_sessions_are_counted() -> None:
    assert replay([SessionStarted(), SessionStarted()]).sessions == 2


def test_all_objectives_are_losses() -> None:
    history = History(seed=0, objectives=[Objective("loss"), Objective("accuracy", "maximize")], horizon=9)
    for event in (
        TrialCreated(0, {}, 0),
        JobCreated(0, 0, 0, 9),
        Reported(Report(0, 9, {"loss": 2.0, "accuracy": 0.75}, 1.0)),
    ):
        history.apply(event)
    assert history.losses(0, 9) == (2.0, -0.75)
    assert history.loss(0, 9) == 2.0


def test_results_are_those_of_the_search_in_the_order_of_their_reports() -> None:
    script = Script()
    history = script.history
    first, second, failing = script.start(), script.start(), script.start()
    script.report(second, 0.5)
    script.fail(failing)
    script.report(first, 0.7)
    script.report(script.job(1, 1, 3), 0.4)
    script.trial(0.8, 3, repeat_of=1)
    script.report(script.job(1, 3, 3, split="test"), 0.45)
    script.report(script.job(3, 3, 3, split="test"), 0.9)
    script.report(script.job(0, 1, 3), 0.6)
    assert history.results == [(1, 1), (0, 1), (1, 3), (0, 3)]


def test_results_come_in_the_order_of_arrival_with_several_workers(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    class Watched:
        """Notes every report as the controller writes it down."""

        def __init__(self, store: Any) -> None:
            self.store = store

        def append(self, events: Sequence[Event]) -> None:
            self.store.append(events)
            written.extend(event.report.job_id for event in events if isinstance(event, Reported))

    written: list[int] = []
    strategy = InTurn([Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=24)), Finalists(count=1, repeats=1)])
    ran = study(strategy, fake_task(quality), horizon=9)
    history = ran.run(3, wrap=Watched)
    jobs = [history.jobs[job_id] for job_id in written]
    searched = [job for job in jobs if history.stage_of(job) == "search"]
    assert history.results == [(job.trial_id, job.to_budget) for job in searched]
    assert len(searched) < len(jobs)  # repeats and tests
    assert [job.job_id for job in searched] != sorted(job.job_id for job in searched)
    assert history.results == ran.replay().results
    for budget in history.budgets:
        assert [trial_id for trial_id, rung in history.results if rung == budget] == history.rung(budget).arrivals
