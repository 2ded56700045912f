"""Priors: which values of a domain are likelier than others before anything was tried.

A prior is a distribution on the unit interval of its domain, so the uniform one has density 1
everywhere there. Samplers may draw from it (`place`), aim at its middle (`likeliest`) and weigh
candidates by it (`log_density`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, final

from search_spaces.domains import Choice, Domain, Float, Int, ParamValue, SpaceError, is_number, shown
from search_spaces.suggestion import suggest

_STANDARD: Final = NormalDist()
_MOST_WEIGHTS: Final = 1024


@final
@dataclass(frozen=True, slots=True)
class ScaledBy:
    """The centre is multiplied by (value of the parameter `name` / reference) ** exponent.

    The learning rate that suits a batch size is the example: it grows with the square root. Where the
    parameter does not exist, nothing is multiplied.

    Raises SpaceError if `reference` is not above 0 or a number is not finite.
    """

    name: str
    reference: float
    exponent: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _finite("scaled_by.reference", self.reference))
        object.__setattr__(self, "exponent", _finite("scaled_by.exponent", self.exponent))
        if self.reference <= 0:
            raise SpaceError(f"scaled_by.reference: expected a number above 0, got {self.reference!r}; raise it")

    def factor(self, value: ParamValue) -> float:
        """What the centre is multiplied by where the parameter has this value, above 0."""
        logarithm = self.exponent * (math.log(float(value)) - math.log(self.reference))
        return math.exp(min(max(logarithm, -700.0), 700.0))


@final
@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution on the scale of a Float or Int, cut off at the bounds of the domain.

    An integer has the probability of its cell (see Int). A centre outside the domain counts as the
    nearest bound, so that a domain may be narrowed without touching its prior.

    Attributes:
        centre: the likeliest value, in the parameter's own unit.
        deviation: the standard deviation before the cut: in decades (log10) on a log scale, else in
            the parameter's own unit.
        scaled_by: another parameter that the centre grows or shrinks with.

    Raises SpaceError if a number is not finite or `deviation` is not above 0.
    """

    centre: float
    deviation: float
    scaled_by: ScaledBy | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", _finite("centre", self.centre))
        object.__setattr__(self, "deviation", _finite("deviation", self.deviation))
        if self.deviation <= 0:
            raise SpaceError(f"deviation: expected a number above 0, got {self.deviation!r}; raise it")
        if self.scaled_by is not None and not isinstance(self.scaled_by, ScaledBy):
            raise SpaceError(f"scaled_by: expected a ScaledBy, got {shown(self.scaled_by)}; make it one")

    def place(self, domain: Domain, unit: float, factor: float = 1.0) -> float:
        """The quantile `unit` of the prior, a place in [0, 1]."""
        mean, deviation = self._on_unit(domain, factor)
        below, above = _STANDARD.cdf(-mean / deviation), _STANDARD.cdf((1.0 - mean) / deviation)
        share = min(max(below + unit * (above - below), 1e-300), 1.0 - 2.0**-53)
        return min(max(mean + deviation * _STANDARD.inv_cdf(share), 0.0), 1.0)

    def likeliest(self, domain: Domain, factor: float = 1.0) -> float:
        """The place of the centre in [0, 1]."""
        return self._on_unit(domain, factor)[0]

    def log_density(self, domain: Domain, value: ParamValue, factor: float = 1.0) -> float:
        """Natural logarithm of the density at a value, with respect to its place in the unit interval.

        For an Int: of the probability of its cell over the width of the cell.
        """
        if domain.size == 1:
            return 0.0
        mean, deviation = self._on_unit(domain, factor)
        inside = _mass(-mean / deviation, (1.0 - mean) / deviation)
        if isinstance(domain, Int):
            first, last = _cell(domain, int(value))
            mass = _mass((first - mean) / deviation, (last - mean) / deviation)
            if mass > 0.0:
                return math.log(mass / inside) - math.log(last - first)
        distance = (domain.encode(value) - mean) / deviation  # the density in the middle, where the mass underflows
        return -0.5 * distance * distance - math.log(deviation * math.sqrt(2.0 * math.pi)) - math.log(inside)

    def _on_unit(self, domain: Domain, factor: float) -> tuple[float, float]:
        """Mean, within [0, 1], and deviation on the unit interval of the domain."""
        assert not isinstance(domain, Choice)
        if domain.size == 1:
            return 0.5, 1.0
        half = 0.5 if isinstance(domain, Int) else 0.0  # the cells of the bounds reach half an integer further
        low, high, centre = domain.low - half, domain.high + half, self.centre * factor
        if not domain.log:
            width, place = high - low, (centre - low) / (high - low)
            deviation = self.deviation / width
        else:
            width = math.log(high) - math.log(low)
            place = (math.log(centre) - math.log(low)) / width if centre > 0 else 0.0
            deviation = self.deviation * math.log(10.0) / width
        return min(max(place, 0.0), 1.0), max(deviation, 1e-12)


