"""A model family: what is known in advance about tuning a kind of model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from search_spaces.domains import Float, ParamValue
from search_spaces.rules import Rule
from search_spaces.space import Params, Space, SpaceError
from search_spaces.suggestion import suggest

LEARNING_RATE: Final = "optimizer.learning_rate"
BATCH_SIZE: Final = "optimizer.batch_size"
LORA_TARGETS: Final = "lora.targets"
WIDTH: Final = "architecture.hidden_size"

SIZE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "architecture.num_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    WIDTH: ("hidden_size", "n_embd", "d_model", "dim"),
    "architecture.intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "architecture.num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "architecture.num_key_value_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads"),
    "architecture.head_dim": ("head_dim",),
}
"""The sizes of a decoder, and what transformers configurations call them."""


class FamilyError(ValueError):
    """A family that cannot be found or read, or that contradicts itself."""


@final
@dataclass(frozen=True, slots=True)
class LearningRatePrior:
    """Where the best learning rate lies: value * (reference_hidden_size / hidden_size) ** exponent.

    Attributes:
        value: the learning rate at the reference width and the default batch size.
        reference_hidden_size: this width.
        exponent: how fast it falls with the width.
        deviation: of the normal prior around it, in decades.
        batch_exponent: it grows with (batch size / default batch size) ** batch_exponent.
    """

    value: float
    reference_hidden_size: float
    exponent: float
    deviation: float
    batch_exponent: float

    def at(self, hidden_size: float) -> float:
        """The learning rate for a model of this width, rounded to two significant digits."""
        return float(f"{self.value * math.pow(self.reference_hidden_size / hidden_size, self.exponent):.1e}")


@final
@dataclass(frozen=True, slots=True)
class Tuning:
    """What is known about one way of tuning: with LoRA, or of all weights.

    Attributes:
        learning_rate: the prior of the learning rate, from which its default follows.
        defaults: the default of every other hyperparameter, by dotted name.
        domains: what is searched unless a study says otherwise, as `Space.from_dict` reads it. The prior of the
            learning rate is not in it, since it depends on the model.
        sources: where all that comes from, by dotted name, for people.

    Raises FamilyError if these do not fit together.
    """

    learning_rate: LearningRatePrior
    defaults: Params
    domains: Mapping[str, Any]
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        if LEARNING_RATE in self.defaults:
            raise FamilyError(f"defaults: expected no {LEARNING_RATE}, got one; it follows from learning_rate")
        entry = self.domains.get(LEARNING_RATE)
        if isinstance(entry, Mapping) and "prior" in entry:
            raise FamilyError(f"space.{LEARNING_RATE}: expected no prior, got one; it follows from learning_rate")
        self._check_defaults(self.space_at(self.learning_rate.reference_hidden_size))
        for name in self.sources:
            if name != LEARNING_RATE and name not in self.defaults:
                remedy = suggest(name, [LEARNING_RATE, *self.defaults])
                raise FamilyError(f"sources: expected names of hyperparameters, got {name!r}; {remedy}")
        for name in {LEARNING_RATE: None, **self.domains}:
            if name not in self.sources and name != "rules":
                raise FamilyError(f"sources: expected where the prior of {name} comes from, got nothing; add a line")

    def _check_defaults(self, space: Space) -> None:
        for name, domain in space.domains.items():
            if name == LEARNING_RATE:
                if not isinstance(domain, Float):
                    raise FamilyError(f"space.{name}: expected kind: float, got {domain}; the default is computed")
            elif name not in self.defaults:
                raise FamilyError(f"space.{name}: expected a default, got none; {suggest(name, self.defaults)}")
            elif not domain.contains(self.defaults[name]):
                raise FamilyError(
                    f"defaults.{name}: expected {domain}, got {self.defaults[name]!r}; change it or the space"
                )
        rate = {LEARNING_RATE: space.domains[LEARNING_RATE].decode(0.5)} if LEARNING_RATE in space.domains else {}
        params = {name: {**self.defaults, **rate}[name] for name in space.names}
        # Conditions may leave some of them out; rules may not change any.
        for name, value in space.repair(params).items():
            if value != params[name]:
                rules = "; ".join(map(str, space.rules))
                raise FamilyError(f"defaults: expected that {rules}, got {name}={params[name]!r}; change a default")

    def defaults_at(self, hidden_size: float) -> dict[str, ParamValue]:
        """The full default configuration for a model of this width. It lies in the space of the same width."""
        learning_rate = self.learning_rate.at(hidden_size)
        domain = self.space_at(hidden_size).domains.get(LEARNING_RATE)
        if isinstance(domain, Float):
            learning_rate = min(max(learning_rate, domain.low), domain.high)
        return {LEARNING_RATE: learning_rate, **self.defaults}

    def space_at(self, hidden_size: float) -> Space:
        """The space with the learning rate's prior around the best one for a model of this width.

        Raises FamilyError if `domains` make no space.
        """
        try:
            space = Space.from_dict(self.domains)
            domain = space.domains.get(LEARNING_RATE)
            if not isinstance(domain, Float):
                return space
            centre = min(max(self.learning_rate.at(hidden_size), domain.low), domain.high)
            entry = {**self.domains[LEARNING_RATE], "prior": self._written_prior(centre, BATCH_SIZE in space.domains)}
            return Space.from_dict({**self.domains, LEARNING_RATE: entry})
        except SpaceError as error:
            raise FamilyError(str(error)) from error

    def _written_prior(self, centre: float, batch_size_varies: bool) -> dict[str, Any]:
        prior: dict[str, Any] = {"kind": "normal", "centre": centre, "deviation": self.learning_rate.deviation}
        reference = self.defaults.get(BATCH_SIZE)
        if batch_size_varies and self.learning_rate.batch_exponent and reference is not None:
            scale = {"name": BATCH_SIZE, "reference": reference, "exponent": self.learning_rate.batch_exponent}
            prior["scaled_by"] = scale
        return prior


@final
@dataclass(frozen=True, slots=True)
class ArchitectureFields:
    """Which fields of a transformers configuration are the sizes of the architecture.

    Attributes:
        fields: dotted name -> field, `architecture.num_layers` -> `num_hidden_layers`.
        rules: what must hold between the sizes.

    Raises FamilyError if a name is none of the architecture.
    """

    fields: Mapping[str, str]
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for name in self.fields:
            if not name.startswith("architecture."):
                raise FamilyError(
                    f"architecture.fields: expected names such as 'architecture.num_layers', got {name!r}; rename it"
                )


@final
@dataclass(frozen=True, slots=True)
class Family:
    """What is known in advance about tuning a kind of model.

    Attributes:
        description: for people, one line.
        model_types: the `model_type` of the transformers configurations that belong to it.
        recognised_by: where a model type is shared with other families, what tells this one apart: model type ->
            config field -> value.
        architecture: the sizes of its models.
        lora_targets: groups of linear layers that adapters may be put on: name -> module names.
        lora: tuning with LoRA; `full`: of all weights.
        notes: what the user should know about the choice of this family.

    Raises FamilyError if these do not fit together.
    """

    name: str
    description: str
    model_types: tuple[str, ...]
    architecture: ArchitectureFields
    lora_targets: Mapping[str, tuple[str, ...]]
    lora: Tuning
    full: Tuning
    recognised_by: Mapping[str, Mapping[str, ParamValue]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for model_type in self.recognised_by:
            if model_type not in self.model_types:
                raise FamilyError(
                    f"recognised_by: expected model types of this family, got {model_type!r}; "
                    f"{suggest(model_type, self.model_types)}"
                )
        targets = self.lora.defaults.get(LORA_TARGETS)
        groups = [*self.lora_targets, *({"all-linear"} - self.lora_targets.keys())]
        if targets not in groups:
            raise FamilyError(
                f"lora.defaults.{LORA_TARGETS}: expected a group of lora_targets, got {targets!r}; "
                f"{suggest(targets, groups)}"
            )

    def defaults_for(self, model_config: Mapping[str, Any]) -> dict[str, ParamValue]:
        """The full default configuration, which is trial 0, for a model with this configuration."""
        return self.lora.defaults_at(self._width(model_config, self.lora))

    def space_for(self, model_config: Mapping[str, Any]) -> Space:
        """What is searched unless a study says otherwise, with priors for a model with this configuration."""
        return self.lora.space_at(self._width(model_config, self.lora))

    def specificity(self, model_config: Mapping[str, Any]) -> int | None:
        """How well it fits a configuration: None if not at all, else how many fields besides the type tell so."""
        model_type = model_config.get("model_type")
        if model_type not in self.model_types:
            return None
        marks = self.recognised_by.get(str(model_type), {})
        fits = all(name in model_config and _equal(model_config[name], mark) for name, mark in marks.items())
        return len(marks) if fits else None

    def _width(self, model_config: Mapping[str, Any], tuning: Tuning) -> float:
        own = self.architecture.fields.get(WIDTH)
        return width_of(model_config, own) or tuning.learning_rate.reference_hidden_size


def text_configs(model_config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration of the language model: the one nested in that of a model of text and images, then itself."""
    nested = model_config.get("text_config")
    if isinstance(nested, Mapping):
        yield nested
    yield model_config


def width_of(model_config: Mapping[str, Any], own_field: str | None = None) -> int | None:
    """The width of the residual stream; None if the configuration does not tell."""
    fields = SIZE_FIELDS[WIDTH] if own_field is None else (own_field, *SIZE_FIELDS[WIDTH])
    for config in text_configs(model_config):
        for name in fields:
            width = config.get(name)
            if type(width) is int and width > 0:
                return width
    return None


def _equal(value: object, mark: ParamValue) -> bool:
    return type(value) is type(mark) and value == mark
