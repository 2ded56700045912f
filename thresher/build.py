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
from llm_tuning.recipe import RECIPE_DEFAULTS
from nas.architecture import Architecture, ArchitectureError
from search_spaces.domains import Choice
from search_spaces.families import Family, family_for, load_family
from search_spaces.space import ParamValue, Space, SpaceError
from thresher.config import AshaConfig, ConfigError, EvolutionConfig, StudyConfig, check_budgets


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
        ConfigError: the rungs are too small, the default lies outside the space, or the family lacks a space.
        FamilyError: the family does not exist or its file is wrong.
    """
    notes: list[str] = []
    family = _family(config, model_config, notes)
    defaults = _defaults(config, family, model_config)
    space = config.space_object() or (family.space if family is not None else None)
    if space is None:
        raise ConfigError(
            f"space: expected a space, since no family covers the model type {model_config.get('model_type')!r}, "
            "got none; list the hyperparameters to search, or name model.family"
        )
    default_params = {name: defaults[name] for name in space.names}
    try:
        space.validate(default_params)
    except SpaceError as error:
        raise ConfigError(
            f"hyperparameters: expected the default configuration (trial 0) inside the space, got {error} "
            "(set the default under `hyperparameters`)"
        ) from error
    budgets = rung_budgets(config)
    check_budgets(config, budgets, _largest(space, defaults, "optimizer.batch_size"))
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
        lora_targets={} if family is None else family.lora_targets,
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
    return {
        "model_directory": str(model_directory),
        "dtype": config.model.dtype,
        "trust_remote_code": config.model.trust_remote_code,
        "data_directory": str(directory / "data"),
        "tokenizer_directory": str(directory / "tokenizer"),
        "checkpoint_directory": str(directory / "checkpoints"),
        "micro_batch_size": resources.micro_batch_size,
        "evaluation_batch_size": resources.evaluation_batch_size,
        "mixed_precision": resources.mixed_precision,
        "gradient_checkpointing": resources.gradient_checkpointing,
        "save_every_seconds": resources.save_every_minutes * 60,
        "lora_targets": {group: list(modules) for group, modules in plan.lora_targets.items()},
        "defaults": dict(plan.defaults),
        "generations": config.output.generations,
        "max_new_tokens": config.output.max_new_tokens,
    }


def largest_rank(plan: Plan) -> int:
    """The largest LoRA rank that any trial may have."""
    return _largest(plan.space, plan.defaults, "lora.rank")


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


def _largest(space: Space, defaults: Mapping[str, ParamValue], name: str) -> int:
    domain = space.domains.get(name)
    if domain is None:
        return int(defaults[name])
    return int(max(domain.values)) if isinstance(domain, Choice) else int(domain.high)
