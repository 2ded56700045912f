"""The YAML of a study, checked strictly before anything else happens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeGuard

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from controller.limits import Limits
from controller.trial import Direction, Objective
from llm_tuning.recipe import RECIPE_DEFAULTS
from search_spaces.domains import ParamValue
from thresher.config_errors import describe_errors
from thresher.config_types import ConfigSection, Integer, Number, UserPath, expanded
from thresher.overrides import OverrideError, apply_overrides
from thresher.search_section import AshaConfig as AshaConfig
from thresher.search_section import EvolutionConfig as EvolutionConfig
from thresher.search_section import FullBudgetConfig as FullBudgetConfig
from thresher.search_section import Own, Sampler, Scheduler, WarmStartConfig, wrong_search
from thresher.search_section import RandomConfig as RandomConfig
from thresher.space_section import normal_form, refusal, wrong_space
from thresher.strategies import SearchKind
from thresher.yaml_file import YamlError, read_yaml

DIRECTIONS: Final[Mapping[str, Direction]] = {
    "validation_loss": "minimize",
    "token_accuracy": "maximize",
    "exact_match": "maximize",
}
"""The metrics that a study may optimise, with the direction in which they improve."""

OPTIONAL_SECTIONS: Final = ("hyperparameters", "space", "search", "objective", "finalists", "resources", "output")
OPTIONAL_DATA_SECTIONS: Final = ("columns", "split", "limits")
"""What has parts of its own, and is taken as left out where it is empty."""

Metric = Literal["validation_loss", "token_accuracy", "exact_match"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
DataFormat = Literal["auto", "prompt_completion", "messages", "sharegpt", "alpaca", "preference", "text_label", "text"]


class ConfigError(ValueError):
    """A config that cannot be used: where, what was expected, what came, and the remedy."""


def _yaml_word(value: object) -> object:
    """YAML reads the word `no` as False."""
    return "no" if value is False else value


def _as_list(value: object) -> object:
    """One objective, or one tracker, is a list of one."""
    return [value] if isinstance(value, str | Mapping) else value


def _without_empty(section: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The section without those of its parts that hold nothing: `search:` over lines that are all comments."""
    return {key: value for key, value in section.items() if key not in keys or value is not None}


def _source(section: object, key: str) -> str:
    """The model's name or the data's source, as far as the section has one."""
    found = section.get(key) if isinstance(section, Mapping) else section
    return found if isinstance(found, str) else ""


def _slug(source: str) -> str:
    """A short name for a directory: HuggingFaceTB/SmolLM2-135M gives smollm2-135m, data/gsm8k/train.jsonl gsm8k."""
    place = Path(source)
    stem = re.sub(r"(\.(gguf|jsonl?|parquet|[ct]sv|txt|md|gz|zst))+$", "", place.name)
    stem = stem.split(":")[-1 if source.endswith(".gguf") else 0]
    if stem in ("train", "training", "data"):
        stem = place.parent.name
    return re.sub(r"[^\w.-]+", "-", stem.lower()).strip("-.") or "study"


def _is_plain(value: object) -> TypeGuard[ParamValue]:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _plain_value(value: object) -> ParamValue:
    if _is_plain(value):
        return value
    raise PydanticCustomError("no_plain_value", "a finite number, a word, true or false, under a name like lora.rank")


HyperparameterValue = Annotated[ParamValue, PlainValidator(_plain_value)]


class ModelConfig(ConfigSection):
    """Which model is tuned. A text alone is its name."""

    name: str = Field(description="hub id, local directory, .gguf file, or package:file.gguf", min_length=1)
    family: str | None = Field(default=None, description="a family's name or YAML file; default: by the model's config")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="of the frozen weights")
    trust_remote_code: bool = Field(default=False, description="run code that a hub model brings along")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class SplitConfig(ConfigSection):
    """Which shares of `train` are held out where no file is given for them."""

    validation: Number = Field(default=0.1, gt=0, lt=1, description="share of the rows, unless `validation` is given")
    test: Number = Field(
        default=0.1, ge=0, lt=1, description="share of the rows, unless `validation` or `test` is given; 0 for none"
    )


