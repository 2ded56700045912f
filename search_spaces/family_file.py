"""Model families from YAML files: reading them, filling in what they share, and checking every entry."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml

from search_spaces.domains import ParamValue, is_scientific
from search_spaces.family import ArchitectureFields, Family, FamilyError, LearningRatePrior, Tuning
from search_spaces.space import Space
from search_spaces.suggestion import suggest

_OWN: Final = ("name", "description", "model_types")
"""What a file says about itself; nothing of it is shared."""
_SHARED: Final = ("architecture", "lora_targets", "lora", "full")
"""What may be taken from the family that a file says it is `like`."""
_TUNING: Final = ("learning_rate", "defaults", "space", "sources")
_UNREADABLE: Final = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What PyYAML raises: besides its own errors whatever happens while it reads a date or a number such as `!!int ''`."""
_WRONG: Final = (ValueError, OverflowError, RecursionError)
"""What a wrong entry ends in: FamilyError and SpaceError, or what Python makes of a number of thousands of digits."""
_LARGEST_SIZE: Final = 2**20
_LONGEST_SHOWN: Final = 80


def packaged_files() -> dict[str, Traversable]:
    """The files of this package by name. Those that begin with an underscore are no families but starting points."""
    directory = resources.files("search_spaces") / "families"
    files = {file.name.removesuffix(".yaml"): file for file in directory.iterdir() if file.name.endswith(".yaml")}
    return dict(sorted(files.items()))


def read_family(source: Path | Traversable) -> Family:
    """The family of a file. Raises FamilyError if there is none or it is wrong: where, and what is expected there."""
    try:
        return _family(_filled_in(_read(source)))
    except _WRONG as error:
        raise FamilyError(f"{source}: {error}") from error


def read_tunings(source: Path | Traversable) -> tuple[Tuning, Tuning]:
    """How models are tuned with LoRA, and in full, by a file that need not be a whole family. Raises FamilyError."""
    try:
        entries = _filled_in(_read(source))
        return _tuning(entries.get("lora"), "lora"), _tuning(entries.get("full"), "full")
    except _WRONG as error:
        raise FamilyError(f"{source}: {error}") from error


def _read(source: Path | Traversable) -> dict[str, Any]:
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FamilyError(f"expected a family file, got {error.strerror}; check the path") from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise FamilyError(f"expected YAML, got {type(error).__name__}: {reason}; correct the file") from error
    entries = _mapping(content, "family")
    known = (*_OWN, "recognised_by", "like", *_SHARED)
    for key in entries:
        if key not in known:
            raise FamilyError(f"expected the keys {', '.join(known)}, got {key!r}; {suggest(key, known)}")
    return entries


