from __future__ import annotations

from controller.events import AttemptStarted, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.limits import Limits
from controller.trial import Objective, Report
from thresher.budget_use import Use, budget_use, sentence


def history() -> History:
    found = History(seed=0, objectives=[Objective("loss")], horizon=9000)
    for event in (
        TrialCreated(0, {"x": 1}, 0),
        JobCreated(0, 0, 0, 9000),
        AttemptStarted(0, 1),
        Reported(Report(0, 9000, {"loss": 1.0}, 1800.0)),
    ):
        found.apply(event)
    return found


def test_without_limits() -> None:
    uses = budget_use(history(), Limits(), max_trials=None, seconds=90.0)
    assert sentence(uses) == "trials 1 · examples 9,000 · time 1m30s"
    assert all(use.left is None for use in uses)


def test_with_every_limit() -> None:
    limits = Limits(max_examples=20_000, max_worker_seconds=7200.0, max_seconds=3600.0, gpus=4)
    uses = budget_use(history(), limits, max_trials=8, seconds=5400.0)
    assert sentence(uses) == (
        "trials 1 of 8 · examples 9,000 of 20,000 · time 1h30m of 1h00m · GPU time 2h00m of 8h00m"
    )
    assert [use.what for use in uses] == ["trials", "examples", "hours", "GPU hours"]
    assert [use.left for use in uses] == [7, 11_000, 0.0, 6.0]


def test_figures() -> None:
    assert Use("trials", 3).figure(None) == "–"
    assert Use("hours", 3).figure(0.01) == "36s"
