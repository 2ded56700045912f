from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.domains import Choice, Domain, Float, Int, Params, ParamValue, SpaceError
from search_spaces.per_layer import per_layer
from search_spaces.repair import Component, components
from search_spaces.rules import Divides, Ordered, Product, Rule, Sum

NAMES = ("a", "b", "c", "d")


def all_assignments(domains: Mapping[str, Domain], conditions: Sequence[Condition]) -> Iterator[dict[str, ParamValue]]:
    """By trying everything: the values of what exists, for domains in dependency order."""
    values = [one.values if isinstance(one, Choice) else range(one.low, one.high + 1) for one in domains.values()]  # type: ignore[union-attr, arg-type]
    for combination in itertools.product(*values):
        params: dict[str, ParamValue] = {}
        for name, value in zip(domains, combination, strict=True):
            own = [condition for condition in conditions if condition.name == name]
            if all(one.parent in params and one.holds(params[one.parent]) for one in own):
                params[name] = value
        yield params


def distance(domains: Mapping[str, Domain], params: Params, wanted: Params) -> float:
    """The largest move; a value of no order that changes is 1 away."""
    moves = [0.0]
    for name, value in params.items():
        domain = domains[name]
        if isinstance(domain, Choice) and not domain.is_ordered:
            moves.append(float(value != wanted[name]))
        else:
            moves.append(abs(domain.encode(value) - domain.encode(wanted[name])))
    return max(moves)


@st.composite
def finite_parts(draw: st.DrawFn) -> tuple[dict[str, Domain], list[Condition], list[Rule]]:
    domains: dict[str, Domain] = {}
    for name in NAMES:
        if draw(st.booleans()):
            low = draw(st.integers(-3, 8))
            domains[name] = Int(low, low + draw(st.integers(0, 5)))
        else:
            domains[name] = Choice(tuple(draw(st.lists(st.integers(-4, 12), min_size=1, max_size=5, unique=True))))
    conditions: list[Condition] = []
    for i in range(1, len(NAMES)):
        if draw(st.integers(0, 2)) == 0:
            parent = NAMES[draw(st.integers(0, i - 1))]
            value = int(domains[parent].decode(draw(st.floats(0.0, 1.0))))
            one = AtLeast(NAMES[i], parent, value) if draw(st.booleans()) else OneOf(NAMES[i], parent, (value,))
            conditions.append(one)
    rules: list[Rule] = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.permutations(NAMES))[: draw(st.integers(2, 4))]
        kind = draw(st.sampled_from([Divides, Ordered, Product, Sum]))
        if kind is Divides:
            rules.append(Divides(*names[:2]))
        elif kind is Ordered:
            rules.append(Ordered(tuple(names)))
        else:
            low, high = sorted((draw(st.integers(-30, 60)), draw(st.integers(-30, 60))))
            rules.append(kind(tuple(names), draw(st.sampled_from([None, low])), high))
    return domains, conditions, rules


@settings(max_examples=100)
@given(finite_parts(), st.integers(0, 2**32 - 1))
def test_it_finds_an_assignment_exactly_if_there_is_one_and_a_near_one(
    parts: tuple[dict[str, Domain], list[Condition], list[Rule]], seed: int
) -> None:
    domains, conditions, rules = parts
    valid = [one for one in all_assignments(domains, conditions) if all(rule.holds(one) for rule in rules)]
    if not valid:
        with pytest.raises(SpaceError, match="cannot be met"):
            components(domains, conditions, rules)
        return
    found = components(domains, conditions, rules)
    rng = np.random.default_rng(seed)
    wanted = {name: domain.sample(rng) for name, domain in domains.items()}
    for component in found:
        near = component.nearest(wanted)
        assert near is not None
        assert component.holds(near)
        own = {name: domain for name, domain in domains.items() if name in component.names}
        apart = [condition for condition in conditions if condition.name in own]
        possible = [one for one in all_assignments(own, apart) if component.holds(one)]
        assert near in possible
        best = min(distance(domains, one, wanted) for one in possible)
        assert distance(domains, near, wanted) <= max(1.5 * best, best + 1 / 100)


@settings(max_examples=40)
@given(finite_parts(), st.integers(0, 2**32 - 1))
def test_a_pinned_value_stays_and_a_barred_one_goes(
    parts: tuple[dict[str, Domain], list[Condition], list[Rule]], seed: int
) -> None:
    domains, conditions, rules = parts
    try:
        found = components(domains, conditions, rules)
    except SpaceError:
        assume(False)
        return
    rng = np.random.default_rng(seed)
    wanted = {name: domain.sample(rng) for name, domain in domains.items()}
    for component in found:
        own = {name: domain for name, domain in domains.items() if name in component.names}
        apart = [condition for condition in conditions if condition.name in own]
        possible = [one for one in all_assignments(own, apart) if component.holds(one)]
        for name in component.names:
            value = wanted[name]
            pinned = component.nearest(wanted, pinned={name: value})
            assert (pinned is not None) == any(one.get(name, value) == value for one in possible)
            assert pinned is None or pinned.get(name, value) == value
            barred = component.nearest(wanted, barred={name: value})
            assert (barred is not None) == any(name not in one or one[name] != value for one in possible)
            assert barred is None or name not in barred or barred[name] != value


def one_component(domains: Mapping[str, Domain], *rules: Rule) -> Component:
    (component,) = components(domains, (), rules)
    return component


def test_floats_end_right_on_a_bound() -> None:
    component = one_component({"a": Float(0, 1), "b": Float(0, 1)}, Sum(("a", "b"), high=1.0))
    rng = np.random.default_rng(0)
    for a, b in rng.random((300, 2)).tolist():
        near = component.nearest({"a": a, "b": b})
        assert near is not None
        assert near["a"] + near["b"] <= 1.0  # type: ignore[operator]
        if a + b > 1:
            assert near["a"] + near["b"] == pytest.approx(1.0)  # type: ignore[operator]