@final
@dataclass(frozen=True, slots=True)
class Weights:
    """The values of a Choice, or the integers of an Int, have probabilities in these proportions, in their order.

    Raises SpaceError unless all weights are finite numbers above 0.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.weights, tuple | list) or not self.weights:
            raise SpaceError(f"weights: expected a list of numbers, got {shown(self.weights)}; write them as [1, 2]")
        weights = tuple(_finite("weights", weight) for weight in self.weights)
        if not all(1e-100 <= weight <= 1e100 for weight in weights):
            raise SpaceError(f"weights: expected numbers above 0, got {shown(weights)}; leave unwanted values out")
        object.__setattr__(self, "weights", weights)

    def place(self, domain: Domain, unit: float, factor: float = 1.0) -> float:
        """The quantile `unit` of the prior, as the centre of the cell of the value it falls on."""
        sums = list(itertools.accumulate(self.weights))
        index = min(bisect.bisect_right(sums, unit * sums[-1]), len(sums) - 1)
        return domain.encode(_value(domain, index))

    def likeliest(self, domain: Domain, factor: float = 1.0) -> float:
        """The place of the value with the largest weight, of the first if there are several."""
        return domain.encode(_value(domain, self.weights.index(max(self.weights))))

    def log_density(self, domain: Domain, value: ParamValue, factor: float = 1.0) -> float:
        """Natural logarithm of the value's probability over the width of its cell in the unit interval."""
        if isinstance(domain, Int):
            first, last = _cell(domain, int(value))
            index, width = int(value) - domain.low, last - first
        else:
            index, width = int(domain.encode(value) * len(self.weights)), 1.0 / len(self.weights)
        return math.log(self.weights[index]) - math.log(sum(self.weights)) - math.log(width)


Prior = Normal | Weights


def check_priors(domains: Mapping[str, Domain], priors: Mapping[str, Prior]) -> dict[str, Prior]:
    """The priors in the order of the names. Raises SpaceError if one does not fit its domain or names no parameter."""
    if not isinstance(priors, Mapping):
        raise SpaceError(f"expected a mapping of names to priors, got {shown(priors)}; write {{name: Normal(...)}}")
    for name, prior in priors.items():
        if not isinstance(name, str) or name not in domains:
            remedy = suggest(name, domains)
            raise SpaceError(f"expected priors for names of the space, got one for {shown(name)}; {remedy}")
        if isinstance(prior, Normal):
            _check_normal(domains, name, prior)
        elif isinstance(prior, Weights):
            _check_weights(domains[name], name, prior)
        else:
            raise SpaceError(f"{name}.prior: expected a Normal or Weights, got {shown(prior)}; make it one")
    return {name: priors[name] for name in domains if name in priors}


def scaling_name(prior: Prior | None) -> str | None:
    """The parameter that a prior is scaled by, if any."""
    return prior.scaled_by.name if isinstance(prior, Normal) and prior.scaled_by is not None else None


def _check_normal(domains: Mapping[str, Domain], name: str, prior: Normal) -> None:
    domain = domains[name]
    if isinstance(domain, Choice):
        raise SpaceError(f"{name}.prior: expected weights for a choice, got a normal; give each value a weight")
    if domain.log and prior.centre <= 0:
        raise SpaceError(
            f"{name}.prior.centre: expected a number above 0 on a log scale, got {prior.centre!r}; raise it"
        )
    if prior.scaled_by is None:
        return
    path, other = f"{name}.prior.scaled_by.name", prior.scaled_by.name
    if not isinstance(other, str) or other not in domains:
        raise SpaceError(
            f"{path}: expected a name of the space, got {shown(other)}; {suggest(other, domains)}, or drop scaled_by"
        )
    if other == name:
        raise SpaceError(f"{path}: expected another parameter, got {other!r} itself; name the one it grows with")
    scale = domains[other]
    values: tuple[Any, ...] = scale.values if isinstance(scale, Choice) else (scale.low, scale.high)
    if not all(is_number(value) and value > 0 for value in values):
        raise SpaceError(f"{path}: expected a parameter of numbers above 0, got {other} ({scale}); drop scaled_by")


def _check_weights(domain: Domain, name: str, prior: Weights) -> None:
    if isinstance(domain, Float):
        raise SpaceError(f"{name}.prior: expected a normal for a float, got weights; write {{kind: normal, ...}}")
    if domain.size > _MOST_WEIGHTS or len(prior.weights) != domain.size:
        raise SpaceError(
            f"{name}.prior.weights: expected a weight for each of {domain.size} values ({domain}), got "
            f"{len(prior.weights)} weights; give one a value, at most {_MOST_WEIGHTS}"
        )


def _value(domain: Domain, index: int) -> ParamValue:
    if isinstance(domain, Choice):
        return domain.values[index]
    assert isinstance(domain, Int)
    return domain.low + index


def _cell(domain: Int, value: int) -> tuple[float, float]:
    """The part of the unit interval that decodes to an integer."""
    if domain.log:
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        return (math.log(value - 0.5) - low) / (high - low), (math.log(value + 0.5) - low) / (high - low)
    count = domain.high - domain.low + 1
    return (value - domain.low) / count, (value - domain.low + 1) / count


def _mass(first: float, last: float) -> float:
    """The probability of a standard normal variable between two points, exact in the far tails too."""
    root = math.sqrt(2.0)
    if first > 0:
        return 0.5 * (math.erfc(first / root) - math.erfc(last / root))
    return 0.5 * (math.erfc(-last / root) - math.erfc(-first / root))


def _finite(name: str, value: object) -> float:
    if is_number(value):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise SpaceError(f"{name}: expected a finite number, got {shown(value)}; write one such as 0.35")
