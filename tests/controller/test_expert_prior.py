from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.expert_prior import PriorBandSampler, Shares, starting_rung
from controller.schedulers.hyperband import Hyperband
from controller.strategy import Composed, StartNew
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal
from search_spaces.rules import Ordered
from search_spaces.space import Params, Space

LINE = Space({"x": Float(0.0, 1.0)}, priors={"x": Normal(0.8, 0.1)})
MIXED = Space(
    {
        "x": Float(0.0, 1.0),
        "n": Int(1, 100),
        "kind": Choice(("a", "b", "c")),
        "decay": Float(0.0, 1.0),
        "low": Float(0.0, 1.0),
        "fixed": Int(3, 3),
    },
    conditions=(OneOf("decay", "kind", ("c",)),),
    rules=(Ordered(("low", "x")),),
)


def history_of(
    space: Space,
    results: Sequence[tuple[Params, Mapping[int, float]]],
    horizon: int = 27,
    failed: Sequence[Params] = (),
) -> History:
    """Trials with their losses by budget."""
    history = History(seed=0, objectives=[Objective("loss")], horizon=horizon)
    for trial_id, (params, losses) in enumerate(results):
        space.validate(params)
        history.apply(TrialCreated(trial_id, params, 0))
        start = 0
        for budget, loss in losses.items():
            job_id = len(history.jobs)
            history.apply(JobCreated(job_id, trial_id, start, budget))
            history.apply(Reported(Report(job_id, budget, {"loss": loss}, 1.0)))
            start = budget
    for params in failed:
        job_id = len(history.jobs)
        history.apply(TrialCreated(len(history.trials), params, 0))
        history.apply(JobCreated(job_id, len(history.trials) - 1, 0, 1))
        history.apply(Failed(Failure(job_id, FailureKind.OOM, "")))
    return history


