"""The YAML of a study, checked strictly before anything else happens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from llm_tuning.recipe import RECIPE_DEFAULTS, Recipe, RecipeError
from search_spaces.domains import Choice, Domain, is_scientific
from search_spaces.space import ParamValue, Space, SpaceError
from search_spaces.suggestion import suggest
from thresher.config_errors import describe_errors, printable
from thresher.yaml_file import YamlError, read_yaml

MIN_BATCHES_PER_RUNG = 8


class ConfigError(ValueError):
    """A config that cannot be used: where, what was expected, what came, and the remedy."""


def _yaml_word(value: object) -> object:
    """YAML reads the word `no` as False."""
    return "no" if value is False else value


def _yaml_number(value: object) -> object:
    """YAML reads 1e4 as a string, and yes as True, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("bool_for_number", "Input should be a number")
    if isinstance(value, str) and is_scientific(value):
        return float(value)
    return value


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PydanticCustomError("no_home", "a path in a home that exists") from error


def _is_plain(value: object) -> TypeGuard[ParamValue]:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _plain_value(value: object) -> ParamValue:
    if _is_plain(value):
        return value
    raise PydanticCustomError("no_plain_value", "a finite number, a word, true or false, under a name like lora.rank")


Integer = Annotated[int, BeforeValidator(_yaml_number)]
Number = Annotated[float, BeforeValidator(_yaml_number)]
UserPath = Annotated[Path, AfterValidator(_expanded)]
HyperparameterValue = Annotated[ParamValue, PlainValidator(_plain_value)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """Which model is tuned."""

    name: str = Field(description="a hub id, a local directory, a .gguf file, or package:file.gguf", min_length=1)
    family: str | None = Field(default=None, description="a family's name or YAML file; default: by the model's type")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="of the frozen weights")
    trust_remote_code: bool = Field(default=False, description="run code that a hub model brings along")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")


class DataConfig(_Section):
    """What it is tuned on: JSONL files with a prompt and a completion on each line."""

    train: UserPath
    validation: UserPath
    test: UserPath | None = Field(default=None, description="touched once, at the end, for the finalists")
    max_length: Integer = Field(default=512, ge=8, description="tokens of prompt and answer together")
    too_long: Literal["truncate-prompt", "truncate", "drop", "error"] = "truncate-prompt"
    system: str | None = Field(default=None, description="system message; default: the chat template's own")
    limits: dict[Literal["train", "validation", "test"], Annotated[Integer, Field(ge=1)]] = Field(
        default_factory=dict, description="use at most that many rows of a file, chosen by the seed"
    )

    @property
    def paths(self) -> dict[str, Path]:
        """The files by split."""
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: path for split, path in files.items() if path is not None}


class RandomConfig(_Section):
    """Independent draws."""

    kind: Literal["random"]


class EvolutionConfig(_Section):
    """Regularised evolution."""

    kind: Literal["evolution"]
    population_size: Integer = Field(default=16, ge=2)
    tournament_size: Integer = Field(default=4, ge=1)
    crossover_probability: Number = Field(default=0.5, ge=0, le=1)
    random_probability: Number = Field(default=0.1, ge=0, le=1)


class AshaConfig(_Section):
    """Asynchronous successive halving by promotion."""

    kind: Literal["asha"]
    min_budget: Integer | None = Field(default=None, ge=1, description="lowest rung; default: budget / factor²")
    reduction_factor: Integer = Field(default=3, ge=2)
    cap_promotions: bool = Field(default=False, description="promote no more than synchronous halving would")


class FullBudgetConfig(_Section):
    """Every trial gets the full budget."""

    kind: Literal["full"]


class SearchConfig(_Section):
    """How the search goes."""

    trials: Integer = Field(default=20, ge=1)
    budget: Integer = Field(ge=1, description="training examples of a full training")
    sampler: Annotated[RandomConfig | EvolutionConfig, Field(discriminator="kind")] = EvolutionConfig(kind="evolution")
    scheduler: Annotated[AshaConfig | FullBudgetConfig, Field(discriminator="kind")] = AshaConfig(kind="asha")
    seed: Integer = Field(default=0, ge=0, lt=2**31)


class ObjectiveConfig(_Section):
    """What is optimised."""

    metric: Literal["validation_loss"] = "validation_loss"
    direction: Literal["minimize"] = "minimize"


class FinalistsConfig(_Section):
    """What happens after the search."""

    count: Integer = Field(default=3, ge=1)
    repeats: Integer = Field(default=2, ge=0, description="further seeds of each finalist and of the default")


class ResourcesConfig(_Section):
    """What a worker has, and how patient we are with it."""

    gpus_per_trial: Integer = Field(default=1, ge=1, description="launched processes that train one trial together")
    micro_batch_size: Integer = Field(default=8, ge=1, description="examples in one forward pass; not in one step")
    evaluation_batch_size: Integer = Field(default=16, ge=1)
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_yaml_word)] = "no"
    gradient_checkpointing: bool = False
    threads_per_worker: Integer | None = Field(default=None, ge=1, description="CPU threads; default: all, shared")
    save_every_minutes: Number = Field(default=5.0, gt=0)
    hang_minutes: Number = Field(default=30.0, gt=0, description="silence after which a worker is replaced")
    max_checkpoint_gb: Number | None = Field(default=None, gt=0, description="refuse to start if it may need more")


