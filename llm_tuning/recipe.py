"""The settings of fine-tuning: those that a search varies from run to run, and those that a study fixes.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from search_spaces.space import Params, ParamValue
from search_spaces.suggestion import suggest

ScheduleKind = Literal["linear", "cosine", "constant", "wsd"]
LoraTargets = Literal["attention", "mlp", "all-linear"]
Dtype = Literal["float32", "bfloat16", "float16"]
MixedPrecision = Literal["no", "bf16", "fp16"]
Metric = Literal["validation_loss", "token_accuracy", "exact_match"]

METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {"validation_loss": "test_loss", "token_accuracy": "test_token_accuracy", "exact_match": "test_exact_match"}
)
"""What a study can optimise, as measured on the validation split, with the same metric's name on the test split."""

RECIPE_DEFAULTS: Final[Params] = MappingProxyType(
    {
        "optimizer.learning_rate": 5e-4,
        "optimizer.weight_decay": 0.0,
        "optimizer.max_grad_norm": 1.0,
        "optimizer.batch_size": 16,
        "schedule.kind": "linear",
        "schedule.warmup": 0.05,
        "schedule.decay": 0.2,
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.dropout": 0.0,
        "lora.targets": "all-linear",
    }
)
"""Every hyperparameter of fine-tuning by its dotted name, with its default."""

_FIELDS: Final[Mapping[str, str]] = {
    "optimizer.learning_rate": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.max_grad_norm": "max_grad_norm",
    "optimizer.batch_size": "batch_size",
    "schedule.kind": "schedule",
    "schedule.warmup": "warmup",
    "schedule.decay": "decay",
    "lora.rank": "rank",
    "lora.alpha": "alpha",
    "lora.dropout": "dropout",
    "lora.targets": "targets",
}


class RecipeError(ValueError):
    """Hyperparameters that no run can be made of."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of one run, checked.

    Attributes:
        learning_rate: peak learning rate of AdamW, > 0.
        weight_decay: AdamW's decoupled weight decay, >= 0.
        max_grad_norm: gradients are scaled down to this 2-norm, > 0.
        batch_size: examples per optimizer step, on all ranks together, >= 1.
        schedule: shape of the learning rate over the horizon.
        warmup: fraction of all steps in which the learning rate rises, in [0, 1].
        decay: fraction of all steps in which it falls at the end, in [0, 1]; read by `wsd` only.
        rank: inner dimension of the LoRA matrices, >= 1.
        alpha: LoRA's scale, > 0: the update is multiplied by alpha / rank.
        dropout: dropout on the input of the LoRA matrices, in [0, 1).
        targets: the group of linear layers that get LoRA matrices.
    """

    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    schedule: ScheduleKind
    warmup: float
    decay: float
    rank: int
    alpha: float
    dropout: float
    targets: LoraTargets

    @classmethod
    def from_params(cls, params: Params) -> Recipe:
        """The recipe of an assignment; names that are not given take their default.

        Raises RecipeError for an unknown name, a value of the wrong type or out of range, or a warmup
        and a decay that overlap.
        """
        for name in params:
            if name not in RECIPE_DEFAULTS:
                remedy = suggest(name, RECIPE_DEFAULTS)
                raise RecipeError(f"expected the name of a hyperparameter, got {name!r}; {remedy}")
        values = {**RECIPE_DEFAULTS, **params}
        for name, value in values.items():
            _check(name, value)
        warmup, decay = float(values["schedule.warmup"]), float(values["schedule.decay"])
        if values["schedule.kind"] == "wsd" and warmup + decay > 1 + 1e-9:  # what a space's rule forgives too
            raise RecipeError(
                f"expected schedule.warmup + schedule.decay <= 1 with wsd, got {warmup} + {decay}; lower one of them"
            )
        as_float = {name: isinstance(RECIPE_DEFAULTS[name], float) for name in values}
        # The types were checked name by name above.
        fields = {_FIELDS[name]: float(value) if as_float[name] else value for name, value in values.items()}
        return cls(**fields)  # type: ignore[arg-type]


def _check(name: str, value: ParamValue) -> None:
    if name == "schedule.kind":
        _check_choice(name, value, get_args(ScheduleKind))
    elif name == "lora.targets":
        _check_choice(name, value, get_args(LoraTargets))
    elif isinstance(RECIPE_DEFAULTS[name], int):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RecipeError(f"{name}: expected an integer of at least 1, got {value!r}; give such a number")
    else:
        _check_float(name, value)


def _check_choice(name: str, value: ParamValue, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"{name}: expected one of {', '.join(choices)}, got {value!r}; choose one of them")


