"""The parts of the section `search`: samplers, schedulers, strategies of their own, and a warm start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from thresher.config_types import ConfigSection, Integer, Number, UserPath


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


# --- samplers -----------------------------------------------------------------------------------


class RandomConfig(ConfigSection):
    """Independent draws."""

    kind: Literal["random"]


class GridConfig(ConfigSection):
    """All assignments of a few values for each parameter, in random order."""

    kind: Literal["grid"]
    points: Integer | None = Field(
        default=None, ge=1, description="values of each float or int; default: as many as `search.trials` allows"
    )


class SobolConfig(ConfigSection):
    """Sobol's sequence: draws that fill the space evenly."""

    kind: Literal["sobol"]


class EvolutionConfig(ConfigSection):
    """Regularised evolution."""

    kind: Literal["evolution"]
    population_size: Integer = Field(default=16, ge=2, description="how many of the latest trials are parents")
    tournament_size: Integer = Field(default=4, ge=1, description="the best of so many drawn is a parent")
    crossover_probability: Number = Field(default=0.5, ge=0, le=1, description="of two parents instead of one")
    random_probability: Number = Field(default=0.1, ge=0, le=1, description="of a draw without parents")


class Nsga2Config(ConfigSection):
    """NSGA-II: evolution for several objectives."""

    kind: Literal["nsga2"]
    population_size: Integer = Field(default=16, ge=4, description="how many survive a generation")
    crossover_probability: Number = Field(default=0.9, ge=0, le=1, description="of two parents instead of one")
    crossover_index: Number = Field(
        default=20.0, ge=0, le=1000, description="the higher, the nearer children are to parents"
    )
    mutation_probability: Number | None = Field(
        default=None, ge=0, le=1, description="of each parameter; default: one parameter on average"
    )
    mutation_index: Number = Field(default=20.0, ge=0, le=1000, description="the higher, the smaller the mutations")


class TpeConfig(ConfigSection):
    """Multivariate tree-structured Parzen estimator."""

    kind: Literal["tpe"]
    num_startup: Integer = Field(default=8, ge=2, description="results that a rung needs before it is modelled")
    gamma: Number = Field(default=0.15, gt=0, lt=1, description="the share of the results that counts as good")
    num_candidates: Integer = Field(default=24, ge=1, description="draws of which the most promising is taken")
    prior_weight: Number = Field(default=1.0, gt=0, description="of the space's prior, in results")
    random_probability: Number = Field(default=0.0, ge=0, le=1, description="of a draw without the model")


class ConstraintConfig(ConfigSection):
    """A bound on a metric of the reports. One of the two is given."""

    metric: str = Field(description="any that a trial reports", min_length=1)
    at_most: Number | None = Field(default=None, description="what it may be at most")
    at_least: Number | None = Field(default=None, description="what it must be at least")


class GpConfig(ConfigSection):
    """Gaussian process with expected improvement."""

    kind: Literal["gp"]
    num_startup: Integer | None = Field(
        default=None, ge=2, description="results that a rung needs before it is modelled; default: 4 to 10, by size"
    )
    constraints: tuple[ConstraintConfig, ...] = Field(default=(), description="what a configuration must satisfy")
    max_points: Integer = Field(default=300, ge=10, description="results that the model holds at most")
    fantasies: Integer = Field(default=8, ge=1, description="how often results of running trials are imagined")
    prior_weight: Number = Field(default=3.0, ge=0, description="of the space's priors, which falls with results")
    several: Literal["hypervolume", "scalarised"] = Field(
        default="hypervolume", description="what improves with several objectives"
    )


class DifferentialEvolutionConfig(ConfigSection):
    """Differential evolution."""

    kind: Literal["de"]
    population_size: Integer = Field(default=10, ge=4, description="of a generation")
    scale: Number = Field(default=0.5, gt=0, le=2, description="F, of the differences")
    crossover_probability: Number = Field(default=0.5, ge=0, le=1, description="of each parameter")
    mutation: Literal["rand/1", "best/1", "current-to-best/1"] = Field(
        default="rand/1", description="what the differences are added to"
    )


class CmaEsConfig(ConfigSection):
    """CMA-ES: a normal distribution that learns its covariance."""

    kind: Literal["cma-es"]
    population_size: Integer | None = Field(default=None, ge=4, description="of a generation; default: by dimension")
    sigma: Number = Field(default=0.2, gt=0, le=1, description="first step, in the unit interval")