class DataConfig(ConfigSection):
    """What it is tuned on. A text alone is the source of all splits."""

    train: str = Field(
        description="a .jsonl, .json, .parquet, .csv, .tsv or .txt file, a directory of them, or a hub data set",
        min_length=1,
    )
    validation: str | None = Field(default=None, description="the search compares by it; default: a share of train")
    test: str | None = Field(default=None, description="touched once, at the end, for the finalists")
    subset: str | None = Field(default=None, description="configuration of a hub data set that has several")
    format: DataFormat = Field(default="auto", description="how rows are read; default: by their columns")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="which column plays which part, such as {prompt: question, completion: answer}",
    )
    group_by: str | None = Field(default=None, description="column whose equal values stay in one split")
    split: SplitConfig = SplitConfig()
    max_length: Integer = Field(default=512, ge=8, description="tokens of prompt and answer together")
    too_long: Literal["truncate-prompt", "truncate", "drop", "error"] = Field(
        default="truncate-prompt", description="what happens to longer examples; it is always said"
    )
    system: str | None = Field(default=None, description="system message; default: the chat template's own")
    limits: dict[Literal["train", "validation", "test"], Annotated[Integer, Field(ge=1)]] = Field(
        default_factory=dict, description="use at most that many rows of a split, chosen by search.seed"
    )

    @model_validator(mode="before")
    @classmethod
    def _train_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"train": value}
        return _without_empty(value, OPTIONAL_DATA_SECTIONS) if isinstance(value, Mapping) else value

    @field_validator("train", "validation", "test")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return str(expanded(Path(value))) if value is not None and value.startswith("~") else value


class SearchConfig(ConfigSection):
    """How the search goes, and how much it may cost. The finalists' repeats and tests come on top."""

    kind: SearchKind = Field(
        default="auto", description="how trials are chosen and how far they are trained; auto: by the study, see below"
    )
    trials: Integer = Field(default=20, ge=1, description="how many configurations are tried, at most")
    budget: Integer | None = Field(
        default=None, ge=1, description="training examples of a full training; default: about an epoch, see docs"
    )
    max_examples: Integer | None = Field(default=None, ge=1, description="training examples of all trials together")
    max_hours: Number | None = Field(default=None, gt=0, description="wall-clock hours, added up over restarts")
    max_gpu_hours: Number | None = Field(default=None, gt=0, description="hours of all devices together")
    sampler: Sampler | None = Field(
        default=None, description="which configurations are tried; default: by `search.kind`"
    )
    scheduler: Scheduler | None = Field(default=None, description="how far each is trained; default: by `search.kind`")
    strategy: Own | None = Field(default=None, description="in place of kind, sampler and scheduler")
    warm_start: WarmStartConfig | None = Field(default=None, description="earlier studies to learn from")
    end_early: bool = Field(
        default=False, description="end the search when another trial is expected to bring less than the noise"
    )
    seed: Integer = Field(default=0, ge=0, lt=2**31, description="of everything random in the study")


class ObjectiveConfig(ConfigSection):
    """What is optimised. A text alone is the metric."""

    metric: Metric = Field(
        default="validation_loss",
        description="validation_loss (nats per answer token), token_accuracy, or exact_match (share of answers "
        "that greedy decoding would write exactly)",
    )
    direction: Direction = Field(default="minimize", description="minimize or maximize; default: the metric's own")

    @model_validator(mode="before")
    @classmethod
    def _own_direction(cls, value: object) -> object:
        value = {"metric": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping) or value.get("direction") is not None:
            return value
        metric = value.get("metric", "validation_loss")
        return {**value, "direction": DIRECTIONS.get(metric, "minimize") if isinstance(metric, str) else "minimize"}


class FinalistsConfig(ConfigSection):
    """What happens after the search."""

    count: Integer = Field(default=3, ge=1, description="how many of the best trials; the default always joins them")
    repeats: Integer = Field(default=2, ge=0, description="further seeds of each finalist and of the default")


