from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from search_spaces.domains import Choice, Domain, DomainError, Float, Int, ParamValue, is_number, same, shown

SEEDS = st.integers(0, 2**32 - 1)
UNITS = st.floats(0.0, 1.0)


@st.composite
def float_domains(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    bounds = st.floats(1e-300, 1e300) if log else st.floats(-1e300, 1e300)
    low, high = sorted((draw(bounds), draw(bounds)))
    return Float(low, high, log)


@st.composite
def int_domains(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    bounds = st.integers(1 if log else -(2**40), 2**40)
    low, high = sorted((draw(bounds), draw(bounds)))
    return Int(low, high, log)


@st.composite
def choice_domains(draw: st.DrawFn) -> Choice:
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
    words = st.text(max_size=5)
    value = st.one_of(st.booleans(), numbers, words)
    values = draw(st.lists(value, min_size=1, max_size=6, unique_by=lambda value: (type(value), value)))
    try:
        return Choice(tuple(values))
    except DomainError:  # a number written as text, or an int that becomes equal to a float beside it
        assume(False)
        raise


DOMAINS: st.SearchStrategy[Domain] = st.one_of(float_domains(), int_domains(), choice_domains())


@given(DOMAINS, SEEDS)
def test_samples_and_mutations_are_native_values_of_the_domain(domain: Domain, seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = domain.sample(rng)
    for _ in range(5):
        assert domain.contains(value)
        assert type(value) in (bool, int, float, str)
        value = domain.mutate(value, rng)
    assert domain.contains(value)


@given(DOMAINS, SEEDS)
def test_the_same_seed_gives_the_same_values(domain: Domain, seed: int) -> None:
    def walk() -> list[ParamValue]:
        rng = np.random.default_rng(seed)
        first = domain.sample(rng)
        return [first, domain.mutate(first, rng), domain.sample(rng)]

    assert walk() == walk()


@given(st.one_of(int_domains(), choice_domains()), UNITS)
def test_encode_then_decode_gives_back_every_int_and_choice(domain: Int | Choice, unit: float) -> None:
    value = domain.decode(unit)
    place = domain.encode(value)
    assert 0.0 < place < 1.0
    assert domain.decode(place) == value
    assert type(domain.decode(place)) is type(value)


@given(float_domains(), UNITS)
@example(Float(1e-300, 1e300, log=True), 1.0)
@example(Float(0.1, 0.3), 1.0)
@example(Float(math.nextafter(1.0, 0.0), 1.0, log=True), 0.5)
def test_encode_then_decode_gives_back_a_float_up_to_rounding(domain: Float, unit: float) -> None:
    value = domain.decode(unit)
    assert domain.low <= value <= domain.high
    again = domain.decode(domain.encode(value))
    if domain.log:
        assert again == pytest.approx(value, rel=1e-11)
    else:
        width = domain.high - domain.low
        assert again == pytest.approx(value, rel=1e-11, abs=1e-11 * width)


@given(DOMAINS)
def test_bounds_of_the_unit_interval_are_bounds_of_the_domain(domain: Domain) -> None:
    first, last = domain.decode(0.0), domain.decode(1.0)
    if isinstance(domain, Choice):
        assert (first, last) == (domain.values[0], domain.values[-1])
    else:
        assert (first, last) == (pytest.approx(domain.low, rel=1e-12), pytest.approx(domain.high, rel=1e-12))


@given(st.one_of(int_domains(), choice_domains()), UNITS, SEEDS)
@example(Int(7, 8), 0.0, 0)
@example(Int(1, 2**40, log=True), 0.0, 0)
def test_a_mutation_changes_an_int_or_choice_that_can_change(domain: Int | Choice, unit: float, seed: int) -> None:
    value = domain.decode(unit)
    mutated = domain.mutate(value, np.random.default_rng(seed))
    unchanged = type(mutated) is type(value) and mutated == value
    assert unchanged == (domain.size == 1)


def test_a_float_mutates_by_a_fifth_of_its_range_on_its_scale() -> None:
    rng = np.random.default_rng(0)
    domain = Float(1e-6, 1.0, log=True)
    decades = [math.log10(domain.mutate(1e-3, rng)) + 3 for _ in range(4000)]
    assert np.mean(decades) == pytest.approx(0.0, abs=0.05)
    assert np.std(decades) == pytest.approx(0.2 * 6, rel=0.05)  # reflection hardly matters from the middle


def test_a_float_at_a_bound_is_reflected_and_not_stuck_there() -> None:
    rng = np.random.default_rng(0)
    mutated = [Float(0.0, 1.0).mutate(1.0, rng) for _ in range(200)]
    assert 1.0 not in mutated
    assert np.mean(mutated) == pytest.approx(1 - 0.2 * math.sqrt(2 / math.pi), abs=0.03)


def test_log_samples_are_uniform_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    floats = [Float(1e-4, 1.0, log=True).sample(rng) for _ in range(4000)]
    assert np.mean([value < 1e-2 for value in floats]) == pytest.approx(0.5, abs=0.03)
    ints = Counter(Int(1, 4, log=True).sample(rng) for _ in range(4000))
    for value in range(1, 5):  # each integer owns the logarithms from value - 1/2 to value + 1/2
        share = math.log((value + 0.5) / (value - 0.5)) / math.log(4.5 / 0.5)
        assert ints[value] / 4000 == pytest.approx(share, abs=0.03)


def test_linear_ints_and_choices_are_sampled_evenly() -> None:
    rng = np.random.default_rng(0)
    for domain in (Int(-1, 2), Choice((3, "a", True, 0.5))):
        counts = Counter(domain.sample(rng) for _ in range(4000))
        assert sorted(counts.values()) == pytest.approx([1000] * 4, abs=100)


def test_an_ordered_choice_goes_to_a_neighbour_half_of_the_time_and_more() -> None:
    domain = Choice((4, 8, 16, 32, 64))
    rng = np.random.default_rng(0)
    counts = Counter(domain.mutate(16, rng) for _ in range(4000))
    assert {value: count / 4000 for value, count in counts.items()} == pytest.approx(
        {8: 0.375, 32: 0.375, 4: 0.125, 64: 0.125}, abs=0.03
    )
    at_the_end = Counter(domain.mutate(4, rng) for _ in range(4000))
    assert at_the_end[8] / 4000 == pytest.approx(0.5 + 0.125, abs=0.03)


def test_an_unordered_choice_goes_anywhere_alike() -> None:
    rng = np.random.default_rng(0)
    for domain in (Choice(("a", "b", "c", "d")), Choice((3, 1, 2, 4))):
        assert not domain.is_ordered
        counts = Counter(domain.mutate(domain.values[0], rng) for _ in range(3000))
        assert sorted(counts.values()) == pytest.approx([1000] * 3, abs=100)


def test_sizes() -> None:
    assert Float(0, 1).size == math.inf
    assert Float(1, 1).size == 1
    assert Int(-2, 2).size == 5
    assert Choice(("a", "b")).size == 2


def test_types_are_told_apart() -> None:
    values = Choice((True, 1, "1"))
    assert [values.contains(value) for value in (True, 1, "1", 1.0, False)] == [True, True, True, False, False]
    assert values.decode(values.encode(1)) is not True
    assert Choice((1, 2)) != Choice((1.0, 2.0))
    assert Choice((True, False)) != Choice((1, 0))
    assert Int(1, 5).contains(1)
    assert not Int(1, 5).contains(True)
    assert not Int(1, 5).contains(1.0)
    assert Float(0, 5).contains(1)
    assert not Float(0, 5).contains(True)
    assert not Float(0, 5).contains("1")
    assert not Float(0, 5).contains(math.nan)
    assert not Float(0, 5).contains(np.float64(1))


def test_ints_among_floats_become_floats() -> None:
    domain = Choice((0, 0.05, 0.1))
    assert [type(value) for value in domain.values] == [float] * 3
    assert domain == Choice((0.0, 0.05, 0.1))


def test_domains_are_values() -> None:
    assert len({Float(0, 1), Float(0.0, 1.0), Int(0, 1), Float(0, 1, log=False)}) == 2
    assert hash(Choice([1, 2])) == hash(Choice((1, 2)))  # type: ignore[arg-type]
    assert Choice((1, 2)) == Choice((1, 2)) != Choice((2, 1))
    with pytest.raises(AttributeError):
        Int(0, 1).low = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(1, 0), "low <= high, got low=1.0"),
        (lambda: Float(0, math.inf), "finite number for high, got inf"),
        (lambda: Float(math.nan, 1), "finite number for low, got nan"),
        (lambda: Float(True, 2), "finite number for low, got True"),
        (lambda: Float("0", 1), "finite number for low, got '0'"),
        (lambda: Float(0, 10**400), "finite number for high"),
        (lambda: Float(-1e308, 1e308), "finite range"),
        (lambda: Float(0, 1, log=True), "low above 0 on the log scale, got 0.0"),
        (lambda: Float(1, 2, log=1), "True or False for log, got 1"),
        (lambda: Int(0, 5, log=True), "low of at least 1 on the log scale, got 0"),
        (lambda: Int(1.0, 5), "integer of at most 2\\*\\*40 for low, got 1.0"),
        (lambda: Int(1, 2**41), "integer of at most 2\\*\\*40 for high"),
        (lambda: Int(False, 5), "for low, got False"),
        (lambda: Int(3, 2), "low <= high"),
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice("abc"), "a list of values, got 'abc'"),
        (lambda: Choice((1, 2, 1)), "different values, got 1 twice"),
        (lambda: Choice((1, 1.0)), "different values, got 1.0 twice"),
        (lambda: Choice((1.0, math.nan)), "finite number or a string, got nan"),
        (lambda: Choice((None,)), "finite number or a string, got None"),
        (lambda: Choice(("1e-4",)), "write it as the number 1e-4"),
    ],
)
def test_domains_that_make_no_sense_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(DomainError, match=message):
        make()


