"""`--set search.trials=20`: single values of a config, given on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llm_tuning.recipe import RECIPE_DEFAULTS

_BY_NAME = ("space", "hyperparameters")
"""Sections whose keys are dotted names themselves."""
_ALONE = {"model": "name", "data": "train", "objective": "metric"}
"""Sections that may be written as one value, with the key that this value stands for."""


class OverrideError(ValueError):
    """An override that is not of the form `dotted.name=value`."""


def apply_overrides(data: object, overrides: Sequence[str]) -> object:
    """The content of a config with some values replaced or added; the content itself is left as it is.

    Args:
        overrides: `path=value`. The path is dotted; below `space` and `hyperparameters` the name of a
            hyperparameter is one key (`space.lora.rank=[8, 16]`, `space.lora.rank.high=64`). The value is read as YAML.

    Raises OverrideError if one has no `=`, an empty path, a value that is no YAML, or leads through a value that
    is no mapping. Whether the keys exist is for the config to say.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = _keys(path.strip())
        if not equals or not all(keys):
            raise OverrideError(f"--set: expected NAME=VALUE such as search.trials=20, got {override!r}; correct it")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise OverrideError(f"--set {path}: expected a value in YAML, got {text!r} ({reason}); quote it") from error
        data = _replaced(data, keys, value, override)
    return data


def _keys(path: str) -> list[str]:
    section, _, rest = path.partition(".")
    if section not in _BY_NAME or not rest:
        return path.split(".")
    for name in sorted(RECIPE_DEFAULTS, key=len, reverse=True):
        if rest == name or rest.startswith(f"{name}."):
            inner = rest[len(name) + 1 :]
            return [section, name, *(inner.split(".") if inner else [])]
    return [section, rest]


def _replaced(data: object, keys: Sequence[str], value: object, override: str, depth: int = 0) -> object:
    if depth == len(keys):
        return value
    if depth == 1 and isinstance(data, str) and keys[0] in _ALONE:
        data = {_ALONE[keys[0]]: data}
    if data is not None and not isinstance(data, Mapping):
        place = ".".join(keys[:depth]) or "the config"
        raise OverrideError(
            f"--set {override}: expected a mapping at {place}, got {data!r}; set {place} as a whole, or change the file"
        )
    entries: dict[Any, Any] = {} if data is None else dict(data)
    return {**entries, keys[depth]: _replaced(entries.get(keys[depth]), keys, value, override, depth + 1)}
