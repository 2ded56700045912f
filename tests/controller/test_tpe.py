from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.observations import Observations
from controller.pareto import hypervolume, pareto_front
from controller.samplers.random import RandomSampler
from controller.samplers.tpe import TPESampler
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Done, Sampler, Start
from controller.surrogates.parzen import Points
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float
from search_spaces.priors import Normal
from search_spaces.space import Params, Space

SQUARE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})


class Record:
    """A history that grows by single results."""

    def __init__(self, objectives: int = 1, horizon: int = 27) -> None:
        names = [Objective(f"loss{i}") for i in range(objectives)]
        self.history = History(seed=0, objectives=names, horizon=horizon)

    def start(self, params: Params, budget: int = 1) -> int:
        history = self.history
        history.apply(TrialCreated(len(history.trials), params, 0))
        history.apply(JobCreated(len(history.jobs), len(history.trials) - 1, 0, budget))
        return len(history.trials) - 1

    def report(self, trial_id: int, *losses: float) -> None:
        job = self.history.trials[trial_id].running
        assert job is not None
        metrics = {f"loss{i}": loss for i, loss in enumerate(losses)}
        self.history.apply(Reported(Report(job.job_id, job.to_budget, metrics, 1.0)))

    def add(self, params: Params, *losses: float, budget: int = 1) -> int:
        trial_id = self.start(params, budget)
        self.report(trial_id, *losses)
        return trial_id

    def fail(self, params: Params, budget: int = 1) -> None:
        job = self.history.trials[self.start(params, budget)].running
        assert job is not None
        self.history.apply(Failed(Failure(job.job_id, FailureKind.OOM, "")))

    def resume(self, trial_id: int, budget: int) -> None:
        history = self.history
        history.apply(JobCreated(len(history.jobs), trial_id, history.trials[trial_id].budget, budget))


def logs(record: Record, space: Space, asked: Sequence[Params], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """log l and log g at some points."""
    sampler = TPESampler(space, num_startup=2, **options)
    data = Observations(space).highest(record.history, 2)
    assert data is not None
    better, worse = sampler.densities(record.history, data)
    points = Points.of(space, asked)
    return better.log_density(points), worse.log_density(points)


def proposals(record: Record, space: Space, count: int = 30, **options: Any) -> list[Any]:
    sampler = TPESampler(space, **options)
    return [sampler.propose(record.history, np.random.default_rng(seed)) for seed in range(count)]


def random_record(count: int, losses: Callable[[Params], Sequence[float]], space: Space = SQUARE) -> Record:
    rng = np.random.default_rng(5)
    record = Record(len(losses(space.sample(rng))))
    for _ in range(count):
        params = space.sample(rng)
        record.add(params, *losses(params))
    return record


def test_it_draws_from_the_priors_until_a_rung_holds_enough() -> None:
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}, priors={"x": Normal(0.9, 0.02)})
    record = Record()
    for place in range(4):
        record.add({"x": 0.1, "y": place / 10}, 0.5)
        record.fail({"x": 0.2, "y": place / 10})  # a failure tells nothing about what is good
    early = proposals(record, space, num_startup=5)
    assert {one.labels["origin"] for one in early} == {"startup"}
    assert all(one.params["x"] > 0.8 for one in early)
    record.add({"x": 0.1, "y": 0.9}, 0.5)
    assert {one.labels["origin"] for one in proposals(record, space, num_startup=5)} == {"tpe"}


def test_the_highest_rung_with_enough_results_counts() -> None:
    record = Record()
    for place in range(12):  # at the first rung small x is good, at the second large x
        record.add({"x": place / 11, "y": 0.5}, place / 11)
    assert {one.labels["rung"] for one in proposals(record, SQUARE, num_startup=6)} == {1}
    assert np.mean([one.params["x"] for one in proposals(record, SQUARE, num_startup=6)]) < 0.4
    for trial_id in range(0, 12, 2):
        record.resume(trial_id, 3)
        record.report(trial_id, 1 - trial_id / 11)
    assert {one.labels["rung"] for one in proposals(record, SQUARE, num_startup=6)} == {3}
    assert np.mean([one.params["x"] for one in proposals(record, SQUARE, num_startup=6)]) > 0.6
    assert {one.labels["rung"] for one in proposals(record, SQUARE, num_startup=7)} == {1}


