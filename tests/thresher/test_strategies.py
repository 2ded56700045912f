from __future__ import annotations

import pytest

from controller.samplers.cma_es import CMAESSampler
from controller.samplers.differential_evolution import DifferentialEvolutionSampler
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.expert_prior import PriorBandSampler
from controller.samplers.gaussian_process import GaussianProcessSampler
from controller.samplers.grid import GridSampler
from controller.samplers.nsga2 import NSGA2Sampler
from controller.samplers.random import RandomSampler
from controller.samplers.sobol import SobolSampler
from controller.samplers.tpe import TPESampler
from controller.schedulers.asha import ASHA
from controller.schedulers.async_hyperband import AsyncHyperband
from controller.schedulers.full_budget import FullBudget
from controller.schedulers.hyperband import Hyperband
from controller.schedulers.median_stopping import MedianStopping
from controller.schedulers.mo_asha import MOASHA
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategies.dehb import DEHB
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategies.population_based import PopulationBasedTraining
from controller.strategy import Composed
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space
from thresher import Study
from thresher.automatic import choose, num_assignments
from thresher.strategies import PARTS, SEARCH_KINDS, ladder, make_strategy, resolve, uses_rungs

SPACE = Space({"x": Float(0.0, 1.0)})
FINITE = Space({"x": Choice((1, 2, 3)), "n": Int(1, 2)})
COMPOSED = [
    ("random", RandomSampler, FullBudget),
    ("grid", GridSampler, FullBudget),
    ("sobol", SobolSampler, FullBudget),
    ("evolution", EvolutionSampler, FullBudget),
    ("nsga2", NSGA2Sampler, FullBudget),
    ("tpe", TPESampler, FullBudget),
    ("gp", GaussianProcessSampler, FullBudget),
    ("de", DifferentialEvolutionSampler, FullBudget),
    ("cma-es", CMAESSampler, FullBudget),
    ("asha", RandomSampler, ASHA),
    ("grid-asha", GridSampler, ASHA),
    ("evolution-asha", EvolutionSampler, ASHA),
    ("tpe-asha", TPESampler, ASHA),
    ("successive-halving", RandomSampler, SuccessiveHalving),
    ("hyperband", RandomSampler, Hyperband),
    ("async-hyperband", RandomSampler, AsyncHyperband),
    ("bohb", TPESampler, Hyperband),
    ("priorband", PriorBandSampler, Hyperband),
    ("median", RandomSampler, MedianStopping),
    ("mo-asha", RandomSampler, MOASHA),
]
OWN = [("dehb", DEHB), ("freeze-thaw", FreezeThaw), ("pbt", PopulationBasedTraining)]


@pytest.mark.parametrize(("kind", "sampler", "scheduler"), COMPOSED)
def test_most_kinds_are_a_sampler_and_a_scheduler(kind: str, sampler: type, scheduler: type) -> None:
    strategy = make_strategy(kind, SPACE, (1, 3, 9), 10, keep=4, reduction_factor=2)
    assert isinstance(strategy, Composed)
    assert type(strategy.sampler) is sampler
    assert type(strategy.scheduler) is scheduler
    assert uses_rungs(kind) is (scheduler is not FullBudget)
    assert (strategy.scheduler.keep, strategy.scheduler.max_trials) == (4, 10)  # type: ignore[attr-defined]
    assert getattr(strategy.scheduler, "reduction_factor", 2) == 2


@pytest.mark.parametrize(("kind", "strategy"), OWN)
def test_others_are_their_own(kind: str, strategy: type) -> None:
    made = make_strategy(kind, SPACE, (1, 3, 9, 27), 10, keep=4)
    assert type(made) is strategy
    assert made.keep == 4  # type: ignore[attr-defined]
    assert made.budgets == ladder(kind, (1, 3, 9, 27)) == ladder(kind, ladder(kind, (1, 3, 9, 27)))  # type: ignore[attr-defined]
    assert uses_rungs(kind)


def test_every_kind_is_known_and_tested() -> None:
    assert {"auto", *(kind for kind, *_ in COMPOSED), *(kind for kind, _ in OWN)} == set(SEARCH_KINDS)
    assert set(PARTS) == {"auto", *(kind for kind, *_ in COMPOSED)}


