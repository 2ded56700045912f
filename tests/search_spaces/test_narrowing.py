from __future__ import annotations

import math

import numpy as np
import pytest

from search_spaces.conditions import AtLeast, OneOf
from search_spaces.domains import Choice, Float, Int, SpaceError
from search_spaces.narrowing import narrowed
from search_spaces.per_layer import per_layer
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Divides, Ordered, Product, Sum
from search_spaces.space import Params, Space

LAYERS, EXIST = per_layer("architecture.ffn", Choice((64, 128, 256)), Int(1, 4), "architecture.num_layers")
WHOLE = Space(
    {
        "optimizer.learning_rate": Float(1e-4, 1e-1, log=True),
        "optimizer.batch_size": Choice((8, 16, 32, 64)),
        "schedule.kind": Choice(("linear", "wsd", "cosine")),
        "schedule.warmup": Float(0.0, 0.9),
        "schedule.decay": Float(0.1, 0.9),
        "architecture.heads": Int(1, 12),
        "architecture.kv_heads": Int(1, 12),
        "architecture.num_layers": Int(1, 4),
        **LAYERS,
    },
    conditions=(OneOf("schedule.decay", "schedule.kind", ("wsd",)), *EXIST),
    rules=(
        Divides("architecture.kv_heads", "architecture.heads"),
        Sum(("schedule.warmup", "schedule.decay"), high=1.0),
        Sum(tuple(LAYERS), high=500),
    ),
    priors={
        "optimizer.learning_rate": Normal(1e-2, 0.3, ScaledBy("optimizer.batch_size", 8, 0.5)),
        "optimizer.batch_size": Weights((1, 2, 3, 4)),
        "architecture.heads": Weights(tuple(range(1, 13))),
    },
)


def test_a_range_is_what_the_values_span_and_a_margin() -> None:
    space = Space(
        {"x": Float(0.0, 1.0), "rate": Float(1e-4, 1.0, log=True), "n": Int(1, 10), "m": Int(1, 1000, log=True)}
    )
    box = narrowed(space, [{"x": 0.4, "rate": 1e-2, "n": 5, "m": 10}, {"x": 0.5, "rate": 1e-3, "n": 6, "m": 30}], 0.1)
    domains = box.domains
    x, rate = domains["x"], domains["rate"]
    assert isinstance(x, Float)
    assert (x.low, x.high) == pytest.approx((0.3, 0.6))
    assert isinstance(rate, Float)
    assert rate.log
    assert math.log10(rate.low) == pytest.approx(-3.4)
    assert math.log10(rate.high) == pytest.approx(-1.6)
    assert domains["n"] == Int(4, 7)
    whole, cut = space.domains["m"], domains["m"]
    assert isinstance(cut, Int)
    assert cut == Int(whole.decode(whole.encode(10) - 0.1), whole.decode(whole.encode(30) + 0.1), log=True)  # type: ignore[arg-type]
    assert cut.low < 10
    assert cut.high > 30


def test_the_bounds_of_the_space_are_never_passed_and_met_exactly() -> None:
    space = Space({"rate": Float(1e-5, 3e-3, log=True), "n": Int(2, 9)})
    assert narrowed(space, [{"rate": 1.1e-5, "n": 2}, {"rate": 2.9e-3, "n": 9}]) == space
    assert narrowed(space, [{"rate": 1e-4, "n": 5}], 1.0) == space


def test_without_a_margin_only_the_values_themselves_are_left() -> None:
    rng = np.random.default_rng(0)
    space = Space({"rate": Float(1e-5, 3e-3, log=True), "x": Float(-3.0, 7.0), "n": Int(1, 10**6, log=True)})
    for _ in range(200):  # whatever rounding does
        params = space.sample(rng)
        box = narrowed(space, [params], 0.0)
        box.validate(params)
        for name, value in params.items():
            domain = box.domains[name]
            assert not isinstance(domain, Choice)
            assert domain.low == pytest.approx(value, rel=1e-9)
            assert domain.high == pytest.approx(value, rel=1e-9)


def test_an_ordered_choice_is_a_range_and_another_one_what_occurs() -> None:
    space = Space(
        {"rank": Choice((4, 8, 16, 32, 64)), "kind": Choice(("a", "b", "c", "d")), "mixed": Choice((1, True, 0))}
    )
    found = [{"rank": 8, "kind": "d", "mixed": True}, {"rank": 32, "kind": "b", "mixed": True}]
    box = narrowed(space, found, 0.05)  # too little for another rank, so it is one further at least
    assert box.domains == {"rank": Choice((4, 8, 16, 32, 64)), "kind": Choice(("b", "d")), "mixed": Choice((True,))}
    assert narrowed(space, found, 0.0).domains["rank"] == Choice((8, 16, 32))
    fewer = narrowed(Space({"n": Int(0, 99), "m": Int(3, 5)}), [{"n": 50, "m": 3}], 0.001)
    assert fewer.domains == {"n": Int(49, 51), "m": Int(3, 4)}


