from __future__ import annotations

from pathlib import Path

import pytest

from controller.events import Event, Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.trial import Failure, FailureKind, Objective, Report
from thresher.results import Snapshot, StudyError, function_finalists


def snapshot(*events: Event, finalists: int = 0) -> Snapshot:
    history = History.replay(events, seed=0, objectives=[Objective("accuracy", "maximize")], horizon=9)
    return Snapshot(Path("runs/mine"), history, (3, 9), 12, function_finalists(finalists, 1), finished=False)


def trial(number: int, accuracy: float, budget: int = 9, repeat_of: int | None = None) -> list[Event]:
    labels = {} if repeat_of is None else {"finalist": repeat_of, "repeat": 1}
    return [
        TrialCreated(number, {"x": number}, 0, labels=labels, repeat_of=repeat_of),
        JobCreated(number, number, 0, budget),
        Reported(Report(number, budget, {"accuracy": accuracy}, 1.0)),
    ]


def test_the_best_is_that_of_the_highest_rung() -> None:
    best = snapshot(*trial(0, 0.9, budget=3), *trial(1, 0.5), *trial(2, 0.6)).best()
    assert (best.trial, best.params, best.metric, best.value, best.budget, best.runs) == (
        2,
        {"x": 2},
        "accuracy",
        0.6,
        9,
        (2,),
    )


def test_with_repeats_it_is_the_best_mean_of_the_repeats() -> None:
    events = [*trial(0, 0.6), *trial(1, 0.7), *trial(2, 0.5, repeat_of=1), *trial(3, 0.55, repeat_of=0)]
    best = snapshot(*events, finalists=2).best()
    assert (best.trial, best.value, best.runs) == (0, 0.55, (3,))


def test_without_a_result_there_is_none() -> None:
    with pytest.raises(StudyError, match="expected a trial that was measured in runs/mine, got none; run the study"):
        snapshot().best()
    failed = [
        TrialCreated(0, {}, 0),
        JobCreated(0, 0, 0, 3),
        Failed(Failure(0, FailureKind.CRASH, "File x\nKeyError: 'y'")),
    ]
    with pytest.raises(StudyError, match="1 failed, the first with: KeyError: 'y'"):
        snapshot(*failed).best()


def test_a_line_says_where_it_stands() -> None:
    assert snapshot().summary() == "0 of 12 trials started"
    line = snapshot(*trial(0, 0.9, budget=3), *trial(1, 0.5)).summary()
    assert line == "2 of 12 trials started, 1 paused, 1 complete; best accuracy 0.5 (trial 1, at 9/9)"
