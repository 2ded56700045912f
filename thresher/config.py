"""The YAML of a study, checked strictly before anything else happens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from llm_tuning.recipe import RECIPE_DEFAULTS, Recipe, RecipeError
from search_spaces.domains import Choice
from search_spaces.space import ParamValue, Space, SpaceError
from search_spaces.suggestion import suggest

MIN_BATCHES_PER_RUNG = 8


class ConfigError(ValueError):
    """A config that cannot be used: where, what was expected, what came, and the remedy."""


def _yaml_word(value: object) -> object:
    """YAML reads the word `no` as False."""
    return "no" if value is False else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which model is tuned."""

    name: str = Field(description="a hub id, a local directory, a .gguf file, or package:file.gguf", min_length=1)
    family: str | None = Field(None, description="a family's name or YAML file; default: found by the model's type")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the frozen base weights")
    trust_remote_code: bool = Field(False, description="run code that a hub model brings along")


class DataConfig(_Section):
    """What it is tuned on: JSONL files with a prompt and a completion on each line."""

    train: Path
    validation: Path
    test: Path | None = Field(None, description="touched once, at the end, for the finalists")
    max_length: int = Field(512, ge=8, description="tokens of prompt and answer together")
    too_long: Literal["truncate-prompt", "truncate", "drop", "error"] = "truncate-prompt"
    system: str | None = Field(None, description="system message; default: the chat template's own")
    limits: dict[Literal["train", "validation", "test"], Annotated[int, Field(ge=1)]] = Field(
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
    population_size: int = Field(16, ge=2)
    tournament_size: int = Field(4, ge=1)
    crossover_probability: float = Field(0.5, ge=0, le=1)
    random_probability: float = Field(0.1, ge=0, le=1)


class AshaConfig(_Section):
    """Asynchronous successive halving by promotion."""

    kind: Literal["asha"]
    min_budget: int | None = Field(None, ge=1, description="the lowest rung; default: two reductions below the full")
    reduction_factor: int = Field(3, ge=2)
    cap_promotions: bool = Field(False, description="promote no more than synchronous halving would")


class FullBudgetConfig(_Section):
    """Every trial gets the full budget."""

    kind: Literal["full"]


class SearchConfig(_Section):
    """How the search goes."""

    trials: int = Field(20, ge=1)
    budget: int = Field(ge=1, description="training examples of a full training")
    sampler: Annotated[RandomConfig | EvolutionConfig, Field(discriminator="kind")] = EvolutionConfig(kind="evolution")
    scheduler: Annotated[AshaConfig | FullBudgetConfig, Field(discriminator="kind")] = AshaConfig(kind="asha")
    seed: int = Field(0, ge=0, lt=2**31)


class ObjectiveConfig(_Section):
    """What is optimised."""

    metric: Literal["validation_loss"] = "validation_loss"
    direction: Literal["minimize"] = "minimize"


class FinalistsConfig(_Section):
    """What happens after the search."""

    count: int = Field(3, ge=1)
    repeats: int = Field(2, ge=0, description="further seeds for each finalist and the default configuration")


class ResourcesConfig(_Section):
    """What a worker has, and how patient we are with it."""

    gpus_per_trial: int = Field(1, ge=1, description="launched processes that train one trial together")
    micro_batch_size: int = Field(8, ge=1, description="examples in one forward pass; changes speed, not results")
    evaluation_batch_size: int = Field(16, ge=1)
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_yaml_word)] = "no"
    gradient_checkpointing: bool = False
    threads_per_worker: int | None = Field(None, ge=1, description="CPU threads; default: all, divided by the workers")
    save_every_minutes: float = Field(5.0, gt=0)
    hang_minutes: float = Field(30.0, gt=0, description="silence after which a worker is replaced")
    max_checkpoint_gb: float | None = Field(None, gt=0, description="refuse to start if the search may need more")


class OutputConfig(_Section):
    """Where results go."""

    directory: Path
    generations: int = Field(3, ge=0, description="test prompts that are answered side by side in the report")
    max_new_tokens: int = Field(48, ge=1)


class StudyConfig(_Section):
    """A whole study."""

    model: ModelConfig
    data: DataConfig
    hyperparameters: dict[str, ParamValue] = Field(
        default_factory=dict, description="the default configuration where it differs from the family's"
    )
    space: dict[str, dict[str, Any]] | None = Field(None, description="what is searched; default: the family's space")
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

    def space_object(self) -> Space | None:
        """The space of this study, if it does not take the family's."""
        return None if self.space is None else Space.from_dict(self.space)


def load_config(path: Path) -> StudyConfig:
    """Read and check the YAML of a study.

    Raises ConfigError for a missing file, a file that is no YAML, and anything that does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"expected a config file at {path}, got {error.strerror}; check the path") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, got {error}; correct the file") from error
    try:
        return parse_config(data)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def parse_config(data: object) -> StudyConfig:
    """Check the content of a study's YAML. Raises ConfigError with a line for each thing that is wrong."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"expected a mapping with model, data, search and output, got {data!r}; see configs/")
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(entry) for entry in error.errors())) from error
    _check_names(config)
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


def _check_names(config: StudyConfig) -> None:
    """Check hyperparameters and space, every end of a domain by itself, against the ranges of the recipe."""
    try:
        space = config.space_object()
    except SpaceError as error:
        raise ConfigError(str(error)) from error
    given = [("hyperparameters", {name: value}) for name, value in config.hyperparameters.items()]
    for name, domain in space.domains.items() if space is not None else ():
        ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        given += [("space", {name: end}) for end in ends]
    for section, params in given:
        try:
            Recipe.from_params(params)
        except RecipeError as error:
            raise ConfigError(f"{section}: {error}") from error


def _like_default(name: str, value: object) -> object:
    default = RECIPE_DEFAULTS.get(name)
    if isinstance(default, float) and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _describe(entry: Any) -> str:
    """One line for one of pydantic's errors."""
    path = ".".join(str(part) for part in entry["loc"] if part not in ("random", "evolution", "asha", "full"))
    got = entry["input"]
    if entry["type"] == "extra_forbidden":
        known = _known_keys(entry["loc"][:-1])
        return f"{path}: expected a known key, got {entry['loc'][-1]!r}; {suggest(entry['loc'][-1], known)}"
    if entry["type"] == "missing":
        return f"{path}: expected a value, got none; add it"
    if entry["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = entry["ctx"].get("expected_tags", "a kind")
        return f"{path}.kind: expected one of {expected}, got {entry['ctx'].get('tag', got)!r}; choose one of them"
    message = entry["msg"][0].lower() + entry["msg"][1:]
    return f"{path}: expected that {message}, got {got!r}; correct the value"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a path, found by walking the models."""
    sections: dict[str, Any] = {
        "random": RandomConfig,
        "evolution": EvolutionConfig,
        "asha": AshaConfig,
        "full": FullBudgetConfig,
    }
    model: type[BaseModel] = StudyConfig
    for part in path:
        if str(part) in sections:
            model = sections[str(part)]
            continue
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
