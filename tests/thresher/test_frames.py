from __future__ import annotations

import math

import pandas as pd
import pytest

from controller.events import Event, Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.importance import Importance, Importances
from controller.standings import Standing
from controller.trial import Continue, Failure, FailureKind, Objective, Report
from tests.thresher.written_study import WrittenStudy
from thresher.frames import (
    hypervolume_frame,
    importance_frame,
    pareto_frame,
    reports_frame,
    standings_frame,
    trials_frame,
)
from thresher.pareto_view import trade_offs


def history(*events: Event, direction: str = "minimize") -> History:
    objective = Objective("loss", direction)  # type: ignore[arg-type]
    return History.replay(events, seed=0, objectives=[objective], horizon=9)


@pytest.fixture
def some() -> History:
    """A trial with two reports, one that failed, one that runs and lacks a parameter, one that repeats the first."""
    return history(
        TrialCreated(0, {"rate": 0.1, "budget": 4}, 11, labels={"origin": "random"}),
        JobCreated(0, 0, 0, 3),
        Reported(Report(0, 3, {"loss": 0.5, "accuracy": 0.2}, 1.5)),
        JobCreated(1, 0, 3, 9, Continue(0, 3)),
        Reported(Report(1, 9, {"loss": 0.25, "accuracy": 0.4}, 2.5)),
        TrialCreated(1, {"rate": 0.2, "budget": 5}, 12, labels={"origin": "mutation"}),
        JobCreated(2, 1, 0, 3),
        Failed(Failure(2, FailureKind.OOM, "no memory left")),
        TrialCreated(2, {"rate": 0.3}, 13),
        JobCreated(3, 2, 0, 3),
        TrialCreated(3, {"rate": 0.1, "budget": 4}, 14, repeat_of=0),
        JobCreated(4, 3, 0, 9),
        Reported(Report(4, 9, {"loss": 0.3}, 4.0)),
    )


def test_one_row_a_trial(some: History) -> None:
    frame = trials_frame(some)
    assert list(frame.columns) == [
        *("trial", "status", "origin", "rate", "params.budget", "budget", "loss", "accuracy", "seconds"),
        *("seed", "repeat_of", "failure", "message"),
    ]
    assert list(frame.trial) == [0, 1, 2, 3]
    assert list(frame.status) == ["complete", "failed", "running", "complete"]
    assert list(frame.rate) == [0.1, 0.2, 0.3, 0.1]
    assert list(frame.budget) == [9, 0, 0, 9]
    assert frame.loss[0] == 0.25
    assert frame.seconds[0] == 4.0
    assert frame.failure[1] == "oom"
    assert frame.message[1] == "no memory left"
    assert frame.repeat_of[3] == 0


def test_what_is_absent_is_missing(some: History) -> None:
    frame = trials_frame(some)
    assert math.isnan(frame["params.budget"][2])
    assert math.isnan(frame.loss[1])
    assert math.isnan(frame.accuracy[3])
    assert pd.isna(frame.failure[0])
    assert pd.isna(frame.repeat_of[0])


def test_one_row_a_report(some: History) -> None:
    frame = reports_frame(some)
    assert list(frame.columns) == ["trial", "split", "rung", "budget", "loss", "accuracy", "seconds"]
    assert list(zip(frame.trial, frame.rung, frame.loss, strict=True)) == [(0, 3, 0.5), (0, 9, 0.25), (3, 9, 0.3)]
    assert set(frame.split) == {"validation"}


def test_metrics_of_the_names_of_other_columns_have_names_of_their_own() -> None:
    measured = {"loss": 0.5, "seconds": 9.0, "trial": 7.0, "budget": 8.0, "rate": 1.0}
    events = (TrialCreated(0, {"rate": 0.1}, 11), JobCreated(0, 0, 0, 3), Reported(Report(0, 3, measured, 1.5)))
    trials, reports = trials_frame(history(*events)), reports_frame(history(*events))
    for frame in (trials, reports):
        assert frame.columns.is_unique
        wanted = {"trial": 0, "budget": 3, "seconds": 1.5, "loss": 0.5}
        wanted |= {"metrics.trial": 7.0, "metrics.budget": 8.0, "metrics.seconds": 9.0, "rate": 1.0}
        assert {name: frame[name][0] for name in wanted} == wanted
    assert trials["params.rate"][0] == 0.1


def test_an_empty_study_has_columns() -> None:
    empty = history()
    assert "loss" in trials_frame(empty)
    assert "loss" in reports_frame(empty)
    assert list(standings_frame(empty, []).columns) == ["trial", "loss", "standard_error", "runs"]


def test_standings_are_in_terms_of_the_metric(some: History) -> None:
    first, repeat = some.trials[0], some.trials[3]
    row = Standing(first, (first, repeat), (-0.25, -0.3), -0.3, math.nan, None)
    frame = standings_frame(history(direction="maximize"), [row])
    assert frame.loss[0] == 0.3
    assert frame.runs[0] == [3]


def test_one_row_a_parameter_and_one_a_pair() -> None:
    parts = (Importance(("rate",), 0.75, 0.1), Importance(("rate", "rank"), 0.125, 0.05))
    frame = importance_frame(Importances("loss", 9, 20, 0, 0.5, parts))
    assert list(frame.parameter) == ["rate", "rate"]
    assert pd.isna(frame.interacts_with[0])
    assert frame.interacts_with[1] == "rank"
    assert list(frame.importance) == [0.75, 0.125]
    assert list(frame["std"]) == [0.1, 0.05]
    assert set(zip(frame.metric, frame.budget, frame.trials, frame.explained, strict=True)) == {("loss", 9, 20, 0.5)}


def test_one_row_a_trial_of_the_front() -> None:
    written = WrittenStudy(Objective("validation_loss"), Objective("adds", "maximize"))
    for loss, adds in ((2.0, 0.5), (1.0, 0.25), (3.0, 0.25)):
        written.found({"validation_loss": loss, "adds": adds})
    found = trade_offs(written.history, written.entries, {"validation_loss": 3.0, "adds": 0.0})
    front = pareto_frame(found)
    assert list(front.columns[:4]) == ["trial", "validation_loss", "metrics.adds", "adds"]
    assert list(front.trial) == [1, 0]
    assert list(front["metrics.adds"]) == [0.25, 0.5]
    assert list(front.adds) == [0.25, 0.25]
    assert list(front["lora.rank"]) == [32, 32]
    growth = hypervolume_frame(found)
    assert list(growth.columns) == ["trial", "results", "seconds", "budget", "hypervolume"]
    assert list(zip(growth.trial, growth.results, growth.budget, growth.hypervolume, strict=True)) == [
        (0, 1, 900, 0.5),
        (1, 2, 1800, 0.75),
        (2, 3, 2700, 0.75),
    ]


def test_frames_of_a_front_that_is_empty() -> None:
    found = trade_offs(WrittenStudy().history, [])
    assert list(pareto_frame(found).columns) == ["trial", "validation_loss", "adds"]
    assert len(hypervolume_frame(found)) == 0
