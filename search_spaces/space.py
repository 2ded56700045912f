"""The space: named domains that make up one full assignment of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from search_spaces.domains import Choice, Domain, DomainError, Float, Int, ParamValue, is_scientific
from search_spaces.suggestion import suggest

__all__ = ["ParamValue", "Params", "Space", "SpaceError"]

Params = Mapping[str, ParamValue]

_KEYS = {"float": ("kind", "low", "high", "log"), "int": ("kind", "low", "high", "log"), "choice": ("kind", "values")}


class SpaceError(ValueError):
    """A space that cannot be built, or parameters that do not lie in it."""


@final
@dataclass(frozen=True, eq=False)
class Space:
    """Named domains. A value: immutable, hashable, equal to a space of the same names in the same order.

    The order of the names is part of the value, because it decides which random number each name gets.

    Attributes:
        domains: the domain of each dotted name, in order. Read-only.

    Raises SpaceError if there is no domain, a name is no dotted name, or a domain is none.
    """

    domains: Mapping[str, Domain]
    _mutable: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.domains:
            raise SpaceError("expected at least one domain, got none; name a parameter to search")
        for name, domain in self.domains.items():
            if not isinstance(name, str) or not name or not all(part.isidentifier() for part in name.split(".")):
                raise SpaceError(f"expected a dotted name such as 'optimizer.learning_rate', got {name!r}; rename it")
            if not isinstance(domain, Float | Int | Choice):
                raise SpaceError(f"{name}: expected a Float, Int or Choice, got {domain!r}; make it one")
        object.__setattr__(self, "domains", MappingProxyType(dict(self.domains)))
        object.__setattr__(self, "_mutable", tuple(name for name, domain in self.domains.items() if domain.size > 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Space):
            return NotImplemented
        return tuple(self.domains.items()) == tuple(other.domains.items())

    def __hash__(self) -> int:
        return hash(tuple(self.domains.items()))

    def __reduce__(self) -> tuple[type[Space], tuple[dict[str, Domain]]]:
        return Space, (dict(self.domains),)  # a read-only view cannot be copied by itself

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.domains)

    @property
    def size(self) -> float:
        """How many assignments there are; `math.inf` with a Float."""
        return math.prod(domain.size for domain in self.domains.values())

    def sample(self, rng: np.random.Generator) -> dict[str, ParamValue]:
        """An assignment drawn uniformly, each domain on its own scale."""
        units = rng.random(len(self.domains)).tolist()
        return {name: domain.decode(unit) for (name, domain), unit in zip(self.domains.items(), units, strict=True)}

    def mutate(self, params: Params, rng: np.random.Generator, count: int = 1) -> dict[str, ParamValue]:
        """The assignment with `count` names mutated, chosen uniformly among those with more than one value.

        All of these are mutated if there are fewer than `count`.

        Raises SpaceError if `params` are not in the space or `count` is below 1.
        """
        if count < 1:
            raise SpaceError(f"expected a count of at least 1, got {count}; mutate one name or more")
        self.validate(params)
        mutated = {name: params[name] for name in self.domains}
        candidates = list(self._mutable)
        for unit in rng.random(min(count, len(candidates))).tolist():
            name = candidates.pop(int(unit * len(candidates)))
            mutated[name] = self.domains[name].mutate(mutated[name], rng)
        return mutated

    def crossover(self, first: Params, second: Params, rng: np.random.Generator) -> dict[str, ParamValue]:
        """An assignment that takes each name from one of two parents with probability 1/2 each.

        Raises SpaceError if a parent is not in the space.
        """
        self.validate(first)
        self.validate(second)
        units = rng.random(len(self.domains)).tolist()
        return {name: (first if unit < 0.5 else second)[name] for name, unit in zip(self.domains, units, strict=True)}

    def validate(self, params: Params) -> None:
        """Check that `params` are one full assignment of this space.

        Raises SpaceError naming the first missing name, unknown name, or value outside its domain.
        """
        if params.keys() != self.domains.keys():
            for name in params:
                if name not in self.domains:
                    raise SpaceError(f"expected the names of the space, got {name!r}; {suggest(name, self.domains)}")
            missing = next(name for name in self.domains if name not in params)
            raise SpaceError(f"expected a value for {missing!r}, got none; give {self.domains[missing]}")
        for name, domain in self.domains.items():
            if not domain.contains(params[name]):
                value = params[name]
                raise SpaceError(
                    f"{name}: expected {domain}, got {value!r} ({type(value).__name__}); "
                    "choose such a value or widen the space"
                )

    def encode(self, params: Params) -> npt.NDArray[np.float64]:
        """The assignment as a vector in the unit cube, shape [d] for d names.

        Raises SpaceError if `params` are not in the space.
        """
        self.validate(params)
        return np.array([domain.encode(params[name]) for name, domain in self.domains.items()], dtype=np.float64)

    def decode(self, unit: npt.ArrayLike) -> dict[str, ParamValue]:
        """The assignment at a point of the unit cube, shape [d] for d names.

        Raises SpaceError if the shape is another or a coordinate is outside [0, 1].
        """
        point = np.asarray(unit, dtype=np.float64)
        if point.shape != (len(self.domains),):
            raise SpaceError(f"expected shape ({len(self.domains)},), got {point.shape}; give one coordinate a name")
        places = zip(self.domains.items(), point.tolist(), strict=True)
        try:
            return {name: domain.decode(place) for (name, domain), place in places}
        except DomainError as error:
            raise SpaceError(f"expected a point of the unit cube, got {point.tolist()}: {error}") from error

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The space in terms of JSON, readable by `from_dict`."""
        return {name: _domain_to_dict(domain) for name, domain in self.domains.items()}

    @classmethod
    def from_dict(cls, data: object, path: str = "space") -> Space:
        """A space from the mapping that `to_dict` gives, or from the same written by hand in YAML.

        Numbers are read by the declared kind: bounds may be numeric strings, because PyYAML reads
        `1e-4` as a string.

        Args:
            path: where the mapping stands in its file, for messages.

        Raises SpaceError with the path of the wrong entry, such as `space.optimizer.learning_rate.low`.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(f"{path}: expected a mapping of names to domains, got {data!r}; write name: {{kind: ...}}")
        domains = {}
        for name, entry in data.items():
            domains[name] = _domain_from_dict(entry, f"{path}.{name}")
        try:
            return cls(domains)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from error


def _domain_to_dict(domain: Domain) -> dict[str, Any]:
    match domain:
        case Float():
            return {"kind": "float", "low": domain.low, "high": domain.high, "log": domain.log}
        case Int():
            return {"kind": "int", "low": domain.low, "high": domain.high, "log": domain.log}
        case Choice():
            return {"kind": "choice", "values": list(domain.values)}


def _domain_from_dict(entry: object, path: str) -> Domain:
    if not isinstance(entry, Mapping):
        raise SpaceError(f"{path}: expected a mapping with a kind, got {entry!r}; write {{kind: float, ...}}")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise SpaceError(f"{path}.kind: expected float, int or choice, got {kind!r}; {suggest(kind, _KEYS)}")
    keys = _KEYS[kind]
    for key in entry:
        if key not in keys:
            raise SpaceError(f"{path}.{key}: expected {', '.join(keys)}, got {key!r}; {suggest(key, keys)}")
    for key in keys:
        if key not in entry and key != "log":
            raise SpaceError(f"{path}.{key}: expected a value, got none; a {kind} needs {key}")
    try:
        if kind == "float":
            low, high = _read_float(entry["low"], f"{path}.low"), _read_float(entry["high"], f"{path}.high")
            return Float(low, high, _read_bool(entry.get("log", False), f"{path}.log"))
        if kind == "int":
            first, last = _read_int(entry["low"], f"{path}.low"), _read_int(entry["high"], f"{path}.high")
            return Int(first, last, _read_bool(entry.get("log", False), f"{path}.log"))
        return Choice(_read_values(entry["values"], f"{path}.values"))
    except DomainError as error:
        raise SpaceError(f"{path}: {error}") from error


def _read_float(value: object, path: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass  # reported below, like any other value that is no number
    raise SpaceError(f"{path}: expected a number, got {value!r}; write one such as 0.001 or 1.0e-3")


def _read_int(value: object, path: str) -> int:
    number = _read_float(value, path)
    if not number.is_integer():
        raise SpaceError(f"{path}: expected an integer, got {value!r}; write one such as 8, or use kind: float")
    return value if isinstance(value, int) else int(number)


def _read_bool(value: object, path: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise SpaceError(f"{path}: expected true or false, got {value!r}; write log: true for a logarithmic scale")


def _read_values(values: object, path: str) -> tuple[ParamValue, ...]:
    if not isinstance(values, list | tuple):
        raise SpaceError(f"{path}: expected a list, got {values!r}; write the values as [a, b, c]")
    return tuple(float(value) if isinstance(value, str) and is_scientific(value) else value for value in values)
