"""What each hyperparameter means and which values it takes: for the JSON Schema and the config reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, get_args

from llm_tuning.recipe import RECIPE_DEFAULTS, LoraTargets, ScheduleKind


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One hyperparameter.

    Attributes:
        meaning: for people, in half a line.
        values: for people.
        schema: JSON Schema of a single value, as JSON Schema says it.
    """

    meaning: str
    values: str
    schema: Mapping[str, Any] = field(default_factory=dict)


def _number(meaning: str, values: str, **bounds: float) -> Hyperparameter:
    return Hyperparameter(meaning, values, {"type": "number", **bounds})


def _count(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "an integer, at least 1", {"type": "integer", "minimum": 1})


def _word(meaning: str, words: tuple[str, ...]) -> Hyperparameter:
    return Hyperparameter(meaning, ", ".join(words), {"enum": list(words)})


_FRACTION = {"minimum": 0, "maximum": 1}
_KNOWN: Final[Mapping[str, Hyperparameter]] = {
    "optimizer.learning_rate": _number("peak learning rate of AdamW", "above 0", exclusiveMinimum=0),
    "optimizer.weight_decay": _number("decoupled weight decay of AdamW", "at least 0", minimum=0),
    "optimizer.max_grad_norm": _number("gradients are scaled down to this norm", "above 0", exclusiveMinimum=0),
    "optimizer.batch_size": _count("examples per optimizer step, exactly, over all devices and micro-batches"),
    "schedule.kind": _word("shape of the learning rate; wsd: warmup, stable, decay", get_args(ScheduleKind)),
    "schedule.warmup": _number(
        "share of a full training's steps in which the learning rate rises", "0 to 1", **_FRACTION
    ),
    "schedule.decay": _number("share of the steps in which it falls at the end, for wsd", "0 to 1", **_FRACTION),
    "lora.rank": _count("inner size of the LoRA matrices"),
    "lora.alpha": _number("the update is multiplied by alpha / rank", "above 0", exclusiveMinimum=0),
    "lora.dropout": _number("dropout on the input of the LoRA matrices", "0 to below 1", minimum=0, exclusiveMaximum=1),
    "lora.targets": _word("linear layers that get LoRA matrices; the family names them", get_args(LoraTargets)),
}

HYPERPARAMETERS: Final[Mapping[str, Hyperparameter]] = MappingProxyType(
    {name: _KNOWN.get(name, Hyperparameter("", "")) for name in RECIPE_DEFAULTS}
)
"""Every hyperparameter of a recipe by its dotted name, in the recipe's order."""
