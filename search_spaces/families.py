"""Model families, by name, by file or by the configuration of a model.

A family names the modules that adapters go on, the sizes of the architecture, the default configuration, and the
space that is searched unless a study says otherwise. The files of this package lie in `families/`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.family import SIZE_FIELDS, ArchitectureFields, Family, FamilyError, text_configs, width_of
from search_spaces.family_file import packaged_files, read_family, read_tunings
from search_spaces.suggestion import suggest

__all__ = ["Family", "FamilyError", "family_names", "find_family", "load_family"]

_UNMEASURED = "_unmeasured"


def family_names() -> tuple[str, ...]:
    """The families of this package, in alphabetical order."""
    return tuple(name for name in packaged_files() if not name.startswith("_"))


def load_family(name_or_path: str | Path) -> Family:
    """The family of a name (`llama`), or the one in a YAML file of the user (a path ending in .yaml or .yml).

    Raises FamilyError if there is no such family or file, or the file is wrong: where, and what is
    expected there.
    """
    if isinstance(name_or_path, Path) or name_or_path.endswith((".yaml", ".yml")):
        return read_family(Path(name_or_path))
    if name_or_path not in family_names():
        remedy = suggest(name_or_path, family_names())
        raise FamilyError(f"expected a family or the path of a YAML file, got {name_or_path!r}; {remedy}")
    return _packaged(name_or_path)


def find_family(name_or_path: str | Path | None, model_config: Mapping[str, Any]) -> Family:
    """The family for a model: the one that is named, else the one that its configuration belongs to.

    Where several cover the model type, the one that recognises most fields of the configuration is taken. A model
    that no family covers gets one of what its configuration reveals; the family's notes say so.

    Args:
        model_config: the content of the model's `config.json`.

    Raises FamilyError if the family that is named does not exist or its file is wrong.
    """
    if name_or_path is not None:
        return load_family(name_or_path)
    for config in text_configs(model_config):
        fitting = [(family.specificity(config), family) for family in map(_packaged, family_names())]
        found = [(score, family) for score, family in fitting if score is not None]
        if found:
            return max(found, key=lambda pair: pair[0])[1]
    return _revealed(model_config)


@functools.cache
def _packaged(name: str) -> Family:
    return read_family(packaged_files()[name])


def _revealed(model_config: Mapping[str, Any]) -> Family:
    """A family for a model of a type that none covers."""
    config = next(text_configs(model_config))
    model_type = str(config.get("model_type"))
    sizes = {
        name: next((key for key in candidates if type(config.get(key)) is int), None)
        for name, candidates in SIZE_FIELDS.items()
    }
    width = width_of(model_config)
    lora, full = read_tunings(packaged_files()[_UNMEASURED])
    known = f"width {width}" if width else "no width, so that the learning rate is that of a width of 2000"
    return Family(
        name="unknown",
        description=f"What the configuration of a model of type {model_type} reveals",
        model_types=(model_type,),
        architecture=ArchitectureFields({name: key for name, key in sizes.items() if key is not None}),
        lora_targets={},
        lora=lora,
        full=full,
        notes=(
            f"no family covers the model type {model_type!r}: general defaults ({known}), adapters on all linear "
            "layers only; a family of your own may say more (docs/families.md)",
        ),
    )
