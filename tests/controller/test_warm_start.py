from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.samplers.tpe import TPESampler
from controller.samplers.warm_start import (
    EarlierTrial,
    Evidence,
    WarmStartSampler,
    _beats,
    earlier_trials,
)
from controller.schedulers.asha import ASHA
from controller.strategy import Composed, Sampler
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.rules import Ordered
from search_spaces.space import Params, Space

SQUARE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})


def bowl(params: Params, x: float = 0.7, y: float = 0.2) -> float:
    return math.hypot(float(params["x"]) - x, float(params["y"]) - y)


def study_of(loss: Callable[[Params], float], count: int = 40, seed: int = 1) -> list[EarlierTrial]:
    rng = np.random.default_rng(seed)
    drawn = [SQUARE.sample(rng) for _ in range(count)]
    return [EarlierTrial(params, loss(params), 9) for params in drawn]


def search(sampler: Sampler, trials: int, seed: int, loss: Callable[[Params], float] = bowl) -> History:
    """Trials one after the other, all to the full budget."""
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    for number in range(trials):
        proposal = sampler.propose(history, history.generator())
        history.apply(TrialCreated(number, proposal.params, 0, None, proposal.labels))
        history.apply(JobCreated(number, number, 0, 1))
        value = loss(proposal.params)
        if math.isfinite(value):
            history.apply(Reported(Report(number, 1, {"loss": value}, 1.0)))
        else:
            history.apply(Failed(Failure(number, FailureKind.OOM, "")))
    return history


def losses(history: History) -> list[float]:
    return [history.loss(trial.trial_id, 1) for trial in history.trials]


def test_the_best_of_each_study_are_tried_first_in_turn() -> None:
    near, far = study_of(bowl), study_of(lambda params: bowl(params, 0.1, 0.9), seed=2)
    sampler = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [near, far], num_first=5)
    history = search(sampler, 6, 0)
    best = [sorted(study, key=lambda trial: trial.loss) for study in (near, far)]
    expected = [best[0][0], best[1][0], best[0][1], best[1][1], best[0][2]]
    assert [trial.params for trial in history.trials[:5]] == [one.params for one in expected]
    assert [trial.labels["study"] for trial in history.trials[:5]] == [0, 1, 0, 1, 0]
    assert {trial.labels["origin"] for trial in history.trials[:5]} == {"earlier best"}
    assert history.trials[5].labels["origin"] != "earlier best"


def test_what_was_tried_already_is_not_tried_again() -> None:
    study = study_of(bowl, 5)
    best = sorted(study, key=lambda trial: trial.loss)
    history = History(seed=0, objectives=[Objective("loss")], horizon=1)
    history.apply(TrialCreated(0, best[0].params, 0))  # the default, say; still running
    proposal = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [study, study]).propose(history, history.generator())
    assert proposal.params == best[1].params


def test_losses_at_lower_budgets_come_after_those_at_higher_ones() -> None:
    trials = [
        EarlierTrial({"x": 0.1, "y": 0.1}, 0.1, 1),
        EarlierTrial({"x": 0.2, "y": 0.1}, 0.9, 9),
        EarlierTrial({"x": 0.3, "y": 0.1}, 0.8, 9),
        EarlierTrial({"x": 0.4, "y": 0.1}, math.nan, 27),
    ]
    history = search(WarmStartSampler(SQUARE, RandomSampler(SQUARE), [trials]), 3, 0)
    assert [trial.params["x"] for trial in history.trials] == [0.3, 0.2, 0.1]


def test_configurations_are_moved_into_the_space() -> None:
    space = Space(
        {
            "rate": Float(1e-4, 1e-2, log=True),
            "batch": Choice((8, 16, 32)),
            "kind": Choice(("linear", "wsd")),
            "decay": Float(0.0, 1.0),
            "layers": Int(2, 8),
            "new": Float(0.0, 1.0),
        },
        conditions=(OneOf("decay", "kind", ("wsd",)),),
        rules=(Ordered(("decay", "new")),),
    )
    old: Params = {"rate": 0.5, "batch": 20, "kind": "cosine", "decay": 0.3, "layers": 99, "gone": True}
    sampler = WarmStartSampler(space, RandomSampler(space), [[EarlierTrial(old, 0.1, 1)]])
    history = History(seed=0, objectives=[Objective("loss")], horizon=1)
    params = sampler.propose(history, history.generator()).params
    space.validate(params)
    assert params["rate"] == 1e-2
    assert params["batch"] == 16
    assert params["layers"] == 8
    assert params["kind"] == space.most_likely()["kind"]  # nothing is known of cosine
    assert "gone" not in params


@pytest.mark.parametrize(
    "earlier",
    [[], [[]], [[EarlierTrial({"other": 1}, 0.1, 1)]], [[EarlierTrial({"x": 0.1}, math.nan, 1)]]],
    ids=["none", "empty", "unknown", "failed"],
)
def test_where_nothing_is_known_it_is_the_inner_sampler(earlier: list[list[EarlierTrial]]) -> None:
    warm = search(WarmStartSampler(SQUARE, TPESampler(SQUARE), earlier), 20, 3)
    inner = search(_NoFirstDraw(TPESampler(SQUARE)), 20, 3)
    assert [trial.params for trial in warm.trials] == [trial.params for trial in inner.trials]
    assert {trial.labels["warm"] for trial in warm.trials} == {"inner"}
    assert [trial.labels["origin"] for trial in warm.trials] == [trial.labels["origin"] for trial in inner.trials]