def _check_float(name: str, value: ParamValue) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{name}: expected a finite number, got {value!r}; give a number")
    if name in ("optimizer.learning_rate", "optimizer.max_grad_norm", "lora.alpha"):
        expected, is_inside = "a number above 0", value > 0
    elif name == "optimizer.weight_decay":
        expected, is_inside = "a number of at least 0", value >= 0
    elif name == "lora.dropout":
        expected, is_inside = "a number in [0, 1)", 0 <= value < 1
    else:
        expected, is_inside = "a fraction in [0, 1]", 0 <= value <= 1
    if not is_inside:
        raise RecipeError(f"{name}: expected {expected}, got {value!r}; give such a number")


class SpecificationError(ValueError):
    """A specification that no task can be built from."""


_LEAST: Final[Mapping[str, float]] = {
    "micro_batch_size": 1,
    "evaluation_batch_size": 1,
    "max_new_tokens": 1,
    "generations": 0,
    "save_every_seconds": 0,
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "dtype": get_args(Dtype),
    "mixed_precision": get_args(MixedPrecision),
    "metric": get_args(Metric),
}
_DIRECTORIES: Final = ("model_directory", "tokenizer_directory", "data_directory", "checkpoint_directory")


@dataclass(frozen=True, slots=True)
class FineTuningSpec:
    """All that a worker needs to know to fine-tune, in terms of JSON.

    Attributes:
        model_directory: the base model, as `save_pretrained` writes it.
        tokenizer_directory: the tokenizer, used to decode generated answers.
        data_directory: holds train, validation and test as `<split>.safetensors` (`TokenizedSplit`).
        checkpoint_directory: the root of the study's `CheckpointStore`.
        lora_targets: module names of each group of linear layers.
        defaults: hyperparameters that a job does not name; what is left takes `RECIPE_DEFAULTS`.
        dtype: of the frozen base model; the LoRA matrices are always float32.
        mixed_precision: of the computation, one setting for the whole process.
        micro_batch_size: training examples that go through the model at once on each rank, at most.
        evaluation_batch_size: held-out examples that go through the model at once.
        gradient_checkpointing: recompute activations in the backward pass.
        save_every_seconds: seconds of training between two checkpoints within a rung.
        metric: the one whose values a test job reports example by example.
        generations: how many test prompts are answered for a test job.
        max_new_tokens: length of these answers in tokens, at most.
        trust_remote_code: run code that lies in the model directory.
        trackers: where each trial is recorded, of `llm_tuning.tracking.TRACKERS`.
        tracking_directory: for what the trackers keep on disk; needed with any tracker.
        tracking_project: what they file the trials under.
    """

    model_directory: str
    tokenizer_directory: str
    data_directory: str
    checkpoint_directory: str
    lora_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Params = field(default_factory=dict)
    dtype: Dtype = "float32"
    mixed_precision: MixedPrecision = "no"
    micro_batch_size: int = 8
    evaluation_batch_size: int = 16
    gradient_checkpointing: bool = False
    save_every_seconds: float = 300.0
    metric: Metric = "validation_loss"
    generations: int = 4
    max_new_tokens: int = 64
    trust_remote_code: bool = False
    trackers: tuple[str, ...] = ()
    tracking_directory: str | None = None
    tracking_project: str = "thresher"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise SpecificationError(f"{name}: expected at least {least}, got {getattr(self, name)!r}; raise it")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecificationError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}; choose one of them"
                )
        if self.trackers and self.tracking_directory is None:
            raise SpecificationError(
                f"tracking_directory: expected a directory for {', '.join(self.trackers)}, got none; name one"
            )

    def to_dict(self) -> dict[str, Any]:
        """The specification in terms of JSON, readable by `from_dict`."""
        entries = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        targets = {group: list(modules) for group, modules in self.lora_targets.items()}
        plain = {"lora_targets": targets, "defaults": dict(self.defaults), "trackers": list(self.trackers)}
        return {**entries, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FineTuningSpec:
        """The specification that `to_dict` wrote. Raises SpecificationError for unknown and missing entries."""
        known = [entry.name for entry in fields(cls)]
        for name in data:
            if name not in known:
                raise SpecificationError(f"expected an entry of FineTuningSpec, got {name!r}; {suggest(name, known)}")
        for name in _DIRECTORIES:
            if name not in data:
                raise SpecificationError(f"expected an entry {name!r}, got none; give a directory")
        targets = {group: tuple(modules) for group, modules in data.get("lora_targets", {}).items()}
        return cls(**{**data, "lora_targets": targets, "trackers": tuple(data.get("trackers", ()))})