def test_what_can_no_longer_exist_is_left_out() -> None:
    params: Params = {
        "optimizer.learning_rate": 1e-2,
        "optimizer.batch_size": 16,
        "schedule.kind": "linear",
        "schedule.warmup": 0.5,
        "architecture.heads": 8,
        "architecture.kv_heads": 4,
        "architecture.num_layers": 1,
        "architecture.ffn.0": 128,
    }
    box = narrowed(WHOLE, [params], 0.1)
    assert "schedule.decay" not in box.domains  # only wsd has one
    assert "architecture.ffn.2" not in box.domains  # at most two layers are left
    assert "architecture.ffn.1" in box.domains
    assert box.domains["architecture.ffn.1"] == WHOLE.domains["architecture.ffn.1"]  # nothing is known about it
    assert Sum(("schedule.warmup",), high=1.0) in box.rules
    assert Sum(("architecture.ffn.0", "architecture.ffn.1"), high=500) in box.rules
    assert box.priors["optimizer.batch_size"] == Weights((1, 2, 3))
    heads = box.domains["architecture.heads"]
    assert isinstance(heads, Int)
    assert box.priors["architecture.heads"] == Weights(tuple(range(heads.low, heads.high + 1)))
    assert box.priors["optimizer.learning_rate"] == WHOLE.priors["optimizer.learning_rate"]


def test_what_depends_on_something_that_is_gone_is_gone() -> None:
    space = Space(
        {"a": Choice(("x", "y")), "b": Int(1, 4), "c": Float(0, 1), "rate": Float(1e-3, 1, log=True), "d": Int(1, 4)},
        conditions=(OneOf("b", "a", ("y",)), AtLeast("c", "b", 2)),
        rules=(Divides("b", "d"), Ordered(("c", "rate")), Product(("b", "d"), high=8)),
        priors={"rate": Normal(0.1, 0.5, ScaledBy("b", 1, 0.5))},
    )
    box = narrowed(space, [{"a": "x", "rate": 0.1, "d": 2}])
    assert box.names == ("a", "rate", "d")
    assert box.conditions == ()
    assert box.rules == (Product(("d",), high=8),)
    assert box.priors == {"rate": Normal(0.1, 0.5)}


def test_conditions_that_exclude_each_other_in_the_box_keep_their_domains() -> None:
    space = Space(
        {"p": Choice(("1", "2", "3")), "a": Float(0, 1), "b": Float(0, 1), "x": Float(0, 1)},
        conditions=(OneOf("a", "p", ("1", "2")), OneOf("b", "p", ("2", "3")), AtLeast("b", "a", 0.0)),
    )
    found: list[Params] = [{"p": "1", "a": 0.5, "x": 0.5}, {"p": "3", "x": 0.5}]  # b needs "2"
    box = narrowed(space, found, 0.1)
    assert box.domains["p"] == space.domains["p"]
    assert box.domains["x"] != space.domains["x"]
    for params in found:
        box.validate(params)


@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_the_assignments_lie_in_it_and_what_lies_in_it_lies_in_the_space(count: int, margin: float) -> None:
    rng = np.random.default_rng([count, int(10 * margin)])
    for _ in range(15):
        found = [WHOLE.sample(rng) for _ in range(count)]
        box = narrowed(WHOLE, found, margin)
        for params in found:
            box.validate(params)
        for _ in range(10):
            WHOLE.validate(box.sample(rng))
        assert box == narrowed(WHOLE, found[::-1], margin)  # the order does not matter
        assert Space.from_dict(box.to_dict()) == box


def test_nothing_is_narrowed_around_nothing() -> None:
    assert narrowed(WHOLE, []) == WHOLE


@pytest.mark.parametrize("margin", [-0.1, math.nan])
def test_a_negative_margin_is_refused(margin: float) -> None:
    with pytest.raises(SpaceError, match="expected a margin of at least 0"):
        narrowed(WHOLE, [], margin)


def test_an_assignment_outside_is_refused() -> None:
    with pytest.raises(SpaceError):
        narrowed(Space({"x": Float(0, 1)}), [{"x": 2.0}])
