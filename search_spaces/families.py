"""Model families: what is known in advance about tuning a kind of model, read from YAML files.

A family names the modules that adapters go on, the default configuration, and the space that is
searched unless a study says otherwise. The files of this package lie in `families/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, final

import yaml

from search_spaces.domains import Float, ParamValue, is_scientific
from search_spaces.space import Params, Space, SpaceError
from search_spaces.suggestion import suggest

LEARNING_RATE: Final = "optimizer.learning_rate"
LORA_TARGETS: Final = "lora.targets"


class FamilyError(ValueError):
    """A family file that cannot be found or read, or that contradicts itself."""


@final
@dataclass(frozen=True, slots=True)
class LearningRateCentre:
    """The best LoRA learning rate by model width: value * (reference_hidden_size / hidden_size) ** exponent."""

    reference_hidden_size: float
    value: float
    exponent: float

    def at(self, hidden_size: int) -> float:
        """The learning rate for a model of this width."""
        return self.value * math.pow(self.reference_hidden_size / hidden_size, self.exponent)


@final
@dataclass(frozen=True, slots=True)
class Family:
    """What is known in advance about tuning a kind of model.

    Attributes:
        model_types: the `model_type` of the transformers configurations that belong to it.
        lora_targets: groups of linear layers that adapters may be put on: name -> module names.
        learning_rate_centre: where the default learning rate comes from.
        defaults: the default of every other hyperparameter, by dotted name.
        space: what is searched unless a study says otherwise. The defaults lie in it.

    Raises FamilyError if the defaults and the space do not fit together.
    """

    name: str
    model_types: tuple[str, ...]
    lora_targets: Mapping[str, tuple[str, ...]]
    learning_rate_centre: LearningRateCentre
    defaults: Params
    space: Space

    def __post_init__(self) -> None:
        if LEARNING_RATE in self.defaults:
            raise FamilyError(f"defaults: expected no {LEARNING_RATE}, got one; it follows from learning_rate_centre")
        targets = self.defaults.get(LORA_TARGETS)
        if targets not in self.lora_targets:
            raise FamilyError(
                f"defaults.{LORA_TARGETS}: expected a group of lora_targets, got {targets!r}; "
                f"{suggest(targets, self.lora_targets)}"
            )
        for name, domain in self.space.domains.items():
            if name == LEARNING_RATE:
                if not isinstance(domain, Float):
                    raise FamilyError(f"space.{name}: expected kind: float, got {domain}; the default is computed")
            elif name not in self.defaults:
                raise FamilyError(f"space.{name}: expected a default, got none; {suggest(name, self.defaults)}")
            elif not domain.contains(self.defaults[name]):
                raise FamilyError(
                    f"defaults.{name}: expected {domain}, got {self.defaults[name]!r}; change it or the space"
                )

    def default_params(self, hidden_size: int) -> dict[str, ParamValue]:
        """The full default configuration for a model of a width.

        The learning rate is rounded to two significant digits and clipped to the family's space.

        Raises FamilyError if `hidden_size` is below 1.
        """
        if hidden_size < 1:
            raise FamilyError(f"expected a hidden_size of at least 1, got {hidden_size}; pass the width of the model")
        learning_rate = float(f"{self.learning_rate_centre.at(hidden_size):.1e}")
        domain = self.space.domains.get(LEARNING_RATE)
        if isinstance(domain, Float):
            learning_rate = min(max(learning_rate, domain.low), domain.high)
        return {LEARNING_RATE: learning_rate, **self.defaults}


def load_family(name_or_path: str | Path) -> Family:
    """The family of a name (`llama`), or the one in a YAML file of the user (a path ending in .yaml or .yml).

    Raises FamilyError if there is no such family or file, or the file is wrong: where, and what is
    expected there.
    """
    packaged = _packaged()
    source: Path | Traversable
    if isinstance(name_or_path, Path) or name_or_path.endswith((".yaml", ".yml")):
        source = Path(name_or_path)
    elif name_or_path in packaged:
        source = packaged[name_or_path]
    else:
        remedy = suggest(name_or_path, packaged)
        raise FamilyError(f"expected a family or the path of a YAML file, got {name_or_path!r}; {remedy}")
    try:
        return _family(yaml.safe_load(source.read_text(encoding="utf-8")))
    except OSError as error:
        raise FamilyError(f"expected a family file at {source}, got {error.strerror}; check the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise FamilyError(f"{source}: expected YAML, got {error}; correct the file") from error
    except (FamilyError, SpaceError) as error:
        raise FamilyError(f"{source}: {error}") from error


def family_for(model_type: str) -> Family | None:
    """The packaged family that a transformers `model_type` belongs to, if any."""
    for name in _packaged():
        family = load_family(name)
        if model_type in family.model_types:
            return family
    return None


def _packaged() -> dict[str, Traversable]:
    """The family files of this package, by family name in alphabetical order."""
    directory = resources.files("search_spaces") / "families"
    files = {file.name.removesuffix(".yaml"): file for file in directory.iterdir() if file.name.endswith(".yaml")}
    return dict(sorted(files.items()))


def _family(data: object) -> Family:
    entries = _entries(data, "family", Family)
    centre = _entries(entries["learning_rate_centre"], "learning_rate_centre", LearningRateCentre)
    targets = _mapping(entries["lora_targets"], "lora_targets")
    defaults = _mapping(entries["defaults"], "defaults")
    return Family(
        name=_word(entries["name"], "name"),
        model_types=_words(entries["model_types"], "model_types"),
        lora_targets={group: _words(modules, f"lora_targets.{group}") for group, modules in targets.items()},
        learning_rate_centre=LearningRateCentre(
            **{key: _positive(value, f"learning_rate_centre.{key}") for key, value in centre.items()}
        ),
        defaults={name: _param_value(value, f"defaults.{name}") for name, value in defaults.items()},
        space=Space.from_dict(entries["space"]),
    )


def _entries(data: object, path: str, kind: type[Family] | type[LearningRateCentre]) -> dict[str, Any]:
    """The entries of a mapping that has exactly the fields of a dataclass as keys."""
    entries = _mapping(data, path)
    keys = [field.name for field in fields(kind)]
    for key in entries:
        if key not in keys:
            raise FamilyError(f"{path}: expected the keys {', '.join(keys)}, got {key!r}; {suggest(key, keys)}")
    for key in keys:
        if key not in entries:
            raise FamilyError(f"{path}: expected the keys {', '.join(keys)}, got no {key!r}; add it")
    return entries


def _mapping(value: object, path: str) -> dict[str, Any]:
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        return value
    raise FamilyError(f"{path}: expected a mapping by name, got {value!r}; write it as 'name: value' lines")


def _word(value: object, path: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise FamilyError(f"{path}: expected a word, got {value!r}; quote it if YAML reads it as something else")


def _words(value: object, path: str) -> tuple[str, ...]:
    if isinstance(value, list) and value:
        return tuple(_word(item, path) for item in value)
    raise FamilyError(f"{path}: expected a list of words, got {value!r}; write it as [a, b]")


def _positive(value: object, path: str) -> float:
    value = float(value) if isinstance(value, str) and is_scientific(value) else value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise FamilyError(f"{path}: expected a number above 0, got {value!r}; write one such as 5.0e-4")


def _param_value(value: object, path: str) -> ParamValue:
    if isinstance(value, str) and is_scientific(value):  # PyYAML reads 1e-4 as a string
        return float(value)
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise FamilyError(f"{path}: expected a bool, a finite number or a string, got {value!r}; write one of these")
