from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.pareto import front_of, pareto_front
from controller.trial import Failure, FailureKind, Objective, Report

NUMBERS = st.integers(0, 5).map(float)


@pytest.mark.parametrize(
    ("losses", "front"),
    [
        ([], []),
        ([(1.0,), (0.5,), (2.0,)], [1]),
        ([(1, 4), (2, 2), (4, 1), (3, 3), (2, 5)], [0, 1, 2]),
        ([(1, 1), (1, 1), (1, 2)], [0, 1]),
        ([(1, math.nan), (math.inf, 0), (3, 3)], [2]),
    ],
    ids=["nothing", "one objective", "a curve", "equals", "no numbers"],
)
def test_the_front(losses: Sequence[Sequence[float]], front: list[int]) -> None:
    assert pareto_front(losses) == front


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=12))
def test_everything_is_on_the_front_or_beaten_by_it(losses: list[tuple[float, float, float]]) -> None:
    front = pareto_front(losses)
    for place, row in enumerate(losses):
        beaten = any(
            losses[other] != row and all(a <= b for a, b in zip(losses[other], row, strict=True)) for other in front
        )
        assert beaten != (place in front)


def test_the_front_of_a_study_is_that_of_the_full_budget() -> None:
    history = History(seed=0, objectives=[Objective("loss"), Objective("accuracy", "maximize")], horizon=9)

    def trial(budget: int, loss: float, accuracy: float, repeat_of: int | None = None) -> None:
        trial_id, job_id = len(history.trials), len(history.jobs)
        history.apply(TrialCreated(trial_id, {}, 0, repeat_of=repeat_of))
        history.apply(JobCreated(job_id, trial_id, 0, budget))
        history.apply(Reported(Report(job_id, budget, {"loss": loss, "accuracy": accuracy}, 1.0)))

    trial(9, 2.0, 0.9)
    trial(9, 1.5, 0.7)
    trial(9, 2.5, 0.8)  # dominated by the first
    trial(3, 0.1, 1.0)  # at a lower budget
    trial(9, 1.0, 1.0, repeat_of=0)
    history.apply(TrialCreated(5, {}, 0))
    history.apply(JobCreated(5, 5, 0, 9))
    history.apply(Failed(Failure(5, FailureKind.OOM, "too large")))

    assert [trial.trial_id for trial in front_of(history)] == [1, 0]
