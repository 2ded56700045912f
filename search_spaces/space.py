"""The space: domains, with conditions, rules and priors, and the assignments that lie in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast, final

import numpy as np
import numpy.typing as npt

from search_spaces import grid, neighbours, written
from search_spaces.conditions import Condition, check_possible, dependency_order, exists, normalised
from search_spaces.domains import (
    Choice,
    Domain,
    DomainError,
    Float,
    Int,
    Params,
    ParamValue,
    SpaceError,
    is_number,
    shown,
)
from search_spaces.priors import Prior, check_priors, scaling_name
from search_spaces.repair import Component, components
from search_spaces.rules import TOLERANCE, Rule, check_rules
from search_spaces.suggestion import suggest

__all__ = ["ParamValue", "Params", "Space", "SpaceError"]

_DRAWS: Final = 8
"""How often parameters that rules link are drawn before the last draw is repaired."""


@final
@dataclass(frozen=True, eq=False)
class Space:
    """Named domains, with what holds between them. A value: immutable, hashable, comparable.

    The order of the names is part of the value, because it decides which random number each name gets.
    An assignment (Params) has a value for every parameter that exists in it: one whose conditions do
    not hold is left out. All that a space proposes lies in it: conditions and rules hold.

    Attributes:
        domains: the domain of each dotted name, in order. Read-only. Parts of a name after the first
            may be numbers, as in `architecture.ffn.0`; `rules` is no name.
        conditions: which parameters exist only for some values of others; at most one condition for
            each pair of parameters, in the order of the names.
        rules: what holds between the values of several parameters.
        priors: which values are likelier; uniform on the scale of the domain where there is none.
            Read-only, in the order of the names.

    Raises SpaceError if there is no domain, a name is no dotted name, conditions or priors depend on
    each other in a circle or name what is not there, or the rules cannot be met.
    """

    domains: Mapping[str, Domain]
    conditions: tuple[Condition, ...] = ()
    rules: tuple[Rule, ...] = ()
    priors: Mapping[str, Prior] = field(default_factory=dict)
    _mutable: tuple[str, ...] = field(init=False, repr=False)
    _plain: bool = field(init=False, repr=False)  # whether domains are all there is
    _steps: tuple[tuple[str, Domain, Prior | None, tuple[Condition, ...]], ...] = field(init=False, repr=False)
    _components: tuple[Component, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_domains(self.domains)
        put = object.__setattr__  # frozen, but not yet handed out
        put(self, "domains", MappingProxyType(dict(self.domains)))
        put(self, "_mutable", tuple(name for name, domain in self.domains.items() if domain.size > 1))
        put(self, "_plain", not (self.conditions or self.rules or self.priors))
        if self._plain:
            put(self, "conditions", ())
            put(self, "rules", ())
            put(self, "priors", MappingProxyType({}))
            put(self, "_steps", tuple((name, domain, None, ()) for name, domain in self.domains.items()))
            put(self, "_components", ())
            return
        put(self, "conditions", normalised(self.domains, self.conditions))
        put(self, "priors", MappingProxyType(check_priors(self.domains, self.priors)))
        put(self, "rules", check_rules(self.domains, self.rules))
        own: dict[str, list[Condition]] = {}
        needs: dict[str, set[str]] = {}
        for condition in self.conditions:
            own.setdefault(condition.name, []).append(condition)
            needs.setdefault(condition.name, set()).add(condition.parent)
        for name, prior in self.priors.items():
            scale = scaling_name(prior)
            if scale is not None:
                needs.setdefault(name, set()).add(scale)
        order = dependency_order(self.names, needs)
        check_possible(order, self.conditions)
        steps = ((name, self.domains[name], self.priors.get(name), tuple(own.get(name, ()))) for name in order)
        put(self, "_steps", tuple(steps))
        put(self, "_components", components(self.domains, self.conditions, self.rules))
        settled = {name for one in self._components for name in one.names if one.settled(name)}
        put(self, "_mutable", tuple(name for name in self._mutable if name not in settled))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Space):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return tuple(self.domains.items()), self.conditions, self.rules, tuple(self.priors.items())

    def __reduce__(self) -> tuple[type[Space], tuple[object, ...]]:
        return Space, (dict(self.domains), self.conditions, self.rules, dict(self.priors))  # views cannot be copied

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.domains)

    @property
    def size(self) -> float:
        """How many assignments there would be without conditions and rules; `math.inf` with a Float."""
        return math.prod(domain.size for domain in self.domains.values())

    def sample(self, rng: np.random.Generator) -> dict[str, ParamValue]:
        """An assignment drawn from the priors, uniformly on the scale of a domain without one.

        Parameters that rules link are drawn several times at most until the rules hold; the last draw
        is repaired.
        """
        units = rng.random(len(self.domains)).tolist()
        if self._plain:
            return {name: domain.decode(unit) for (name, domain), unit in zip(self.domains.items(), units, strict=True)}
        drawn = dict(zip(self.domains, units, strict=True))
        values, absent = self._completed({}, drawn)
        for _ in range(_DRAWS):
            broken = self._broken(self._existing(values, absent))
            if not broken:
                return self._existing(values, absent)
            for one in broken:
                drawn.update(zip(one.names, rng.random(len(one.names)).tolist(), strict=True))
            values, absent = self._completed({}, drawn)
        found: dict[str, ParamValue] = {}
        for one in self._broken(self._existing(values, absent)):
            found.update({name: values[name] for name in one.names})
            found.update(one.nearest(values) or {})
        return self._existing(*self._completed(found, drawn))  # again, for the priors that are scaled by these

    def from_quantiles(self, unit: npt.ArrayLike) -> dict[str, ParamValue] | None:
        """The assignment whose parameters stand at these quantiles of their priors, None where rules break there.

        Uniform points of the unit cube, shape [d] for d names, give assignments drawn from the priors, and
        evenly spread ones (a Sobol sequence) assignments that are spread as the priors ask.

        Raises SpaceError if the shape is another or a coordinate is outside [0, 1].
        """
        point = _array(unit)
        if point.shape != (len(self.domains),) or not ((point >= 0.0) & (point <= 1.0)).all():
            raise SpaceError(f"expected {len(self.domains)} quantiles from 0 to 1, got {shown(unit)}; give one a name")
        params = self._existing(*self._completed({}, dict(zip(self.domains, point.tolist(), strict=True))))
        return None if self._broken(params) else params

    def mutate(self, params: Params, rng: np.random.Generator, count: int = 1) -> dict[str, ParamValue]:
        """The assignment with `count` names mutated, chosen uniformly among those with more than one value.

        All of these are mutated if there are fewer than `count`. What the mutation brings into being is
        drawn from the priors. Where rules break, the nearest assignment is taken that keeps the mutated
        values; if there is none, one that differs from `params` in one of these names, or in another.

        Raises SpaceError if `params` are not in the space or `count` is below 1.
        """
        if count < 1:
            raise SpaceError(f"expected a count of at least 1, got {count}; mutate one name or more")
        self.validate(params)
        candidates = list(self._mutable) if self._plain else [name for name in self._mutable if name in params]
        changes: dict[str, ParamValue] = {}
        for unit in rng.random(min(count, len(candidates))).tolist():
            name = candidates.pop(int(unit * len(candidates)))
            changes[name] = self.domains[name].mutate(params[name], rng)
        if self._plain:
            return {name: changes[name] if name in changes else params[name] for name in self.domains}
        drawn = self._draws(rng) if self.conditions else None
        moved = self._moved({**params, **changes}, drawn, pinned=changes)
        for name in (*changes, *candidates):
            if moved is not None:
                return moved
            value = changes[name] if name in changes else self.domains[name].mutate(params[name], rng)
            moved = self._moved({**params, name: value}, drawn, barred={name: params[name]})
        return moved or next(self._stepped(params), None) or self._existing(params, ())

    def crossover(self, first: Params, second: Params, rng: np.random.Generator) -> dict[str, ParamValue]:
        """An assignment that takes each name from one of two parents with probability 1/2 each.

        A name that only one parent has comes from it, and one that neither has from the priors. Where
        rules break, the nearest assignment is taken.

        Raises SpaceError if a parent is not in the space.
        """
        self.validate(first)
        self.validate(second)
        units = rng.random(len(self.domains)).tolist()
        if self._plain:
            return {
                name: (first if unit < 0.5 else second)[name] for name, unit in zip(self.domains, units, strict=True)
            }
        mixed: dict[str, ParamValue] = {}
        for name, unit in zip(self.domains, units, strict=True):
            for parent in (first, second) if unit < 0.5 else (second, first):
                if name in parent:
                    mixed[name] = parent[name]
                    break
        return self._moved(mixed, self._draws(rng) if self.conditions else None) or self._existing(first, ())

    def validate(self, params: Params) -> None:
        """Check that `params` are one assignment of this space.

        Raises SpaceError naming the first missing name, unknown name, value outside its domain, or
        parameter that should not exist, or else the rule that does not hold.
        """
        if params.keys() != self.domains.keys():
            for name in params:
                if name not in self.domains:
                    raise SpaceError(f"expected the names of the space, got {name!r}; {suggest(name, self.domains)}")
            self._check_existence(params)
        for name, value in params.items():
            domain = self.domains[name]
            if not domain.contains(value):
                raise SpaceError(
                    f"{name}: expected {domain}, got {shown(value)} ({type(value).__name__}); "
                    "choose such a value or widen the space"
                )
        if self.conditions:
            self._check_existence(params)
        for rule in self.rules:
            if not rule.holds(params):
                values = ", ".join(f"{name}={params[name]!r}" for name in rule.names if name in params)
                raise SpaceError(f"expected '{rule}', got {values}; change one of them, or ask the space to repair it")

    def repair(self, params: Params) -> dict[str, ParamValue]:
        """The assignment of this space that is nearest to `params`; the same if they lie in it.

        A number outside its domain moves to the nearest one inside, a missing name gets its likeliest
        value, and what does not exist is left out. Then the rules are met with as small a largest move
        in the unit interval as the search finds.

        Raises SpaceError for an unknown name, or a value that is no number and not in its domain.
        """
        given: dict[str, ParamValue] = {}
        for name, value in params.items():
            if name not in self.domains:
                raise SpaceError(f"expected the names of the space, got {shown(name)}; {suggest(name, self.domains)}")
            given[name] = _nearest(name, self.domains[name], value)
        return self._mended(*self._completed(given, None), TOLERANCE)

    def most_likely(self) -> dict[str, ParamValue]:
        """The assignment at the centres of the priors, the middle of a domain without one; rules are met."""
        return self._mended(*self._completed({}, None))

    def neighbours(self, params: Params) -> list[dict[str, ParamValue]]:
        """The assignments one step away, each once and none of them `params`.

        One parameter takes a step (see `neighbours.steps_from`); what that brings into being gets its
        likeliest value, and where rules break, the nearest assignment with the step is taken. A step
        that no assignment takes is left out.

        Raises SpaceError if `params` are not in the space.
        """
        self.validate(params)
        return list({_fingerprint(one): one for one in self._stepped(params)}.values())

    def grid(self, points: int | Mapping[str, int], limit: int = grid.LIMIT) -> Iterator[dict[str, ParamValue]]:
        """Every assignment with at most `points` values for a Float or Int, each once, rules met.

        Args:
            points: how many for all, or by name; an Int without a number has all its values.
            limit: how many assignments there may be.

        Raises SpaceError if there are more, or a number of points is missing or makes no sense.
        """
        order = [name for name, *_ in self._steps]
        return grid.grid(self.domains, order, self.conditions, self.rules, points, limit)

    def log_prior(self, params: Params) -> float:
        """Natural logarithm of the prior density at an assignment, with respect to the unit cube.

        The sum over the parameters that exist; 0 without priors. It is not normalised for what the
        rules leave out.

        Raises SpaceError if `params` are not in the space.
        """
        self.validate(params)
        return sum(
            prior.log_density(self.domains[name], params[name], _factor(prior, params))
            for name, prior in self.priors.items()
            if name in params
        )

    def without_priors(self) -> Space:
        """The same space with uniform priors."""
        return Space(self.domains, self.conditions, self.rules) if self.priors else self

    def encode(self, params: Params) -> npt.NDArray[np.float64]:
        """The assignment as a vector in the unit cube, shape [d] for d names; 0.5 for what does not exist.

        Raises SpaceError if `params` are not in the space.
        """
        self.validate(params)
        places = [domain.encode(params[name]) if name in params else 0.5 for name, domain in self.domains.items()]
        return np.array(places, dtype=np.float64)

    def encode_many(self, assignments: Sequence[Params]) -> npt.NDArray[np.float64]:
        """`encode` of n assignments, shape [n, d]. Raises SpaceError if one is not in the space."""
        for params in assignments:
            self.validate(params)
        points = np.full((len(assignments), len(self.domains)), 0.5)
        for column, (name, domain) in enumerate(self.domains.items()):
            rows = [row for row, params in enumerate(assignments) if name in params]
            points[rows, column] = domain.encode_many([assignments[row][name] for row in rows])
        return points

    def decode(self, unit: npt.ArrayLike) -> dict[str, ParamValue]:
        """The assignment at a point of the unit cube, shape [d] for d names; the nearest if rules break there.

        Raises SpaceError if the shape is another or a coordinate is outside [0, 1].
        """
        point = _array(unit)
        if point.shape != (len(self.domains),):
            raise SpaceError(f"expected shape ({len(self.domains)},), got {point.shape}; give one coordinate a name")
        places = zip(self.domains.items(), point.tolist(), strict=True)
        try:
            values = {name: domain.decode(place) for (name, domain), place in places}
        except DomainError as error:
            raise SpaceError(f"expected a point of the unit cube, got {point.tolist()}: {error}") from error
        return values if self._plain else self._mended(*self._completed(values, None))

    def decode_many(self, units: npt.ArrayLike) -> list[dict[str, ParamValue]]:
        """`decode` of n points, shape [n, d]. Raises SpaceError as it does."""
        points = _array(units)
        if points.ndim != 2 or points.shape[1] != len(self.domains):
            raise SpaceError(f"expected shape (n, {len(self.domains)}), got {points.shape}; give one column a name")
        try:
            columns = [domain.decode_many(points[:, i]) for i, domain in enumerate(self.domains.values())]
        except DomainError as error:
            raise SpaceError(f"expected points of the unit cube: {error}") from error
        rows = [dict(zip(self.domains, row, strict=True)) for row in zip(*columns, strict=True)]
        return rows if self._plain else [self._mended(*self._completed(row, None)) for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """The space in terms of JSON, readable by `from_dict`."""
        return written.write(self.domains, self.conditions, self.rules, self.priors)

    @classmethod
    def from_dict(cls, data: object, path: str = "space") -> Space:
        """A space from the mapping that `to_dict` gives, or from the same written by hand in YAML.

        Numbers are read by the declared kind: bounds may be numeric strings, because PyYAML reads
        `1e-4` as a string.

        Args:
            path: where the mapping stands in its file, for messages.

        Raises SpaceError with the path of the wrong entry, such as `space.optimizer.learning_rate.low`.
        """
        parts = written.read(data, path)
        try:
            return cls(parts.domains, tuple(parts.conditions), tuple(parts.rules), parts.priors)
        except SpaceError as error:
            about = str(error).split(": ")[0]
            named = any(about == name or about.startswith(f"{name}.") for name in parts.domains)
            raise SpaceError(f"{path}{'.' if named else ': '}{error}") from error

    def _completed(self, given: Params, drawn: Mapping[str, float] | None) -> tuple[dict[str, ParamValue], set[str]]:
        """A value for every name, those that do not exist too, and the names that do not exist.

        Args:
            given: these values stay.
            drawn: where in its prior every other name stands, from 0 to 1; at its likeliest value if None.
        """
        values: dict[str, ParamValue] = {}
        absent: set[str] = set()
        for name, domain, prior, conditions in self._steps:
            for condition in conditions:
                if condition.parent in absent or not condition.holds(values[condition.parent]):
                    absent.add(name)
                    break
            if name in given:
                values[name] = given[name]
            elif prior is None:
                values[name] = domain.decode(0.5 if drawn is None else drawn[name])
            else:
                scale = scaling_name(prior)
                factor = 1.0 if scale is None or scale in absent else _factor(prior, values)
                place = prior.likeliest(domain, factor) if drawn is None else prior.place(domain, drawn[name], factor)
                values[name] = domain.decode(place)
        return values, absent

    def _existing(self, values: Params, absent: set[str] | tuple[()]) -> dict[str, ParamValue]:
        """The values of what exists, in the order of the names."""
        return {name: values[name] for name in self.domains if name in values and name not in absent}

    def _broken(self, params: Params, tolerance: float = 0.0) -> list[Component]:
        return [one for one in self._components if not one.holds(params, tolerance)]

    def _mended(self, values: dict[str, ParamValue], absent: set[str], tolerance: float = 0.0) -> dict[str, ParamValue]:
        """The nearest assignment to a value for every name."""
        found: dict[str, ParamValue] = {}
        for one in self._broken(self._existing(values, absent), tolerance):
            found.update(one.nearest(values) or {})
        return self._existing(*(self._completed({**values, **found}, None) if found else (values, absent)))

    def _moved(
        self,
        wanted: Params,
        drawn: Mapping[str, float] | None,
        pinned: Params | None = None,
        barred: Params | None = None,
    ) -> dict[str, ParamValue] | None:
        """The nearest assignment to `wanted` with pinned and without barred values, if there is one."""
        values, absent = self._completed(wanted, drawn)
        found: dict[str, ParamValue] = {}
        for one in self._broken(self._existing(values, absent)):
            held, shut = (
                {name: v for name, v in (part or {}).items() if name in one.names} for part in (pinned, barred)
            )
            near = one.nearest(values, held, shut)
            if near is None:
                return None
            found.update(near)
        return self._existing(*(self._completed({**values, **found}, None) if found else (values, absent)))

    def _stepped(self, params: Params) -> Iterator[dict[str, ParamValue]]:
        """Assignments other than `params` with one parameter a step away, and what follows from that."""
        here = _fingerprint(params)
        for name, value in params.items():
            for step in neighbours.steps_from(self.domains[name], value):
                moved = self._moved({**params, name: step}, None, pinned={name: step})
                if moved is not None and _fingerprint(moved) != here:
                    yield moved

    def _draws(self, rng: np.random.Generator) -> dict[str, float]:
        return dict(zip(self.domains, rng.random(len(self.domains)).tolist(), strict=True))

    def _check_existence(self, params: Params) -> None:
        for name, domain, _, conditions in self._steps:
            if exists(conditions, params):
                if name not in params:
                    raise SpaceError(f"expected a value for {name!r}, got none; give {domain}")
            elif name in params:
                only = " and ".join(map(str, conditions))
                raise SpaceError(f"{name}: expected no value, since it exists only where {only}, got one; leave it out")


def _check_domains(domains: object) -> None:
    if not isinstance(domains, Mapping):
        raise SpaceError(f"expected a mapping of names to domains, got {shown(domains)}; write {{name: Float(0, 1)}}")
    if not domains:
        raise SpaceError("expected at least one domain, got none; name a parameter to search")
    for name, domain in domains.items():
        if not isinstance(name, str) or not _is_dotted(name):
            raise SpaceError(f"expected a dotted name such as 'optimizer.learning_rate', got {shown(name)}; rename it")
        if name == written.RULES:
            raise SpaceError(f"expected names of parameters, got {name!r}, which holds the rules; rename it")
        if not isinstance(domain, Float | Int | Choice):
            raise SpaceError(f"{name}: expected a Float, Int or Choice, got {shown(domain)}; make it one")


def _is_dotted(name: str) -> bool:
    first, *rest = name.split(".")
    return first.isidentifier() and all(part.isidentifier() or (part.isascii() and part.isdigit()) for part in rest)


def _array(unit: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(unit, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"expected numbers from 0 to 1, got {shown(unit)}; give one coordinate a name") from error


def _nearest(name: str, domain: Domain, value: Any) -> ParamValue:
    """The value, or the nearest number of the domain."""
    value = value.item() if isinstance(value, np.generic) else value
    if domain.contains(value):
        return cast(ParamValue, value)
    if is_number(value) and value == value:
        if isinstance(domain, Choice):
            near = [one for one in domain.values if is_number(one)]
            if near:
                return min(near, key=lambda one: abs(float(one) - value))
        elif isinstance(domain, Int):
            return round(min(max(value, domain.low), domain.high))
        else:
            return float(min(max(value, domain.low), domain.high))
    raise SpaceError(f"{name}: expected {domain}, got {shown(value)} ({type(value).__name__}); choose such a value")


def _factor(prior: Prior, params: Params) -> float:
    """What the centre of a prior is multiplied by."""
    name = scaling_name(prior)
    return 1.0 if name is None or name not in params else prior.scaled_by.factor(params[name])  # type: ignore[union-attr]


def _fingerprint(params: Params) -> frozenset[object]:
    return frozenset((name, type(value), value) for name, value in params.items())
