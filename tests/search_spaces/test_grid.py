from __future__ import annotations

from typing import Any

import pytest

from search_spaces.conditions import AtLeast, OneOf
from search_spaces.domains import Choice, Domain, Float, Int, ParamValue, SpaceError
from search_spaces.grid import grid, grid_values
from search_spaces.rules import Divides, Sum

DOMAINS: dict[str, Domain] = {"a": Int(1, 3), "b": Choice(("x", "y")), "c": Float(0, 1)}


@pytest.mark.parametrize(
    ("domain", "points", "values"),
    [
        (Float(0, 1), 3, (0.0, 0.5, 1.0)),
        (Float(0, 1), 1, (0.5,)),
        (Float(1, 1), {}, (1.0,)),
        (Float(1, 1), 5, (1.0,)),
        (Float(1e-4, 1.0, log=True), {"n": 3}, (1e-4, 1e-2, 1.0)),
        (Int(1, 3), 5, (1, 2, 3)),
        (Int(1, 3), {}, (1, 2, 3)),
        (Int(1, 100), 3, (1, 51, 100)),
        (Int(1, 3), 2, (1, 3)),
        (Choice((4, 1, "x")), 1, (4, 1, "x")),
    ],
)
def test_the_values_of_one_parameter(domain: Domain, points: Any, values: tuple[ParamValue, ...]) -> None:
    found = grid_values("n", domain, points)
    assert found == (pytest.approx(values) if isinstance(domain, Float) else values)


def test_every_combination_comes_once_and_the_last_changes_fastest() -> None:
    found = list(grid(DOMAINS, tuple("abc"), (), (), {"a": 2, "c": 2}))
    assert found[:3] == [{"a": 1, "b": "x", "c": 0.0}, {"a": 1, "b": "x", "c": 1.0}, {"a": 1, "b": "y", "c": 0.0}]
    assert len(found) == 8


def test_what_does_not_exist_multiplies_nothing() -> None:
    conditions = (OneOf("c", "b", ("y",)), AtLeast("a", "c", 0.5))
    found = list(grid(DOMAINS, tuple("bca"), conditions, (), 3))
    assert found[0] == {"b": "x"}
    assert len(found) == 1 + 1 + 2 * 3
    assert list(found[-1]) == ["a", "b", "c"]


def test_rules_leave_out_assignments() -> None:
    domains: dict[str, Domain] = {"kv": Int(1, 4), "heads": Int(1, 4), "x": Int(0, 3)}
    rules = (Divides("kv", "heads"), Sum(("heads", "x"), high=3))
    found = list(grid(domains, tuple(domains), (), rules, {}))
    assert len(found) == sum(h % k == 0 and h + x <= 3 for k in range(1, 5) for h in range(1, 5) for x in range(4))


def test_a_grid_too_large_is_refused_at_once() -> None:
    with pytest.raises(SpaceError, match="at most 100000 assignments, got more; take fewer points or raise limit"):
        grid({"a": Int(1, 1000), "b": Int(1, 1000)}, tuple("ab"), (), (), {})
    domains: dict[str, Domain] = {"a": Int(1, 5), "b": Int(1, 5)}
    rules = (Sum(("a", "b"), high=4),)
    assert len(list(grid(domains, tuple("ab"), (), rules, {}, limit=10))) == 6  # of 25, and rules count
    with pytest.raises(SpaceError, match="at most 5 assignments"):
        grid(domains, tuple("ab"), (), rules, {}, limit=5)
    with pytest.raises(SpaceError, match="a: expected at most 1000000 points"):
        grid({"a": Int(1, 2**40)}, ("a",), (), (), {})


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (0, "a: expected a number of points of at least 1, got 0"),
        (2.5, "points: expected an integer or a mapping"),
        (True, "points: expected an integer or a mapping"),
        ({}, "c: expected a number of points of at least 1, got None"),
        ({"c": "3"}, "c: expected a number of points of at least 1, got '3'"),
        ({"d": 3}, "points: expected names of the space, got 'd'"),
    ],
)
def test_points_that_make_no_sense_are_refused(points: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        grid(DOMAINS, tuple("abc"), (), (), points)
