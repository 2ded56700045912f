from __future__ import annotations

import math

import pytest

from controller.trial import (
    Continue,
    Failure,
    FailureKind,
    Inherit,
    Job,
    MetricError,
    Objective,
    Report,
    Status,
    Trial,
    is_measured,
)


def test_objective_turns_a_metric_into_a_loss() -> None:
    assert Objective("loss").loss({"loss": 0.5}) == 0.5
    assert Objective("accuracy", "maximize").loss({"accuracy": 0.9, "loss": 3.0}) == -0.9
    assert math.isnan(Objective("loss").loss({"loss": math.nan}))


def test_a_missing_metric_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(MetricError, match=r"expected the metric 'loss' .* got \['accuracy', 'f1'\]; name a metric"):
        Objective("loss").loss({"f1": 0.1, "accuracy": 0.9})


@pytest.mark.parametrize(
    ("loss", "measured"), [(0.0, True), (-1e300, True), (math.nan, False), (math.inf, False), (-math.inf, False)]
)
def test_is_measured(loss: float, measured: bool) -> None:
    assert is_measured(loss) is measured


@pytest.mark.parametrize(("start", "end", "horizon"), [(-1, 1, 9), (3, 1, 9), (0, 10, 9)])
def test_a_job_needs_ordered_budgets(start: int, end: int, horizon: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= from_budget <= to_budget <= horizon"):
        Job(0, 0, {}, 0, start, end, horizon)


def test_only_what_the_process_did_is_tried_again() -> None:
    transient = {kind for kind in FailureKind if kind.is_transient}
    assert transient == {FailureKind.CRASH, FailureKind.TIMEOUT}


def test_budget_and_seconds_of_a_trial_grow_with_its_reports() -> None:
    trial = Trial(0, {}, seed=1)
    assert (trial.budget, trial.seconds) == (0, 0)
    trial.reports[3] = Report(0, 4, {"loss": 1.0}, seconds=2.0)
    trial.reports[9] = Report(1, 9, {"loss": 1.0}, seconds=5.0)
    assert (trial.budget, trial.seconds) == (9, 7.0)


def test_where_a_trial_starts_depends_on_its_source() -> None:
    assert Trial(1, {}, seed=1, source=Continue(0, 3)).budget == 3
    assert Trial(1, {}, seed=1, source=Inherit(0, 3)).budget == 0


def test_status_of_a_trial() -> None:
    trial = Trial(0, {}, seed=1, running=Job(0, 0, {}, 1, 0, 3, 9))
    assert trial.status(9) is Status.RUNNING
    trial.running = None
    trial.reports[3] = Report(0, 3, {"loss": 1.0}, seconds=1.0)
    assert trial.status(9) is Status.PAUSED
    trial.reports[9] = Report(1, 9, {"loss": 1.0}, seconds=1.0)
    assert trial.status(9) is Status.COMPLETE
    trial.failure = Failure(2, FailureKind.OOM, "too large")
    assert trial.status(9) is Status.FAILED