def test_bohb_draws_every_third_at_random() -> None:
    strategy = make_strategy("bohb", SPACE, (1, 3, 9), 10)
    assert isinstance(strategy, Composed)
    assert strategy.sampler.random_probability == pytest.approx(1 / 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [kind for kind in SEARCH_KINDS if kind != "dehb"])
def test_with_one_rung_all_are_trained_in_full(kind: str) -> None:
    study = Study(SPACE, lambda params: params["x"], strategy=kind, trials=3)
    study.run(progress=False)
    assert list(study.trials.budget) == [1, 1, 1]


def test_dehb_needs_rungs() -> None:
    with pytest.raises(ValueError, match=r"expected at least two rungs, got .*differential evolution"):
        make_strategy("dehb", SPACE, (9,), 10)


@pytest.mark.parametrize("kind", SEARCH_KINDS)
@pytest.mark.parametrize("trials", [1, 4])
def test_a_space_of_one_point_and_a_single_trial(kind: str, trials: int) -> None:
    study = Study(Space({"x": Choice((2,))}), lambda params, budget: 1 / budget, strategy=kind, trials=trials, budget=9)
    study.run(progress=False)
    assert study.finished
    assert study.best.budget == 9


@pytest.mark.parametrize("kind", ["grid", "grid-asha", "auto"])
def test_a_finite_space_is_tried_once(kind: str) -> None:
    study = Study(FINITE, lambda params, budget: params["x"] * params["n"], strategy=kind, trials=20, budget=9)
    study.run(progress=False)
    assert len(study.trials) == 6
    assert not study.trials[["x", "n"]].duplicated().any()


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a kind of search among auto, .*, got 'evolutoin'; did you mean"):
        make_strategy("evolutoin", SPACE, (1,), 10)
    with pytest.raises(ValueError, match="expected max_trials >= 1, got 0"):
        make_strategy("auto", SPACE, (1,), 0)


WIDE = Space({f"x{place}": Float(0.0, 1.0) for place in range(21)})


@pytest.mark.parametrize(
    ("space", "budgets", "trials", "workers", "kind"),
    [
        (FINITE, (9,), 6, 1, "grid"),
        (FINITE, (1, 3, 9), 6, 1, "grid-asha"),
        (FINITE, (1, 3, 9), 5, 1, "freeze-thaw"),
        (FINITE, (9,), 5, 1, "gp"),
        (SPACE, (1, 3, 9), 2_000, 64, "freeze-thaw"),
        (SPACE, (1, 3, 9), 2_001, 1, "tpe-asha"),
        (SPACE, (1, 3, 9), 100, 65, "tpe-asha"),
        (SPACE, (1, 3, 9), 20_001, 1, "evolution-asha"),
        (SPACE, (9,), 200, 1, "gp"),
        (SPACE, (9,), 201, 1, "tpe"),
        (WIDE, (9,), 20, 1, "tpe"),
        (SPACE, (9,), 20_001, 1, "evolution"),
    ],
)
def test_auto(space: Space, budgets: tuple[int, ...], trials: int, workers: int, kind: str) -> None:
    chosen = choose(space, budgets, trials, workers=workers)
    assert chosen.kind == kind == resolve("auto", space, budgets, trials, workers)
    assert chosen.reason
    made = make_strategy("auto", space, budgets, trials, workers=workers)
    assert type(made) is type(make_strategy(kind, space, budgets, trials))
    assert choose(space, budgets, trials, workers=workers, composed=True).kind in PARTS


def test_assignments_are_counted_under_conditions() -> None:
    space = Space.from_dict(
        {
            "a": {"kind": "choice", "values": [0, 1]},
            "b": {"kind": "choice", "values": [1, 2, 3], "when": {"a": [1]}},
        }
    )
    assert num_assignments(space, 4) == 4
    assert num_assignments(space, 3) is None
    assert num_assignments(SPACE, 10**6) is None
    assert num_assignments(Space({"x": Int(1, 2**30)}), 100) is None
