"""The JSON Schema of a study's YAML, for editors and for other programs.

It is made from the pydantic models that check a config, and loosened to what they take: the YAML of people, in which
a section may be one word and PyYAML reads 1e-4 as a text. What the schema refuses, the loader refuses too; what only
the model, the data or two values together decide (`thresher validate` tells), the schema lets pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_tuning.recipe import RECIPE_DEFAULTS
from thresher.config import OPTIONAL_DATA_SECTIONS, OPTIONAL_SECTIONS, StudyConfig
from thresher.hyperparameters import HYPERPARAMETERS

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_ALL_BOUNDS: Final = tuple(_BOUNDS.values())
_NUMBER_TEXT: Final = {"$ref": "#/$defs/NumberText"}
_BOOLEAN_TEXT: Final = {"$ref": "#/$defs/BooleanText"}
_CONDITION: Final = {"$ref": "#/$defs/Condition"}
_PRIOR: Final = {"$ref": "#/$defs/Prior"}
_NUMBER: Final = {"anyOf": [{"type": "number"}, _NUMBER_TEXT]}
_LOG: Final = {
    "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"}]
}
_BOOLEAN_WORDS: Final = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0")
_SCALAR: Final = {"type": ["boolean", "number", "string"]}
_KINDS: Final = {"float": ("low", "high", "log"), "int": ("low", "high", "log"), "choice": ("values",)}


def config_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a study's YAML."""
    schema = _loosened(StudyConfig.model_json_schema())
    schema["$defs"] |= {"NumberText": _number_text(), "BooleanText": _boolean_text()}
    schema["$defs"] |= {
        "Condition": _condition(),
        "Prior": _prior(),
        **{name: _value(name) for name in HYPERPARAMETERS},
    }
    sections, root = schema["$defs"], schema["properties"]
    root["model"] = _alone_or(root["model"], sections["ModelConfig"]["properties"]["name"])
    root["data"] = _alone_or(root["data"], sections["DataConfig"]["properties"]["train"])
    root["objective"] = _objective(root["objective"], sections["ObjectiveConfig"]["properties"])
    root["hyperparameters"] |= {
        "properties": {name: _about(name) | _reference(name) for name in HYPERPARAMETERS},
        "additionalProperties": False,
    }
    root["space"] = {**root["space"], **_space(), "default": {}}
    output = sections["OutputConfig"]["properties"]
    output["directory"] = _or_null({**output["directory"], "minLength": 1})
    output["trackers"] = _alone_or(output["trackers"], output["trackers"]["items"])
    warm_start = sections["WarmStartConfig"]["properties"]
    warm_start["runs"] = _alone_or(warm_start["runs"], {**warm_start["runs"]["items"], "minLength": 1})
    for owner, names in ((root, OPTIONAL_SECTIONS), (sections["DataConfig"]["properties"], OPTIONAL_DATA_SECTIONS)):
        for name in names:
            section = sections.get(owner[name].get("$ref", "").removeprefix("#/$defs/"), owner[name])
            owner[name] = _or_null({"description": section["description"], **owner[name]})
    precision = sections["ResourcesConfig"]["properties"]["mixed_precision"]
    precision |= {"enum": [*precision["enum"], False]}  # YAML 1.1 reads the word no as false
    del precision["type"]
    required = [name for name in schema["required"] if name != "output"]
    return {"$schema": DIALECT, **schema, "title": "A study of thresher", "required": required}


def _loosened(node: Schema) -> Schema:
    """A schema of pydantic's with its bounds in JSON Schema's words, and with what pydantic converts let in."""
    schema = {_BOUNDS.get(key, key): value for key, value in node.items() if key not in ("title", "discriminator")}
    for key in ("properties", "$defs"):
        if key in schema:
            schema[key] = {name: _loosened(entry) for name, entry in schema[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _loosened(schema[key])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            schema[key] = [_loosened(entry) for entry in schema[key]]
    match schema.get("type"):
        case "integer" | "number":
            return _with_choices(schema, ("type", *_ALL_BOUNDS), [_NUMBER_TEXT])
        case "boolean":
            return _with_choices(schema, ("type",), [_BOOLEAN_TEXT])
        case "string" if schema.get("format") == "path":
            del schema["format"]
        case "array" if "minLength" in schema:
            schema["minItems"] = schema.pop("minLength")
    return schema


def _with_choices(schema: Schema, keys: tuple[str, ...], others: list[Schema]) -> Schema:
    """The schema with other forms beside the one that some of its keys describe."""
    own: Schema = {key: schema.pop(key) for key in keys if key in schema}
    return {**schema, "anyOf": [own, *others]}


def _or_null(schema: Schema) -> Schema:
    """The schema, or null, which is the same as leaving the key out."""
    about: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    return {**about, "anyOf": [{key: schema[key] for key in schema if key not in about}, {"type": "null"}]}


def _alone_or(section: Schema, main: Schema) -> Schema:
    """A section that may be written as the value of its main key alone, a list as its only item."""
    about: Schema = {key: part[key] for part in (section, main) for key in ("description", "default") if key in part}
    return {**about, "anyOf": [main, {key: part for key, part in section.items() if key not in about}]}


def _objective(schema: Schema, keys: Mapping[str, Schema]) -> Schema:
    """One metric, one mapping, or a list of them."""
    keys["direction"].update(_or_null(keys["direction"]))
    for key in ("enum", "type"):
        keys["direction"].pop(key, None)
    metric = {"enum": keys["metric"]["enum"]}
    one = {"anyOf": [metric, schema["items"]]}
    several = {"type": "array", "items": one, "minItems": schema["minItems"]}
    return {"description": schema["description"], "default": schema["default"], "anyOf": [*one["anyOf"], several]}


def _number_text() -> Schema:
    """Numbers in quotes, or 1e-4, which YAML 1.1 takes for a text."""
    return {"type": "string", "pattern": r"^\s*[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d[\d_]*)?\s*$"}


def _boolean_text() -> Schema:
    pattern = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in word) for word in _BOOLEAN_WORDS)
    return {"anyOf": [{"enum": [0, 1]}, {"type": "string", "pattern": f"^({pattern})$"}]}