def test_numpy_numbers_become_native_bounds_and_values() -> None:
    assert type(Float(np.float32(0.5), 1).low) is float
    assert type(Int(np.int64(1), 5).low) is int
    assert [type(value) for value in Choice(tuple(np.array([1.5, 2.5]))).values] == [float, float]


@pytest.mark.parametrize("domain", [Float(0, 1), Int(0, 1), Choice(("a", "b"))])
def test_values_and_places_outside_are_refused(domain: Domain) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DomainError, match=r"got 5 \(int\)"):
        domain.encode(5)
    with pytest.raises(DomainError, match=r"got 5 \(int\)"):
        domain.mutate(5, rng)
    for unit in (-0.1, 1.1, math.nan):
        with pytest.raises(DomainError, match="from 0 to 1"):
            domain.decode(unit)


@given(DOMAINS, st.lists(UNITS, max_size=6))
@example(Float(1e-300, 1e300, log=True), [0.0, 1.0, 0.1])
@example(Int(1, 2**40, log=True), [0.0, 1.0, 0.999999])
def test_many_at_once_are_the_same_bit_by_bit(domain: Domain, units: list[float]) -> None:
    values = domain.decode_many(units)
    assert values == [domain.decode(unit) for unit in units]
    assert [type(value) for value in values] == [type(domain.decode(unit)) for unit in units]
    places = domain.encode_many(values)
    assert places.dtype == np.float64
    assert places.tolist() == [domain.encode(value) for value in values]


@pytest.mark.parametrize("domain", [Float(0, 1), Int(0, 1), Choice(("a", "b"))])
def test_many_values_and_places_outside_are_refused(domain: Domain) -> None:
    with pytest.raises(DomainError, match=r"got 5 \(int\)"):
        domain.encode_many([domain.decode(0.5), 5])
    for units in ([0.5, 1.1], [math.nan], [-0.1]):
        with pytest.raises(DomainError, match="expected a place from 0 to 1"):
            domain.decode_many(units)
    with pytest.raises(DomainError, match=r"expected a list of places, got shape \(1, 1\)"):
        domain.decode_many([[0.5]])


def test_values_in_messages_are_short_and_never_an_error() -> None:
    assert shown("a") == "'a'"
    assert len(shown(list(range(10_000)))) < 200
    assert shown(10**5000) == "<int>"
    with pytest.raises(DomainError, match=r"at most 2\*\*63, got <int>"):
        Choice((10**5000,))
    assert is_number(1.5)
    assert not is_number(True)
    assert same(1, 1)
    assert not same(1, True)
