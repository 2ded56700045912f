"""Domains: the set of values that one parameter may take, and how to move inside it.

Every domain maps onto the unit interval (`encode`, `decode`), uniformly in the scale it is searched
on, so that any sampler can work on vectors. All randomness comes from the generator passed in, and
only native Python values come out.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard, final

import numpy as np
import numpy.typing as npt

ParamValue = bool | int | float | str

Params = Mapping[str, ParamValue]
"""One assignment: a value for every parameter that exists in it, by dotted name."""

MUTATION_STEP: Final = 0.2
"""Standard deviation of a mutation of a Float or Int, as a fraction of the range on its scale."""

_LARGEST_INT: Final = 2**40  # beyond it, neighbouring integers become hard to tell apart in the unit interval
_LARGEST_CHOICE: Final = 2**63  # what JSON readers and databases still hold as an integer
_SCIENTIFIC: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class DomainError(ValueError):
    """A domain that makes no sense, or a value that is not in its domain."""


class SpaceError(ValueError):
    """A space that cannot be built, or parameters that do not lie in it."""


@final
@dataclass(frozen=True, slots=True)
class Float:
    """Real numbers from `low` to `high`, both included.

    Attributes:
        log: search uniformly in the logarithm; needs `low` above 0.

    Raises DomainError if a bound is no finite number, `low` is above `high`, or `log` does not fit.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite("low", self.low))
        object.__setattr__(self, "high", _finite("high", self.high))
        _check_order(self.low, self.high)
        if not math.isfinite(self.high - self.low):
            raise DomainError(f"expected a finite range, got {self.low!r} to {self.high!r}; bring the bounds closer")
        _check_log(self.log, self.low, "a low above 0", self.low > 0)

    def __str__(self) -> str:
        return f"a number from {self.low!r} to {self.high!r}{' (log scale)' if self.log else ''}"

    @property
    def size(self) -> float:
        """How many values there are: infinitely many, or one."""
        return 1 if self.low == self.high else math.inf

    def contains(self, value: object) -> bool:
        """Whether the value is a float or int (but no bool) within the bounds."""
        return type(value) in (float, int) and self.low <= value <= self.high  # type: ignore[operator]

    def sample(self, rng: np.random.Generator) -> float:
        """A value drawn uniformly on the scale of the domain."""
        return self.decode(rng.random())

    def mutate(self, value: ParamValue, rng: np.random.Generator) -> float:
        """The value moved by a normal step of MUTATION_STEP of the range, reflected at the bounds.

        Raises DomainError if the value is not in the domain.
        """
        return self.decode(_reflect(self.encode(value) + MUTATION_STEP * rng.standard_normal()))

    def encode(self, value: ParamValue) -> float:
        """The value's place in [0, 1]; 0.5 if it is the only one.

        Raises DomainError if the value is not in the domain.
        """
        if not self.contains(value):
            raise _not_in(self, value)
        low, high, place = self.low, self.high, float(value)
        if self.log:
            low, high, place = math.log(low), math.log(high), math.log(place)
        return (place - low) / (high - low) if low < high else 0.5

    def decode(self, unit: float) -> float:
        """The value at a place in [0, 1].

        Raises DomainError if `unit` is outside [0, 1].
        """
        unit = _checked_unit(unit)
        if self.log:
            value = math.exp(math.log(self.low) * (1.0 - unit) + math.log(self.high) * unit)
        else:
            value = self.low * (1.0 - unit) + self.high * unit
        return min(max(value, self.low), self.high)  # rounding may step over a bound

    def encode_many(self, values: Sequence[ParamValue]) -> npt.NDArray[np.float64]:
        """`encode` of n values, bit by bit the same, shape [n]."""
        places = _numbers(self, values)
        low, high = self.low, self.high
        if self.log:
            low, high, places = math.log(low), math.log(high), _each(math.log, places)
        return (places - low) / (high - low) if low < high else np.full(len(places), 0.5)

    def decode_many(self, units: npt.ArrayLike) -> list[float]:
        """`decode` of n places, bit by bit the same."""
        units = _checked_units(units)
        if self.log:
            values = _each(math.exp, math.log(self.low) * (1.0 - units) + math.log(self.high) * units)
        else:
            values = self.low * (1.0 - units) + self.high * units
        return np.clip(values, self.low, self.high).tolist()  # type: ignore[no-any-return]


