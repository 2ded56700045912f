"""The strategies that go by a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from controller.samplers.cma_es import CMAESSampler
from controller.samplers.differential_evolution import DifferentialEvolutionSampler
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.expert_prior import PriorBandSampler, starting_rung
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
from controller.schedulers.rungs import fine_rungs
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategies.dehb import DEHB
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategies.population_based import PopulationBasedTraining, every
from controller.strategy import Composed, Sampler, Scheduler, Strategy
from search_spaces.space import Space, SpaceError
from search_spaces.suggestion import suggest
from thresher.automatic import choose, num_assignments

SearchKind = Literal[
    "auto",
    "random",
    "grid",
    "sobol",
    "evolution",
    "nsga2",
    "tpe",
    "gp",
    "de",
    "cma-es",
    "asha",
    "grid-asha",
    "evolution-asha",
    "tpe-asha",
    "successive-halving",
    "hyperband",
    "async-hyperband",
    "bohb",
    "priorband",
    "median",
    "mo-asha",
    "dehb",
    "pbt",
    "freeze-thaw",
]
SEARCH_KINDS: tuple[str, ...] = get_args(SearchKind)

PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "auto": ("tpe", "asha"),  # where one of the two is set by itself
    "random": ("random", "full"),
    "grid": ("grid", "full"),
    "sobol": ("sobol", "full"),
    "evolution": ("evolution", "full"),
    "nsga2": ("nsga2", "full"),
    "tpe": ("tpe", "full"),
    "gp": ("gp", "full"),
    "de": ("de", "full"),
    "cma-es": ("cma-es", "full"),
    "asha": ("random", "asha"),
    "grid-asha": ("grid", "asha"),
    "evolution-asha": ("evolution", "asha"),
    "tpe-asha": ("tpe", "asha"),
    "successive-halving": ("random", "successive-halving"),
    "hyperband": ("random", "hyperband"),
    "async-hyperband": ("random", "async-hyperband"),
    "bohb": ("bohb", "hyperband"),
    "priorband": ("priorband", "hyperband"),
    "median": ("random", "median"),
    "mo-asha": ("random", "mo-asha"),
}
"""The sampler and the scheduler of a kind, for those that have them."""

BOHB_RANDOM_SHARE: Final = 1 / 3  # Falkner et al. 2018
NUM_STRETCHES: Final = 10  # of population-based training, where nothing else is said

_SAMPLERS: Final[Mapping[str, Callable[..., Sampler]]] = {
    "random": RandomSampler,
    "sobol": SobolSampler,
    "evolution": EvolutionSampler,
    "nsga2": NSGA2Sampler,
    "tpe": TPESampler,
    "gp": GaussianProcessSampler,
    "de": DifferentialEvolutionSampler,
    "cma-es": CMAESSampler,
}
_SCHEDULERS: Final[Mapping[str, Callable[..., Scheduler]]] = {
    "asha": ASHA,
    "successive-halving": SuccessiveHalving,
    "hyperband": Hyperband,
    "async-hyperband": AsyncHyperband,
    "mo-asha": MOASHA,
}


def make_strategy(
    kind: str,
    space: Space,
    budgets: Sequence[int],
    max_trials: int,
    *,
    keep: int = 1,
    reduction_factor: int = 3,
    cap_promotions: bool = False,
    workers: int = 1,
    frozen: Sequence[str] = (),
) -> Strategy:
    """The strategy of a kind.

    `auto` chooses by size of space, rungs, trials and workers, see `choose`. These train every trial in full: `random`,
    `grid`, `sobol`, `evolution`, `nsga2`, `tpe`, `gp` (Gaussian process), `de` (differential evolution), `cma-es`.
    These let the best go on from rung to rung, random trials if the name does not say otherwise: `asha`, `grid-asha`,
    `evolution-asha`, `tpe-asha`, `successive-halving`, `hyperband`, `async-hyperband`, `bohb`, `priorband`, `median`
    (stopping rule), `mo-asha` (several objectives). `dehb`, `pbt` (population-based training of `max_trials` members)
    and `freeze-thaw` are strategies of their own.

    With one rung nothing can be promoted, and all are trained in full; `dehb` refuses that. `freeze-thaw`, also where
    `auto` chooses it, works on `fine_rungs`, and `pbt` on ten even stretches: see `ladder`. A grid is tried once:
    where a finite space has fewer assignments than `max_trials`, no more are started.

    Args:
        kind: one of SEARCH_KINDS.
        budgets: the rungs, lowest first; the last is the full budget.
        max_trials: how many trials are started.
        keep: how many of the best trials keep their checkpoints to the end.
        reduction_factor: eta, with promotion: 1/eta of a rung goes on.
        cap_promotions: see ASHA.
        workers: how many trials are trained at the same time, for `auto`.
        frozen: parameters that population-based training leaves as they are.

    Raises ValueError if the kind is none of these, or a number is out of range.
    """
    check_kind(kind)
    if max_trials < 1:
        raise ValueError(f"expected max_trials >= 1, got {max_trials}; a study needs at least one trial")
    kind = resolve(kind, space, budgets, max_trials, workers)
    match kind:
        case "dehb":
            return DEHB(space, budgets, max_trials=max_trials, reduction_factor=reduction_factor, keep=keep)
        case "freeze-thaw":
            return FreezeThaw(space, ladder(kind, budgets), max_trials=max_trials, keep=keep)
        case "pbt":
            rungs = ladder(kind, budgets)
            return PopulationBasedTraining(space, rungs, population_size=max_trials, frozen=frozen, keep=keep)
    sampler_kind, scheduler_kind = PARTS[kind]
    options: dict[str, Any] = {}
    if scheduler_kind in ("asha", "async-hyperband"):
        options["cap_promotions"] = cap_promotions
    if scheduler_kind != "full":
        options["reduction_factor"] = reduction_factor
    max_trials = useful_trials(sampler_kind, space, max_trials)
    scheduler = make_scheduler(scheduler_kind, budgets, max_trials=max_trials, keep=keep, **options)
    return Composed(make_sampler(sampler_kind, space, budgets, scheduler, max_trials=max_trials), scheduler)


def make_sampler(
    kind: str, space: Space, budgets: Sequence[int], scheduler: Scheduler, *, max_trials: int, **options: Any
) -> Sampler:
    """A sampler by its word, for a scheduler that it may depend on. Raises ValueError."""
    match kind:
        case "grid":
            return _grid(space, max_trials, **options)
        case "bohb":
            return TPESampler(space, random_probability=BOHB_RANDOM_SHARE, **options)
        case "priorband":
            factor = getattr(scheduler, "reduction_factor", 3)
            return PriorBandSampler(space, rung=starting_rung(scheduler, budgets), reduction_factor=factor, **options)
    return _SAMPLERS[kind](space, **options)


def make_scheduler(kind: str, budgets: Sequence[int], *, max_trials: int, keep: int = 1, **options: Any) -> Scheduler:
    """A scheduler by its word. Raises ValueError."""
    match kind:
        case "full":
            return FullBudget(max_trials, keep=keep)
        case "median":
            options.pop("reduction_factor", None)  # which is of its rungs alone
            return MedianStopping(budgets, max_trials=max_trials, keep=keep, **options)
    return _SCHEDULERS[kind](budgets, max_trials=max_trials, keep=keep, **options)


def check_kind(kind: str) -> None:
    """Raises ValueError if a word is no kind of search."""
    if kind not in SEARCH_KINDS:
        raise ValueError(
            f"expected a kind of search among {', '.join(SEARCH_KINDS)}, got {kind!r}; {suggest(kind, SEARCH_KINDS)}"
        )


def resolve(kind: str, space: Space, budgets: Sequence[int], max_trials: int, workers: int = 1) -> str:
    """The kind itself, or what `auto` chooses."""
    return choose(space, budgets, max_trials, workers=workers).kind if kind == "auto" else kind


def ladder(kind: str, budgets: Sequence[int]) -> tuple[int, ...]:
    """The rungs that a kind works on in place of those that are given. Its own ladder stays as it is."""
    match kind:
        case "freeze-thaw":
            return fine_rungs(budgets)
        case "pbt":
            return every(max(1, budgets[-1] // NUM_STRETCHES), budgets[-1])
    return tuple(budgets)


def uses_rungs(kind: str) -> bool:
    """Whether a kind of search compares trials at several budgets, if there are several."""
    return kind not in PARTS or PARTS[kind][1] != "full"


def useful_trials(sampler: str, space: Space, max_trials: int) -> int:
    """How many trials are worth starting: no more than a grid over all of a space has points."""
    count = num_assignments(space, max_trials) if sampler == "grid" else None
    return max_trials if count is None else count


def _grid(
    space: Space, max_trials: int, *, points: int | Mapping[str, int] | None = None, limit: int | None = None
) -> GridSampler:
    """The finest grid for so many trials; of a space of many choices, all assignments."""
    if points is not None or limit is not None:
        return GridSampler(space, points=points, **({} if limit is None else {"limit": limit}))
    try:
        return GridSampler(space, limit=max_trials)
    except SpaceError:
        return GridSampler(space)
