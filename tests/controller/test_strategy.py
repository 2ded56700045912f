from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from controller.events import Enqueued, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Decision, Done, InTurn, Proposal, Resume, Start, StartNew, Strategy, Wait
from controller.trial import Objective, Report
from search_spaces.domains import Choice
from search_spaces.space import Space


def empty(seed: int = 0) -> History:
    return History(seed=seed, objectives=[Objective("loss")], horizon=9)


@dataclass(frozen=True)
class Fixed:
    """A scheduler, or a strategy, of one decision."""

    decision: Any
    retained: frozenset[int] = frozenset()

    def next(self, history: History) -> Any:
        return self.decision

    def retain(self, history: History) -> set[int]:
        return set(self.retained)


@dataclass(frozen=True)
class Digits:
    """Proposes digits, and counts in the label how often it was asked for this decision."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal({"digit": int(rng.integers(10))}, {"origin": "digits"})


@pytest.mark.parametrize("decision", [Resume(0, 9), Wait(), Done("over")])
def test_a_scheduler_decides_alone_unless_it_wants_a_new_trial(decision: Decision) -> None:
    assert Composed(Digits(), Fixed(decision)).next(empty()) == decision


def test_a_new_trial_carries_the_labels_of_both() -> None:
    decision = Composed(Digits(), Fixed(StartNew(3, {"bracket": 1}))).next(empty())
    assert isinstance(decision, Start)
    assert decision.budget == 3
    assert decision.labels == {"origin": "digits", "bracket": 1}
    assert not decision.enqueued


def test_enqueued_configurations_come_first() -> None:
    history = empty()
    history.apply(Enqueued({"digit": 42}))
    decision = Composed(Digits(), Fixed(StartNew(3, {"bracket": 1}))).next(history)
    assert decision == Start({"digit": 42}, 3, labels={"origin": "enqueued", "bracket": 1}, enqueued=True)


def test_a_proposal_that_was_tried_is_drawn_again() -> None:
    history = empty()
    strategy = Composed(Digits(), Fixed(StartNew(9)), max_redraws=200)
    for _ in range(10):
        decision = strategy.next(history)
        assert isinstance(decision, Start)
        _take(history, decision)
    assert sorted(trial.params["digit"] for trial in history.trials) == list(range(10))


def test_a_used_up_space_repeats_itself() -> None:
    history = empty()
    space = Space({"x": Choice(("only",))})
    strategy = Composed(RandomSampler(space), FullBudget(3))
    for _ in range(3):
        decision = strategy.next(history)
        assert isinstance(decision, Start)
        assert decision.params == {"x": "only"}
        _take(history, decision)
    assert isinstance(strategy.next(history), Done)


def test_without_redraws_the_first_proposal_is_taken() -> None:
    history = empty()
    first = Composed(Digits(), Fixed(StartNew(9)), max_redraws=0).next(history)
    assert isinstance(first, Start)
    assert first.params["digit"] == int(history.generator(0).integers(10))
    with pytest.raises(ValueError, match="expected max_redraws >= 0, got -1"):
        Composed(Digits(), Fixed(Wait()), max_redraws=-1)


def test_what_is_retained_is_the_schedulers_word() -> None:
    assert Composed(Digits(), Fixed(Wait(), frozenset({4}))).retain(empty()) == {4}


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ([Resume(0, 9), Resume(1, 9)], Resume(0, 9)),
        ([Wait(), Resume(1, 9)], Wait()),
        ([Done("a"), Resume(1, 9)], Resume(1, 9)),
        ([Done("a"), Wait()], Wait()),
        ([Done("a"), Done("b")], Done("b")),
        ([], Done("nothing to do")),
    ],
)
def test_in_turn_each_begins_when_the_one_before_is_done(decisions: list[Decision], expected: Decision) -> None:
    assert InTurn([Fixed(decision) for decision in decisions]).next(empty()) == expected


def test_in_turn_goes_on_while_jobs_of_the_later_one_are_running() -> None:
    """The jobs that are running may be its own: waiting for them would leave all workers but one idle."""
    history = empty()
    history.apply(TrialCreated(0, {}, 0))
    history.apply(JobCreated(0, 0, 0, 9))
    stages: list[Strategy] = [Fixed(Done("searched")), Fixed(Start({}, 9, repeat_of=0))]
    assert InTurn(stages).next(history) == Start({}, 9, repeat_of=0)


def test_in_turn_retains_what_any_of_them_needs() -> None:
    stages: list[Strategy] = [Fixed(Wait(), frozenset({1, 2})), Fixed(Wait(), frozenset({2, 5}))]
    assert InTurn(stages).retain(empty()) == {1, 2, 5}
    assert InTurn([]).retain(empty()) == set()


def _take(history: History, decision: Start) -> None:
    """Apply what the controller would journal, with a result at once."""
    trial_id, job_id = len(history.trials), len(history.jobs)
    history.apply(TrialCreated(trial_id, decision.params, 0, labels=decision.labels))
    history.apply(JobCreated(job_id, trial_id, 0, decision.budget))
    history.apply(Reported(Report(job_id, decision.budget, {"loss": 0.5}, 1.0)))