@final
@dataclass(frozen=True, slots=True)
class Int:
    """Integers from `low` to `high`, both included, at most 2**40 in size.

    Attributes:
        log: search uniformly in the logarithm; needs `low` of at least 1.

    Raises DomainError if a bound is no such integer, `low` is above `high`, or `log` does not fit.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _integer("low", self.low))
        object.__setattr__(self, "high", _integer("high", self.high))
        _check_order(self.low, self.high)
        _check_log(self.log, self.low, "a low of at least 1", self.low >= 1)

    def __str__(self) -> str:
        return f"an integer from {self.low} to {self.high}{' (log scale)' if self.log else ''}"

    @property
    def size(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1

    def contains(self, value: object) -> bool:
        """Whether the value is an int (but no bool) within the bounds."""
        return type(value) is int and self.low <= value <= self.high

    def sample(self, rng: np.random.Generator) -> int:
        """A value drawn uniformly on the scale of the domain."""
        return self.decode(rng.random())

    def mutate(self, value: ParamValue, rng: np.random.Generator) -> int:
        """The value moved by a normal step of MUTATION_STEP of the range, reflected at the bounds.

        A step too short to reach another value moves to the neighbour, so that the value always
        changes unless it is the only one.

        Raises DomainError if the value is not in the domain.
        """
        step = MUTATION_STEP * rng.standard_normal()
        mutated = self.decode(_reflect(self.encode(value) + step))
        if mutated != value or self.low == self.high:
            return mutated
        neighbour = mutated + (1 if step > 0 else -1)
        return neighbour if self.low <= neighbour <= self.high else 2 * mutated - neighbour

    def encode(self, value: ParamValue) -> float:
        """The centre of the value's cell in [0, 1]; cells are equally wide on the scale of the domain.

        On the log scale an integer n owns the cell from log(n - 1/2) to log(n + 1/2) and stands at log(n).

        Raises DomainError if the value is not in the domain.
        """
        if not self.contains(value):
            raise _not_in(self, value)
        place = float(value)
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (math.log(place) - low) / (high - low)
        return (place - self.low + 0.5) / (self.high - self.low + 1)

    def decode(self, unit: float) -> int:
        """The value whose cell holds a place in [0, 1].

        Raises DomainError if `unit` is outside [0, 1].
        """
        unit = _checked_unit(unit)
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = math.floor(math.exp(low + unit * (high - low)) + 0.5)
        else:
            value = self.low + math.floor(unit * (self.high - self.low + 1))
        return min(max(value, self.low), self.high)

    def encode_many(self, values: Sequence[ParamValue]) -> npt.NDArray[np.float64]:
        """`encode` of n values, bit by bit the same, shape [n]."""
        places = _numbers(self, values)
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (_each(math.log, places) - low) / (high - low)
        return (places - self.low + 0.5) / (self.high - self.low + 1)

    def decode_many(self, units: npt.ArrayLike) -> list[int]:
        """`decode` of n places, bit by bit the same."""
        units = _checked_units(units)
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            values = np.floor(_each(math.exp, low + units * (high - low)) + 0.5).astype(np.int64)
        else:
            values = self.low + np.floor(units * (self.high - self.low + 1)).astype(np.int64)
        return np.clip(values, self.low, self.high).tolist()  # type: ignore[no-any-return]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A fixed list of values: bools, ints, floats or strings.

    Values are told apart strictly: `True`, `1` and `1.0` are three values. Only in a list of ints
    and floats are the ints made floats, so that `[0, 0.05, 0.1]` is a list of floats.

    Raises DomainError if the list is empty, holds a value twice, or holds anything but finite
    numbers, bools and words. A string like "1e-4" counts as a mistake: it is what PyYAML makes of a
    number written without a point.
    """

    values: tuple[ParamValue, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list):
            raise DomainError(f"expected a list of values, got {shown(self.values)}; write the values as a list")
        values = tuple(_choice_value(value) for value in self.values)
        if {type(value) for value in values} == {int, float}:
            values = tuple(float(value) for value in values)
        if not values:
            raise DomainError("expected at least one value, got an empty list; name the values to choose from")
        seen: set[tuple[type, ParamValue]] = set()
        for value in values:
            if (type(value), value) in seen:
                raise DomainError(f"expected different values, got {value!r} twice; remove one")
            seen.add((type(value), value))
        object.__setattr__(self, "values", values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Choice):
            return NotImplemented
        return self.values == other.values and [*map(type, self.values)] == [*map(type, other.values)]

    def __hash__(self) -> int:
        return hash(self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    @property
    def is_ordered(self) -> bool:
        """Whether the values are numbers in increasing order, so that neighbours are alike."""
        numbers = [value for value in self.values if isinstance(value, int | float) and not isinstance(value, bool)]
        return len(numbers) == len(self.values) and all(a < b for a, b in itertools.pairwise(numbers))

    def contains(self, value: object) -> bool:
        """Whether the value is one of the list, of the same type."""
        return self._index(value) is not None

    def sample(self, rng: np.random.Generator) -> ParamValue:
        """A value drawn uniformly."""
        return self.decode(rng.random())

    def mutate(self, value: ParamValue, rng: np.random.Generator) -> ParamValue:
        """Another value, drawn uniformly; the value itself if it is the only one.

        Where the values are numbers in increasing order, half of the mutations go to a neighbour.

        Raises DomainError if the value is not in the domain.
        """
        index = self._index(value)
        if index is None:
            raise _not_in(self, value)
        last = len(self.values) - 1
        if last == 0:
            return self.values[0]
        unit = rng.random()
        if last > 1 and self.is_ordered and rng.random() < 0.5:
            up = index == 0 or (index != last and unit < 0.5)
            return self.values[index + 1 if up else index - 1]
        other = int(unit * last)
        return self.values[other + (other >= index)]

    def encode(self, value: ParamValue) -> float:
        """The centre of the value's cell in [0, 1]; all cells are equally wide.

        Raises DomainError if the value is not in the domain.
        """
        index = self._index(value)
        if index is None:
            raise _not_in(self, value)
        return (index + 0.5) / len(self.values)

    def decode(self, unit: float) -> ParamValue:
        """The value whose cell holds a place in [0, 1].

        Raises DomainError if `unit` is outside [0, 1].
        """
        return self.values[min(int(_checked_unit(unit) * len(self.values)), len(self.values) - 1)]

    def encode_many(self, values: Sequence[ParamValue]) -> npt.NDArray[np.float64]:
        """`encode` of n values, bit by bit the same, shape [n]."""
        return np.array([self.encode(value) for value in values], dtype=np.float64)

    def decode_many(self, units: npt.ArrayLike) -> list[ParamValue]:
        """`decode` of n places, bit by bit the same."""
        cells = (_checked_units(units) * len(self.values)).astype(np.int64)
        return [self.values[cell] for cell in np.minimum(cells, len(self.values) - 1).tolist()]

    def _index(self, value: object) -> int | None:
        for index, candidate in enumerate(self.values):
            if type(candidate) is type(value) and candidate == value:
                return index
        return None


Domain = Float | Int | Choice


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is an int or float, which a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(first: object, second: object) -> bool:
    """Whether two values are equal and of one type: `True`, `1` and `1.0` are three values."""
    return type(first) is type(second) and first == second


def label_of(key: object) -> str:
    """A key as the path in a message shows it, on one line whatever it contains."""
    return key if isinstance(key, str) and key and key.isprintable() else shown(key)


def shown(value: object) -> str:
    """A value as a message shows it: shortened, and never an error itself (an int may be too long to print)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"
    return text if len(text) <= 120 else reprlib.repr(value)


def is_scientific(text: str) -> bool:
    """Whether a string is a number in scientific notation (`1e-4`), which PyYAML reads as text."""
    return _SCIENTIFIC.fullmatch(text) is not None


def _reflect(place: float) -> float:
    """A place on the real line folded into [0, 1]."""
    place = abs(place) % 2.0
    return 2.0 - place if place > 1.0 else place


def _checked_unit(unit: float) -> float:
    if not 0.0 <= unit <= 1.0:  # also refuses NaN
        raise DomainError(f"expected a place from 0 to 1, got {unit!r}; clip it before decoding")
    return float(unit)


def _checked_units(units: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(units, dtype=np.float64)
    if array.ndim != 1:
        raise DomainError(f"expected a list of places, got shape {array.shape}; give one place a value")
    outside = array[~((array >= 0.0) & (array <= 1.0))]
    if outside.size:
        _checked_unit(outside[0].item())
    return array


def _numbers(domain: Float | Int, values: Sequence[ParamValue]) -> npt.NDArray[np.float64]:
    """The values as an array. Raises DomainError if one is not in the domain."""
    for value in values:
        if not domain.contains(value):
            raise _not_in(domain, value)
    return np.array(values, dtype=np.float64)


def _each(function: Callable[[float], float], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A function of `math` on every value: numpy's own logarithm may differ from it in the last bit."""
    return np.array([*map(function, values.tolist())], dtype=np.float64)


def _not_in(domain: Domain, value: object) -> DomainError:
    return DomainError(f"expected {domain}, got {shown(value)} ({type(value).__name__}); choose a value of the domain")


def _finite(name: str, value: object) -> float:
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise DomainError(f"expected a finite number for {name}, got {shown(value)}; write a number such as 0.001")


def _integer(name: str, value: object) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) <= _LARGEST_INT:
        return int(value)
    raise DomainError(f"expected an integer of at most 2**40 for {name}, got {shown(value)}; write one such as 8")


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise DomainError(f"expected low <= high, got low={low!r} and high={high!r}; swap them")


def _check_log(log: object, low: float, expected: str, fits: bool) -> None:
    if not isinstance(log, bool):
        raise DomainError(f"expected True or False for log, got {shown(log)}; write log=True for a logarithmic scale")
    if log and not fits:
        raise DomainError(f"expected {expected} on the log scale, got {low!r}; raise low or drop log")


def _choice_value(value: object) -> ParamValue:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is str and is_scientific(value):
        raise DomainError(f"expected a number or a word, got the string {value!r}; write it as the number {value}")
    if type(value) is int and abs(value) > _LARGEST_CHOICE:
        raise DomainError(f"expected integers of at most 2**63, got {shown(value)}; write it as a float or a word")
    if type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value  # type: ignore[return-value]
    raise DomainError(f"expected a bool, a finite number or a string, got {shown(value)}; replace this value")
