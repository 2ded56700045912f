"""Bayesian optimisation: it learns from losses, failures, constraints, priors and what is running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.pareto import hypervolume
from controller.samplers.gaussian_process import Constraint, GaussianProcessSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Done, Sampler, Start
from controller.trial import Failure, FailureKind, MetricError, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal
from search_spaces.space import Params, Space

SQUARE = Space({"x0": Float(0.0, 1.0), "x1": Float(0.0, 1.0)})
Measure = Callable[[Params], Mapping[str, float] | None]


def begin(history: History, params: Params, budget: int = 1, labels: Mapping[str, Any] | None = None) -> int:
    """A running trial."""
    trial_id, job_id = len(history.trials), len(history.jobs)
    history.apply(TrialCreated(trial_id, params, 0, labels=labels or {}))
    history.apply(JobCreated(job_id, trial_id, 0, budget))
    return job_id


def end(history: History, job_id: int, metrics: Mapping[str, float] | None) -> None:
    """Its result; None: it failed."""
    if metrics is None:
        history.apply(Failed(Failure(job_id, FailureKind.OOM, "")))
    else:
        history.apply(Reported(Report(job_id, history.jobs[job_id].to_budget, metrics, 1.0)))


def optimise(
    sampler: Sampler, measure: Measure, trials: int, seed: int = 0, metrics: Sequence[str] = ("loss",)
) -> History:
    history = History(seed=seed, objectives=[Objective(metric) for metric in metrics], horizon=1)
    strategy = Composed(sampler, FullBudget(trials))
    while not isinstance(decision := strategy.next(history), Done):
        assert isinstance(decision, Start)
        end(history, begin(history, decision.params, 1, decision.labels), measure(decision.params))
    return history


def branin(params: Params) -> float:
    x, y = 15 * float(params["x0"]) - 5, 15 * float(params["x1"])
    bowl = (y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6) ** 2
    return float(bowl + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10) - 0.397887


def distance(params: Params, x0: float, x1: float) -> float:
    return float(np.hypot(float(params["x0"]) - x0, float(params["x1"]) - x1))


def of_loss(loss: Callable[[Params], float]) -> Measure:
    return lambda params: {"loss": loss(params)}


def regret(history: History, loss: Callable[[Params], float]) -> float:
    return min(loss(trial.params) for trial in history.trials)


def test_it_is_far_ahead_of_random_search() -> None:
    ours = [regret(optimise(GaussianProcessSampler(SQUARE), of_loss(branin), 20, seed), branin) for seed in range(4)]
    random = [regret(optimise(RandomSampler(SQUARE), of_loss(branin), 20, seed), branin) for seed in range(4)]
    assert np.median(ours) < 0.1
    assert np.median(ours) < 0.1 * np.median(random)


def test_it_is_ahead_where_measurements_are_noisy() -> None:
    def run(sampler: Sampler, seed: int) -> float:
        rng = np.random.default_rng(seed)
        return regret(optimise(sampler, lambda params: {"loss": branin(params) + 5 * rng.normal()}, 25, seed), branin)

    ours = [run(GaussianProcessSampler(SQUARE), seed) for seed in range(4)]
    random = [run(RandomSampler(SQUARE), seed) for seed in range(4)]
    assert np.mean(ours) < 0.6 * np.mean(random)


def test_numbers_and_choices_are_searched_together() -> None:
    space = Space(
        {
            "rate": Float(1e-5, 1e-1, log=True),
            "layers": Int(1, 12),
            "kind": Choice(("a", "b", "c", "d")),
            "decay": Float(0.0, 1.0),
        },
        conditions=(OneOf("decay", "kind", ("b", "c")),),
    )

    def loss(params: Params) -> float:
        place = np.log10(float(params["rate"])) + 3
        return (
            place**2
            + 0.1 * abs(int(params["layers"]) - 7)
            + {"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.8}[str(params["kind"])]
            + float(params.get("decay", 0.5))
        )

    for seed in range(3):
        best = optimise(GaussianProcessSampler(space), of_loss(loss), 35, seed).best()
        assert best is not None
        assert best.params["kind"] == "b"
        assert loss(best.params) < 0.3


def test_a_diverged_loss_does_not_spoil_the_model() -> None:
    def loss(params: Params) -> float:
        return 1e6 if float(params["x0"]) > 0.6 else distance(params, 0.5, 0.3)

    assert regret(optimise(GaussianProcessSampler(SQUARE), of_loss(loss), 25), loss) < 0.05


def test_it_stays_away_from_what_fails() -> None:
    def measure(params: Params) -> Mapping[str, float] | None:
        x0, x1 = float(params["x0"]), float(params["x1"])
        return None if x0 > 0.5 else {"loss": (x0 - 0.3) ** 2 + (x1 - 0.3) ** 2}

    for seed in range(3):
        history = optimise(GaussianProcessSampler(SQUARE), measure, 25, seed)
        assert any(trial.failure for trial in history.trials)
        assert not any(trial.failure for trial in history.trials[10:])


def test_where_it_gets_better_up_to_where_it_fails_it_keeps_to_the_edge() -> None:
    def measure(params: Params) -> Mapping[str, float] | None:
        return None if float(params["x0"]) > 0.5 else {"loss": -float(params["x0"])}

    history = optimise(GaussianProcessSampler(SQUARE), measure, 30)
    assert min(history.loss(trial_id, 1) for trial_id in history.rung(1).arrivals) < -0.49
    late = np.array([float(trial.params["x0"]) for trial in history.trials[10:]])
    assert (late > 0.6).sum() <= 6


def test_nan_among_the_results_of_a_constraint_counts_as_a_violation() -> None:
    def measure(params: Params) -> Mapping[str, float]:
        x0, x1 = float(params["x0"]), float(params["x1"])
        return {"loss": (x0 - 0.3) ** 2 + (x1 - 0.3) ** 2, "memory": float("nan") if x0 > 0.5 else 1.0}

    sampler = GaussianProcessSampler(SQUARE, constraints=[Constraint("memory", at_most=1.5)])
    history = optimise(sampler, measure, 25)
    assert any(float(trial.params["x0"]) > 0.5 for trial in history.trials)
    assert not any(float(trial.params["x0"]) > 0.5 for trial in history.trials[10:])


@pytest.mark.parametrize("direction", ["at_most", "at_least"])
def test_constraints_are_learnt_and_met(direction: str) -> None:
    sign = 1.0 if direction == "at_most" else -1.0

    def measure(params: Params) -> Mapping[str, float]:
        x0, x1 = float(params["x0"]), float(params["x1"])
        return {"loss": (x0 - 1) ** 2 + (x1 - 1) ** 2, "memory": sign * (x0 + x1)}

    sampler = GaussianProcessSampler(SQUARE, constraints=[Constraint("memory", **{direction: sign * 1.0})])
    for seed in range(2):
        history = optimise(sampler, measure, 25, seed)
        feasible = [
            history.loss(trial.trial_id, 1)
            for trial in history.trials
            if sign * trial.reports[1].metrics["memory"] <= 1.0
        ]
        assert min(feasible) < 0.53  # 0.5 is the best that satisfies it, 0 the best without
        late = history.trials[12:]
        assert sum(float(trial.params["x0"]) + float(trial.params["x1"]) < 1.2 for trial in late) >= 0.8 * len(late)


def test_while_nothing_satisfies_the_constraints_it_looks_for_what_does() -> None:
    def measure(params: Params) -> Mapping[str, float]:
        return {"loss": float(params["x0"]), "memory": distance(params, 0.9, 0.9)}

    sampler = GaussianProcessSampler(SQUARE, constraints=[Constraint("memory", at_most=0.1)])
    history = optimise(sampler, measure, 20)
    assert any(distance(trial.params, 0.9, 0.9) <= 0.1 for trial in history.trials)


def test_a_constraint_on_what_is_not_measured_is_an_error() -> None:
    sampler = GaussianProcessSampler(SQUARE, constraints=[Constraint("memory", at_most=1.0)])
    with pytest.raises(MetricError, match="expected the metric 'memory' of a constraint"):
        optimise(sampler, of_loss(branin), 10)


@pytest.mark.parametrize("several", ["hypervolume", "scalarised"])
def test_several_objectives_get_a_front(several: Any) -> None:
    def measure(params: Params) -> Mapping[str, float]:
        return {"one": distance(params, 0.2, 0.2) ** 2, "other": distance(params, 0.8, 0.6) ** 2}

    def covered(sampler: Sampler, seed: int) -> float:
        history = optimise(sampler, measure, 22, seed, metrics=("one", "other"))
        return hypervolume([history.losses(trial_id, 1) for trial_id in range(22)], [0.6, 0.6])

    ours = [covered(GaussianProcessSampler(SQUARE, several=several), seed) for seed in range(2)]
    random = [covered(RandomSampler(SQUARE), seed) for seed in range(2)]
    assert np.mean(ours) > np.mean(random) + 0.02


def test_what_is_running_is_not_proposed_again() -> None:
    history = optimise(GaussianProcessSampler(SQUARE), of_loss(lambda params: distance(params, 0.3, 0.7)), 12)
    sampler, alone = GaussianProcessSampler(SQUARE), []
    batch: list[Params] = []
    for attempt in range(5):
        alone.append(sampler.propose(history, history.generator(attempt)).params)
    for _ in range(5):
        batch.append(sampler.propose(history, history.generator()).params)
        begin(history, batch[-1])

    def spread(some: Sequence[Params]) -> float:
        points = SQUARE.encode_many(some)
        return float(np.linalg.norm(points - points.mean(axis=0), axis=1).mean())

    assert spread(batch) > 2 * spread(alone)


def test_many_workers_may_run_before_anything_is_known() -> None:
    sampler = GaussianProcessSampler(SQUARE, max_points=20)
    history = History(seed=0, objectives=[Objective("loss")], horizon=1)
    for _ in range(64):
        begin(history, sampler.propose(history, history.generator()).params)
    for job_id in range(10):
        end(history, job_id, {"loss": float(job_id)})
    assert sampler.propose(history, history.generator()).labels["origin"] == "gaussian process"


def test_priors_lead_at_first_and_lose_weight() -> None:
    space = Space(SQUARE.domains, priors={"x0": Normal(0.8, 0.1), "x1": Normal(0.8, 0.1)})

    def proposed(trials: int, **options: Any) -> float:
        """How far from the prior, on average, where losses tell nothing."""
        history = History(seed=0, objectives=[Objective("loss")], horizon=1)
        rng = np.random.default_rng(0)
        for _ in range(trials):
            end(history, begin(history, SQUARE.sample(rng)), {"loss": rng.normal()})
        sampler = GaussianProcessSampler(space, **options)
        some = [sampler.propose(history, history.generator(attempt)).params for attempt in range(5)]
        return float(np.mean([distance(params, 0.8, 0.8) for params in some]))

    assert proposed(6) < 0.15 < proposed(6, prior_weight=0.0)
    misled = optimise(GaussianProcessSampler(space), of_loss(lambda params: distance(params, 0.1, 0.1)), 25)
    assert regret(misled, lambda params: distance(params, 0.1, 0.1)) < 0.2


def test_the_highest_rung_with_enough_results_is_modelled() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    rng = np.random.default_rng(0)
    for _ in range(12):
        end(history, begin(history, SQUARE.sample(rng)), {"loss": rng.random()})
    sampler = GaussianProcessSampler(SQUARE, num_startup=4)
    assert sampler.propose(history, rng).labels == {"origin": "gaussian process", "modelled_budget": 1}
    for trial_id in range(4):
        job_id = len(history.jobs)
        history.apply(JobCreated(job_id, trial_id, 1, 3))
        assert sampler.propose(history, rng).labels["modelled_budget"] == 1
        end(history, job_id, {"loss": rng.random()})
    assert sampler.propose(history, rng).labels["modelled_budget"] == 3


def test_startup_is_that_of_the_sampler_that_was_given() -> None:
    history = optimise(GaussianProcessSampler(SQUARE, startup=RandomSampler(SQUARE)), of_loss(branin), 6)
    origins = [trial.labels["origin"] for trial in history.trials]
    assert origins == ["random"] * 4 + ["gaussian process"] * 2
    default = optimise(GaussianProcessSampler(SQUARE), of_loss(branin), 4)
    assert {trial.labels["origin"] for trial in default.trials} == {"sobol"}


def test_one_that_goes_on_equals_one_that_starts_anew() -> None:
    space = Space({**SQUARE.domains, "kind": Choice(("a", "b", "c"))})
    warm = GaussianProcessSampler(space, max_points=20, constraints=[Constraint("cost", at_most=0.9)])

    def measure(params: Params) -> Mapping[str, float] | None:
        cost = float(params["x1"])
        return None if cost > 0.95 else {"loss": distance(params, 0.4, 0.4), "cost": cost}

    history = History(seed=3, objectives=[Objective("loss")], horizon=1)
    running: list[int] = []
    for number in range(70):
        params = (
            warm.propose(history, history.generator()).params if number % 5 == 0 else space.sample(history.generator())
        )
        if number % 5 == 0:
            cold = GaussianProcessSampler(space, max_points=20, constraints=[Constraint("cost", at_most=0.9)])
            assert cold.propose(history, history.generator()).params == params
        running.append(begin(history, params))
        if len(running) > 3:
            job_id = running.pop(0)
            end(history, job_id, measure(history.jobs[job_id].params))
    assert history.failures


def test_one_sampler_serves_several_histories() -> None:
    sampler = GaussianProcessSampler(SQUARE)
    first = optimise(sampler, of_loss(branin), 8, 0)
    optimise(sampler, of_loss(lambda params: -branin(params)), 8, 1)
    again = optimise(sampler, of_loss(branin), 8, 0)
    assert [trial.params for trial in first.trials] == [trial.params for trial in again.trials]


def test_the_outlook_falls_as_the_study_goes_on() -> None:
    sampler = GaussianProcessSampler(SQUARE)
    rng = np.random.default_rng(0)
    improvements = []
    for trials in (6, 40):
        history = optimise(
            sampler, lambda params: {"loss": 10 * distance(params, 0.3, 0.7) ** 2 + 0.1 * rng.normal()}, trials
        )
        outlook = sampler.outlook(history)
        assert outlook is not None
        assert outlook == GaussianProcessSampler(SQUARE).outlook(history)
        improvements.append(outlook.improvement)
    assert improvements[1] < 0.1 * improvements[0]
    assert improvements[1] < 0.1
    assert outlook.noise == pytest.approx(0.1, rel=0.5)
    assert (outlook.budget, outlook.repeats) == (1, 0)


def test_noise_is_taken_from_repeats_where_there_are_some() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=1)
    rng = np.random.default_rng(0)
    for _ in range(8):
        end(history, begin(history, SQUARE.sample(rng)), {"loss": rng.random()})
    history.apply(TrialCreated(8, history.trials[0].params, 1, repeat_of=0))
    history.apply(JobCreated(8, 8, 0, 1))
    end(history, 8, {"loss": history.loss(0, 1) + 0.2})
    end(history, begin(history, history.trials[1].params), {"loss": history.loss(1, 1) + 0.4})
    outlook = GaussianProcessSampler(SQUARE).outlook(history)
    assert outlook is not None
    assert outlook.repeats == 2
    assert outlook.noise == pytest.approx(np.sqrt((0.2**2 + 0.4**2) / 2 / 2))


def test_there_is_no_outlook_without_a_model_or_a_single_objective() -> None:
    sampler = GaussianProcessSampler(SQUARE)
    assert sampler.outlook(optimise(sampler, of_loss(branin), 3)) is None
    measure: Measure = lambda params: {"one": branin(params), "other": -branin(params)}  # noqa: E731
    assert sampler.outlook(optimise(sampler, measure, 6, metrics=("one", "other"))) is None
    never = GaussianProcessSampler(SQUARE, constraints=[Constraint("loss", at_most=-100.0)])
    assert never.outlook(optimise(never, of_loss(branin), 6)) is None


def test_it_works_with_rungs_and_failures(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    task = fake_task(quality, fails=lambda job: FailureKind.OOM if job.params["lora.rank"] > 40 else None)
    history = study(Composed(GaussianProcessSampler(space), ASHA((1, 3, 9), max_trials=40)), task, horizon=9).run(4)
    budgets = {trial.labels.get("modelled_budget") for trial in history.trials}
    assert {None, 1, 3} <= budgets
    late = history.trials[20:]
    assert sum(trial.failure is not None for trial in late) <= 4


@pytest.mark.parametrize(
    "options", [{"num_startup": 1}, {"max_points": 5}, {"fantasies": 0}, {"prior_weight": -1.0}, {"several": "both"}]
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GaussianProcessSampler(SQUARE, **options)


@pytest.mark.parametrize("bounds", [{}, {"at_most": 1.0, "at_least": 0.0}])
def test_a_constraint_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected at_most or at_least"):
        Constraint("memory", **bounds)
