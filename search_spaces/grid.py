"""The grid over a space: every assignment of a few values for each parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from search_spaces.conditions import Condition, exists
from search_spaces.domains import Domain, Float, Int, ParamValue, SpaceError, shown
from search_spaces.rules import Rule
from search_spaces.suggestion import suggest

LIMIT: Final = 100_000
"""How many assignments a grid may have unless asked for more."""

_MOST_POINTS: Final = 1_000_000  # of one parameter


def grid_values(name: str, domain: Domain, points: int | Mapping[str, int]) -> tuple[ParamValue, ...]:
    """The values of one parameter in a grid.

    All of a Choice, and of an Int with at most `points`; else places that divide the unit interval
    evenly, both bounds included, or its middle if it is one point.

    Args:
        points: how many for every parameter, or by name. An Int without a number has all its values.

    Raises SpaceError if a Float has no number of points, or one is below 1.
    """
    if not isinstance(domain, Float | Int):
        return domain.values
    count = points.get(name) if isinstance(points, Mapping) else points
    if count is None and (isinstance(domain, Int) or domain.size == 1):
        count = int(domain.size)
    if type(count) is not int or count < 1:
        raise SpaceError(f"{name}: expected a number of points of at least 1, got {shown(count)}; write points=3, say")
    if isinstance(domain, Int) and domain.size <= count <= _MOST_POINTS:
        return tuple(range(domain.low, domain.high + 1))
    if count > _MOST_POINTS:
        raise SpaceError(f"{name}: expected at most {_MOST_POINTS} points, got {count}; take fewer")
    places = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
    return tuple(dict.fromkeys(domain.decode(place) for place in places))


def grid(
    domains: Mapping[str, Domain],
    order: Sequence[str],
    conditions: Sequence[Condition],
    rules: Sequence[Rule],
    points: int | Mapping[str, int],
    limit: int = LIMIT,
) -> Iterator[dict[str, ParamValue]]:
    """Every assignment on the grid that meets the rules, each once.

    Args:
        order: the names with every one after those its existence depends on; the last changes fastest.

    Raises SpaceError if there are more than `limit`, or it takes more than ten times as many partial
    assignments to find out.
    """
    if isinstance(points, Mapping):
        for name in points:
            if name not in domains:
                raise SpaceError(f"points: expected names of the space, got {shown(name)}; {suggest(name, domains)}")
    elif type(points) is not int:
        raise SpaceError(f"points: expected an integer or a mapping of names to them, got {shown(points)}; write 3")
    values = {name: grid_values(name, domains[name], points) for name in order}
    walk = _Walk(domains, order, conditions, rules, values)
    if math.prod(len(each) for each in values.values()) > limit:  # conditions and rules may still leave few
        for count, _ in enumerate(walk.through(10 * limit), start=1):
            if count > limit:
                raise _too_large(limit)
    return walk.through(None)


class _Walk:
    """The way through the tree of partial assignments, depth first."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        order: Sequence[str],
        conditions: Sequence[Condition],
        rules: Sequence[Rule],
        values: Mapping[str, Sequence[ParamValue]],
    ) -> None:
        self._names, self._order, self._values = tuple(domains), order, values
        self._conditions: dict[str, list[Condition]] = {}
        for condition in conditions:
            self._conditions.setdefault(condition.name, []).append(condition)
        place = {name: i for i, name in enumerate(order)}
        self._due: list[list[Rule]] = [[] for _ in order]  # the rules whose last parameter this is
        for rule in rules:
            self._due[max(place[name] for name in rule.names)].append(rule)

    def through(self, steps: int | None) -> Iterator[dict[str, ParamValue]]:
        """All assignments, or an error after so many steps."""
        taken = 0
        params: dict[str, ParamValue] = {}
        stack = [self._branches(0, params)]
        while stack:
            taken += 1
            if steps is not None and taken > steps:
                raise _too_large(steps // 10)
            depth = len(stack) - 1
            name = self._order[depth]
            params.pop(name, None)
            branch = next(stack[-1], None)
            if branch is None:
                stack.pop()
                continue
            params.update(branch)
            if not all(rule.holds(params) for rule in self._due[depth]):
                continue
            if depth + 1 < len(self._order):
                stack.append(self._branches(depth + 1, params))
            else:
                yield {name: params[name] for name in self._names if name in params}

    def _branches(self, depth: int, params: Mapping[str, ParamValue]) -> Iterator[dict[str, ParamValue]]:
        name = self._order[depth]
        if exists(self._conditions.get(name, ()), params):
            return iter([{name: value} for value in self._values[name]])
        return iter([{}])


def _too_large(limit: int) -> SpaceError:
    return SpaceError(f"expected a grid of at most {limit} assignments, got more; take fewer points or raise limit")