def test_the_best_share_is_good_and_the_rest_bad() -> None:
    record = random_record(40, lambda params: [float(params["x"])])
    best = sorted(float(trial.params["x"]) for trial in record.history.trials)[: math.ceil(0.15 * 40)]
    density = Points.of(SQUARE, [{"x": place, "y": 0.5} for place in np.linspace(0, 1, 101).tolist()])
    data = Observations(SQUARE).at(record.history, 1)
    better, worse = TPESampler(SQUARE).densities(record.history, data)
    assert len(better._units) == len(best)
    assert sorted(better._units[:, 0].tolist()) == best
    assert len(worse._units) == 40 - len(best)
    ratio = better.log_density(density) - worse.log_density(density)
    assert ratio.argmax() < 15
    gains = better._shares[:-1] * (sorted(float(t.params["x"]) for t in record.history.trials)[len(best)])
    assert (np.diff(gains) < 0).all()  # the better, the heavier


def test_equal_losses_make_equal_weights_and_the_earlier_ones_good() -> None:
    record = random_record(20, lambda params: [1.0])
    data = Observations(SQUARE).at(record.history, 1)
    better, _ = TPESampler(SQUARE).densities(record.history, data)
    assert better._units.tolist() == data.units[:3].tolist()
    assert better._shares.tolist() == [0.25] * 4  # the prior weighs as much as one


@pytest.mark.parametrize("what", ["pending", "failed", "failed later"])
def test_trials_at_work_and_failed_ones_are_bad(what: str) -> None:
    record = random_record(20, lambda params: [abs(float(params["x"]) - 0.5)])
    here: Params = {"x": 0.5, "y": 0.5}
    before = logs(record, SQUARE, [here])
    if what == "failed later":
        trial_id = record.add(here, 0.0)
        good = logs(record, SQUARE, [here])
        assert good[0] > before[0]
        before = good
        record.resume(trial_id, 3)
        job = record.history.trials[trial_id].running
        assert job is not None
        record.history.apply(Failed(Failure(job.job_id, FailureKind.DIVERGED, "")))
    else:
        (record.start if what == "pending" else record.fail)(here)
    after = logs(record, SQUARE, [here])
    assert after[1] > before[1]
    assert after[0] - after[1] < before[0] - before[1]


def test_a_pending_trial_keeps_others_away() -> None:
    record = random_record(30, lambda params: [(float(params["x"]) - 0.5) ** 2 + (float(params["y"]) - 0.5) ** 2])
    sampler = TPESampler(SQUARE)
    for seed in range(16):  # 16 workers ask one after the other, none has finished
        record.start(sampler.propose(record.history, np.random.default_rng(seed)).params)
    asked = [trial.params for trial in record.history.trials[30:]]
    assert len({tuple(one.items()) for one in asked}) == 16
    spread = np.std(SQUARE.encode_many(asked), axis=0)
    assert (spread > 0.1).all()


def test_what_was_tried_is_not_proposed_while_anything_else_is_left() -> None:
    space = Space({"a": Choice((1, 2, 3)), "b": Choice(("x", "y"))})
    record = Record()
    for a in (1, 2, 3):
        record.add({"a": a, "b": "x"}, float(a))
        if a > 1:
            record.add({"a": a, "b": "y"}, float(a))
    left = {tuple(one.params.items()) for one in proposals(record, space, num_startup=2, num_candidates=64)}
    assert left == {(("a", 1), ("b", "y"))}
    record.add({"a": 1, "b": "y"}, 1.0)
    for one in proposals(record, space, num_startup=2):  # used up: anything
        space.validate(one.params)


def test_a_share_of_the_proposals_is_random() -> None:
    record = random_record(20, lambda params: [float(params["x"])])
    origins = [one.labels["origin"] for one in proposals(record, SQUARE, 1000, random_probability=0.3)]
    assert origins.count("random") / 1000 == pytest.approx(0.3, abs=0.05)


