"""A smaller space around some of its assignments, for a search that goes from coarse to fine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.domains import Choice, Domain, Float, Int, Params, ParamValue, SpaceError, same
from search_spaces.priors import Normal, Prior, Weights
from search_spaces.rules import Divides, Ordered, Rule
from search_spaces.space import Space


def narrowed(space: Space, assignments: Sequence[Params], margin: float = 0.1) -> Space:
    """The smallest box around some assignments, with a margin. They all lie in it.

    | domain              | what is left                                                                             |
    |---------------------|------------------------------------------------------------------------------------------|
    | Float               | from the least to the greatest value, `margin` further at both ends in the unit interval |
    | Int, ordered Choice | the same; with a margin, at least a value further                                        |
    | other Choice        | the values that occur                                                                    |
    | absent in all       | all of it                                                                                |

    A parameter that can no longer exist, because a choice lost the values it exists for, is left out, and leaves its
    rules. Conditions, rules and priors hold as before: a prior is cut off at the new bounds, its weights are those
    of the values that are left. If what is left cannot be shown to have an assignment, parameters that conditions
    and rules link keep their domains.

    Args:
        assignments: in the space; without any, nothing is narrowed.
        margin: in the unit interval of each domain, not negative.

    Raises SpaceError if an assignment is not in the space or the margin is negative.
    """
    if not margin >= 0.0:
        raise SpaceError(f"expected a margin of at least 0, got {margin!r}; a tenth of the range, 0.1, is usual")
    for params in assignments:
        space.validate(params)
    if not assignments:
        return space
    boxes = {
        name: _box(domain, [params[name] for params in assignments if name in params], margin)
        for name, domain in space.domains.items()
    }
    linked = {condition.parent for condition in space.conditions} | {
        name for rule in space.rules for name in rule.names
    }
    for whole in (set[str](), linked):
        try:
            return _built(space, {**boxes, **{name: space.domains[name] for name in whole}})
        except SpaceError:  # the values that are left exclude each other, or it was too hard to see that they do not
            continue
    return space


def _box(domain: Domain, values: Sequence[ParamValue], margin: float) -> Domain:
    """The part of a domain around some of its values."""
    if not values:
        return domain
    places = [domain.encode(value) for value in values]
    first, last = max(0.0, min(places) - margin), min(1.0, max(places) + margin)
    if isinstance(domain, Float):
        least, most = min(cast("Sequence[float]", values)), max(cast("Sequence[float]", values))
        low = domain.low if first == 0.0 else min(domain.decode(first), least)  # decoding may round past a value
        high = domain.high if last == 1.0 else max(domain.decode(last), most)
        return Float(low, high, domain.log)
    step = 1 if margin > 0.0 else 0
    if isinstance(domain, Int):
        lowest, highest = min(cast("Sequence[int]", values)) - step, max(cast("Sequence[int]", values)) + step
        low, high = min(domain.decode(first), lowest), max(domain.decode(last), highest)
        return Int(max(low, domain.low), min(high, domain.high), domain.log)
    if domain.is_ordered:
        count = len(domain.values)
        start = min(int(first * count), int(min(places) * count) - step)
        stop = max(int(last * count), int(max(places) * count) + step)
        return Choice(domain.values[max(start, 0) : stop + 1])
    return Choice(tuple(value for value in domain.values if any(same(value, one) for one in values)))


def _built(space: Space, boxes: Mapping[str, Domain]) -> Space:
    """The space with these domains and all that still concerns them. Raises SpaceError if nothing lies in it."""
    gone: set[str] = set()
    while True:
        impossible = {one.name for one in space.conditions if one.parent in gone or not _possible(one, boxes)}
        if impossible <= gone:
            break
        gone |= impossible
    domains = {name: domain for name, domain in boxes.items() if name not in gone}
    conditions = tuple(_condition(one, domains) for one in space.conditions if one.name not in gone)
    rules = [_rule(rule, domains) for rule in space.rules]
    priors = {
        name: _prior(space.domains[name], prior, domains, name)
        for name, prior in space.priors.items()
        if name in domains
    }
    return Space(domains, conditions, tuple(rule for rule in rules if rule is not None), priors)


def _possible(condition: Condition, domains: Mapping[str, Domain]) -> bool:
    """Whether the parent has a value left for which the condition holds."""
    parent = domains[condition.parent]
    if isinstance(condition, OneOf):
        return any(map(parent.contains, condition.values))
    highest = max(cast("Sequence[float]", parent.values)) if isinstance(parent, Choice) else parent.high
    return highest >= condition.value


def _condition(condition: Condition, domains: Mapping[str, Domain]) -> Condition:
    if isinstance(condition, AtLeast):
        return condition
    left = tuple(value for value in condition.values if domains[condition.parent].contains(value))
    return dataclasses.replace(condition, values=left)


def _rule(rule: Rule, domains: Mapping[str, Domain]) -> Rule | None:
    """The rule about the parameters that are left, if it still says anything."""
    names = tuple(name for name in rule.names if name in domains)
    if isinstance(rule, Divides):
        return rule if len(names) == 2 else None
    if len(names) < (2 if isinstance(rule, Ordered) else 1):
        return None
    return dataclasses.replace(rule, names=names)


def _prior(before: Domain, prior: Prior, domains: Mapping[str, Domain], name: str) -> Prior:
    after = domains[name]
    if isinstance(prior, Normal):
        scale = prior.scaled_by
        return dataclasses.replace(prior, scaled_by=None) if scale is not None and scale.name not in domains else prior
    if isinstance(before, Int) and isinstance(after, Int):
        return Weights(prior.weights[after.low - before.low : after.high - before.low + 1])
    assert isinstance(before, Choice)
    return Weights(tuple(w for value, w in zip(before.values, prior.weights, strict=True) if after.contains(value)))
