"""Conditions: parameters that exist only while another parameter has certain values.

Several conditions on one parameter must all hold. They form a directed acyclic graph: a parameter
exists when all its parents exist and have the values asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from search_spaces.domains import Choice, Domain, Float, ParamValue, SpaceError, is_number, same, shown
from search_spaces.suggestion import suggest


@final
@dataclass(frozen=True, slots=True, eq=False)
class OneOf:
    """`name` exists only while `parent` has one of these values.

    Values are told apart by type, as in a Choice. A Space puts them in the order of the parent's domain.
    """

    name: str
    parent: str
    values: tuple[ParamValue, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list) or not self.values:
            raise SpaceError(
                f"{self.name}: expected the values of {self.parent} it exists for, got {shown(self.values)}; "
                "write them as a list"
            )
        object.__setattr__(self, "values", tuple(self.values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneOf) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.name, self.parent, self.values))

    def __str__(self) -> str:
        return f"{self.parent} is {' or '.join(map(repr, self.values))}"

    def holds(self, value: ParamValue) -> bool:
        """Whether the parent's value is one of those."""
        return any(same(value, wanted) for wanted in self.values)

    def _key(self) -> tuple[object, ...]:
        return self.name, self.parent, self.values, tuple(map(type, self.values))


@final
@dataclass(frozen=True, slots=True)
class AtLeast:
    """`name` exists only while the number `parent` is at least `value`."""

    name: str
    parent: str
    value: int | float

    def __str__(self) -> str:
        return f"{self.parent} is at least {self.value!r}"

    def holds(self, value: ParamValue) -> bool:
        """Whether the parent's value is large enough."""
        return type(value) in (int, float) and value >= self.value  # type: ignore[operator]


Condition = OneOf | AtLeast


def normalised(domains: Mapping[str, Domain], conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The conditions checked and in one form: at most one for each pair of parameters, in the order of the names.

    Raises SpaceError for an unknown name, values that the parent cannot have, or conditions on one
    parameter that can never hold together.
    """
    pairs: dict[tuple[str, str], Condition] = {}
    for condition in conditions:
        if not isinstance(condition, OneOf | AtLeast):
            raise SpaceError(f"expected a condition (OneOf or AtLeast), got {shown(condition)}; make it one")
        checked = _checked(domains, condition)
        pair = (checked.name, checked.parent)
        pairs[pair] = _both(pairs[pair], checked) if pair in pairs else checked
    place = {name: index for index, name in enumerate(domains)}
    return tuple(pairs[pair] for pair in sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]])))


def dependency_order(names: Sequence[str], needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The names with every one after those it needs, otherwise in their own order.

    Raises SpaceError naming a cycle if there is one.
    """
    place = {name: index for index, name in enumerate(names)}
    waiting = {name: set(needs.get(name, ())) for name in names}
    followers: dict[str, list[str]] = {}
    for name, needed in waiting.items():
        for parent in needed:
            followers.setdefault(parent, []).append(name)
    ready = [place[name] for name, needed in waiting.items() if not needed]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for follower in followers.get(name, ()):
            waiting[follower].discard(name)
            if not waiting[follower]:
                heapq.heappush(ready, place[follower])
    if len(order) < len(names):
        cycle = " -> ".join(_cycle({name: needed for name, needed in waiting.items() if needed}))
        raise SpaceError(f"expected parameters that do not depend on themselves, got {cycle}; remove one of these")
    return tuple(order)


def check_possible(order: Sequence[str], conditions: Sequence[Condition]) -> None:
    """Check that every parameter can exist at all. Raises SpaceError naming one that cannot.

    A parameter needs its own conditions and those of all its ancestors. Each is about one parent, so
    they can hold together exactly if those about the same parent can.
    """
    needed: dict[str, dict[str, Condition]] = {}
    own: dict[str, list[Condition]] = {}
    for condition in conditions:
        own.setdefault(condition.name, []).append(condition)
    for name in order:
        together: dict[str, Condition] = {}
        for condition in own.get(name, ()):
            for one in (condition, *needed[condition.parent].values()):
                together[one.parent] = _both(together[one.parent], one, name) if one.parent in together else one
        needed[name] = together


def _checked(domains: Mapping[str, Domain], condition: Condition) -> Condition:
    name, parent = condition.name, condition.parent
    for known in (name, parent):
        if not isinstance(known, str) or known not in domains:
            raise SpaceError(
                f"{name}: expected a condition between names of the space, got {shown(known)}; "
                f"{suggest(known, domains)}"
            )
    domain = domains[parent]
    if isinstance(condition, AtLeast):
        return _checked_at_least(domain, condition)
    if isinstance(domain, Float):
        raise SpaceError(f"{name}: expected at_least for the number {parent}, got values; write {{at_least: ...}}")
    for value in condition.values:
        if not domain.contains(value):
            quote = (
                "; YAML reads an unquoted yes, no, on and off as a bool: quote it" if isinstance(value, bool) else ""
            )
            raise SpaceError(
                f"{name}: expected values that {parent} can have ({domain}), got {shown(value)} "
                f"({type(value).__name__}); correct it or widen {parent}{quote}"
            )
    if isinstance(domain, Choice):
        ordered = tuple(value for value in domain.values if condition.holds(value))
    else:
        ordered = tuple(sorted(set(condition.values)))
    return OneOf(name, parent, ordered)


def _checked_at_least(domain: Domain, condition: AtLeast) -> AtLeast:
    name, parent, value = condition.name, condition.parent, condition.value
    if not is_number(value) or value != value:
        raise SpaceError(f"{name}: expected a number for at_least, got {shown(value)}; write one such as 3")
    if isinstance(domain, Choice):
        if not all(map(is_number, domain.values)):
            raise SpaceError(
                f"{name}: expected numbers in {parent} for at_least, got {domain}; list the values instead"
            )
        highest: object = max(domain.values)
    else:
        highest = domain.high
    if value > highest:  # type: ignore[operator]
        raise SpaceError(
            f"{name}: expected an at_least that {parent} can reach ({domain}), got {shown(value)}; lower it"
        )
    return AtLeast(name, parent, value)


def _both(first: Condition, second: Condition, name: str | None = None) -> Condition:
    """The condition that holds when both do; both are about one parent."""
    name = name or second.name
    if isinstance(first, AtLeast) and isinstance(second, AtLeast):
        return AtLeast(name, first.parent, max(first.value, second.value))
    listed, other = (first, second) if isinstance(first, OneOf) else (second, first)
    assert isinstance(listed, OneOf)
    values = tuple(value for value in listed.values if other.holds(value))
    if not values:
        raise SpaceError(
            f"{name}: expected conditions that can hold together, got '{first}' and '{second}'; drop one of them"
        )
    return OneOf(name, first.parent, values)


def _cycle(waiting: Mapping[str, set[str]]) -> list[str]:
    """A walk along the needs that comes back to where it began."""
    walk = [next(iter(waiting))]
    while True:
        following = next(name for name in sorted(waiting[walk[-1]]) if name in waiting)
        if following in walk:
            return [*walk[walk.index(following) :], following]
        walk.append(following)


def exists(conditions: Iterable[Condition], params: Mapping[str, ParamValue]) -> bool:
    """Whether a parameter under these conditions exists beside `params`, which lack what does not exist."""
    return all(condition.parent in params and condition.holds(params[condition.parent]) for condition in conditions)