def test_many_trials_make_no_more_kernels() -> None:
    record = random_record(1000, lambda params: [float(params["x"])])
    data = Observations(SQUARE).at(record.history, 1)
    better, worse = TPESampler(SQUARE).densities(record.history, data)
    assert len(better._units) == 25
    assert len(worse._units) == 400
    ids = {tuple(row): place for place, row in enumerate(data.units.tolist())}
    places = [ids[tuple(row)] for row in worse._units.tolist()]
    assert max(np.diff(places)) <= 4  # evenly spread over all of them


def test_it_learns_which_branch_is_good() -> None:
    space = Space(
        {"kind": Choice(("a", "b")), "a": Float(0, 1), "b": Float(1, 9)},
        conditions=(OneOf("a", "kind", ("a",)), OneOf("b", "kind", ("b",))),
    )

    def loss(params: Params) -> Sequence[float]:
        return [abs(float(params["b"]) - 7) / 10 if "b" in params else 0.5 + float(params["a"])]

    asked = [one.params for one in proposals(random_record(40, loss, space), space, 40)]
    assert sum(params["kind"] == "b" for params in asked) > 30
    assert np.mean([abs(float(params["b"]) - 7) for params in asked if "b" in params]) < 2


def test_several_objectives_lead_to_the_trade_offs() -> None:
    def losses(params: Params) -> list[float]:  # the trade-offs lie at y = 0.2, all x
        away = 2 * abs(float(params["y"]) - 0.2)
        return [float(params["x"]) + away, 1 - float(params["x"]) + away]

    def run(sampler: Sampler, seed: int) -> np.ndarray:
        record, found = Record(2), []
        for number in range(60):
            params = sampler.propose(record.history, np.random.default_rng([seed, number])).params
            found.append(losses(params))
            record.add(params, *found[-1])
        return np.array(found)

    ours = [run(TPESampler(SQUARE), seed) for seed in range(6)]
    random = [run(RandomSampler(SQUARE), seed) for seed in range(6)]
    covered, by_chance = (np.mean([hypervolume(one, (1.2, 1.2)) for one in runs]) for runs in (ours, random))
    assert covered > by_chance + 0.02
    for found in ours:  # all along the front, not at one end of it
        front = found[pareto_front(found)]
        assert np.ptp(front[:, 0]) > 0.6


def branin(params: Params) -> float:
    x, y = 15 * float(params["x"]) - 5, 15 * float(params["y"])
    bowl = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def quadratic(params: Params) -> float:
    return (float(params["x"]) - 0.7) ** 2 + (float(params["y"]) - 0.2) ** 2


def regret(sampler: Sampler, seed: int, function: Callable[[Params], float], trials: int = 60) -> float:
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    strategy = Composed(sampler, FullBudget(trials))
    losses = []
    while not isinstance(decision := strategy.next(history), Done):
        assert isinstance(decision, Start)
        losses.append(function(decision.params))
        job_id = len(history.jobs)
        history.apply(TrialCreated(len(history.trials), decision.params, 0))
        history.apply(JobCreated(job_id, job_id, 0, 1))
        history.apply(Reported(Report(job_id, 1, {"loss": losses[-1]}, 1.0)))
    return min(losses)


@pytest.mark.parametrize(("function", "share"), [(quadratic, 0.5), (branin, 0.6)])
def test_its_regret_is_below_that_of_random_search(function: Callable[[Params], float], share: float) -> None:
    random = [regret(RandomSampler(SQUARE), seed, function) for seed in range(12)]
    ours = [regret(TPESampler(SQUARE), seed, function) for seed in range(12)]
    assert np.median(ours) < share * np.median(random)
    assert np.mean(ours) < np.mean(random)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_startup": 1}, "num_startup >= 2"),
        ({"num_candidates": 0}, "num_candidates >= 1"),
        ({"gamma": 0.0}, "gamma between 0 and 1"),
        ({"gamma": 1.0}, "gamma between 0 and 1"),
        ({"prior_weight": 0.0}, "prior_weight above 0"),
        ({"prior_weight": math.inf}, "prior_weight above 0"),
        ({"random_probability": 1.1}, "random_probability from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TPESampler(SQUARE, **options)
