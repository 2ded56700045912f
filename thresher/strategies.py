"""The strategies that go by a word: a sampler and a scheduler each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Sampler, Scheduler, Strategy
from search_spaces.space import Space
from search_spaces.suggestion import suggest

SearchKind = Literal["auto", "random", "asha", "evolution", "evolution-asha"]
SEARCH_KINDS: tuple[str, ...] = get_args(SearchKind)


def make_strategy(
    kind: str,
    space: Space,
    budgets: Sequence[int],
    max_trials: int,
    *,
    keep: int = 1,
    reduction_factor: int = 3,
    cap_promotions: bool = False,
) -> Strategy:
    """The strategy of a kind.

    `random` and `evolution` train every trial to the full budget; `asha` (random proposals) and `evolution-asha`
    promote the best from rung to rung; `auto` is evolution, with promotion where there is more than one rung.

    Args:
        kind: one of SEARCH_KINDS.
        budgets: the rungs, lowest first; the last is the full budget.
        max_trials: how many trials are started.
        keep: how many of the best trials keep their checkpoints to the end.
        reduction_factor: eta, with promotion: 1/eta of a rung goes on.
        cap_promotions: see ASHA.

    Raises ValueError if the kind is none of these, or a number is out of range.
    """
    if kind not in SEARCH_KINDS:
        raise ValueError(
            f"expected a kind of search among {', '.join(SEARCH_KINDS)}, got {kind!r}; {suggest(kind, SEARCH_KINDS)}"
        )
    if kind == "auto":
        kind = "evolution-asha" if len(budgets) > 1 else "evolution"
    sampler: Sampler = EvolutionSampler(space) if kind.startswith("evolution") else RandomSampler(space)
    scheduler: Scheduler = FullBudget(max_trials, keep=keep)
    if kind.endswith("asha"):
        scheduler = ASHA(
            budgets,
            max_trials=max_trials,
            reduction_factor=reduction_factor,
            cap_promotions=cap_promotions,
            keep=keep,
        )
    return Composed(sampler, scheduler)


def uses_rungs(kind: str) -> bool:
    """Whether a kind of search compares trials at several budgets, if there are several."""
    return kind == "auto" or kind.endswith("asha")
