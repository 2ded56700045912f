"""The `space` section of a config: how it changes the space that the model family brings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llm_tuning.recipe import RECIPE_DEFAULTS, Recipe, RecipeError
from search_spaces.domains import Choice, Domain, ParamValue, is_scientific
from search_spaces.space import Space, SpaceError
from search_spaces.suggestion import suggest
from thresher.config_errors import printable

RESERVED: Final = ("only", "rules")
"""Keys of the section that are no hyperparameters."""
_OWN_KEYS: Final = ("low", "high", "log", "values", "prior", "when")


def normal_form(section: object) -> object:
    """The section with numbers as numbers: YAML reads 1e-4 as a string."""
    if isinstance(section, Mapping):
        return {key: normal_form(value) for key, value in section.items()}
    if isinstance(section, list | tuple):
        return [normal_form(value) for value in section]
    return float(section) if isinstance(section, str) and is_scientific(section) else section


def wrong_space(section: object) -> Iterator[str]:
    """A line for each thing that is wrong with the section, as far as that shows without the family."""
    if not isinstance(section, Mapping):
        return
    impure = list(_impure(section, "space"))
    if impure:
        yield from impure
        return
    for name, entry in section.items():
        if name == "only":
            yield from _wrong_only(entry)
        elif name == "rules":
            if not isinstance(entry, list):
                yield f"space.rules: expected a list of rules, got {entry!r}; write each as '- {{kind: ...}}'"
        elif not isinstance(name, str) or name not in RECIPE_DEFAULTS:
            yield f"space.{_unknown(str(name))}"
        else:
            yield from _wrong_entry(name, normal_form(entry))


def merge_space(
    section: Mapping[str, Any], family: Space, values: Mapping[str, ParamValue]
) -> tuple[Space, dict[str, ParamValue]]:
    """The space of a study, and the values that its section fixes.

    An entry of the section takes the place of the family's: a mapping with a kind as a whole, one without key by key
    (`{high: 1e-3}`; bounds on a choice leave the values between them), a list as a choice, a single value by fixing
    it. What depends on a hyperparameter that is not searched is settled by its value.

    Args:
        values: the default configuration, in which fixed values are not yet.

    Raises SpaceError naming the entry that does not fit.
    """
    written = dict(family.to_dict())
    family_rules: Any = written.pop("rules", [])
    entries: dict[str, dict[str, Any]] = dict(written)
    fixed: dict[str, ParamValue] = {}
    given: Any
    for name, given in ((name, entry) for name, entry in section.items() if name not in RESERVED):
        if isinstance(given, Mapping):
            entries[name] = dict(given) if "kind" in given else _narrowed(name, entries.get(name), given)
        elif isinstance(given, list):
            kept = {"when": entries[name]["when"]} if "when" in entries.get(name, {}) else {}
            entries[name] = {"kind": "choice", "values": given, **kept}
        else:
            fixed[name] = given
            entries.pop(name, None)
    entries = _only(section.get("only"), entries, [name for name in section if name in entries])
    entries = _reachable(entries, [name for name in entries if name not in section])
    entries = {name: _with_floats(name, entry) for name, entry in entries.items()}
    settled = _settled(entries, {**values, **fixed})
    own_rules = section.get("rules", [])
    _check_rules(own_rules, settled, {**values, **fixed})
    # The section's own first, so that a message counts them as the section does.
    rules = [*own_rules, *(rule for rule in family_rules if all(name in settled for name in _names(rule)))]
    if {"schedule.warmup", "schedule.decay"} <= settled.keys():
        rules.append({"kind": "sum", "names": ["schedule.warmup", "schedule.decay"], "high": 1.0})
    if not settled:
        raise SpaceError("space: expected something to search, got only fixed values; leave one of them free")
    return Space.from_dict({**settled, **({"rules": rules} if rules else {})}, "space"), fixed


def check_domains(space: Space) -> None:
    """Check every end of every domain against the ranges of the recipe. Raises SpaceError."""
    wrong = [message for name, domain in space.domains.items() for message in _wrong_ends(name, domain)]
    if wrong:
        raise SpaceError("\n".join(wrong))


def refusal(name: str, value: ParamValue) -> str | None:
    """Why a recipe cannot have this value, if it cannot."""
    if name not in RECIPE_DEFAULTS:
        return _unknown(name)
    try:
        Recipe.from_params({name: value})
    except RecipeError as error:
        return str(error)
    return None


def nearest(domain: Domain, value: ParamValue) -> ParamValue:
    """The value of a domain that comes nearest to one outside it: the next number, else the first of the list."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(domain, Choice):
        numbers = [one for one in domain.values if isinstance(one, int | float) and not isinstance(one, bool)]
        return (
            min(numbers, key=lambda one: abs(_scale(one) - _scale(value))) if number and numbers else domain.values[0]
        )
    clipped = min(max(value, domain.low), domain.high) if number else domain.low
    return type(domain.low)(clipped)


