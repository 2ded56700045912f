"""The written form of a space: one mapping in terms of YAML and JSON, and back.

A name maps to its domain, with its prior under `prior` and its conditions under `when`; the reserved
key `rules` holds a list. Numbers are read by the declared kind: they may be numeric strings, because
PyYAML reads `1e-4` as a string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.domains import (
    Choice,
    Domain,
    DomainError,
    Float,
    Int,
    ParamValue,
    SpaceError,
    is_number,
    is_scientific,
    label_of,
    shown,
)
from search_spaces.per_layer import per_layer
from search_spaces.priors import Normal, Prior, ScaledBy, Weights
from search_spaces.rules import Divides, Ordered, Product, Rule, Sum
from search_spaces.suggestion import suggest

RULES: Final = "rules"
"""The key of the written form that is no name."""

_KEYS: Final = {
    "float": ("kind", "low", "high", "log", "prior", "when"),
    "int": ("kind", "low", "high", "log", "prior", "when"),
    "choice": ("kind", "values", "prior", "when"),
    "per_layer": ("kind", "length", "item", "when"),
}
_PRIOR_KEYS: Final = {
    "normal": ("kind", "centre", "deviation", "scaled_by"),
    "weights": ("kind", "weights"),
    "uniform": ("kind",),
}
_RULE_KEYS: Final = {
    "divides": ("kind", "divisor", "dividend"),
    "ordered": ("kind", "names"),
    "product": ("kind", "names", "low", "high"),
    "sum": ("kind", "names", "low", "high"),
}
_OPTIONAL: Final = ("log", "prior", "when", "scaled_by")

_Built = TypeVar("_Built")


@dataclass(slots=True)
class Parts:
    """What a space is made of."""

    domains: dict[str, Domain] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    priors: dict[str, Prior] = field(default_factory=dict)


def write(
    domains: Mapping[str, Domain], conditions: Iterable[Condition], rules: Iterable[Rule], priors: Mapping[str, Prior]
) -> dict[str, Any]:
    """The parts of a space in terms of JSON, readable by `read`. Per-layer lists stay written out."""
    written: dict[str, Any] = {name: _domain_to_dict(domain) for name, domain in domains.items()}
    for name, prior in priors.items():
        written[name]["prior"] = _prior_to_dict(prior)
    for condition in conditions:
        when = written[condition.name].setdefault("when", {})
        when[condition.parent] = (
            list(condition.values) if isinstance(condition, OneOf) else {"at_least": condition.value}
        )
    rules = list(rules)
    if rules:
        written[RULES] = [_rule_to_dict(rule) for rule in rules]
    return written


def read(data: object, path: str) -> Parts:
    """The parts of a space from its written form, unchecked among each other.

    Raises SpaceError with the path of the wrong entry, such as `space.optimizer.learning_rate.low`.
    """
    if not isinstance(data, Mapping):
        raise SpaceError(
            f"{path}: expected a mapping of names to domains, got {shown(data)}; write name: {{kind: ...}}"
        )
    parts, lists, whens = Parts(), dict[str, list[str]](), list[tuple[list[str], object, str]]()
    for name, entry in data.items():
        if name == RULES:
            continue
        if not isinstance(name, str):
            raise SpaceError(
                f"{path}: expected a dotted name such as 'optimizer.learning_rate', got {shown(name)}; "
                "quote it if YAML reads it as something else"
            )
        here = f"{path}.{name}"
        item, names = _entry(entry, here, _KEYS, "float, int or choice"), [name]
        if "when" in item:
            whens.append((names, item["when"], f"{here}.when"))
        if item["kind"] == "per_layer":
            expanded, conditions = _per_layer(data, path, name, item)
            parts.conditions += conditions
            names[:] = lists[name] = list(expanded)
            here, item = f"{here}.item", item["item"]
            if "when" in item:
                whens.append((names, item["when"], f"{here}.when"))
        domain, prior = _domain(item, here), _prior(item.get("prior"), f"{here}.prior")
        for each in names:
            if each in parts.domains:
                raise SpaceError(f"{path}.{each}: expected each name once, got it twice; rename one")
            parts.domains[each] = domain
            if prior is not None:
                parts.priors[each] = prior
    for names, when, here in whens:
        parts.conditions += _conditions(names, when, here, parts.domains)
    parts.rules = _rules(data.get(RULES, []), f"{path}.{RULES}", lists)
    return parts


def _domain_to_dict(domain: Domain) -> dict[str, Any]:
    match domain:
        case Float():
            return {"kind": "float", "low": domain.low, "high": domain.high, "log": domain.log}
        case Int():
            return {"kind": "int", "low": domain.low, "high": domain.high, "log": domain.log}
        case Choice():
            return {"kind": "choice", "values": list(domain.values)}


def _prior_to_dict(prior: Prior) -> dict[str, Any]:
    match prior:
        case Weights():
            return {"kind": "weights", "weights": list(prior.weights)}
        case Normal(scaled_by=None):
            return {"kind": "normal", "centre": prior.centre, "deviation": prior.deviation}
        case Normal(scaled_by=ScaledBy() as scale):
            scaled_by = {"name": scale.name, "reference": scale.reference, "exponent": scale.exponent}
            return {"kind": "normal", "centre": prior.centre, "deviation": prior.deviation, "scaled_by": scaled_by}
    raise AssertionError(prior)


def _rule_to_dict(rule: Rule) -> dict[str, Any]:
    match rule:
        case Divides():
            return {"kind": "divides", "divisor": rule.divisor, "dividend": rule.dividend}
        case Ordered():
            return {"kind": "ordered", "names": list(rule.names)}
        case Product() | Sum():
            bounds = {"low": rule.low, "high": rule.high}
            kind = "sum" if isinstance(rule, Sum) else "product"
            given = {key: bound for key, bound in bounds.items() if bound is not None}
            return {"kind": kind, "names": list(rule.names), **given}


def _entry(
    entry: object, path: str, table: Mapping[str, tuple[str, ...]], kinds: str, optional: tuple[str, ...] = _OPTIONAL
) -> Mapping[str, Any]:
    """A mapping with a known kind and exactly the keys that belong to it."""
    if not isinstance(entry, Mapping):
        example = next(iter(table))
        raise SpaceError(f"{path}: expected a mapping with a kind, got {shown(entry)}; write {{kind: {example}, ...}}")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in table:
        raise SpaceError(f"{path}.kind: expected {kinds}, got {shown(kind)}; {suggest(kind, table)}")
    check_keys(entry, path, table[kind])
    for key in table[kind]:
        if key not in entry and key not in optional:
            raise SpaceError(f"{path}.{key}: expected a value, got none; a {kind} needs {key}")
    return entry


def check_keys(entry: Mapping[Any, Any], path: str, keys: tuple[str, ...]) -> None:
    """Check that a mapping has no other keys. Raises SpaceError with the nearest known one."""
    for key in entry:
        if key not in keys:
            label = label_of(key)
            raise SpaceError(f"{path}.{label}: expected {', '.join(keys)}, got {shown(key)}; {suggest(key, keys)}")


def _domain(entry: object, path: str) -> Domain:
    table = {kind: keys for kind, keys in _KEYS.items() if kind != "per_layer"}
    entry = _entry(entry, path, table, "float, int or choice")
    try:
        if entry["kind"] == "choice":
            return Choice(_values(entry["values"], f"{path}.values"))
        log = _bool(entry.get("log", False), f"{path}.log")
        if entry["kind"] == "float":
            return Float(_float(entry["low"], f"{path}.low"), _float(entry["high"], f"{path}.high"), log)
        return Int(_int(entry["low"], f"{path}.low"), _int(entry["high"], f"{path}.high"), log)
    except DomainError as error:
        raise SpaceError(f"{path}: {error}") from error


def _per_layer(
    data: Mapping[str, Any], path: str, name: str, entry: Mapping[str, Any]
) -> tuple[dict[str, Domain], tuple[Condition, ...]]:
    """The names of a per-layer list with the domain of each, and what says how many there are."""
    here, length = f"{path}.{name}", entry["length"]
    item = _domain(entry["item"], f"{here}.item")
    if not isinstance(length, str):
        return per_layer(name, item, _int(length, f"{here}.length"))
    if length not in data or length == RULES:
        known = [other for other in data if isinstance(other, str) and other not in (name, RULES)]
        remedy = suggest(length, known) if known else "add it"
        raise SpaceError(f"{here}.length: expected an integer or a name of the space, got {length!r}; {remedy}")
    many = _domain(data[length], f"{path}.{length}")
    if isinstance(many, Float):
        raise SpaceError(f"{here}.length: expected an int or a choice of ints, got {length} ({many}); use another")
    try:
        return per_layer(name, item, many, parent=length)
    except SpaceError as error:
        raise SpaceError(f"{here}.length: {error}") from error


def _prior(entry: object, path: str) -> Prior | None:
    if entry is None:
        return None
    entry = _entry(entry, path, _PRIOR_KEYS, "normal, weights or uniform")
    if entry["kind"] == "uniform":
        return None
    if entry["kind"] == "weights":
        weights = entry["weights"]
        if not isinstance(weights, list | tuple):
            raise SpaceError(f"{path}.weights: expected a list, got {shown(weights)}; write the weights as [1, 2]")
        numbers = tuple(_float(weight, f"{path}.weights") for weight in weights)
        return _built(path, partial(Weights, numbers))
    centre, deviation = _float(entry["centre"], f"{path}.centre"), _float(entry["deviation"], f"{path}.deviation")
    scaled_by = _scaled_by(entry.get("scaled_by"), path)
    return _built(path, partial(Normal, centre, deviation, scaled_by))


def _scaled_by(entry: object, path: str) -> ScaledBy | None:
    if entry is None:
        return None
    here, keys = f"{path}.scaled_by", ("name", "reference", "exponent")
    if not isinstance(entry, Mapping):
        raise SpaceError(
            f"{here}: expected a mapping, got {shown(entry)}; write {{name: ..., reference: ..., exponent: ...}}"
        )
    check_keys(entry, here, keys)
    for key in keys:
        if key not in entry:
            raise SpaceError(f"{here}.{key}: expected a value, got none; scaled_by needs {key}")
    name = entry["name"]
    if not isinstance(name, str):
        raise SpaceError(f"{here}.name: expected the name of a parameter, got {shown(name)}; write one")
    reference, exponent = _float(entry["reference"], f"{here}.reference"), _float(entry["exponent"], f"{here}.exponent")
    return _built(path, partial(ScaledBy, name, reference, exponent))


def _conditions(names: Iterable[str], when: object, path: str, domains: Mapping[str, Domain]) -> Iterable[Condition]:
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(
            f"{path}: expected a mapping of names to values, got {shown(when)}; "
            "write {schedule.kind: [wsd]} or {num_layers: {at_least: 3}}"
        )
    for parent, wanted in when.items():
        label = label_of(parent)
        if parent not in domains:
            raise SpaceError(f"{path}: expected names of the space, got {shown(parent)}; {suggest(parent, domains)}")
        if isinstance(wanted, Mapping):
            check_keys(wanted, f"{path}.{label}", ("at_least",))
            if "at_least" not in wanted:
                raise SpaceError(f"{path}.{label}: expected at_least, got an empty mapping; write {{at_least: 3}}")
            least = _number(wanted["at_least"], f"{path}.{label}.at_least")
            yield from (AtLeast(name, parent, least) for name in names)
            continue
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if not values:
            raise SpaceError(f"{path}.{label}: expected values of {label}, got an empty list; name one or more")
        read = tuple(_like(domains[parent], value) for value in values)
        yield from (OneOf(name, parent, read) for name in names)


def _like(domain: Domain, value: Any) -> Any:
    """A value as its domain has it, if it means one of its values: 8.0 or "8" for the integer 8."""
    if isinstance(domain, Float) or domain.contains(value):
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return value
        for meant in (number, int(number) if number.is_integer() else number):
            if domain.contains(meant):
                return meant
    return value


def _rules(entries: object, path: str, lists: Mapping[str, list[str]]) -> list[Rule]:
    """The rules. The name of a per-layer list stands for all its layers."""
    if not isinstance(entries, list | tuple):
        raise SpaceError(f"{path}: expected a list of rules, got {shown(entries)}; write each as '- {{kind: ...}}'")
    rules: list[Rule] = []
    for index, entry in enumerate(entries):
        here = f"{path}[{index}]"
        entry = _entry(entry, here, _RULE_KEYS, "divides, ordered, product or sum", ("low", "high"))
        if entry["kind"] == "divides":
            divisors = _names([entry["divisor"]], f"{here}.divisor", lists)
            dividends = _names([entry["dividend"]], f"{here}.dividend", lists)
            rules += [Divides(divisor, dividend) for divisor in divisors for dividend in dividends]
            continue
        names = _names(entry["names"], f"{here}.names", lists)
        if entry["kind"] == "ordered":
            rules.append(_built(here, partial(Ordered, names), ": "))
            continue
        bounds = {key: _number(entry[key], f"{here}.{key}") for key in ("low", "high") if entry.get(key) is not None}
        kind: type[Product | Sum] = Product if entry["kind"] == "product" else Sum
        bounded: Callable[[], Rule] = partial(kind, names, **bounds)
        rules.append(_built(here, bounded, ": "))
    return rules


def _names(names: object, path: str, lists: Mapping[str, list[str]]) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SpaceError(f"{path}: expected names of the space, got {shown(names)}; write them as words")
    return tuple(each for name in names for each in lists.get(name, [name]))


def _built(path: str, build: Callable[[], _Built], between: str = ".") -> _Built:
    """What `build` makes, with the path before the message if it refuses."""
    try:
        return build()
    except SpaceError as error:
        raise SpaceError(f"{path}{between}{error}") from error


def _number(value: object, path: str) -> int | float:
    return value if is_number(value) else _float(value, path)


def _float(value: object, path: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass  # reported below, like any other value that is no number
    raise SpaceError(f"{path}: expected a number, got {shown(value)}; write one such as 0.001 or 1.0e-3")


def _int(value: object, path: str) -> int:
    number = _float(value, path)
    if not number.is_integer():
        raise SpaceError(f"{path}: expected an integer, got {shown(value)}; write one such as 8, or use kind: float")
    return value if isinstance(value, int) else int(number)


def _bool(value: object, path: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise SpaceError(f"{path}: expected true or false, got {shown(value)}; write log: true for a logarithmic scale")


def _values(values: object, path: str) -> tuple[ParamValue, ...]:
    if not isinstance(values, list | tuple):
        raise SpaceError(f"{path}: expected a list, got {shown(values)}; write the values as [a, b, c]")
    return tuple(float(value) if isinstance(value, str) and is_scientific(value) else value for value in values)