class OutputConfig(_Section):
    """Where results go."""

    directory: UserPath
    generations: Integer = Field(default=3, ge=0, description="test prompts answered side by side in the report")
    max_new_tokens: Integer = Field(default=48, ge=1)


class StudyConfig(_Section):
    """A whole study."""

    model: ModelConfig
    data: DataConfig
    hyperparameters: dict[str, HyperparameterValue] = Field(
        default_factory=dict, description="the default configuration where it differs from the family's"
    )
    space: dict[str, Any] | None = Field(default=None, description="what is searched; default: the family's space")
    search: SearchConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    finalists: FinalistsConfig = FinalistsConfig()
    resources: ResourcesConfig = ResourcesConfig()
    output: OutputConfig

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        """YAML reads 1e-4 as a string; the declared default tells that a number is meant."""
        if not isinstance(value, Mapping):
            return value
        return {name: _like_default(str(name), given) for name, given in value.items()}

    @field_validator("space")
    @classmethod
    def _normal_form(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """However the numbers are written, the same space is the same study. `_wrong_domains` tells what is wrong."""
        if value is None:
            return None
        try:
            return dict(Space.from_dict(value).to_dict())
        except SpaceError:
            return value

    def space_object(self) -> Space | None:
        """The space of this study, if it does not take the family's."""
        return None if self.space is None else Space.from_dict(self.space)


def load_config(path: Path) -> StudyConfig:
    """Read and check the YAML of a study.

    Raises ConfigError for a missing file, a file that is no YAML, and anything that does not fit.
    """
    try:
        data = read_yaml(path)
    except YamlError as error:
        raise ConfigError(str(error)) from error
    try:
        return parse_config(data)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def parse_config(data: object) -> StudyConfig:
    """Check the content of a study's YAML. Raises ConfigError with a line for each thing that is wrong."""
    if not isinstance(data, Mapping):
        required = ", ".join(name for name, field in StudyConfig.model_fields.items() if field.is_required())
        given = "an empty file" if data is None else repr(data)
        raise ConfigError(f"expected a mapping with {required}, got {given}; start from a file in configs/")
    wrong = [*_wrong_hyperparameters(data.get("hyperparameters")), *_wrong_domains(data.get("space"))]
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join([*describe_errors(error, StudyConfig), *wrong])) from error
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def check_budgets(config: StudyConfig, budgets: tuple[int, ...], largest_batch: int) -> None:
    """Refuse rungs so small that a few batches decide. Raises ConfigError."""
    least = MIN_BATCHES_PER_RUNG * largest_batch
    if budgets[0] < least:
        raise ConfigError(
            f"search: expected a lowest rung of at least {least} training examples ({MIN_BATCHES_PER_RUNG} of the "
            f"largest batches, {largest_batch}), got {budgets[0]} (rungs {', '.join(map(str, budgets))}); raise "
            "search.budget or search.scheduler.min_budget, or take smaller batches"
        )


def check_domains(space: Space) -> None:
    """Check every end of every domain against the ranges of the recipe. Raises ConfigError."""
    wrong = [message for name, domain in space.domains.items() for message in _wrong_ends(name, domain)]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _wrong_hyperparameters(given: object) -> Iterator[str]:
    """What is wrong with the names and values under `hyperparameters`, as far as pydantic cannot know it."""
    if not isinstance(given, Mapping):
        return
    for name, value in given.items():
        if isinstance(name, str) and _is_plain(value):
            message = _refusal(name, _like_default(name, value))
            if message:
                yield f"hyperparameters.{message}"


def _wrong_domains(given: object) -> Iterator[str]:
    """What is wrong with each entry under `space`."""
    if not isinstance(given, Mapping):
        return
    if not given:
        yield "space: expected at least one domain, got none; name a hyperparameter, or leave out `space`"
    for name, entry in given.items():
        if not isinstance(name, str):
            continue
        if name not in RECIPE_DEFAULTS:
            yield f"space.{_unknown(name)}"
            continue
        try:
            (domain,) = Space.from_dict({name: entry}).domains.values()
        except SpaceError as error:
            yield str(error)
        else:
            yield from _wrong_ends(name, domain)


def _wrong_ends(name: str, domain: Domain) -> list[str]:
    ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    messages = [message for end in ends if (message := _refusal(name, end))]
    return [f"space.{message}" for message in dict.fromkeys(messages)]


def _refusal(name: str, value: ParamValue) -> str | None:
    """Why a recipe cannot have this value, if it cannot."""
    if name not in RECIPE_DEFAULTS:
        return _unknown(name)
    try:
        Recipe.from_params({name: value})
    except RecipeError as error:
        return str(error)
    return None


def _unknown(name: str) -> str:
    remedy = suggest(name, RECIPE_DEFAULTS)
    return f"{printable(name)}: expected the name of a hyperparameter, got {name!r}; {remedy}"


def _like_default(name: str, value: Any) -> Any:
    default = RECIPE_DEFAULTS.get(name)
    if isinstance(default, float) and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return value
    return value
