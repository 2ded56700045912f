"""Repair: the assignment nearest to a wanted one in which the rules hold.

Parameters that rules link, directly or through others, form a component, together with all the
parameters that decide whether they exist. A component is repaired by itself. Distance is the largest
move of any parameter in the unit interval of its domain: a small radius is tried first, and within
it a depth-first search with interval reasoning, each parameter going through its values from the
nearest on. The number of steps is bounded. Where they do not suffice, the answer is the witness, an
assignment found when the space was made; so a repair always ends, and always in the space.

The search is exact for choices and for integers of few values. A float tries the point of its range
that is nearest and a few others, a large integer also multiples and divisors as its rules ask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, final

from search_spaces.conditions import AtLeast, Condition, dependency_order
from search_spaces.domains import Domain, Float, Params, ParamValue, SpaceError, same
from search_spaces.intervals import Box, tighten
from search_spaces.ranges import Large, variable
from search_spaces.rules import TOLERANCE, Divides, Rule

_TINY: Final = 1e-9  # the first radius: nothing moves but what rounding has moved
_RADII: Final = (_TINY, *(2.0**-power for power in range(7, 0, -1)), 1.0)
_HALVINGS: Final = 2  # how often a radius that suffices is brought closer to the last that did not
_STEPS: Final = 200  # of one search within a radius
_LAST_STEPS: Final = 2_000  # of the search without one
_PROOF_STEPS: Final = 30_000  # of the search for the witness


@final
class Component:
    """The parameters that some rules link, and the search for their nearest assignment.

    Args:
        domains: of the parameters of the component, which hold all that their existence depends on.
        conditions: those among them.
        rules: those among them, at least one.

    Attributes:
        names: the parameters, in the order in which they are searched.
        witness: an assignment in which the rules hold, or None if none was found.
        gave_up: whether the search for the witness ended for want of steps.
    """

    def __init__(self, domains: Mapping[str, Domain], conditions: Sequence[Condition], rules: Sequence[Rule]) -> None:
        self.names = _search_order(domains, conditions, rules)
        self.rules = tuple(rules)
        place = {name: i for i, name in enumerate(self.names)}
        self._variables = [variable(domains[name]) for name in self.names]
        self._parents: list[list[tuple[int, Condition]]] = [[] for _ in self.names]
        for condition in conditions:
            self._parents[place[condition.name]].append((place[condition.parent], condition))
        self._conditional = [i for i, parents in enumerate(self._parents) if parents]
        self._where = [tuple(place[name] for name in rule.names) for rule in rules]
        self._rules_of: list[list[int]] = [[] for _ in self.names]
        for index, where in enumerate(self._where):
            for i in where:
                self._rules_of[i].append(index)
        self.gave_up = False
        self.witness: dict[str, ParamValue] | None = None
        self._root = Box(
            [one.first for one in self._variables],
            [one.last for one in self._variables],
            [None if parents else True for parents in self._parents],
        )
        if self._propagate(self._root, range(len(rules))):
            middle = {name: domains[name].decode(0.5) for name in self.names}
            self.witness = self._search(self._root, middle, _PROOF_STEPS, {}, {})

    def settled(self, name: str) -> bool:
        """Whether the rules leave a parameter a single value, as far as interval reasoning shows."""
        i = self.names.index(name)
        return self._root.low[i] == self._root.high[i]

    def holds(self, params: Params, tolerance: float = 0.0) -> bool:
        """Whether all rules hold in an assignment that lacks what does not exist."""
        return all(rule.holds(params, tolerance) for rule in self.rules)

    def nearest(
        self, wanted: Params, pinned: Params | None = None, barred: Params | None = None
    ) -> dict[str, ParamValue] | None:
        """The nearest assignment of the component, without what does not exist in it.

        Args:
            wanted: a value of its domain for every parameter of the component.
            pinned: parameters that must have these values where they exist.
            barred: parameters that must not have these values.

        Returns None if it found none, which cannot happen without `pinned` and `barred`.
        """
        pinned, barred = pinned or {}, barred or {}
        wanted = {**wanted, **pinned}
        box = self._root.copy()
        for i, name in enumerate(self.names):
            if name in pinned and box.present[i]:
                place = self._variables[i].coordinate(pinned[name])
                if not box.low[i] <= place <= box.high[i]:
                    return None
                box.low[i] = box.high[i] = place
        if not self._propagate(box, range(len(self.rules))):
            return None
        narrow = 0.0
        for radius in _RADII:
            found = self._within(radius, box, wanted, pinned, barred)
            if found is not None:
                break
            narrow = radius
        else:
            return None if pinned or barred else self.witness
        for _ in range(_HALVINGS if radius > _TINY else 0):
            middle = 0.5 * (narrow + radius)
            closer = self._within(middle, box, wanted, pinned, barred)
            if closer is None:
                narrow = middle
            else:
                found, radius = closer, middle
        if not self.holds(found, 0.0):  # by rounding: right at the end of its radius a float had nowhere to go
            rounded = self._within(_TINY, box, {**wanted, **found}, pinned, barred)
            if rounded is not None and self.holds(rounded, 0.0):
                return rounded
        return found

    def _within(
        self, radius: float, box: Box, wanted: Params, pinned: Params, barred: Params
    ) -> dict[str, ParamValue] | None:
        """The search with every parameter at most so far from its wanted place."""
        if radius == 1.0:
            return self._search(box, wanted, _LAST_STEPS, pinned, barred)
        box = box.copy()
        for i, (name, one) in enumerate(zip(self.names, self._variables, strict=True)):
            if box.low[i] < box.high[i]:
                low, high = one.reach(wanted[name], radius)
                box.low[i], box.high[i] = max(low, box.low[i]), min(high, box.high[i])
                if box.low[i] > box.high[i]:
                    return None
        if not self._propagate(box, range(len(self.rules))):
            return None
        return self._search(box, wanted, _STEPS, pinned, barred)

    def _search(
        self, box: Box, wanted: Params, steps: int, pinned: Params, barred: Params
    ) -> dict[str, ParamValue] | None:
        """Depth first through the parameters in order, each from its nearest value on."""
        assigned: dict[str, ParamValue] = {}
        stack: list[tuple[int, Iterator[ParamValue], Box]] = []
        position = -1
        while True:
            position = self._following(position, box)
            if position < len(self.names):
                stack.append((position, self._candidates(position, box, wanted, pinned, barred), box))
            elif self.holds(assigned, TOLERANCE):
                return assigned
            while stack:
                position, candidates, before = stack[-1]
                name = self.names[position]
                value = next(candidates, None)
                if value is None:
                    stack.pop()
                    assigned.pop(name, None)
                    continue
                steps -= 1
                if steps < 0:
                    self.gave_up = self.witness is None
                    return None
                box = before.copy()
                box.low[position] = box.high[position] = self._variables[position].coordinate(value)
                if self._propagate(box, self._rules_of[position]):
                    assigned[name] = value
                    break
            else:
                return None

    def _following(self, position: int, box: Box) -> int:
        """The next position of a parameter that exists."""
        position += 1
        while position < len(self.names) and not box.present[position]:
            position += 1
        return position

    def _candidates(
        self, position: int, box: Box, wanted: Params, pinned: Params, barred: Params
    ) -> Iterator[ParamValue]:
        name, one = self.names[position], self._variables[position]
        low, high = box.low[position], box.high[position]
        if name in pinned:
            return iter((pinned[name],) if low <= one.coordinate(pinned[name]) <= high else ())
        values = one.from_nearest(wanted[name], low, high)
        if isinstance(one, Large):
            values = itertools.chain(self._lattice(position, one, wanted[name], box), values)
        if name in barred:
            return (value for value in values if not same(value, barred[name]))
        return values

    def _lattice(self, position: int, one: Large, want: Any, box: Box) -> Iterator[ParamValue]:
        """What the divisibility rules ask of a large integer, as far as the other sides are settled."""
        step, divisors_of = 1, 0
        for index in self._rules_of[position]:
            rule, (divisor, dividend) = self.rules[index], self._where[index][:2]
            if not isinstance(rule, Divides) or not (box.present[divisor] and box.present[dividend]):
                continue
            other = divisor if dividend == position else dividend
            if box.low[other] == box.high[other]:
                if other == divisor:
                    step = math.lcm(step, int(box.low[other]))
                else:
                    divisors_of = math.gcd(divisors_of, int(box.low[other]))
        low, high = int(box.low[position]), int(box.high[position])
        if divisors_of:
            yield from one.divisors(divisors_of, want, low, high)
        elif step > 1:
            yield from one.multiples(step, want, low, high)

    def _propagate(self, box: Box, rules: Iterable[int]) -> bool:
        """Cut the ranges until the rules have nothing more to say. Returns whether anything is left.

        Floats may creep towards a limit: the number of rounds is bounded, which loses no assignment.
        """
        waiting = dict.fromkeys(rules)
        if self._conditional:
            waiting.update(dict.fromkeys(self._settle(box)))
        for _ in range(4 * len(self.rules) + 4):
            if not waiting:
                break
            index = next(iter(waiting))
            del waiting[index]
            changed: set[int] = set()
            if not tighten(self.rules[index], self._where[index], box, changed):
                return False
            for i in changed:
                if not self._variables[i].snap(box, i):
                    return False
                waiting.update((other, None) for other in self._rules_of[i] if other != index)
            if changed and self._conditional:
                waiting.update(dict.fromkeys(self._settle(box)))
        return True

    def _settle(self, box: Box) -> Iterator[int]:
        """Settle which parameters exist, as far as the ranges tell; yields the rules about those newly settled."""
        for i in self._conditional:
            if box.present[i] is None:
                box.present[i] = self._existence(i, box)
                if box.present[i] is not None:
                    yield from self._rules_of[i]

    def _existence(self, position: int, box: Box) -> bool | None:
        exists: bool | None = True
        for i, condition in self._parents[position]:
            here = box.present[i]
            if here:
                low, high = box.low[i], box.high[i]
                if isinstance(condition, AtLeast):
                    here = True if low >= condition.value else False if high < condition.value else None
                else:
                    here = condition.holds(self._variables[i].value(low)) if low == high else None
            if here is False:
                return False
            exists = exists and here
        return exists


def components(
    domains: Mapping[str, Domain], conditions: Sequence[Condition], rules: Sequence[Rule]
) -> tuple[Component, ...]:
    """The rules with the parameters they link, split into parts that have nothing to do with each other.

    Raises SpaceError naming the rules that no assignment meets.
    """
    parents: dict[str, list[str]] = {}
    for condition in conditions:
        parents.setdefault(condition.name, []).append(condition.parent)
    groups: list[tuple[set[str], list[Rule]]] = []
    for rule in rules:
        linked, todo = set[str](), list(rule.names)
        while todo:
            name = todo.pop()
            if name not in linked:
                linked.add(name)
                todo += parents.get(name, ())
        apart = [group for group in groups if not group[0] & linked]
        joined = [group for group in groups if group[0] & linked]
        names = linked.union(*(group[0] for group in joined))
        groups = [*apart, (names, [one for group in joined for one in group[1]] + [rule])]
    found = []
    for names, linked_rules in groups:
        own = {name: domain for name, domain in domains.items() if name in names}
        among = [condition for condition in conditions if condition.name in names]
        component = Component(own, among, linked_rules)
        if component.witness is None:
            what = "could not be met within the steps of the search" if component.gave_up else "cannot be met"
            texts = " and ".join(f"'{rule}'" for rule in linked_rules)
            raise SpaceError(
                f"expected rules that some assignment meets, got {texts}, "
                f"which {what} together; widen the domains of {', '.join(own)} or drop a rule"
            )
        found.append(component)
    return tuple(found)


def _search_order(
    domains: Mapping[str, Domain], conditions: Sequence[Condition], rules: Sequence[Rule]
) -> tuple[str, ...]:
    """The order of the search: parents before children, divisors before dividends, floats last."""
    depth = dict.fromkeys(domains, 0)
    divides = [rule for rule in rules if isinstance(rule, Divides)]
    for _ in divides:  # the longest chain has as many links as there are rules
        for rule in divides:
            depth[rule.dividend] = min(max(depth[rule.dividend], depth[rule.divisor] + 1), len(divides))
    preferred = sorted(domains, key=lambda name: (isinstance(domains[name], Float), depth[name]))
    needs: dict[str, list[str]] = {}
    for condition in conditions:
        needs.setdefault(condition.name, []).append(condition.parent)
    return dependency_order(preferred, needs)
