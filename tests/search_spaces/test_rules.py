from __future__ import annotations

import math
from typing import Any

import pytest

from search_spaces.domains import Choice, Domain, Float, Int, SpaceError
from search_spaces.rules import Divides, Ordered, Product, Rule, Sum, check_rules, exact_sum

DOMAINS: dict[str, Domain] = {
    "heads": Int(1, 16),
    "kv": Choice((1, 2, 4)),
    "warmup": Float(0, 1),
    "decay": Float(0, 1),
    "rate": Choice((0.1, 0.2)),
    "kind": Choice(("x", "y")),
    "mixed": Choice((1, True)),
}


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Divides("a", "b"), [{"a": 3, "b": 9}, {"a": -2, "b": 4}, {"a": 5, "b": 0}, {"a": 5}, {}], [{"a": 2, "b": 3}]),
        (Divides("a", "b"), [{"b": 1}], [{"a": 0, "b": 4}, {"a": 0, "b": 0}]),
        (Ordered(("a", "b", "c")), [{"a": 1, "b": 1, "c": 2.5}, {"a": 1, "c": 1}, {"c": 0}], [{"a": 2, "c": 1}]),
        (Product(("a", "b"), high=12), [{"a": 3, "b": 4}, {"a": 12}, {}], [{"a": 13}, {"a": 3, "b": 4.1}]),
        (Product(("a", "b"), low=2, high=4), [{"a": -1, "b": -3}, {"b": 2}], [{"a": 1}, {"a": 0, "b": 1e300}]),
        (Sum(("a", "b"), high=1.0), [{"a": 0.3, "b": 0.7}, {"a": 1}, {}], [{"a": 0.3, "b": 0.7001}]),
        (Sum(("a", "b", "c"), low=2), [{"a": 1, "b": 1}, {}, {"c": 2.0}], [{"a": 1}, {"a": 1, "b": 1, "c": -1}]),
    ],
)
def test_when_they_hold(rule: Rule, good: list[dict[str, Any]], bad: list[dict[str, Any]]) -> None:
    assert [rule.holds(params) for params in good] == [True] * len(good)
    assert [rule.holds(params) for params in bad] == [False] * len(bad)


def test_rounding_is_forgiven_to_floats_only() -> None:
    almost = {"a": 0.1, "b": 0.2, "c": math.nextafter(0.7, 1)}
    assert Sum(("a", "b", "c"), high=1.0).holds(almost)
    assert not Sum(("a", "b"), high=2**40).holds({"a": 2**40, "b": 1})
    assert not Product(("a", "b"), high=2**40 - 1).holds({"a": 2**20, "b": 2**20})
    assert Ordered(("a", "b")).holds({"a": 1.0, "b": 1.0 - 1e-12})
    assert not Ordered(("a", "b")).holds({"a": 1.0, "b": 1.0 - 1e-12}, tolerance=0.0)
    assert not Sum(("a", "b"), high=1.0).holds({"a": 0.5, "b": 0.5 + 1e-12}, tolerance=0.0)


def test_numbers_beyond_the_largest_float_are_no_error() -> None:
    huge = dict.fromkeys(map(str, range(40)), 2**40)
    assert not Product((*huge, "x"), high=10).holds({**huge, "x": 0.5})
    assert Product(tuple(huge), low=10).holds(huge)
    assert exact_sum([1.7e308, 1.7e308]) == math.inf
    assert not Sum(("a", "b"), high=1).holds({"a": 1.7e308, "b": 1.7e308})
    assert exact_sum([0.1] * 10) == 1.0


def test_they_say_what_they_are() -> None:
    rules = [Divides("kv", "heads"), Ordered(("a", "b")), Product(("a", "b"), 1, 4096), Sum(("a", "b"), high=1.0)]
    assert list(map(str, rules)) == ["kv divides heads", "a <= b", "1 <= a * b <= 4096", "a + b <= 1.0"]
    assert len({*rules, Divides("kv", "heads"), Ordered(["a", "b"])}) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ordered(("a",)), "Ordered: expected at least 2 names, got 1"),
        (lambda: Ordered("ab"), "Ordered: expected a list of names, got 'ab'"),
        (lambda: Sum((), high=1), "Sum: expected at least 1 names"),
        (lambda: Sum((1,), high=1), r"Sum: expected a list of names, got \(1,\)"),
        (lambda: Sum(("a",)), "Sum: expected low, high or both, got neither"),
        (lambda: Product(("a",), 3, 2), "Product: expected low <= high, got low=3 and high=2; swap"),
        (lambda: Product(("a",), high=math.inf), "Product: expected a finite number as a bound, got inf"),
        (lambda: Product(("a",), high=True), "got True"),
        (lambda: Product(("a",), high="3"), "got '3'"),
    ],
)
def test_rules_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Divides("kv", "haeds"), r"rule 'kv divides haeds': .*got 'haeds'; did you mean 'heads'\?"),
        (Divides("kv", "warmup"), "expected integers for warmup, got a number from 0.0"),
        (Divides("rate", "heads"), "expected integers for rate"),
        (Divides("heads", "heads"), "expected different names, got one twice"),
        (Sum(("warmup", "warmup"), high=1), "expected different names"),
        (Sum(("warmup", "kind"), high=1), "expected numbers for kind, got one of 'x', 'y'"),
        (Ordered(("warmup", "mixed")), "expected numbers for mixed"),
        (Divides(["kv"], "heads"), "expected names of the space"),
        ("kv divides heads", r"expected a rule \(Divides, Ordered, Product or Sum\), got 'kv divides heads'"),
    ],
)
def test_rules_must_fit_the_domains(rule: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check_rules(DOMAINS, [rule])


def test_a_rule_counts_once() -> None:
    rules = [Sum(("warmup", "rate"), high=1), Divides("kv", "heads"), Sum(("warmup", "rate"), high=1.0)]
    assert check_rules(DOMAINS, rules) == tuple(rules[:2])