def _scale(value: Any) -> float:
    """Ranks and batch sizes are compared by their ratio."""
    return math.log(value) if value > 0 else float(value) - 1e9


def _impure(value: object, path: str) -> Iterator[str]:
    """A line for each thing that could not be written down as JSON and read again."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _impure(inner, f"{path}.{printable(key)}")
            else:
                yield f"{path}: expected a text as the key, got {key!r}; quote it"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _impure(inner, f"{path}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: expected a finite number, got {value!r}; write one such as 0.001"
    elif value is not None and not isinstance(value, bool | int | float | str):
        yield f"{path}: expected a number, a word, a list or a mapping, got {value!r}; quote it if it is a word"


def _wrong_only(entry: object) -> Iterator[str]:
    if entry is True:
        return
    if not isinstance(entry, list) or not entry:
        yield (
            f"space.only: expected true (only what is named in `space`) or a list of hyperparameters, got {entry!r}; "
            "write it as [lora.rank, ...]"
        )
        return
    for name in entry:
        if not isinstance(name, str) or name not in RECIPE_DEFAULTS:
            yield f"space.only: {_unknown(str(name))}"


def _wrong_entry(name: str, entry: Any) -> Iterator[str]:
    path = f"space.{name}"
    if isinstance(entry, list):
        entry = {"kind": "choice", "values": entry}
    if not isinstance(entry, Mapping):
        if entry is None or not isinstance(entry, bool | int | float | str):
            yield f"{path}: expected a domain, a list of values or a single value, got {entry!r}; see docs/config.md"
        elif message := refusal(name, _like(name, entry)):
            yield f"space.{message}"
    elif "kind" in entry:
        try:
            # What an entry may refer to is not all here yet: conditions and priors are checked with the family's space.
            alone = {key: value for key, value in entry.items() if key not in ("prior", "when")}
            domains = Space.from_dict({name: alone}).domains
        except SpaceError as error:
            yield str(error)
        else:
            if name in domains:
                yield from _wrong_ends(name, domains[name])
            else:  # a list by layer
                yield f"{path}.kind: expected float, int or choice, got {entry['kind']!r}; it is one value"
    elif not entry:
        yield f"{path}: expected a domain, got an empty mapping; write what differs from the family, or leave it out"
    else:
        for key in entry:
            if key not in _OWN_KEYS:
                known = ("kind", *_OWN_KEYS)
                yield f"{path}.{printable(key)}: expected a key of a domain, got {key!r}; {suggest(key, known)}"


def _narrowed(name: str, entry: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    if entry is None:
        raise SpaceError(
            f"space.{name}.kind: expected float, int or choice, since the family does not search this, got none; add it"
        )
    bounds = {key for key in ("low", "high") if key in changes}
    if entry["kind"] != "choice" or not bounds:
        merged = {**entry, **changes}
        means_otherwise = any(merged.get(key) != entry.get(key) for key in ("values", "log"))
        if means_otherwise and "prior" not in changes:
            merged.pop("prior", None)  # its weights belong to the other values, its deviation to the other scale
        return merged
    if "values" in changes:
        raise SpaceError(f"space.{name}: expected values or bounds of the family's values, got both; drop one of them")
    low, high = _bound(name, changes, "low", -math.inf), _bound(name, changes, "high", math.inf)
    values = [value for value in entry["values"] if not isinstance(value, str) and low <= value <= high]
    if not values:
        raise SpaceError(
            f"space.{name}: expected bounds with some of the family's values {entry['values']} between them, got "
            f"{dict(changes)}; list the values instead"
        )
    narrowed = {**entry, "values": values, **{key: changes[key] for key in changes if key not in bounds}}
    if "prior" in entry and "prior" not in changes:
        weights = zip(entry["values"], entry["prior"]["weights"], strict=True)
        narrowed["prior"] = {"kind": "weights", "weights": [weight for value, weight in weights if value in values]}
    return narrowed


def _bound(name: str, changes: Mapping[str, Any], key: str, default: float) -> float:
    value = changes.get(key, default)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise SpaceError(f"space.{name}.{key}: expected a number, got {value!r}; write one such as 8")


def _only(only: Any, entries: dict[str, dict[str, Any]], listed: list[str]) -> dict[str, dict[str, Any]]:
    if only is None:
        return entries
    names = listed if only is True else only
    for name in names:
        if name not in entries:
            raise SpaceError(
                f"space.only: expected hyperparameters that are searched ({', '.join(entries)}), got {name!r}; give "
                f"its domain under space.{name}"
            )
    return {name: entry for name, entry in entries.items() if name in names}


def _reachable(entries: Mapping[str, dict[str, Any]], of_family: list[str]) -> dict[str, dict[str, Any]]:
    """The entries without those of the family that depend on values which a narrowed parent no longer has."""
    kept = dict(entries)
    for name in of_family:
        when = kept[name].get("when", {})
        for parent, wanted in list(when.items()):
            values = kept.get(parent, {}).get("values")
            if values is not None and isinstance(wanted, list):
                when = {**when, parent: [value for value in wanted if value in values]}
        if [] in when.values():
            del kept[name]
        elif when:
            kept[name] = {**kept[name], "when": when}
    return kept


def _settled(entries: Mapping[str, dict[str, Any]], values: Mapping[str, ParamValue]) -> dict[str, dict[str, Any]]:
    """The entries without references to hyperparameters that are not searched."""
    searched = dict(entries)
    while True:
        settled: dict[str, dict[str, Any]] = {}
        for name, entry in searched.items():
            when = entry.get("when")
            if isinstance(when, Mapping):
                open_parents = {parent: wanted for parent, wanted in when.items() if parent in searched}
                closed = {
                    parent: wanted for parent, wanted in when.items() if parent in values and parent not in searched
                }
                if not all(_holds(values[parent], wanted) for parent, wanted in closed.items()):
                    continue
                unknown = {parent: wanted for parent, wanted in when.items() if parent not in searched | dict(values)}
                rest = {**open_parents, **unknown}
                entry = {key: value for key, value in entry.items() if key != "when"} | ({"when": rest} if rest else {})
            settled[name] = entry
        if settled.keys() == searched.keys():
            break
        searched = settled
    return {name: _with_own_centre(entry, settled, values) for name, entry in settled.items()}


def _with_own_centre(
    entry: dict[str, Any], searched: Mapping[str, Any], values: Mapping[str, ParamValue]
) -> dict[str, Any]:
    """The entry with a prior that is scaled by a fixed value replaced by the prior that comes of it."""
    prior = entry.get("prior")
    scaled_by = prior.get("scaled_by") if isinstance(prior, Mapping) else None
    if not isinstance(prior, Mapping) or not isinstance(scaled_by, Mapping):
        return entry
    value = values.get(str(scaled_by.get("name")))
    if str(scaled_by.get("name")) in searched or isinstance(value, str | bool | None):
        return entry
    try:
        factor = (value / scaled_by["reference"]) ** scaled_by["exponent"]
        centre = prior["centre"] * factor
    except (KeyError, TypeError, ZeroDivisionError, OverflowError):
        return entry  # the space says what is wrong with it
    rest = {key: given for key, given in prior.items() if key != "scaled_by"}
    return {**entry, "prior": {**rest, "centre": centre}}


def _with_floats(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a hyperparameter that is a float with floats to choose from: `[16, 32]` means 16.0 and 32.0."""
    values = entry.get("values")
    if not isinstance(RECIPE_DEFAULTS.get(name), float) or not isinstance(values, list):
        return entry
    return {**entry, "values": [_like(name, value) for value in values]}


