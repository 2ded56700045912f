"""From a config to the objects of a study: space, default configuration, strategy, and the workers' task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from controller.finalists import Finalists
from controller.strategy import Strategy
from controller.trial import Objective
from llm_tuning.base_model import context_length
from llm_tuning.recipe import RECIPE_DEFAULTS, FineTuningSpec
from nas.architecture import Architecture, ArchitectureError
from search_spaces.domains import Choice, ParamValue
from search_spaces.families import FamilyError, find_family
from search_spaces.space import Space, SpaceError
from thresher.config import ConfigError, StudyConfig
from thresher.searching import Ladder, ladders, make_search
from thresher.space_section import check_domains, merge_space, nearest

MIN_BATCHES_PER_RUNG: Final = 8
MAX_AUTO_BUDGET: Final = 50_000
"""Training examples of a full training, at most, where the config does not say."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a config means for a certain model.

    Attributes:
        space: what is searched.
        defaults: the full default configuration; what is not searched keeps these values.
        default_params: the part of it that lies in the space, which is trial 0.
        budgets: the rungs, lowest first; the last is the full budget and the horizon of every schedule.
        search: what trains next until its budget is used up; `finalists` come after it.
        lora_targets: groups of module names that adapters may be put on.
        architecture: the model's sizes; None if the model is of a kind whose costs are not known.
        notes: what the user should know about these choices.
    """

    space: Space
    defaults: Mapping[str, ParamValue]
    default_params: Mapping[str, ParamValue]
    budgets: tuple[int, ...]
    search: Strategy
    finalists: Finalists
    objectives: tuple[Objective, ...]
    lora_targets: Mapping[str, tuple[str, ...]]
    architecture: Architecture | None
    notes: tuple[str, ...]


def build_plan(config: StudyConfig, model_config: Mapping[str, Any], rows: Mapping[str, int]) -> Plan:
    """The plan of a study for a model with the given transformers configuration.

    Args:
        rows: how many rows each split has. A budget that the config leaves open follows from those of `train`.

    Raises:
        ConfigError: texts may be longer than the model's context, the rungs are too small, the default lies outside
            the space, there is no space, or it holds values that no training can be made of; or the family does not
            exist, or its file is wrong.
    """
    context = context_length(model_config)
    if context is not None and config.data.max_length > context:
        raise ConfigError(
            f"data.max_length: expected at most {context}, the context of the model in tokens, got "
            f"{config.data.max_length}; lower it to {context} or less"
        )
    try:
        family = find_family(config.model.family, model_config)
    except FamilyError as error:
        raise ConfigError(f"model.family: {error}") from error
    notes = list(family.notes)
    defaults = {**RECIPE_DEFAULTS, **family.defaults_for(model_config), **config.hyperparameters}
    try:
        space, fixed = merge_space(config.space, family.space_for(model_config), defaults)
        check_domains(space)
    except SpaceError as error:
        raise ConfigError(str(error)) from error
    defaults = _settled_defaults(config, space, {**defaults, **fixed}, notes)
    _check_combinations(space, defaults, family.lora_targets)
    largest_batch = int(_highest(space, defaults, "optimizer.batch_size"))
    budgets = rung_budgets(config, rows["train"], largest_batch)
    if config.search.budget is None:
        notes.append(f"search.budget: {budgets[-1]} examples a full training, from {rows['train']} training rows")
    search, budgets = make_search(
        config.search, space, budgets, config.objectives, keep=config.finalists.count, notes=notes
    )
    finalists = Finalists(config.finalists.count, config.finalists.repeats, test="test" in rows)
    return Plan(
        space=space,
        defaults=defaults,
        default_params=_default_params(space, defaults),
        budgets=budgets,
        search=search,
        finalists=finalists,
        objectives=config.objectives,
        lora_targets=family.lora_targets,
        architecture=_architecture(model_config, notes),
        notes=tuple(notes),
    )


def rung_budgets(config: StudyConfig, train_rows: int, largest_batch: int) -> tuple[int, ...]:
    """The rungs of a config's search, lowest first; freeze-thaw refines them.

    Without `search.budget` the last is an epoch, as long as that is no more than MAX_AUTO_BUDGET and leaves
    the lowest rung MIN_BATCHES_PER_RUNG of the largest batches.

    Raises ConfigError if they cannot be laid out, or are so small that a few batches decide.
    """
    parts = list(ladders(config.search))
    least = MIN_BATCHES_PER_RUNG * largest_batch
    budget = config.search.budget
    if budget is None:
        needed = max(ladder.least_budget(least) for _, ladder in parts)
        budget = max(min(train_rows, MAX_AUTO_BUDGET), needed)
    found: set[int] = set()
    for place, ladder in parts:
        try:
            found.update(ladder.rungs(budget, least))
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error
    budgets = tuple(sorted(found))
    if budgets[0] < least:
        raise ConfigError(
            f"search: expected a lowest rung of at least {least} training examples ({MIN_BATCHES_PER_RUNG} of the "
            f"largest batches, {largest_batch}), got {budgets[0]} (rungs {', '.join(map(str, budgets))}); raise "
            f"search.budget or {_lowest_setting(parts[0])}, or take smaller batches"
        )
    return budgets


def _lowest_setting(part: tuple[str, Ladder]) -> str:
    """Where the lowest rung is set."""
    place, ladder = part
    if place == "search":
        return "search.strategy" + (" (kind pbt, every)" if ladder.even else ".min_budget")
    place = f"{place}.scheduler" if place.startswith("search.strategy.") else place
    return f"{place}.{'every' if ladder.even else 'min_budget'}"


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
        metric=config.metric,
        generations=config.output.generations,
        max_new_tokens=config.output.max_new_tokens,
        trust_remote_code=config.model.trust_remote_code,
        trackers=config.output.trackers,
        tracking_directory=str(directory / "tracking"),
        tracking_project=directory.name,
    ).to_dict()


def largest_rank(plan: Plan) -> int:
    """The largest LoRA rank that any trial may have."""
    return int(_highest(plan.space, plan.defaults, "lora.rank"))


def _settled_defaults(
    config: StudyConfig, space: Space, defaults: Mapping[str, ParamValue], notes: list[str]
) -> dict[str, ParamValue]:
    """The default configuration, inside the space: what the family proposes outside it moves to the nearest value.

    Raises ConfigError for a value that the config itself gives outside the space.
    """
    settled = dict(defaults)
    for name, domain in space.domains.items():
        value = defaults[name]
        if domain.contains(value):
            continue
        settled[name] = nearest(domain, value)
        if settled[name] == value:  # 1 where the domain is of integers, say, and the default is 1.0
            continue
        if name in config.hyperparameters:
            raise ConfigError(
                f"space.{name}: expected the default configuration (trial 0) to lie in the space, here {domain}, "
                f"got {value!r}; change it under `hyperparameters`, or widen the space"
            )
        notes.append(f"default {name}: {settled[name]!r}, the value of this space that is nearest to {value!r}")
    return settled


def _default_params(space: Space, defaults: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """The part of the defaults that the space varies, which is trial 0. Raises ConfigError if it breaks a rule."""
    given = {name: defaults[name] for name in space.names}
    params = space.repair(given)  # without what does not exist for these values
    params = {name: given[name] for name in params}
    try:
        space.validate(params)
    except SpaceError as error:
        raise ConfigError(
            f"space: expected the default configuration (trial 0) to lie in the space, got: {error}; set other values "
            "under `hyperparameters`, or change the space"
        ) from error
    return params


def _check_combinations(
    space: Space, defaults: Mapping[str, ParamValue], lora_targets: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse what no single value is to blame for, before a trial fails of it. Raises ConfigError."""
    if "wsd" in possible_values(space, defaults, "schedule.kind") and not _are_bounded_together(space):
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


def _are_bounded_together(space: Space) -> bool:
    """Whether warmup and decay are both searched wherever wsd is, so that a rule of the space bounds their sum."""
    parts = {"schedule.warmup", "schedule.decay"}
    absent_elsewhere = [one for one in space.conditions if one.name in parts]
    with_wsd = all(one.parent == "schedule.kind" and one.holds("wsd") for one in absent_elsewhere)
    return parts <= space.domains.keys() and with_wsd


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


def _highest(space: Space, defaults: Mapping[str, ParamValue], name: str) -> float:
    """The largest value that a numeric hyperparameter may have in any trial."""
    domain = space.domains.get(name)
    if domain is None:
        return float(defaults[name])
    return float(max(domain.values)) if isinstance(domain, Choice) else float(domain.high)
