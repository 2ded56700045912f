"""Freeze-thaw through the real Controller on workers in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.controller import Controller
from controller.events import Enqueued
from controller.executors.simulated import Failures, SimulatedExecutor
from controller.history import History
from controller.store import Store
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategy import Decision, Done, Start, Strategy, Wait
from controller.trial import FailureKind, Job, Objective
from search_spaces.domains import Choice, Float
from search_spaces.priors import Normal
from search_spaces.space import Params, Space

SPACE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
BUDGETS = (1, 2, 4, 8, 16, 32)
HORIZON = BUDGETS[-1]
Loss = Callable[[Params, int], float]


def crossing(params: Params, budget: int) -> float:
    """The higher x, the better the end (up to 0.8), and the worse the start: curves cross at about a third."""
    x, y = params["x"], params["y"]
    end = (x - 0.8) ** 2 + 0.3 * (y - 0.3) ** 2
    return float(end + (0.2 + 1.5 * x) * math.exp(-budget / 4.0))


@dataclass(frozen=True)
class Formula:
    """Learning curves as a function of parameters and budget."""

    loss: Loss

    def measure(self, job: Job) -> Mapping[str, float]:
        return {"loss": self.loss(job.params, job.to_budget)}


Run = Callable[..., History]


@pytest.fixture
def search(tmp_path: Path) -> Run:
    """Runs a strategy on simulated workers to its end."""
    count = 0

    def run(
        strategy: Strategy,
        loss: Loss = crossing,
        *,
        workers: int = 1,
        seed: int = 0,
        failures: Failures | None = None,
        enqueue: Sequence[Params] = (),
    ) -> History:
        nonlocal count
        count += 1
        executor = SimulatedExecutor(Formula(loss), workers=workers, failures=failures, seed=seed, straggling=0.3)
        history = History(seed=seed, objectives=[Objective("loss")], horizon=HORIZON)
        with Store.open(tmp_path / f"study-{count}") as store:
            for event in (Enqueued(params) for params in enqueue):
                store.append([event])
                history.apply(event)
            Controller(strategy, executor, store, history).run()
        return history

    return run


def freeze_thaw(space: Space = SPACE, **options: Any) -> FreezeThaw:
    return FreezeThaw(space, BUDGETS, **{"max_trials": 20, "max_points": 60, "num_startup": 3, **options})


def best_loss(history: History) -> float:
    return history.rung(HORIZON).ranking[0][0]


def trained(history: History) -> int:
    return sum(job.to_budget - job.from_budget for job in history.jobs)


# --- what it is for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_best_of_crossing_curves_with_little_training(search: Run, seed: int) -> None:
    history = search(freeze_thaw(), seed=seed)
    assert len(history.trials) == 20
    assert trained(history) < 0.6 * 20 * HORIZON
    assert best_loss(history) < 0.02  # a random one of 20 has about 0.05
    first = history.rung(1).ranking
    assert first[0][1] != history.rung(HORIZON).ranking[0][1]  # what begins best does not end best


def test_what_does_not_promise_anything_is_not_continued(search: Run) -> None:
    history = search(freeze_thaw())
    ends = [trial.budget for trial in history.trials]
    assert ends.count(1) >= 3
    assert 1 <= ends.count(HORIZON) <= 10


def test_several_workers_do_not_pile_up(search: Run) -> None:
    history = search(freeze_thaw(max_trials=30), workers=6)
    started = np.array([[trial.params["x"], trial.params["y"]] for trial in history.trials])
    distances = np.linalg.norm(started[:, None] - started[None], axis=2) + np.eye(len(started))
    assert len(np.unique(started, axis=0)) == len(history.trials) == 30
    assert np.median(distances.min(axis=1)) > 0.02
    assert trained(history) < 0.5 * 30 * HORIZON
    assert best_loss(history) < 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_failures_are_avoided(search: Run, seed: int) -> None:
    """Where y is above 0.5 nothing can be trained; half of what is drawn at random lies there."""

    def parallel(params: Params, budget: int) -> float:
        return float((params["x"] - 0.8) ** 2 + 0.3 * (params["y"] - 0.3) ** 2 + 0.5 * math.exp(-budget / 4.0))

    def out_of_memory(job: Job, rng: np.random.Generator) -> FailureKind | None:
        return FailureKind.OOM if job.params["y"] > 0.5 else None

    history = search(freeze_thaw(), parallel, failures=out_of_memory, seed=seed)
    failed = [trial.failure is not None for trial in history.trials]
    assert any(failed)
    assert sum(failed[5:]) <= 4
    assert best_loss(history) < 0.05


def test_divergence_late_is_a_failure_of_its_rung(search: Run) -> None:
    def diverging(params: Params, budget: int) -> float:
        return float("nan") if params["x"] > 0.6 and budget >= 8 else crossing(params, budget)

    history = search(freeze_thaw())
    other = search(freeze_thaw(), diverging)
    assert 1 <= sum(trial.failure is not None for trial in other.trials) <= 10
    assert best_loss(history) <= best_loss(other) < 0.2


# --- repetitions ---------------------------------------------------------------------------------------


def flat(params: Params, budget: int) -> float:
    """x counts by its first decimal alone, y not at all."""
    return crossing({"x": round(params["x"], 1), "y": 0.3}, budget)


def test_repetitions_are_not_continued(search: Run) -> None:
    history = search(freeze_thaw(), flat)
    losses: dict[float, list[int]] = {}
    for trial in history.trials:
        losses.setdefault(history.loss(trial.trial_id, 1), []).append(trial.budget)
    assert any(len(budgets) > 1 for budgets in losses.values())
    for budgets in losses.values():
        assert sum(budget > 1 for budget in budgets) <= 1
    assert best_loss(history) < 0.01


@pytest.mark.parametrize("workers", [1, 5])
def test_a_space_of_one_point_brings_one_trial_to_the_end(search: Run, workers: int) -> None:
    space = Space({"only": Choice(("a",))})
    history = search(freeze_thaw(space, max_trials=6), lambda params, budget: 1.0 / budget, workers=workers)
    assert [trial.budget for trial in history.trials] == [HORIZON, 1, 1, 1, 1, 1]


def test_another_one_goes_on_where_the_only_one_that_may_fails(search: Run) -> None:
    """All trials repeat the first, and that one fails at half of the budget."""

    def some(job: Job, rng: np.random.Generator) -> FailureKind | None:
        return FailureKind.OOM if job.trial_id == 0 and job.to_budget == 16 else None

    history = search(freeze_thaw(max_trials=5), lambda params, budget: 1.0 / budget, failures=some)
    assert history.trials[0].failure is not None
    assert len(history.rung(HORIZON).arrivals) == 1


def test_repetitions_keep_their_checkpoints_until_one_has_the_full_budget(search: Run) -> None:
    class Watched:
        def __init__(self) -> None:
            self.inner = freeze_thaw(max_trials=8)
            self.kept: dict[bool, set[int]] = {}

        def next(self, history: History) -> Decision:
            self.kept[bool(history.rung(HORIZON).arrivals)] = self.inner.retain(history)
            return self.inner.next(history)

        def retain(self, history: History) -> set[int]:
            return self.inner.retain(history)

    strategy = Watched()
    history = search(strategy, lambda params, budget: 1.0 / budget, workers=2)
    assert strategy.kept[False] >= set(range(1, 8))  # all that are idle
    assert strategy.kept[True] == set(history.rung(HORIZON).arrivals)


# --- its end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_few_trials_are_enough(search: Run, trials: int, workers: int) -> None:
    history = search(freeze_thaw(max_trials=trials, num_startup=3), workers=workers)
    assert len(history.trials) == trials
    assert history.rung(HORIZON).arrivals


def test_one_rung_is_enough(search: Run) -> None:
    history = search(FreezeThaw(SPACE, (HORIZON,), max_trials=6), workers=2)
    assert trained(history) == 6 * HORIZON


def test_the_less_it_gives_up_the_more_it_trains(search: Run) -> None:
    hasty, patient = (search(freeze_thaw(max_trials=10, min_probability=share)) for share in (0.5, 1e-6))
    assert len(hasty.trials) == len(patient.trials) == 10
    assert trained(hasty) < trained(patient)
    assert best_loss(patient) <= best_loss(hasty)
    strategy = freeze_thaw(max_trials=10, min_probability=0.5)
    assert isinstance(strategy.next(hasty), Done)
    assert strategy.retain(hasty) == {hasty.rung(HORIZON).ranking[0][1]}


def test_it_keeps_as_many_of_the_best_as_it_is_told(search: Run) -> None:
    history = search(freeze_thaw(max_trials=10, min_probability=1e-6))
    assert len(history.rung(HORIZON).arrivals) > 2
    kept = freeze_thaw(max_trials=10, min_probability=1e-6, keep=2).retain(history)
    assert kept == {trial_id for _, trial_id in history.rung(HORIZON).ranking[:2]}


# --- what comes first, and what weighs ---------------------------------------------------------------


def test_what_was_enqueued_comes_first_even_outside_the_space(search: Run) -> None:
    wanted = [{"x": 0.9, "y": 0.9}, {"x": 1.5, "y": 0.5}, {"x": 0.1, "y": 0.2}]
    history = search(freeze_thaw(max_trials=12), enqueue=wanted)
    assert [trial.params for trial in history.trials[:3]] == wanted
    assert [trial.labels["origin"] for trial in history.trials[:4]] == ["enqueued"] * 3 + ["curves"]
    assert history.trials[1].budget == 1  # the surrogate cannot judge it
    assert history.rung(HORIZON).arrivals


@pytest.mark.parametrize("workers", [1, 4])
def test_a_study_of_trials_outside_the_space_ends(search: Run, workers: int) -> None:
    """So does one that holds many of them: a narrowed space. Any of them is brought to the full budget."""
    wanted = [{"x": 2.0 + place / 10, "y": 0.5} for place in range(20)]
    history = search(freeze_thaw(max_trials=20), lambda params, budget: params["x"], workers=workers, enqueue=wanted)
    assert history.rung(HORIZON).arrivals == [0]
    more = search(freeze_thaw(max_trials=28), workers=workers, enqueue=wanted)
    assert all(trial.budget == 1 for trial in more.trials[:20])
    assert best_loss(more) < 0.3


def test_it_begins_as_its_startup_says(search: Run) -> None:
    history = search(freeze_thaw(max_trials=8, num_startup=5))
    assert [trial.labels["origin"] for trial in history.trials] == ["startup"] * 5 + ["curves"] * 3


def believed(x: float) -> Space:
    return Space(dict(SPACE.domains), priors={"x": Normal(x, 0.05)})


def test_a_good_belief_helps(search: Run) -> None:
    told = [best_loss(search(freeze_thaw(believed(0.8), max_trials=10), seed=seed)) for seed in range(3)]
    untold = [best_loss(search(freeze_thaw(max_trials=10), seed=seed)) for seed in range(3)]
    assert sum(told) < sum(untold)


def chosen(strategy: FreezeThaw, history: History) -> Params:
    """What it would start, whether or not something else goes on first."""
    view = strategy._view(history)
    assert view is not None
    return strategy._newcomer(history, view)[0].params


def test_priors_weigh_among_what_is_promising(search: Run) -> None:
    """Of two choices by the same scores, one also by the prior, the latter is never the less likely."""
    space = believed(0.2)
    gains = []
    for seed in range(4):
        history = search(freeze_thaw(space, max_trials=6), seed=seed)
        told, untold = (
            chosen(freeze_thaw(space, max_trials=7, prior_weight=weight), history) for weight in (10.0, 0.0)
        )
        gains.append(space.log_prior(told) - space.log_prior(untold))
    assert min(gains) >= 0.0
    assert max(gains) > 0.0


# --- a function of the history -------------------------------------------------------------------------


class Checked:
    """Asks a new instance as well, before every decision, and never waits for nobody."""

    def __init__(self, make: Callable[[], FreezeThaw]) -> None:
        self.make = make
        self.warm = make()
        self.decisions: list[Decision] = []

    def next(self, history: History) -> Decision:
        decision = self.warm.next(history)
        assert decision == self.make().next(history) == self.warm.next(history)
        assert not isinstance(decision, Wait) or history.searching
        self.decisions.append(decision)
        return decision

    def retain(self, history: History) -> set[int]:
        assert self.warm.retain(history) == self.make().retain(history)
        return self.warm.retain(history)


def some_fail(job: Job, rng: np.random.Generator) -> FailureKind | None:
    return (FailureKind.OOM, FailureKind.DIVERGED)[job.job_id % 2] if rng.random() < 0.15 else None


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("loss", [crossing, flat], ids=["crossing", "flat"])
def test_warm_equals_cold_and_it_never_waits_for_nobody(search: Run, loss: Loss, workers: int) -> None:
    strategy = Checked(lambda: freeze_thaw(max_trials=12, max_points=20))
    history = search(strategy, loss, workers=workers, failures=some_fail)
    assert len(history.trials) == 12
    assert any(trial.failure for trial in history.trials)
    assert sum(isinstance(decision, Start) for decision in strategy.decisions) == 12


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_startup": 0}, "num_startup >= 1"),
        ({"max_points": 9}, "max_points >= 10"),
        ({"switch_cost": -1.0}, "switch_cost"),
        ({"novelty_weight": -1.0}, "novelty_weight"),
        ({"prior_weight": -1.0}, "prior_weight"),
        ({"min_probability": 0.0}, "0 < min_probability < 1"),
        ({"max_trials": 0}, "max_trials >= 1"),
        ({"keep": -1}, "keep >= 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        freeze_thaw(**options)
