"""From the section `search` of a config to rungs and a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from controller.samplers.gaussian_process import Constraint, GaussianProcessSampler
from controller.samplers.warm_start import EarlierTrial, WarmStartSampler, earlier_trials
from controller.schedulers.rungs import fine_rungs, geometric_rungs
from controller.strategies.coarse_to_fine import CoarseToFine
from controller.strategies.dehb import DEHB
from controller.strategies.early_end import EarlyEnd
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategies.population_based import PopulationBasedTraining, every
from controller.strategy import Composed, Sampler, Scheduler, Strategy
from controller.trial import Objective
from search_spaces.space import Space
from thresher.automatic import choose
from thresher.config import ConfigError, SearchConfig
from thresher.search_section import (
    CoarseToFineConfig,
    DehbConfig,
    FreezeThawConfig,
    FullBudgetConfig,
    GpConfig,
    PbtConfig,
    PhaseConfig,
    SamplerConfig,
    SchedulerConfig,
    phase_trials,
)
from thresher.strategies import NUM_STRETCHES, PARTS, make_sampler, make_scheduler, make_strategy, useful_trials

FACTOR: Final = 3
FIXED_BY_WEIGHTS: Final = ("lora.rank", "lora.alpha", "lora.targets", "optimizer.batch_size")
"""What cannot change in the midst of a training, besides `architecture.*`."""

_LADDER_KEYS: Final = {"kind", "min_budget"}


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs that a search compares at.

    Attributes:
        lowest: the lowest rung; None: the full budget divided twice by the factor.
        factor: how many times larger each is than the one below; 1 for the full budget alone.
        even: whether they are even stretches of `lowest` examples instead, by default a tenth of the full budget.
    """

    lowest: int | None = None
    factor: int = FACTOR
    even: bool = False

    def least_budget(self, least: int) -> int:
        """The full budget whose lowest rung holds `least` examples."""
        if self.even:
            return self.lowest or least
        return max(least * self.factor**2, self.lowest or 0)

    def rungs(self, budget: int, least: int) -> tuple[int, ...]:
        """Up to a full budget. Raises ValueError if they cannot be laid out."""
        if self.even:
            return every(self.lowest or min(budget, max(least, budget // NUM_STRETCHES)), budget)
        if self.factor == 1:
            return (budget,)
        return geometric_rungs(self.lowest or max(1, budget // self.factor**2), budget, self.factor)


def ladders(search: SearchConfig) -> Iterator[tuple[str, Ladder]]:
    """The place in the config and the rungs of every part of a search that has rungs of its own."""
    match search.strategy:
        case FreezeThawConfig(min_budget=lowest):
            yield "search.strategy", Ladder(lowest)
        case DehbConfig(min_budget=lowest, reduction_factor=factor):
            yield "search.strategy", Ladder(lowest, factor)
        case PbtConfig(every=interval):
            yield "search.strategy", Ladder(interval, even=True)
        case CoarseToFineConfig(first=first, second=second):
            yield "search.strategy.first", _ladder_of(_phase_scheduler(first))
            yield "search.strategy.second", _ladder_of(_phase_scheduler(second))
        case None if search.kind == "pbt":
            yield "search", Ladder(even=True)
        case None if search.kind not in PARTS:
            yield "search", Ladder()
        case None:
            yield "search.scheduler", _ladder_of(search.scheduler or PARTS[search.kind][1])


def make_search(
    search: SearchConfig,
    space: Space,
    budgets: Sequence[int],
    objectives: Sequence[Objective],
    keep: int,
    notes: list[str],
) -> tuple[Strategy, tuple[int, ...]]:
    """The strategy of a search, and the rungs that it works on.

    Args:
        budgets: the rungs as `ladders` lay them out.
        keep: how many of the best trials keep their checkpoints to the end.
        notes: what was chosen is added here.

    Raises ConfigError for options that do not fit each other or the rungs, and earlier studies that cannot be read.
    """
    try:
        strategy, rungs = _searching(search, space, budgets, objectives, keep, notes)
    except ConfigError:
        raise
    except ValueError as error:
        place = "search.strategy" if search.strategy is not None else "search"
        raise ConfigError(f"{place}: {error}") from error
    if search.end_early:
        strategy = EarlyEnd(strategy, _surrogate(search, strategy, space))
    return strategy, rungs


def _searching(
    search: SearchConfig,
    space: Space,
    budgets: Sequence[int],
    objectives: Sequence[Objective],
    keep: int,
    notes: list[str],
) -> tuple[Strategy, tuple[int, ...]]:
    if search.strategy is not None:
        return _own(search, space, budgets, keep)
    kind: str = search.kind
    plain = search.sampler is None and search.scheduler is None
    if kind == "auto" and plain:
        chosen = choose(space, budgets, search.trials, composed=search.warm_start is not None)
        kind = chosen.kind
        notes.append(f"search.kind: auto is {kind} here: {chosen.reason}")
    if kind not in PARTS:
        rungs = fine_rungs(budgets) if kind == "freeze-thaw" else tuple(budgets)
        if kind == "pbt":
            return _population(PbtConfig(kind="pbt"), search, space, rungs, keep), rungs
        return make_strategy(kind, space, rungs, search.trials, keep=keep), rungs
    sampler, scheduler = search.sampler or PARTS[kind][0], search.scheduler or PARTS[kind][1]
    composed = _composed(sampler, scheduler, space, budgets, search.trials, keep, "search")
    if search.warm_start is not None:
        warm = search.warm_start
        inner = WarmStartSampler(
            space,
            composed.sampler,
            [_earlier(run, objectives) for run in warm.runs],
            num_first=warm.num_first,
            strength=warm.strength,
        )
        composed = Composed(inner, composed.scheduler)
    return composed, tuple(budgets)


def _own(search: SearchConfig, space: Space, budgets: Sequence[int], keep: int) -> tuple[Strategy, tuple[int, ...]]:
    """A strategy of its own, with its options."""
    config, rungs = search.strategy, tuple(budgets)
    options: dict[str, Any] = {} if config is None else config.model_dump(exclude=_LADDER_KEYS)
    match config:
        case FreezeThawConfig():
            rungs = fine_rungs(rungs)
            return FreezeThaw(space, rungs, max_trials=search.trials, keep=keep, **options), rungs
        case DehbConfig():
            return DEHB(space, rungs, max_trials=search.trials, keep=keep, **options), rungs
        case PbtConfig():
            return _population(config, search, space, rungs, keep), rungs
        case CoarseToFineConfig(first=first, second=second):
            trials = phase_trials(search)

            def phase(config: PhaseConfig, within: Space, trials: int, place: str) -> Composed:
                scheduler = _phase_scheduler(config)
                own = _ladder_of(scheduler).rungs(rungs[-1], 1)
                return _composed(config.sampler or "tpe", scheduler, within, own, trials, keep, place)

            phase(second, space, trials[1], "search.strategy.second")  # what is wrong with it is told before it begins
            return CoarseToFine(
                space,
                phase(first, space, trials[0], "search.strategy.first"),
                lambda narrowed: phase(second, narrowed, trials[1], "search.strategy.second"),
                best_share=config.best_share,
                min_best=config.min_best,
                margin=config.margin,
            ), rungs
    raise AssertionError(config)


def _population(
    config: PbtConfig, search: SearchConfig, space: Space, rungs: Sequence[int], keep: int
) -> PopulationBasedTraining:
    frozen = [name for name in space.names if name in FIXED_BY_WEIGHTS or name.startswith("architecture.")]
    options = config.model_dump(exclude={"kind", "every"})
    return PopulationBasedTraining(space, rungs, population_size=search.trials, frozen=frozen, keep=keep, **options)


def _composed(
    sampler: SamplerConfig | str,
    scheduler: SchedulerConfig | str,
    space: Space,
    budgets: Sequence[int],
    max_trials: int,
    keep: int,
    place: str,
) -> Composed:
    """A sampler and a scheduler, each by its word or with its options. Raises ConfigError."""
    sampler_kind, sampler_options = _options(sampler)
    scheduler_kind, scheduler_options = _options(scheduler)
    try:
        trials = useful_trials(sampler_kind, space, max_trials)
        allotting: Scheduler = make_scheduler(
            scheduler_kind, budgets, max_trials=trials, keep=keep, **scheduler_options
        )
    except ValueError as error:
        raise ConfigError(f"{place}.scheduler: {error}") from error
    try:
        proposing: Sampler = make_sampler(
            sampler_kind, space, budgets, allotting, max_trials=max_trials, **sampler_options
        )
    except ValueError as error:
        raise ConfigError(f"{place}.sampler: {error}") from error
    return Composed(proposing, allotting)


def _options(part: SamplerConfig | SchedulerConfig | str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(part, str):
        return part, {}
    options = part.model_dump(exclude=_LADDER_KEYS)
    if isinstance(part, GpConfig):
        options["constraints"] = tuple(Constraint(**one.model_dump()) for one in part.constraints)
    return part.kind, options


def _ladder_of(scheduler: SchedulerConfig | str) -> Ladder:
    if isinstance(scheduler, FullBudgetConfig) or scheduler == "full":
        return Ladder(factor=1)
    if isinstance(scheduler, str):
        return Ladder()
    return Ladder(scheduler.min_budget, scheduler.reduction_factor)


def _phase_scheduler(config: PhaseConfig) -> SchedulerConfig | str:
    return config.scheduler or "asha"


def _surrogate(search: SearchConfig, strategy: Strategy, space: Space) -> GaussianProcessSampler:
    """What judges whether more trials are worth it: the sampler itself, if it is of this kind."""
    sampler = getattr(strategy, "sampler", None)
    if isinstance(sampler, WarmStartSampler):
        sampler = sampler.inner
    return sampler if isinstance(sampler, GaussianProcessSampler) else GaussianProcessSampler(space)


def _earlier(directory: Path, objectives: Sequence[Objective]) -> list[EarlierTrial]:
    """The trials of an earlier study. Raises ConfigError."""
    from thresher.record import StudyRecord

    try:
        history = StudyRecord.open(directory).history
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"search.warm_start.runs: expected the directory of a study, got {directory}: {error}"
        ) from error
    if history.objectives[0] != objectives[0]:
        theirs, ours = history.objectives[0], objectives[0]
        raise ConfigError(
            f"search.warm_start.runs: expected studies that {ours.direction} {ours.metric} first, got {directory}, "
            f"which does {theirs.direction} {theirs.metric}; leave it out"
        )
    return earlier_trials(history)