def test_a_sum_is_met_exactly_wherever_it_is_repaired() -> None:
    """Whoever adds the two up again may be strict, and 0.288 + 0.7120000000000001 is more than 1."""
    domains: dict[str, Domain] = {"a": Float(0.0, 0.9), "b": Float(0.1, 0.95)}
    (component,) = components(domains, (), [Sum(("a", "b"), None, 1.0)])
    places = np.linspace(0.0, 1.0, 101)
    for one, other in itertools.product(places, places):
        near = component.nearest({"a": domains["a"].decode(one), "b": domains["b"].decode(other)})
        assert near is not None
        assert float(near["a"]) + float(near["b"]) <= 1.0


def test_the_way_to_a_bound_is_shared() -> None:
    names = tuple(f"ffn.{i}" for i in range(10))
    component = one_component(dict.fromkeys(names, Float(0, 1)), Sum(names, high=5.0))
    near = component.nearest(dict.fromkeys(names, 0.9))
    assert near is not None
    assert sum(near.values()) == pytest.approx(5.0, abs=0.2)  # type: ignore[arg-type]
    assert max(0.9 - float(value) for value in near.values()) < 0.46  # and not 0.9 for the last ones


def test_bounds_on_both_sides_of_floats_are_reasoned_out() -> None:
    domains = {"a": Float(0, 1), "b": Float(0, 1)}
    component = one_component(domains, Sum(("a", "b"), high=1.0), Product(("a", "b"), low=0.24))
    near = component.nearest({"a": 0.1, "b": 0.1})
    assert near is not None
    assert component.holds(near)
    assert max(float(value) - 0.1 for value in near.values()) < 0.45  # 0.39, where both are the root of 0.24, is best
    with pytest.raises(SpaceError, match=r"'a \+ b <= 1.0' and '0.26 <= a \* b', which cannot be met together"):
        one_component(domains, Sum(("a", "b"), high=1.0), Product(("a", "b"), low=0.26))


@pytest.mark.parametrize("log", [False, True])
def test_large_integers_become_multiples_and_divisors(log: bool) -> None:
    domains = {"heads": Int(3, 7), "hidden": Int(1, 2**40, log), "half": Int(1, 2**40, log)}
    component = one_component(domains, Divides("heads", "hidden"), Divides("half", "hidden"))
    near = component.nearest({"heads": 7, "hidden": 1_000_003, "half": 600_000})
    assert near is not None
    assert near["heads"] == 7
    assert near["hidden"] % 7 == near["hidden"] % near["half"] == 0  # type: ignore[operator]
    assert domains["hidden"].encode(near["hidden"]) == pytest.approx(domains["hidden"].encode(1_000_003), abs=0.02)


def test_a_prime_dividend_leaves_its_divisors() -> None:
    component = one_component({"n": Choice((1_000_003,)), "d": Int(2, 2**30)}, Divides("d", "n"))
    assert component.nearest({"n": 1_000_003, "d": 5}) == {"n": 1_000_003, "d": 1_000_003}


def test_what_decides_existence_belongs_to_the_component() -> None:
    layers: dict[str, Domain] = {"layers": Int(2, 24)}
    more, conditions = per_layer("ffn", Choice((128, 256)), Int(2, 24), "layers")
    (component,) = components({**layers, **more}, conditions, [Sum(tuple(more), high=1000)])
    near = component.nearest({"layers": 20, **dict.fromkeys(more, 256)})
    assert near is not None
    assert near["layers"] == 7  # seven of the smallest are 896, and no value may go on with more layers
    assert [name for name in near if name.startswith("ffn")] == [f"ffn.{i}" for i in range(7)]


def test_unmeetable_rules_are_named_at_once() -> None:
    with pytest.raises(SpaceError, match=r"got 'a divides b' and '8 <= a', which cannot be met .* domains of a, b"):
        components({"a": Int(1, 9), "b": Int(1, 7), "c": Int(0, 1)}, (), [Divides("a", "b"), Sum(("a",), low=8)])


def test_a_hard_knot_ends_in_time() -> None:
    names = tuple(f"x{i}" for i in range(16))
    domains: dict[str, Domain] = dict.fromkeys(names, Choice((6, 10, 15, 22, 33)))
    start = time.perf_counter()
    component = one_component(domains, Sum(names, low=301, high=301), Product(names, high=10**20))
    rng = np.random.default_rng(0)
    for _ in range(3):
        near = component.nearest({name: domain.sample(rng) for name, domain in domains.items()})
        assert near is not None
        assert component.holds(near)
    with pytest.raises(SpaceError, match="within the steps of the search"):
        one_component(domains, Sum(names, low=301, high=301), Product(names, high=10**18))
    assert time.perf_counter() - start < 20


def test_an_architecture_of_many_layers_is_repaired_in_milliseconds() -> None:
    layers = Int(4, 24)
    more, conditions = per_layer("ffn", Choice((128, 256, 512, 1024, 2048)), layers, "layers")
    (component,) = components({"layers": layers, **more}, conditions, [Sum(tuple(more), low=4000, high=6000)])
    rng = np.random.default_rng(0)
    wanted = [
        {"layers": layers.sample(rng), **{name: domain.sample(rng) for name, domain in more.items()}} for _ in range(20)
    ]
    start = time.perf_counter()
    for one in wanted:
        near = component.nearest(one)
        assert near is not None
        assert component.holds(near)
    assert (time.perf_counter() - start) / len(wanted) < 0.02  # about 0.5 ms on a desktop