def proposals(sampler: PriorBandSampler, history: History, count: int) -> list[Any]:
    return [sampler.propose(history, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(("rung", "eta", "uniform"), [(0, 3, 1 / 2), (1, 3, 1 / 4), (2, 3, 1 / 10), (3, 2, 1 / 9)])
def test_the_prior_gains_weight_from_rung_to_rung(rung: int, eta: int, uniform: float) -> None:
    history = history_of(LINE, [])
    shares = PriorBandSampler(LINE, rung=rung, reduction_factor=eta).shares(history)
    assert shares == Shares(pytest.approx(uniform), pytest.approx(1 - uniform), 0.0)


def test_draws_come_from_the_distribution_that_they_name() -> None:
    found = proposals(PriorBandSampler(LINE, rung=1), history_of(LINE, []), 2000)
    by_origin = {
        origin: [float(one.params["x"]) for one in found if one.labels["origin"] == origin]
        for origin in ("uniform", "prior", "incumbent")
    }
    assert len(by_origin["uniform"]) / 2000 == pytest.approx(0.25, abs=0.03)
    assert not by_origin["incumbent"]
    assert np.mean(by_origin["uniform"]) == pytest.approx(0.5, abs=0.04)
    assert np.std(by_origin["uniform"]) == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    assert np.mean(by_origin["prior"]) == pytest.approx(0.8, abs=0.02)
    assert np.std(by_origin["prior"]) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("rungs", [1, 2, 4])
def test_the_incumbent_waits_for_one_bracket_and_a_full_training(eta: int, rungs: int) -> None:
    horizon = eta ** (rungs - 1)
    budgets = [eta**level for level in range(rungs)]
    bracket = np.diff(budgets, prepend=0).tolist()  # what a promotion costs
    cost = sum(eta ** (rungs - 1 - level) * added for level, added in enumerate(bracket))
    sampler = PriorBandSampler(LINE, reduction_factor=eta)
    point: Params = {"x": 0.5}
    full = (point, dict.fromkeys(budgets, 0.5))
    short = (point, {budgets[0]: 0.5})

    def activates(results: list[Any]) -> bool:
        return sampler.shares(history_of(LINE, results, horizon)).incumbent > 0

    rest = max(cost - horizon, eta - 1)  # so many lowest rungs fill the bracket, and eta results there are
    assert activates([full, *[short] * rest])
    if rungs > 1:
        assert not activates([full, *[short] * (rest - 1)])
        assert not activates([short] * (2 * cost))


def reference(x: float, best: float) -> tuple[float, float]:
    """Densities of prior and incumbent on the line."""
    prior = norm(0.8, 0.1)
    around = truncnorm(-best / 0.25, (1 - best) / 0.25, best, 0.25)
    return prior.pdf(x) / (prior.cdf(1) - prior.cdf(0)), around.pdf(x)


def test_prior_and_incumbent_share_by_how_well_they_explain_the_top() -> None:
    places = [0.05, 0.3, 0.7, 0.35, 0.9, 0.2, 0.6, 0.45, 0.55]
    losses = [abs(place - 0.4) for place in places]
    results: list[Any] = [({"x": place}, {27: loss}) for place, loss in zip(places, losses, strict=True)]
    shares = PriorBandSampler(LINE, rung=2).shares(history_of(LINE, results))
    best = [places[index] for index in np.argsort(losses, kind="stable")[:3]]  # the top third
    scores = np.array([[3], [2], [1]]) * np.array([reference(place, best[0]) for place in best])
    trusted = scores[:, 0].sum() / scores.sum()
    assert shares.uniform == pytest.approx(0.1)
    assert shares.prior == pytest.approx(0.9 * trusted)
    assert shares.incumbent == pytest.approx(0.9 * (1 - trusted))


def test_a_good_prior_keeps_its_weight_and_a_misleading_one_loses_it() -> None:
    grid = np.linspace(0, 1, 30).tolist()

    def prior_share(optimum: float) -> float:
        results: list[Any] = [({"x": place}, {27: abs(place - optimum)}) for place in grid]
        return PriorBandSampler(LINE, rung=2).shares(history_of(LINE, results)).prior / 0.9

    assert prior_share(0.8) > 0.5
    assert prior_share(0.1) < 0.01


def test_the_top_is_that_of_the_highest_rung_with_eta_results() -> None:
    low = [({"x": place}, {9: abs(place - 0.1)}) for place in np.linspace(0, 1, 20).tolist()]

    def shares(full: int) -> Shares:  # at the full budget the prior is right, below it is not
        high = [({"x": 0.8}, {9: 0.7, 27: 0.1}), ({"x": 0.81}, {9: 0.71, 27: 0.2}), ({"x": 0.79}, {9: 0.69, 27: 0.3})]
        return PriorBandSampler(LINE, rung=1).shares(history_of(LINE, [*low, *high[:full]]))

    assert shares(2).prior < 0.1
    assert shares(3).prior > 0.4


def test_the_incumbent_is_the_best_of_the_highest_rung() -> None:
    results: list[Any] = [({"x": place}, {1: 0.0}) for place in np.linspace(0, 0.3, 50).tolist()]
    results += [({"x": 0.6}, {1: 0.5, 27: 0.4}), ({"x": 0.7}, {1: 0.5, 27: 0.3})]
    found = proposals(PriorBandSampler(LINE), history_of(LINE, results, failed=[{"x": 0.5}] * 5), 100)
    parents = {one.labels["parent"] for one in found if one.labels["origin"] == "incumbent"}
    assert parents == {51}


def incumbents(best: Params, count: int) -> list[Params]:
    results: list[Any] = [(best, {27: float(loss)}) for loss in range(3)]
    found = proposals(PriorBandSampler(MIXED, rung=9), history_of(MIXED, results), count)
    return [one.params for one in found if one.labels["origin"] == "incumbent"]


def test_about_half_of_the_incumbent_changes_by_the_steps_of_the_paper() -> None:
    best: Params = {"x": 0.5, "n": 50, "kind": "a", "low": 0.0, "fixed": 3}
    near = incumbents(best, 1500)
    for params in near:
        MIXED.validate(params)
    assert sum(params == best for params in near) < 0.02 * len(near)  # but for a step too short for an integer
    moved = [float(params["x"]) for params in near if params["x"] != 0.5]
    assert len(moved) / len(near) == pytest.approx(0.5, abs=0.06)
    assert np.std(moved) == pytest.approx(float(truncnorm(-2, 2, 0.5, 0.25).std()), abs=0.03)
    kinds = [params["kind"] for params in near]
    assert kinds.count("a") / len(near) == pytest.approx(0.5, abs=0.06)  # a change goes to another value
    assert kinds.count("b") / len(near) == pytest.approx(0.25, abs=0.06)
    assert {"decay" in params for params in near} == {True, False}


def test_a_point_alone_in_its_space_stays() -> None:
    space = Space({"x": Int(3, 3)})
    history = history_of(space, [({"x": 3}, {27: 0.1})] * 3)
    for one in proposals(PriorBandSampler(space), history, 20):
        assert one.params == {"x": 3}


def test_a_sampler_may_ask_its_scheduler_where_the_next_trial_starts(study: Any, fake_task: Any) -> None:
    budgets = (1, 3, 9)
    scheduler = Hyperband(budgets, max_trials=17)
    sampler = PriorBandSampler(LINE, rung=starting_rung(scheduler, budgets))
    seen: list[tuple[int, float]] = []

    class Watching:
        def propose(self, history: History, rng: np.random.Generator) -> Any:
            wish = scheduler.next(history)
            assert isinstance(wish, StartNew)
            seen.append((wish.budget, sampler.shares(history).uniform))
            return sampler.propose(history, rng)

    history = study(Composed(Watching(), scheduler), fake_task(), horizon=9, checked=True).run(2)
    assert len(history.trials) == 17
    assert {budget for budget, _ in seen} == set(budgets)
    for budget, uniform in seen:
        assert uniform == pytest.approx(1 / (1 + budget))  # with eta 3, eta^r is the budget
    assert sampler.shares(history).uniform == pytest.approx(0.5)  # nothing is wanted any more


@pytest.mark.parametrize("options", [{"rung": -1}, {"reduction_factor": 1}])
def test_what_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected rung >= 0 and reduction_factor >= 2"):
        PriorBandSampler(LINE, **options)