class PriorBandConfig(ConfigSection):
    """PriorBand: random draws, draws from the priors of the space, and steps from the best."""

    kind: Literal["priorband"]


SamplerConfig = (
    RandomConfig
    | GridConfig
    | SobolConfig
    | EvolutionConfig
    | Nsga2Config
    | TpeConfig
    | GpConfig
    | DifferentialEvolutionConfig
    | CmaEsConfig
    | PriorBandConfig
)
Sampler = Annotated[SamplerConfig, Field(discriminator="kind")]

# --- schedulers ---------------------------------------------------------------------------------


class FullBudgetConfig(ConfigSection):
    """Every trial gets the full budget."""

    kind: Literal["full"]


class AshaConfig(ConfigSection):
    """Asynchronous successive halving by promotion."""

    kind: Literal["asha"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")
    cap_promotions: bool = Field(default=False, description="promote no more than synchronous halving would")


class HalvingConfig(ConfigSection):
    """Synchronous successive halving."""

    kind: Literal["successive-halving"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")


class HyperbandConfig(ConfigSection):
    """Hyperband: brackets of successive halving, each beginning at another rung."""

    kind: Literal["hyperband"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")
    overlap: bool = Field(default=True, description="begin the next bracket rather than wait")
    sizes: Literal["algorithm", "table"] = Field(default="algorithm", description="of the brackets, as in the paper's")


class AsyncHyperbandConfig(ConfigSection):
    """Asynchronous Hyperband: brackets of ASHA side by side."""

    kind: Literal["async-hyperband"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")
    cap_promotions: bool = Field(default=False, description="promote no more than synchronous halving would")


class MedianConfig(ConfigSection):
    """The median stopping rule."""

    kind: Literal["median"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="how many times larger the next rung is")
    min_trials: Integer = Field(default=3, ge=1, description="others that a rung needs before it stops a trial")
    grace_budget: Integer = Field(default=0, ge=0, description="rungs up to here stop nobody")
    compare: Literal["best", "average"] = Field(default="best", description="what is held against the median")


class MoAshaConfig(ConfigSection):
    """ASHA for several objectives."""

    kind: Literal["mo-asha"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")
    spread: Literal["epsilon-net", "crowding"] = Field(default="epsilon-net", description="which of a front come first")


SchedulerConfig = (
    AshaConfig | FullBudgetConfig | HalvingConfig | HyperbandConfig | AsyncHyperbandConfig | MedianConfig | MoAshaConfig
)
Scheduler = Annotated[SchedulerConfig, Field(discriminator="kind")]

# --- strategies of their own ---------------------------------------------------------------------


class FreezeThawConfig(ConfigSection):
    """Freeze-thaw: whichever trial promises most, paused or new, trains a little further."""

    kind: Literal["freeze-thaw"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / 9")
    num_startup: Integer = Field(default=18, ge=1, description="trials of the first bracket, before curves decide")
    switch_cost: Number = Field(default=0.0, ge=0, description="what resuming a trial costs, in training examples")
    max_points: Integer = Field(default=350, ge=10, description="measurements that the model holds at most")
    novelty_weight: Number = Field(default=6.0, ge=0, description="how much repeated results push new trials away")
    prior_weight: Number = Field(default=10.0, ge=0, description="of the space's priors, which falls with trials")
    min_probability: Number = Field(
        default=0.05, gt=0, lt=1, description="of an improvement that a trial needs to go on at the end"
    )


class DehbConfig(ConfigSection):
    """DEHB: differential evolution within the brackets of Hyperband."""

    kind: Literal["dehb"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2, description="one in so many goes on to the next rung")
    scale: Number = Field(default=0.5, gt=0, le=2, description="F, of the differences")
    crossover_probability: Number = Field(default=0.5, ge=0, le=1, description="of each parameter")
    promoting_brackets: Integer = Field(default=1, ge=1, description="brackets at first that promote trials")


class PbtConfig(ConfigSection):
    """Population-based training: `search.trials` members; what does badly takes over from what does well."""

    kind: Literal["pbt"]
    every: Integer | None = Field(
        default=None, ge=1, description="training examples from one comparison to the next; default: budget / 10"
    )
    quantile: Number = Field(default=0.2, gt=0, le=0.5, description="the share at either end")
    factors: tuple[Annotated[Number, Field(gt=0)], ...] = Field(
        default=(0.8, 1.2), min_length=1, description="what a number may be multiplied by"
    )
    resample_probability: Number = Field(default=0.25, ge=0, le=1, description="of drawing a parameter anew")
    quorum: Number = Field(default=0.5, ge=0, le=1, description="the share of members that a comparison waits for")


class PhaseConfig(ConfigSection):
    """A search of its own."""

    sampler: Sampler | None = Field(default=None, description="which configurations are tried; default: tpe")
    scheduler: Scheduler | None = Field(default=None, description="how far each is trained; default: asha")
    trials: Integer | None = Field(
        default=None, ge=1, description="how many; default: what `search.trials` leaves, shared evenly"
    )


class CoarseToFineConfig(ConfigSection):
    """One search, then a second one in the part of the space where the first did best."""

    kind: Literal["coarse-to-fine"]
    first: PhaseConfig = PhaseConfig()
    second: PhaseConfig = PhaseConfig()
    best_share: Number = Field(default=0.2, gt=0, le=1, description="of the first search, which is narrowed around")
    min_best: Integer = Field(default=3, ge=1, description="at least so many of them")
    margin: Number = Field(default=0.1, ge=0, lt=1, description="beyond them, in the unit interval")


OwnConfig = FreezeThawConfig | DehbConfig | PbtConfig | CoarseToFineConfig
Own = Annotated[OwnConfig, Field(discriminator="kind")]

# --- around them ----------------------------------------------------------------------------------


class WarmStartConfig(ConfigSection):
    """What earlier studies found good is tried first, and is a prior that must prove itself."""

    runs: Annotated[tuple[UserPath, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        description="directories of earlier studies"
    )
    num_first: Integer = Field(default=3, ge=0, description="how many of their best configurations are tried first")
    strength: Number = Field(default=5.0, ge=0, description="after how many trials the past counts half at most")


def wrong_search(search: Any) -> Iterator[str]:
    """What does not go together in the section `search`."""
    parts = [name for name in ("sampler", "scheduler") if getattr(search, name) is not None]
    own = None
    if search.strategy is not None:
        own = f"strategy: {{kind: {search.strategy.kind}}}"
        if search.kind != "auto":
            yield f"search.kind: expected none beside search.strategy, got {search.kind!r}; leave one of them out"
    elif search.kind in ("dehb", "pbt", "freeze-thaw"):
        own = f"kind: {search.kind}"
    for name in parts if own else ():
        yield (
            f"search.{name}: expected none beside {own}, which is a strategy of its own, got "
            f"{getattr(search, name).kind!r}; leave one of them out"
        )
    if own and search.warm_start is not None:
        yield (
            f"search.warm_start: expected a search by sampler and scheduler, got {own}, which has no sampler to start "
            "warm; choose another kind, such as tpe-asha"
        )
    yield from _wrong_phases(search)
    samplers = [("search.sampler", search.sampler)]
    if isinstance(search.strategy, CoarseToFineConfig):
        samplers += [(f"search.strategy.{name}.sampler", getattr(search.strategy, name).sampler) for name in _PHASES]
    for place, sampler in samplers:
        for index, one in enumerate(sampler.constraints if isinstance(sampler, GpConfig) else ()):
            if (one.at_most is None) == (one.at_least is None):
                got = "neither" if one.at_most is None else "both"
                yield (
                    f"{place}.constraints.{index}: expected at_most or at_least, got {got}; give one, and a second "
                    "constraint for the other bound"
                )


_PHASES = ("first", "second")


def _wrong_phases(search: Any) -> Iterator[str]:
    if not isinstance(search.strategy, CoarseToFineConfig):
        return
    first, second = phase_trials(search)
    if first < 1 or second < 1 or first + second > search.trials:
        yield (
            f"search.strategy: expected at least one trial in each phase and no more than the {search.trials} of "
            f"search.trials in both, got {first} and {second}; change them or search.trials"
        )


def phase_trials(search: Any) -> tuple[int, int]:
    """How many trials the two phases of coarse-to-fine have."""
    first, second = search.strategy.first.trials, search.strategy.second.trials
    if first is None:
        first = search.trials - second if second is not None else search.trials // 2
    return first, search.trials - first if second is None else second