class ResourcesConfig(ConfigSection):
    """What a worker has, and how patient we are with it."""

    gpus_per_trial: Integer = Field(default=1, ge=1, description="launched processes that train one trial together")
    micro_batch_size: Integer = Field(default=8, ge=1, description="examples in one forward pass; not in one step")
    evaluation_batch_size: Integer = Field(default=16, ge=1, description="held-out examples in one forward pass")
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_yaml_word)] = Field(
        default="no", description="of the computation; bf16 on GPUs that know it"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory for about a third more time")
    threads_per_worker: Integer | None = Field(default=None, ge=1, description="CPU threads; default: all, shared")
    save_every_minutes: Number = Field(default=5.0, gt=0, description="checkpoints on the way to a rung")
    hang_minutes: Number = Field(default=30.0, gt=0, description="silence after which a worker is replaced")
    max_checkpoint_gb: Number | None = Field(default=None, gt=0, description="refuse to start if it may need more")


class OutputConfig(ConfigSection):
    """Where results go."""

    directory: UserPath = Field(default=Path("runs"), description="of this study; default: runs/<model>-<data>")
    generations: Integer = Field(default=3, ge=0, description="test prompts answered side by side in the report")
    max_new_tokens: Integer = Field(default=48, ge=1, description="length of these answers")
    trackers: Annotated[tuple[Tracker, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="tensorboard, wandb, mlflow, trackio: one run per trial"
    )

    @field_validator("trackers")
    @classmethod
    def _once(cls, value: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        return tuple(dict.fromkeys(value))


class StudyConfig(ConfigSection):
    """A whole study."""

    model: ModelConfig
    data: DataConfig
    hyperparameters: dict[str, HyperparameterValue] = Field(
        default_factory=dict, description="the default configuration where it differs from the family's"
    )
    space: dict[str, Any] = Field(
        default_factory=dict, description="what is searched where it differs from the family's space"
    )
    search: SearchConfig = SearchConfig()
    objective: Annotated[tuple[ObjectiveConfig, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=(ObjectiveConfig(),), description="one metric or a list; the first one ranks the trials"
    )
    finalists: FinalistsConfig = FinalistsConfig()
    resources: ResourcesConfig = ResourcesConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="before")
    @classmethod
    def _own_directory(cls, value: object) -> object:
        """Without an output directory, one is named after model and data."""
        if not isinstance(value, Mapping):
            return value
        value = _without_empty(value, OPTIONAL_SECTIONS)
        output = value.get("output", {})
        if not isinstance(output, Mapping) or output.get("directory") is not None:
            return value
        names = (_source(value.get("model"), "name"), _source(value.get("data"), "train"))
        return {**value, "output": {**output, "directory": f"runs/{'-'.join(map(_slug, names))}"}}

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        """YAML reads 1e-4 as a string; the declared default tells that a number is meant."""
        if not isinstance(value, Mapping):
            return value
        return {name: _like_default(str(name), given) for name, given in value.items()}

    @field_validator("space", mode="before")
    @classmethod
    def _normal_form(cls, value: object) -> object:
        """However the numbers are written, the same space is the same study. `wrong_space` tells what is wrong."""
        return normal_form(value)

    @field_validator("objective")
    @classmethod
    def _different(cls, value: tuple[ObjectiveConfig, ...]) -> tuple[ObjectiveConfig, ...]:
        metrics = [objective.metric for objective in value]
        if len(set(metrics)) < len(metrics):
            raise PydanticCustomError("same_metric", "different metrics in the list")
        return value

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised, the metric that ranks the trials first."""
        return tuple(Objective(objective.metric, objective.direction) for objective in self.objective)

    @property
    def limits(self) -> Limits:
        """What the search may cost besides its trials."""
        search, gpus = self.search, self.resources.gpus_per_trial
        return Limits(
            max_examples=search.max_examples,
            max_worker_seconds=None if search.max_gpu_hours is None else 3600 * search.max_gpu_hours / gpus,
            max_seconds=None if search.max_hours is None else 3600 * search.max_hours,
            gpus=gpus,
        )

    @property
    def metric(self) -> Metric:
        """The metric that ranks the trials."""
        return self.objective[0].metric


def load_config(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and check the YAML of a study.

    Args:
        overrides: `dotted.name=value`, each taking the place of what the file says there.

    Raises ConfigError for a missing file, a file that is no YAML, and anything that does not fit.
    """
    try:
        data = read_yaml(path)
    except YamlError as error:
        raise ConfigError(str(error)) from error
    try:
        return parse_config(apply_overrides(data, overrides))
    except OverrideError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def parse_config(data: object) -> StudyConfig:
    """Check the content of a study's YAML. Raises ConfigError with a line for each thing that is wrong."""
    if not isinstance(data, Mapping):
        required = ", ".join(name for name, field in StudyConfig.model_fields.items() if field.is_required())
        given = "an empty file" if data is None else repr(data)
        raise ConfigError(f"expected a mapping with {required}, got {given}; write one with `thresher init`")
    wrong = [*_wrong_hyperparameters(data.get("hyperparameters")), *wrong_space(data.get("space"))]
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join([*describe_errors(error, StudyConfig), *wrong])) from error
    wrong += wrong_search(config.search)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def _wrong_hyperparameters(given: object) -> Iterator[str]:
    """What is wrong with the names and values under `hyperparameters`, as far as pydantic cannot know it."""
    if not isinstance(given, Mapping):
        return
    for name, value in given.items():
        if isinstance(name, str) and _is_plain(value):
            message = refusal(name, _like_default(name, value))
            if message:
                yield f"hyperparameters.{message}"


def _like_default(name: str, value: Any) -> Any:
    default = RECIPE_DEFAULTS.get(name)
    if isinstance(default, float) and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return value
    return value