def _check_rules(rules: Any, searched: Mapping[str, Any], values: Mapping[str, ParamValue]) -> None:
    """Refuse a rule about what is not searched, whose name the space would not know. Raises SpaceError."""
    for index, rule in enumerate(rules):
        for name in _names(rule) if isinstance(rule, Mapping) else ():
            if name in values and name not in searched:
                raise SpaceError(
                    f"space.rules[{index}]: expected hyperparameters that are searched, got {name!r}, which is fixed "
                    f"at {values[name]!r}; give its domain under space.{name}, or bound the others without it"
                )


def _holds(value: ParamValue, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        least = wanted.get("at_least")
        return isinstance(value, int | float) and isinstance(least, int | float) and value >= least
    return value in (wanted if isinstance(wanted, list) else [wanted])


def _names(rule: Mapping[str, Any]) -> list[str]:
    """The hyperparameters that a written rule is about."""
    names = rule.get("names")
    ends = (rule[key] for key in ("divisor", "dividend") if key in rule)
    return [name for name in (*(names if isinstance(names, list) else ()), *ends) if isinstance(name, str)]


def _wrong_ends(name: str, domain: Domain) -> list[str]:
    ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    messages = [message for end in ends if (message := refusal(name, end))]
    return [f"space.{message}" for message in dict.fromkeys(messages)]


def _unknown(name: str) -> str:
    remedy = suggest(name, RECIPE_DEFAULTS)
    return f"{printable(name)}: expected the name of a hyperparameter, got {name!r}; {remedy}"


def _like(name: str, value: ParamValue) -> ParamValue:
    """An int where a float is meant."""
    is_float = isinstance(RECIPE_DEFAULTS[name], float)
    return float(value) if is_float and isinstance(value, int) and not isinstance(value, bool) else value