class _NoFirstDraw:
    """The inner sampler as it is: with nothing earlier, not a random number is drawn."""

    def __init__(self, inner: Sampler) -> None:
        self.propose = inner.propose


def test_a_helpful_study_gives_the_optimum_at_once() -> None:
    optimum = EarlierTrial({"x": 0.7, "y": 0.2}, 0.0, 9)
    warm = WarmStartSampler(SQUARE, TPESampler(SQUARE), [[*study_of(bowl), optimum]])
    assert losses(search(warm, 1, 0)) == [0.0]
    shifted = [study_of(lambda params: bowl(params, 0.75, 0.25))]  # much alike, not the same
    ours = [losses(search(WarmStartSampler(SQUARE, TPESampler(SQUARE), shifted), 15, seed)) for seed in range(10)]
    cold = [losses(search(TPESampler(SQUARE), 15, seed)) for seed in range(10)]
    assert np.mean([min(one[:3]) for one in ours]) < 0.5 * np.mean([min(one[:3]) for one in cold])
    assert np.mean([min(one) for one in ours]) < 0.8 * np.mean([min(one) for one in cold])


def misled() -> WarmStartSampler:
    """Warm from a study that takes the worst corner for the best."""
    return WarmStartSampler(SQUARE, TPESampler(SQUARE), [study_of(lambda params: bowl(params, 0.0, 1.0))])


def test_a_misleading_study_loses_its_weight_and_does_no_lasting_harm() -> None:
    ours = [search(misled(), 50, seed) for seed in range(10)]
    cold = [search(TPESampler(SQUARE), 50, seed) for seed in range(10)]
    late = [trial.labels["warm"] for history in ours for trial in history.trials[10:]]
    assert late.count("earlier") < 0.05 * len(late)
    for history in ours:
        assert misled().weight(history) < 0.03
    assert np.median([min(losses(one)) for one in ours]) < 1.5 * np.median([min(losses(one)) for one in cold])


def test_failures_speak_against_a_study() -> None:
    history = search(misled(), 20, 0, lambda params: math.inf if params["y"] > 0.6 else bowl(params))
    evidence = misled().evidence(history)
    assert evidence[0].successes == 0
    assert evidence[0].misses >= 3
    assert misled().weight(history) < 0.05


def test_one_misleading_study_does_not_take_another_along() -> None:
    good, bad = study_of(bowl), study_of(lambda params: bowl(params, 0.0, 1.0))
    sampler = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [bad, good], strength=1e6)
    drawn = [
        trial.labels["study"]
        for seed in range(5)
        for trial in search(sampler, 40, seed).trials[10:]
        if trial.labels["warm"] == "earlier"
    ]
    assert len(drawn) > 100
    assert drawn.count(1) > 0.9 * len(drawn)


def test_the_weight_is_the_chance_of_doing_better_and_fades() -> None:
    rng = np.random.default_rng(0)
    for one, other in (
        (Evidence(0, 0), Evidence(0, 0)),
        (Evidence(5, 1), Evidence(2, 9)),
        (Evidence(0, 12), Evidence(3, 8)),
        (Evidence(150, 50), Evidence(60, 140)),
    ):
        first = rng.beta(1 + one.successes, 1 + one.misses, 200_000)
        second = rng.beta(1 + other.successes, 1 + other.misses, 200_000)
        assert _beats(one, other) == pytest.approx((first > second).mean(), abs=0.005)
    for strength, weight in ((5.0, 0.5), (0.0, 0.0), (20.0, 0.5)):
        sampler = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [study_of(bowl)], strength=strength)
        assert sampler.weight(search(sampler, 0, 0)) == pytest.approx(weight)
    sampler = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [study_of(bowl)])
    assert sampler.weight(search(sampler, 200, 0)) < 5 / 205


def test_the_prior_is_around_the_good_trials_of_a_study() -> None:
    sampler = WarmStartSampler(SQUARE, RandomSampler(SQUARE), [study_of(bowl, 200)], num_first=0, strength=1e6)
    history = search(sampler, 100, 0)
    near = [bowl(trial.params) for trial in history.trials if trial.labels["origin"] == "earlier prior"]
    assert len(near) > 30
    assert np.median(near) < 0.2


def test_earlier_trials_are_read_best_rung_first(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    task = fake_task(quality, fails=lambda job: FailureKind.OOM if job.trial_id == 1 else None)
    history = study(Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=30)), task, horizon=9).run(3)
    read = earlier_trials(history)
    assert len(read) == 29
    assert [trial.budget for trial in read] == sorted((trial.budget for trial in read), reverse=True)
    for budget in (1, 3, 9):
        at_rung = [trial.loss for trial in read if trial.budget == budget]
        assert at_rung == sorted(at_rung)
    best = history.best()
    assert best is not None
    assert read[0] == EarlierTrial(best.params, history.loss(best.trial_id, 9), 9)
    first = WarmStartSampler(space, RandomSampler(space), [read]).propose(
        study(Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=1)), task, horizon=9).run(),
        np.random.default_rng(0),
    )
    assert first.params == best.params


@pytest.mark.parametrize("options", [{"num_first": -1}, {"strength": -1.0}, {"strength": math.inf}])
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected num_first >= 0 and a finite strength >= 0"):
        WarmStartSampler(SQUARE, RandomSampler(SQUARE), [], **options)