def _value(name: str) -> Schema:
    """A value of a hyperparameter."""
    value = dict(HYPERPARAMETERS[name].schema)
    return {"anyOf": [value, _NUMBER_TEXT]} if value.get("type") == "number" else value


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _about(name: str) -> Schema:
    known = HYPERPARAMETERS[name]
    return {"description": f"{known.meaning}: {known.values}", "default": RECIPE_DEFAULTS[name]}


def _space() -> Schema:
    names = list(HYPERPARAMETERS)
    only = {
        "description": "search only these; true: only what is named here",
        "anyOf": [{"const": True}, {"type": "array", "items": {"enum": names}, "minItems": 1}],
    }
    rules = {"description": "what several hyperparameters must obey together", "type": "array", "items": _rule(names)}
    entries = {name: _entry(name) for name in names}
    return {"properties": {**entries, "only": only, "rules": rules}, "additionalProperties": False}


def _entry(name: str) -> Schema:
    """What may stand under the name of a hyperparameter in `space`."""
    value = _reference(name)
    values: Schema = {"type": "array", "items": value, "minItems": 1}
    keys: Schema = {"values": values, "prior": _PRIOR, "when": _CONDITION}
    if HYPERPARAMETERS[name].schema.get("type") in ("integer", "number"):
        end = {"anyOf": [value, _NUMBER_TEXT]}
        keys |= {"low": end, "high": end, "log": _LOG}
    kinds = [kind for kind, own in _KINDS.items() if set(own) <= set(keys)]
    forms = [_with_kind(kind, {key: keys[key] for key in (*_KINDS[kind], "prior", "when")}) for kind in kinds]
    changes = {
        "type": "object",
        "description": "changes of the family's domain",
        "properties": keys,
        "minProperties": 1,
        "additionalProperties": False,
    }
    return {"description": HYPERPARAMETERS[name].meaning, "anyOf": [value, values, *forms, changes]}


def _with_kind(kind: str, keys: Mapping[str, Schema]) -> Schema:
    """A mapping of a kind, whose keys are all required but those that have a default."""
    optional = ("log", "prior", "when", "scaled_by")
    return {
        "type": "object",
        "properties": {"kind": {"const": kind}, **keys},
        "required": ["kind", *(key for key in keys if key not in optional)],
        "additionalProperties": False,
    }


def _condition() -> Schema:
    """When a hyperparameter exists: for certain values of others, or from a value on."""
    least = {
        "type": "object",
        "properties": {"at_least": _NUMBER},
        "required": ["at_least"],
        "additionalProperties": False,
    }
    wanted = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}, least]}
    return {"type": "object", "additionalProperties": wanted}


def _prior() -> Schema:
    """Where good values are expected."""
    scaled_by = {
        "type": "object",
        "properties": {"name": {"enum": list(HYPERPARAMETERS)}, "reference": _NUMBER, "exponent": _NUMBER},
        "required": ["name", "reference", "exponent"],
        "additionalProperties": False,
    }
    weights = {"type": "array", "items": _NUMBER, "minItems": 1}
    return {
        "anyOf": [
            _with_kind("normal", {"centre": _NUMBER, "deviation": _NUMBER, "scaled_by": scaled_by}),
            _with_kind("weights", {"weights": weights}),
            _with_kind("uniform", {}),
            {"type": "null"},
        ]
    }


def _rule(names: list[str]) -> Schema:
    """What several hyperparameters must obey together."""
    name = {"enum": names}
    ordered: Schema = {"type": "array", "items": name, "minItems": 2}
    bounded: Schema = {"names": {**ordered, "minItems": 1}, "low": _NUMBER, "high": _NUMBER}
    forms = [_with_kind("divides", {"divisor": name, "dividend": name}), _with_kind("ordered", {"names": ordered})]
    forms += [{**_with_kind(kind, bounded), "required": ["kind", "names"]} for kind in ("product", "sum")]
    return {"anyOf": forms}
