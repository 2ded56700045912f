from __future__ import annotations

import pytest

from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed
from search_spaces.domains import Float
from search_spaces.space import Space
from thresher.strategies import SEARCH_KINDS, make_strategy, uses_rungs

SPACE = Space({"x": Float(0.0, 1.0)})


@pytest.mark.parametrize(
    ("kind", "sampler", "scheduler"),
    [
        ("random", RandomSampler, FullBudget),
        ("asha", RandomSampler, ASHA),
        ("evolution", EvolutionSampler, FullBudget),
        ("evolution-asha", EvolutionSampler, ASHA),
        ("auto", EvolutionSampler, ASHA),
    ],
)
def test_every_kind_is_a_sampler_and_a_scheduler(kind: str, sampler: type, scheduler: type) -> None:
    strategy = make_strategy(kind, SPACE, (1, 3, 9), 10, keep=4, reduction_factor=2)
    assert isinstance(strategy, Composed)
    assert type(strategy.sampler) is sampler
    assert type(strategy.scheduler) is scheduler
    assert uses_rungs(kind) is (scheduler is ASHA)
    assert strategy.scheduler.keep == 4  # type: ignore[attr-defined]


def test_with_one_rung_there_is_nothing_to_promote() -> None:
    strategy = make_strategy("auto", SPACE, (9,), 10)
    assert isinstance(strategy, Composed)
    assert isinstance(strategy.scheduler, FullBudget)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a kind of search among auto, .*, got 'evolutoin'; did you mean"):
        make_strategy("evolutoin", SPACE, (1,), 10)
    assert SEARCH_KINDS == ("auto", "random", "asha", "evolution", "evolution-asha")