def _filled_in(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries with what the file leaves out taken from the packaged family that it is like.

    `architecture` and `lora_targets` are taken as a whole or not at all. Within `lora` and `full` single entries are:
    a number of the learning rate, a default, a domain, a source.
    """
    if "like" not in entries:
        return entries
    own = dict(entries)
    name, files = own.pop("like"), packaged_files()
    if not isinstance(name, str) or name not in files:
        families = [file for file in files if not file.startswith("_")]
        raise FamilyError(f"like: expected a family of this package, got {_shown(name)}; {suggest(name, families)}")
    model = _filled_in(_read(files[name]))
    shared: dict[str, Any] = {key: model[key] for key in _SHARED if key in model}
    for key in ("lora", "full"):
        if key in own:
            own[key] = _overlaid(shared[key], _mapping(own[key], key), key)
    return {**shared, **own}


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = {**below[key], **_mapping(value, f"{path}.{key}")} if key in below else value
    return merged


def _family(entries: dict[str, Any]) -> Family:
    _require(entries, (*_OWN, *_SHARED), "family")
    targets = _mapping(entries["lora_targets"], "lora_targets")
    marks = _mapping(entries["recognised_by"], "recognised_by") if "recognised_by" in entries else {}
    return Family(
        name=_word(entries["name"], "name"),
        description=_word(entries["description"], "description"),
        model_types=_words(entries["model_types"], "model_types"),
        recognised_by={model_type: _values(mark, f"recognised_by.{model_type}") for model_type, mark in marks.items()},
        architecture=_architecture(entries["architecture"]),
        lora_targets={group: _words(modules, f"lora_targets.{group}") for group, modules in targets.items()},
        lora=_tuning(entries["lora"], "lora"),
        full=_tuning(entries["full"], "full"),
    )


def _architecture(data: object) -> ArchitectureFields:
    entries = _mapping(data, "architecture")
    _check_keys(entries, ("fields", "rules"), "architecture")
    _require(entries, ("fields",), "architecture")
    names = _mapping(entries["fields"], "architecture.fields")
    rules = entries.get("rules", [])
    fields = {name: _word(value, f"architecture.fields.{name}") for name, value in names.items()}
    sizes: dict[str, Any] = {
        name: {"kind": "int", "low": 1, "high": _LARGEST_SIZE} for name in fields
    }  # for rules to speak of
    space = Space.from_dict({**sizes, "rules": rules}, "architecture")
    return ArchitectureFields(fields=fields, rules=space.rules)


def _tuning(data: object, path: str) -> Tuning:
    entries = _mapping(data, path)
    _check_keys(entries, _TUNING, path)
    _require(entries, _TUNING, path)
    prior = _mapping(entries["learning_rate"], f"{path}.learning_rate")
    numbers = [entry.name for entry in fields(LearningRatePrior)]
    _check_keys(prior, numbers, f"{path}.learning_rate")
    _require(prior, numbers, f"{path}.learning_rate")
    sources = _mapping(entries["sources"], f"{path}.sources")
    # A study may tune at any width, where an exponent of zero is as good as any other.
    learning_rate = LearningRatePrior(
        **{key: _number(prior[key], f"{path}.learning_rate.{key}", from_zero="exponent" in key) for key in numbers}
    )
    try:
        return Tuning(
            learning_rate=learning_rate,
            defaults=_values(entries["defaults"], f"{path}.defaults"),
            domains=_mapping(entries["space"], f"{path}.space"),
            sources={name: _word(text, f"{path}.sources.{name}") for name, text in sources.items()},
        )
    except FamilyError as error:
        raise error if str(error).startswith(f"{path}.") else FamilyError(f"{path}.{error}") from error


def _check_keys(entries: Mapping[str, Any], known: Collection[str], path: str) -> None:
    for key in entries:
        if key not in known:
            raise FamilyError(f"{path}: expected the keys {', '.join(known)}, got {key!r}; {suggest(key, known)}")


def _require(entries: Mapping[str, Any], needed: Collection[str], path: str) -> None:
    for key in needed:
        if key not in entries:
            raise FamilyError(
                f"{path}: expected the keys {', '.join(needed)}, got no {key!r}; add it"
                + (", or say `like: llama`" if key in _SHARED else "")
            )


def _mapping(value: object, path: str) -> dict[str, Any]:
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        return value
    raise FamilyError(f"{path}: expected a mapping by name, got {_shown(value)}; write it as 'name: value' lines")


def _word(value: object, path: str) -> str:
    if isinstance(value, str) and value.strip():
        return " ".join(value.split())
    raise FamilyError(f"{path}: expected text, got {_shown(value)}; quote it if YAML reads it as something else")


def _words(value: object, path: str) -> tuple[str, ...]:
    if isinstance(value, list) and value:
        return tuple(_word(item, path) for item in value)
    raise FamilyError(f"{path}: expected a list of words, got {_shown(value)}; write it as [a, b]")


def _number(value: object, path: str, *, from_zero: bool) -> float:
    value = float(value) if isinstance(value, str) and is_scientific(value) else value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e12 and (value or from_zero):
        return float(value)
    least = "of at least 0" if from_zero else "above 0"
    raise FamilyError(f"{path}: expected a number {least}, got {_shown(value)}; write one such as 5.0e-4")


def _values(data: object, path: str) -> dict[str, ParamValue]:
    return {name: _param_value(value, f"{path}.{name}") for name, value in _mapping(data, path).items()}


def _param_value(value: object, path: str) -> ParamValue:
    if isinstance(value, str) and is_scientific(value):  # PyYAML reads 1e-4 as a string
        return float(value)
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise FamilyError(f"{path}: expected a bool, a finite number or a string, got {_shown(value)}; write one of these")


def _shown(value: object) -> str:
    """The value for a message: some have no text (an integer of thousands of digits), and some a very long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
