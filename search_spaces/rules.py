"""Rules: what must hold between the values of several parameters. A closed set, no text is evaluated.

A parameter that does not exist in an assignment leaves its rules: sums, products and orders skip
it, and a rule without any parameter left holds.

A rule is met up to a billionth of the numbers in it, so that a boundary survives rounding. What a
Space proposes meets sums and orders exactly wherever the parameter itself has such a value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from search_spaces.domains import Choice, Domain, Int, Params, SpaceError, is_number, shown
from search_spaces.suggestion import suggest

TOLERANCE: Final = 1e-9
"""How far a rule over floats may be missed, as a share of the numbers in it."""


@final
@dataclass(frozen=True, slots=True)
class Divides:
    """The integer `divisor` divides the integer `dividend` without remainder. 0 divides nothing."""

    divisor: str
    dividend: str

    def __str__(self) -> str:
        return f"{self.divisor} divides {self.dividend}"

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the rule."""
        return self.divisor, self.dividend

    def holds(self, params: Params, tolerance: float = TOLERANCE) -> bool:
        """Whether the rule holds for these parameters. Always exact."""
        if self.divisor not in params or self.dividend not in params:
            return True
        divisor: Any = params[self.divisor]
        dividend: Any = params[self.dividend]
        return bool(divisor != 0 and dividend % divisor == 0)


@final
@dataclass(frozen=True, slots=True)
class Ordered:
    """The numbers do not decrease: each is at most the next that exists."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _names(self, self.names, 2))

    def __str__(self) -> str:
        return " <= ".join(self.names)

    def holds(self, params: Params, tolerance: float = TOLERANCE) -> bool:
        """Whether the rule holds for these parameters, up to the tolerance."""
        numbers = _existing(self.names, params)
        return all(a <= b or a - b <= tolerance * max(abs(a), abs(b)) for a, b in itertools.pairwise(numbers))


@final
@dataclass(frozen=True, slots=True)
class Product:
    """The product of the numbers lies from `low` to `high`, both included; None is no bound."""

    names: tuple[str, ...]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _names(self, self.names, 1))
        _check_bounds(self, self.low, self.high)

    def __str__(self) -> str:
        return _between(self.low, " * ".join(self.names), self.high)

    def holds(self, params: Params, tolerance: float = TOLERANCE) -> bool:
        """Whether the rule holds for these parameters, up to the tolerance unless all are integers."""
        numbers = _existing(self.names, params)
        if not numbers:
            return True
        if _are_integers(numbers):
            return _within(math.prod(numbers), self.low, self.high, 0.0)
        product = 0.0 if 0 in numbers else math.prod(map(float, numbers))
        return _within(product, self.low, self.high, tolerance * _largest(self.low, self.high))


@final
@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of the numbers lies from `low` to `high`, both included; None is no bound."""

    names: tuple[str, ...]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _names(self, self.names, 1))
        _check_bounds(self, self.low, self.high)

    def __str__(self) -> str:
        return _between(self.low, " + ".join(self.names), self.high)

    def holds(self, params: Params, tolerance: float = TOLERANCE) -> bool:
        """Whether the rule holds for these parameters, up to the tolerance unless all are integers."""
        numbers = _existing(self.names, params)
        if not numbers:
            return True
        if _are_integers(numbers):
            return _within(sum(numbers), self.low, self.high, 0.0)
        return _within(exact_sum(numbers), self.low, self.high, tolerance * _largest(self.low, self.high, *numbers))


Rule = Divides | Ordered | Product | Sum


def check_rules(domains: Mapping[str, Domain], rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules, each once. Raises SpaceError for an unknown name or a parameter that is no number."""
    checked: dict[Rule, None] = {}
    for rule in rules:
        if not isinstance(rule, Divides | Ordered | Product | Sum):
            raise SpaceError(f"expected a rule (Divides, Ordered, Product or Sum), got {shown(rule)}; make it one")
        for name in rule.names:
            if not isinstance(name, str) or name not in domains:
                raise SpaceError(
                    f"rule {str(rule)!r}: expected names of the space, got {shown(name)}; {suggest(name, domains)}"
                )
            _check_domain(rule, name, domains[name])
        if len(set(rule.names)) < len(rule.names):
            raise SpaceError(f"rule {str(rule)!r}: expected different names, got one twice; remove it")
        checked[rule] = None
    return tuple(checked)


def exact_sum(numbers: Iterable[float]) -> float:
    """The sum, rounded once, so that it does not depend on the order."""
    numbers = [float(number) for number in numbers]
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # past the largest float, or infinities of both signs
        return sum(numbers)


def _check_domain(rule: Rule, name: str, domain: Domain) -> None:
    if isinstance(domain, Choice):
        numbers = all(map(is_number, domain.values))
        integers = all(type(value) is int for value in domain.values)
    else:
        numbers, integers = True, isinstance(domain, Int)
    if isinstance(rule, Divides) and not integers:
        raise SpaceError(
            f"rule {str(rule)!r}: expected integers for {name}, got {domain}; use an int or a choice of ints"
        )
    if not numbers:
        raise SpaceError(f"rule {str(rule)!r}: expected numbers for {name}, got {domain}; use numbers")


def _names(rule: Ordered | Product | Sum, names: object, least: int) -> tuple[str, ...]:
    kind = type(rule).__name__
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise SpaceError(f"{kind}: expected a list of names, got {shown(names)}; write them as [a, b]")
    if len(names) < least:
        raise SpaceError(f"{kind}: expected at least {least} names, got {len(names)}; name what the rule is about")
    return tuple(names)


def _check_bounds(rule: Product | Sum, low: object, high: object) -> None:
    kind = type(rule).__name__
    for bound in (low, high):
        if bound is not None and not (is_number(bound) and abs(bound) <= 1e300):
            raise SpaceError(f"{kind}: expected a finite number as a bound, got {shown(bound)}; write one such as 1.0")
    if low is None and high is None:
        raise SpaceError(f"{kind}: expected low, high or both, got neither; give the rule a bound")
    if low is not None and high is not None and low > high:  # type: ignore[operator]
        raise SpaceError(f"{kind}: expected low <= high, got low={low!r} and high={high!r}; swap them")


def _existing(names: Iterable[str], params: Params) -> list[Any]:
    """The numbers of the parameters that exist."""
    return [params[name] for name in names if name in params]


def _are_integers(numbers: Iterable[Any]) -> bool:
    return all(type(number) is int for number in numbers)


def _largest(*numbers: float | None) -> float:
    """What the tolerance is relative to: the largest magnitude, None left out."""
    return max(abs(float(number)) for number in numbers if number is not None)


def _within(number: float, low: float | None, high: float | None, slack: float) -> bool:
    return (low is None or number >= low - slack) and (high is None or number <= high + slack)


def _between(low: float | None, text: str, high: float | None) -> str:
    return f"{'' if low is None else f'{low!r} <= '}{text}{'' if high is None else f' <= {high!r}'}"
