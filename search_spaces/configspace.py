"""Spaces from and to ConfigSpace (Lindauer et al. 2019, arXiv:1908.06756); needs the extra `configspace`.

What the two have in common goes over: floats, integers, categories, ordinals and constants, log
scales, equals and in conditions, thresholds on integers, normal priors and weights. Anything else is
an error and not left out silently. Two differences stay: ConfigSpace sorts its parameters by name, and
it has default values, which a Space has not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.domains import Choice, Domain, DomainError, Float, Int, ParamValue, SpaceError
from search_spaces.priors import Normal, Prior, Weights
from search_spaces.space import Space

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace

_MOST_LISTED = 1024


def from_configspace(source: ConfigurationSpace) -> Space:
    """The space of a ConfigurationSpace. Default values are not taken over.

    The standard deviation of a normal hyperparameter on a log scale becomes decades as ConfigSpace
    1.2 means it: |ln(lower + sigma)| in natural logarithms.

    Raises SpaceError for what has no counterpart: beta distributions, forbidden clauses, conditions
    other than equals, in and greater-than, disjunctions, names that are no dotted names.
    Raises ImportError without the extra.
    """
    _configspace()
    if source.forbidden_clauses:
        raise SpaceError(
            f"expected no forbidden clauses, got {source.forbidden_clauses[0]}; a space has rules instead: "
            "remove the clauses and add rules to the space"
        )
    domains: dict[str, Domain] = {}
    priors: dict[str, Prior] = {}
    for name, hyperparameter in source.items():
        try:
            domains[name], prior = _from_hyperparameter(hyperparameter)
        except DomainError as error:
            raise SpaceError(f"{name}: {error}") from error
        if prior is not None:
            priors[name] = prior
    conditions = [one for each in source.conditions for one in _from_condition(each, domains)]
    return Space(domains, tuple(conditions), (), priors)


def to_configspace(space: Space, seed: int | None = None) -> ConfigurationSpace:
    """The ConfigurationSpace of a space.

    A domain of one value becomes a constant, a Choice of increasing numbers an ordinal unless it has
    weights.

    Raises SpaceError for what has no counterpart: rules, priors that another parameter scales,
    weights on integers, thresholds on floats. Raises ImportError without the extra.
    """
    library = _configspace()
    if space.rules:
        raise SpaceError(f"expected a space without rules, got '{space.rules[0]}'; ConfigSpace has no counterpart")
    target: ConfigurationSpace = library.ConfigurationSpace(seed=seed)
    try:
        for name, domain in space.domains.items():
            target.add(_to_hyperparameter(name, domain, space.priors.get(name)))
        for name in space.names:
            conditions = [condition for condition in space.conditions if condition.name == name]
            parts = [_to_condition(condition, space, target) for condition in conditions]
            written = [part for part in parts if part is not None]
            if written:
                target.add(written[0] if len(written) == 1 else library.AndConjunction(*written))
    except SpaceError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:  # what ConfigSpace itself refuses
        raise SpaceError(f"expected a space that ConfigSpace can hold, got: {error}; change this parameter") from error
    return target


def _configspace() -> Any:
    try:
        import ConfigSpace
    except ImportError as error:
        raise ImportError(
            'expected ConfigSpace to be installed, got none; install the extra: pip install "thresher[configspace]"'
        ) from error
    return ConfigSpace


def _from_hyperparameter(source: Any) -> tuple[Domain, Prior | None]:
    library = _configspace()
    match source:
        case library.UniformFloatHyperparameter():
            return Float(source.lower, source.upper, source.log), None
        case library.UniformIntegerHyperparameter():
            return Int(source.lower, source.upper, source.log), None
        case library.NormalFloatHyperparameter():
            return Float(source.lower, source.upper, source.log), _normal(source)
        case library.NormalIntegerHyperparameter():
            return Int(source.lower, source.upper, source.log), _normal(source)
        case library.CategoricalHyperparameter():
            weights = source.weights
            even = weights is None or len(set(weights)) == 1
            return Choice(tuple(source.choices)), None if even else Weights(tuple(map(float, weights)))
        case library.OrdinalHyperparameter():
            return Choice(tuple(source.sequence)), None
        case library.Constant():
            return Choice((source.value,)), None
    kind = type(source).__name__
    raise SpaceError(f"{source.name}: expected a uniform, normal, categorical, ordinal or constant, got {kind}")


def _normal(source: Any) -> Normal:
    if not source.log:
        return Normal(source.mu, source.sigma)
    return Normal(source.mu, abs(math.log(source.lower + source.sigma)) / math.log(10.0))


def _from_condition(source: Any, domains: dict[str, Domain]) -> Iterator[Condition]:
    library = _configspace()
    match source:
        case library.AndConjunction():
            for part in source.components:
                yield from _from_condition(part, domains)
        case library.EqualsCondition():
            yield OneOf(source.child.name, source.parent.name, (_native(source.value),))
        case library.InCondition():
            yield OneOf(source.child.name, source.parent.name, tuple(map(_native, source.value)))
        case library.GreaterThanCondition():
            yield _from_threshold(source.child.name, source.parent.name, _native(source.value), domains)
        case _:
            kind = type(source).__name__
            raise SpaceError(f"expected equals, in and greater-than conditions, got {kind} ({source}); rewrite it")


def _from_threshold(name: str, parent: str, value: Any, domains: dict[str, Domain]) -> Condition:
    """What exists only while its parent is greater than a value."""
    domain = domains[parent]
    if isinstance(domain, Choice):  # an ordinal: greater means later in the list
        later = domain.values[domain.values.index(value) + 1 :]
        return OneOf(name, parent, later)
    return AtLeast(name, parent, value + 1 if isinstance(domain, Int) else math.nextafter(value, math.inf))


def _native(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _to_hyperparameter(name: str, domain: Domain, prior: Prior | None) -> Any:
    library = _configspace()
    if domain.size == 1:
        return library.Constant(name, domain.values[0] if isinstance(domain, Choice) else domain.low)
    if isinstance(domain, Choice):
        if prior is None and domain.is_ordered:
            return library.OrdinalHyperparameter(name, list(domain.values))
        weights = prior.weights if isinstance(prior, Weights) else None
        return library.CategoricalHyperparameter(name, list(domain.values), weights=weights)
    kind = "Float" if isinstance(domain, Float) else "Integer"
    if prior is None:
        uniform = getattr(library, f"Uniform{kind}Hyperparameter")
        return uniform(name, domain.low, domain.high, log=domain.log)
    if isinstance(prior, Weights) or prior.scaled_by is not None:
        what = "weights on an int" if isinstance(prior, Weights) else f"a centre scaled by {prior.scaled_by.name}"  # type: ignore[union-attr]
        raise SpaceError(f"{name}: expected a plain normal prior, got {what}; ConfigSpace has no counterpart")
    deviation = _sigma(name, domain, prior) if domain.log else prior.deviation
    centre = min(max(prior.centre, domain.low), domain.high)
    normal = getattr(library, f"Normal{kind}Hyperparameter")
    return normal(name, mu=centre, sigma=deviation, lower=domain.low, upper=domain.high, log=domain.log)


def _sigma(name: str, domain: Float | Int, prior: Normal) -> float:
    """What ConfigSpace 1.2 takes for a deviation in decades: it uses |ln(lower + sigma)|."""
    for ratio in (math.pow(10.0, prior.deviation), math.pow(10.0, -prior.deviation)):
        if ratio > domain.low:
            return ratio - domain.low
    raise SpaceError(
        f"{name}: expected a deviation of more than {math.log10(domain.low):.3g} decades, which ConfigSpace can hold "
        f"for this lower bound, got {prior.deviation!r}; drop the prior"
    )


def _to_condition(condition: Condition, space: Space, target: Any) -> Any:
    library = _configspace()
    name, parent, domain = condition.name, condition.parent, space.domains[condition.parent]
    child = target[name]
    if isinstance(condition, OneOf):
        return library.InCondition(child, target[parent], list(condition.values))
    values: list[ParamValue]
    if isinstance(domain, Choice):
        values = [value for value in domain.values if condition.holds(value)]
    elif isinstance(domain, Int):
        threshold = math.ceil(condition.value) - 1
        if threshold >= domain.low:
            return library.GreaterThanCondition(child, target[parent], threshold)
        values = list(range(domain.low, domain.high + 1)) if domain.size <= _MOST_LISTED else []
    else:
        values = []
    if values:
        return library.InCondition(child, target[parent], values)
    if not any(one.name == parent for one in space.conditions) and condition.value <= domain.low:  # type: ignore[union-attr]
        return None  # always true
    raise SpaceError(f"{name}: expected values of {parent}, got '{condition}'; ConfigSpace has no counterpart")
