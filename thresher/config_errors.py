"""What is wrong with a config, in words: where, what was expected, what came, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from search_spaces.suggestion import suggest

Location = tuple[int | str, ...]

_NOT_A_MAPPING = {"model_type", "model_attributes_type", "dict_type", "dict_attributes_type"}
_LONGEST_VALUE = 80
_WORDS = {
    "Input should be greater than or equal to ": "at least ",
    "Input should be less than or equal to ": "at most ",
    "Input should be greater than ": "a number above ",
    "Input should be less than ": "a number below ",
    "Input should be a valid boolean, unable to interpret input": "true or false",
    "Input should be a valid integer, unable to parse string as an integer": "an integer",
    "Input should be a valid integer, got a number with a fractional part": "an integer",
    "Input should be a valid number, unable to parse string as a number": "a number",
    "Input should be a valid string": "a text (in quotes, if YAML reads it as something else)",
    "Input should be a valid boolean": "true or false",
    "Input should be a valid integer": "an integer",
    "Input should be a valid tuple": "a list",
    "Input should be a valid ": "a ",
    "Input should be ": "",
    "Input is not a valid path for <class 'pathlib.Path'>": "a path",
    "String should have ": "a text with ",
    "Keys should be strings": "a text as the key",
}


def describe_errors(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each thing that pydantic found wrong with the data of a model."""
    return [_describe(entry, root) for entry in error.errors()]


def _describe(entry: Any, root: type[BaseModel]) -> str:
    place = _Place(root, entry["loc"])
    kind, got, context = entry["type"], _shown(entry["input"]), entry.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(entry["loc"][-1])
        section = _Place(root, entry["loc"][:-1])
        return f"{place.path}: expected a known key, got {name!r}; {suggest(name, section.keys)}"
    if kind == "missing":
        return f"{place.path}: expected a value, got none; add it{place.about}"
    if kind == "union_tag_not_found":
        return f"{place.path}.kind: expected a kind, got none; {suggest('', place.kinds)}"
    if kind == "union_tag_invalid":
        return (
            f"{place.path}.kind: expected a known kind, got {context['tag']!r}; {suggest(context['tag'], place.kinds)}"
        )
    if kind in _NOT_A_MAPPING:
        keys = "a kind" if place.kinds else ", ".join(place.keys) or "dotted names"
        return f"{place.path}: expected a mapping with {keys}, got {got}; write it as indented 'key: value' lines"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        what = "key" if entry["loc"][-1] == "[key]" else "word"
        return f"{place.path}: expected a known {what}, got {got}; {suggest(entry['input'], choices)}"
    if kind == "too_short":
        return f"{place.path}: expected at least {context['min_length']} of these, got none; add one{place.about}"
    return f"{place.path}: expected {_expectation(entry['msg'])}, got {got}; correct it{place.about}"


class _Place:
    """What the models know about a location of pydantic's, found by walking them from the root.

    Attributes:
        path: the location as the user wrote it.
        keys: the keys of the innermost section on the way.
        kinds: the kinds to choose from, where the location is a union told apart by `kind`.
        about: the description and default of the value there, in brackets; empty if there is neither.
    """

    def __init__(self, root: type[BaseModel], location: Location) -> None:
        section: type[BaseModel] | None = root
        field: FieldInfo | None = None
        parts: list[str] = []
        self.keys = list(root.model_fields)
        self.kinds: list[str] = []
        for part in location:
            if str(part) in self.kinds:  # pydantic names the chosen member of a union, the user does not
                section = _members(field)[str(part)]
                self.keys, self.kinds, field = list(section.model_fields), [], None
                continue
            if part == "[key]":
                break
            parts.append(str(part))
            if isinstance(part, int):
                continue  # an item of a list: what is known of the list is known of it
            field = section.model_fields.get(str(part)) if section is not None else None
            self.kinds = list(_members(field))
            section = _section(field)
            self.keys = [] if section is None else list(section.model_fields)
        self.path = ".".join(map(printable, parts))
        self.about = _about(field)


def printable(key: str) -> str:
    """A key as it is told, on one line whatever it contains."""
    return key if key.isprintable() and key else repr(key)


def _expectation(message: str) -> str:
    """What pydantic says should be, as a noun."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    """The section that a field holds, also as an item of a list."""
    sections = [] if field is None or _is_union_by_kind(field) else list(_models(field.annotation))
    return sections[0] if len(sections) == 1 else None


def _members(field: FieldInfo | None) -> Mapping[str, type[BaseModel]]:
    """The sections of a union that are told apart by their `kind`, by its value."""
    if field is None or not _is_union_by_kind(field):
        return {}
    return {get_args(model.model_fields["kind"].annotation)[0]: model for model in _models(field.annotation)}


def _is_union_by_kind(field: FieldInfo) -> bool:
    models = list(_models(field.annotation))
    return len(models) > 1 and all("kind" in model.model_fields for model in models)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation names, however deep in unions, lists and Annotated."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _about(field: FieldInfo | None) -> str:
    if field is None:
        return ""
    facts = [field.description] if field.description else []
    if not field.is_required() and field.default is not None and isinstance(field.default, int | float | str):
        facts.append(f"default {field.default}")
    return f" ({'; '.join(facts)})" if facts else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
