"""From a config to the objects of a study: space, default configuration, strategy, and the workers' task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.finalists import Finalists
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.schedulers.rungs import geometric_rungs
from controller.strategy import Composed, InTurn, Sampler, Scheduler, Strategy
from controller.trial import Objective
from llm_tuning.base_model import context_length
from llm_tuning.recipe import RECIPE_DEFAULTS, FineTuningSpec
from nas.architecture import Architecture, ArchitectureError
from search_spaces.domains import Choice
from search_spaces.families import Family, family_for, load_family
from search_spaces.space import ParamValue, Space
from thresher.config import AshaConfig, ConfigError, EvolutionConfig, StudyConfig, check_budgets, check_domains


@dataclass(frozen=True, slots=True)
class Plan:
    """What a config means for a certain model.

    Attributes:
        space: what is searched.
        defaults: the full default configuration; what is not searched keeps these values.
        default_params: the part of it that lies in the space, which is trial 0.
        budgets: the rungs, lowest first; the last is the full budget and the horizon of every schedule.
        lora_targets: groups of module names that adapters may be put on.
        architecture: the model's sizes; None if the model is of a kind whose costs are not known.
        notes: what the user should know about these choices.
    """

    space: Space
    defaults: Mapping[str, ParamValue]
    default_params: Mapping[str, ParamValue]
    budgets: tuple[int, ...]
    strategy: Strategy
    finalists: Finalists
    objective: Objective
    lora_targets: Mapping[str, tuple[str, ...]]
    architecture: Architecture | None
    notes: tuple[str, ...]


def build_plan(config: StudyConfig, model_config: Mapping[str, Any]) -> Plan:
    """The plan of a study for a model with the given transformers configuration.

    Raises:
        ConfigError: texts may be longer than the model's context, the rungs are too small, the default lies outside
            the space, there is no space, or it holds values that no training can be made of.
        FamilyError: the family does not exist or its file is wrong.
    """
    notes: list[str] = []
    context = context_length(model_config)
    if context is not None and config.data.max_length > context:
        raise ConfigError(
            f"data.max_length: expected at most {context}, the context of the model in tokens, got "
            f"{config.data.max_length}; lower it to {context} or less"
        )
    family = _family(config, model_config, notes)
    defaults = _defaults(config, family, model_config)
    space = config.space_object() or (family.space if family is not None else None)
    if space is None:
        raise ConfigError(
            f"space: expected a space, since no family covers the model type {model_config.get('model_type')!r}, "
            "got none; list the hyperparameters to search, or name model.family"
        )
    default_params = _default_params(space, defaults)
    lora_targets = {} if family is None else family.lora_targets
    _check_combinations(space, defaults, lora_targets)
    budgets = rung_budgets(config)
    check_budgets(config, budgets, int(_highest(space, defaults, "optimizer.batch_size")))
    finalists = Finalists(config.finalists.count, config.finalists.repeats, test=config.data.test is not None)
    search = Composed(_sampler(config, space), _scheduler(config, budgets))
    return Plan(
        space=space,
        defaults=defaults,
        default_params=default_params,
        budgets=budgets,
        strategy=InTurn((search, finalists)),
        finalists=finalists,
        objective=Objective(config.objective.metric, config.objective.direction),
        lora_targets=lora_targets,
        architecture=_architecture(model_config, notes),
        notes=tuple(notes),
    )


def rung_budgets(config: StudyConfig) -> tuple[int, ...]:
    """The rungs of a config's search, lowest first. Raises ConfigError if they cannot be laid out."""
    search = config.search
    if not isinstance(search.scheduler, AshaConfig):
        return (search.budget,)
    factor = search.scheduler.reduction_factor
    lowest = search.scheduler.min_budget or max(1, search.budget // factor**2)
    try:
        return geometric_rungs(lowest, search.budget, factor)
    except ValueError as error:
        raise ConfigError(f"search.scheduler: {error}") from error


def worker_task(config: StudyConfig, plan: Plan, model_directory: Path) -> dict[str, Any]:
    """What a worker builds its FineTuningTask from, as plain data."""
    directory = config.output.directory.resolve()
    resources = config.resources
    return FineTuningSpec(
        model_directory=str(model_directory.resolve()),
        tokenizer_directory=str(directory / "tokenizer"),
        data_directory=str(directory / "data"),
        checkpoint_directory=str(directory / "checkpoints"),
        lora_targets=plan.lora_targets,
        defaults=plan.defaults,
        dtype=config.model.dtype,
        mixed_precision=resources.mixed_precision,
        micro_batch_size=resources.micro_batch_size,
        evaluation_batch_size=resources.evaluation_batch_size,
        gradient_checkpointing=resources.gradient_checkpointing,
        save_every_seconds=resources.save_every_minutes * 60,
        generations=config.output.generations,
        max_new_tokens=config.output.max_new_tokens,
        trust_remote_code=config.model.trust_remote_code,
    ).to_dict()


def largest_rank(plan: Plan) -> int:
    """The largest LoRA rank that any trial may have."""
    return int(_highest(plan.space, plan.defaults, "lora.rank"))


def _family(config: StudyConfig, model_config: Mapping[str, Any], notes: list[str]) -> Family | None:
    if config.model.family is not None:
        return load_family(config.model.family)
    model_type = str(model_config.get("model_type"))
    family = family_for(model_type)
    if family is None:
        notes.append(
            f"no family covers the model type {model_type!r}: general defaults, adapters on all linear layers only"
        )
    return family


def _defaults(config: StudyConfig, family: Family | None, model_config: Mapping[str, Any]) -> dict[str, ParamValue]:
    defaults = dict(RECIPE_DEFAULTS)
    hidden_size = model_config.get("hidden_size")
    if family is not None and isinstance(hidden_size, int):
        defaults |= family.default_params(hidden_size)
    return defaults | config.hyperparameters


def _default_params(space: Space, defaults: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """The part of the defaults that the space varies, which is trial 0. Raises ConfigError if it lies outside."""
    params = {}
    for name, domain in space.domains.items():
        params[name] = defaults[name]
        if not domain.contains(defaults[name]):
            raise ConfigError(
                f"space.{name}: expected the default configuration (trial 0) to lie in the space, here {domain}, "
                f"got {defaults[name]!r}; set {name} under `hyperparameters`, or widen the space"
            )
    return params


def _check_combinations(
    space: Space, defaults: Mapping[str, ParamValue], lora_targets: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse what no single value is to blame for, before a trial fails of it. Raises ConfigError."""
    check_domains(space)
    if "wsd" in possible_values(space, defaults, "schedule.kind"):
        warmup, decay = (_highest(space, defaults, f"schedule.{part}") for part in ("warmup", "decay"))
        if warmup + decay > 1:
            raise ConfigError(
                "space: expected schedule.warmup + schedule.decay <= 1 with schedule.kind wsd, got up to "
                f"{warmup:g} + {decay:g}; lower one of them in `space` or `hyperparameters`"
            )
    groups = [*lora_targets, *({"all-linear"} - set(lora_targets))]
    for targets in possible_values(space, defaults, "lora.targets"):
        if targets not in groups:
            raise ConfigError(
                f"lora.targets: expected one of {', '.join(groups)}, got {targets!r}; name a family under "
                "model.family that lists the modules of this group"
            )


def possible_values(space: Space, defaults: Mapping[str, ParamValue], name: str) -> tuple[ParamValue, ...]:
    """The values that a categorical hyperparameter may have in any trial."""
    domain = space.domains.get(name)
    return domain.values if isinstance(domain, Choice) else (defaults[name],)


def _architecture(model_config: Mapping[str, Any], notes: list[str]) -> Architecture | None:
    try:
        return Architecture.from_config(model_config)
    except ArchitectureError as error:
        notes.append(f"memory and disk are not estimated for this model: {error}")
        return None


def _sampler(config: StudyConfig, space: Space) -> Sampler:
    sampler = config.search.sampler
    if not isinstance(sampler, EvolutionConfig):
        return RandomSampler(space)
    try:
        return EvolutionSampler(
            space,
            sampler.population_size,
            sampler.tournament_size,
            sampler.crossover_probability,
            sampler.random_probability,
        )
    except ValueError as error:
        raise ConfigError(f"search.sampler: {error}") from error


def _scheduler(config: StudyConfig, budgets: tuple[int, ...]) -> Scheduler:
    keep = config.finalists.count
    scheduler = config.search.scheduler
    if not isinstance(scheduler, AshaConfig):
        return FullBudget(config.search.trials, keep=keep)
    return ASHA(
        budgets,
        max_trials=config.search.trials,
        reduction_factor=scheduler.reduction_factor,
        cap_promotions=scheduler.cap_promotions,
        keep=keep,
    )


def _highest(space: Space, defaults: Mapping[str, ParamValue], name: str) -> float:
    """The largest value that a numeric hyperparameter may have in any trial."""
    domain = space.domains.get(name)
    if domain is None:
        return float(defaults[name])
    return float(max(domain.values)) if isinstance(domain, Choice) else float(domain.high)
