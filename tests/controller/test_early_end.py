"""The early end: when nothing is to be gained any more, and not before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controller.events import Enqueued, Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.gaussian_process import Constraint, GaussianProcessSampler, Outlook
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategies.early_end import EarlyEnd
from controller.strategy import Composed, Decision, Done, Resume, Start, Strategy, Wait
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.domains import Float
from search_spaces.space import Params, Space

SQUARE = Space({"x0": Float(0.0, 1.0), "x1": Float(0.0, 1.0)})


def bowl(params: Params) -> float:
    return 10 * ((float(params["x0"]) - 0.3) ** 2 + (float(params["x1"]) - 0.7) ** 2)


def run(
    strategy: Strategy, noise: float, seed: int = 0, horizon: int = 1, workers: int = 1
) -> tuple[History, Decision]:
    """A study to its end, on workers that end in the order in which they began."""
    history = History(seed=seed, objectives=[Objective("loss")], horizon=horizon)
    rng = np.random.default_rng(seed)
    while True:
        decision = strategy.next(history)
        if isinstance(decision, Done):
            return history, decision
        if isinstance(decision, Start):
            trial_id = len(history.trials)
            history.apply(TrialCreated(trial_id, decision.params, 0, labels=decision.labels))
            history.apply(JobCreated(len(history.jobs), trial_id, 0, decision.budget))
        elif isinstance(decision, Resume):
            trial = history.trials[decision.trial_id]
            history.apply(JobCreated(len(history.jobs), trial.trial_id, trial.budget, decision.budget))
        if len(history.running) >= workers or isinstance(decision, Wait):
            job = next(iter(history.running.values()))
            loss = bowl(job.params) + noise * rng.normal() + 1.0 / job.to_budget
            history.apply(Reported(Report(job.job_id, job.to_budget, {"loss": loss}, 1.0)))


def ending(scheduler: Any, sampler: Any = None, **options: Any) -> EarlyEnd:
    surrogate = GaussianProcessSampler(SQUARE)
    return EarlyEnd(Composed(sampler or surrogate, scheduler), surrogate, **options)


def test_a_noisy_study_ends_early_and_says_why() -> None:
    history, decision = run(ending(FullBudget(100)), noise=0.3)
    assert 20 <= len(history.trials) < 60
    assert isinstance(decision, Done)
    assert decision.reason.startswith("the expected improvement of loss by another trial, ")
    assert decision.reason.endswith("(as the surrogate sees it)")
    best = history.best()
    assert best is not None
    assert bowl(best.params) < 0.6  # what is left to gain is in the order of the noise


def test_the_smaller_the_share_the_longer_it_goes_on() -> None:
    counts = [len(run(ending(FullBudget(60), noise_share=share), noise=0.3)[0].trials) for share in (1.0, 0.5, 1e-9)]
    assert counts[0] <= counts[1] < counts[2] == 60


def test_without_noise_it_goes_on() -> None:
    history, _ = run(ending(FullBudget(40), RandomSampler(SQUARE), min_trials=4), noise=0.0)
    assert len(history.trials) == 40  # something is to be gained by random search to the end


def test_it_waits_for_what_is_running() -> None:
    strategy = ending(FullBudget(100))
    decisions: list[Decision] = []

    class Watched:
        def next(self, history: History) -> Decision:
            decisions.append(strategy.next(history))
            return decisions[-1]

        def retain(self, history: History) -> set[int]:
            return strategy.retain(history)

    history, _ = run(Watched(), noise=0.3, workers=7)
    assert not history.running
    assert any(isinstance(decision, Wait) for decision in decisions)
    assert len(history.trials) < 100


def test_promotions_go_on_and_nothing_ends_before_the_full_budget() -> None:
    history, decision = run(ending(ASHA((1, 3, 9), max_trials=90), min_trials=8), noise=0.3, horizon=9, workers=3)
    assert isinstance(decision, Done)
    assert "expected improvement" in decision.reason
    assert len(history.trials) < 90
    assert history.rung(9).arrivals


class Fixed:
    """A surrogate that says the same always."""

    def __init__(self, outlook: Outlook | None) -> None:
        self._outlook = outlook

    def outlook(self, history: History) -> Outlook | None:
        return self._outlook


def measured(trials: int, budget: int = 1, horizon: int = 1) -> History:
    history = History(seed=0, objectives=[Objective("loss")], horizon=horizon)
    rng = np.random.default_rng(0)
    for number in range(trials):
        history.apply(TrialCreated(number, SQUARE.sample(rng), 0))
        history.apply(JobCreated(number, number, 0, budget))
        history.apply(Reported(Report(number, budget, {"loss": rng.random()}, 1.0)))
    return history


def decide(history: History, outlook: Outlook | None, **options: Any) -> Decision:
    strategy: Any = Composed(RandomSampler(SQUARE), FullBudget(100))
    fixed: Any = Fixed(outlook)
    return EarlyEnd(strategy, fixed, **options).next(history)


def test_the_rule() -> None:
    hopeless = Outlook(1, 0.04, 0.1, 3)
    history = measured(20)
    assert decide(history, hopeless) == Done(
        "the expected improvement of loss by another trial, 0.04 at budget 1, is below 0.5 of the noise, 0.1 "
        "(from 3 repeated measurements)"
    )
    assert isinstance(decide(history, Outlook(1, 0.05, 0.1, 3)), Start)
    assert isinstance(decide(history, hopeless, noise_share=0.3), Start)
    assert isinstance(decide(history, None), Start)
    assert isinstance(decide(measured(19), hopeless), Start)
    assert isinstance(decide(measured(19), hopeless, min_trials=19), Done)
    assert isinstance(decide(measured(20, budget=1, horizon=9), hopeless), Start)  # none has the full budget


def test_what_was_enqueued_is_still_started() -> None:
    history = measured(20)
    history.apply(Enqueued({"x0": 0.5, "x1": 0.5}))
    decision = decide(history, Outlook(1, 0.0, 0.1, 0))
    assert isinstance(decision, Start)
    assert decision.enqueued


def test_failures_do_not_count_as_measured() -> None:
    history = measured(19)
    history.apply(TrialCreated(19, {"x0": 0.5, "x1": 0.5}, 0))
    history.apply(JobCreated(19, 19, 0, 1))
    history.apply(Failed(Failure(19, FailureKind.OOM, "")))
    assert isinstance(decide(history, Outlook(1, 0.0, 0.1, 0)), Start)


def test_it_does_not_end_while_no_configuration_satisfies_the_constraints() -> None:
    surrogate = GaussianProcessSampler(SQUARE, constraints=[Constraint("loss", at_most=-9.0)])
    strategy = EarlyEnd(Composed(surrogate, FullBudget(26)), surrogate, noise_share=100.0)
    assert len(run(strategy, noise=0.1)[0].trials) == 26


def test_retention_is_that_of_the_strategy() -> None:
    inner = Composed(RandomSampler(SQUARE), ASHA((1, 3), max_trials=30, keep=2))
    history = measured(9, horizon=3)
    assert EarlyEnd(inner, GaussianProcessSampler(SQUARE)).retain(history) == inner.retain(history)


def test_a_killed_study_decides_the_same(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    surrogate = GaussianProcessSampler(space)
    strategy = EarlyEnd(Composed(surrogate, FullBudget(30)), surrogate, min_trials=10)
    study(strategy, fake_task(lambda params: len(str(params)) % 3 + quality(params)), horizon=9, checked=True).run(2)


@pytest.mark.parametrize("options", [{"min_trials": 1}, {"noise_share": 0.0}])
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected min_trials >= 2 and noise_share > 0"):
        ending(FullBudget(10), **options)
