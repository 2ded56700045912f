"""What holds for every space with conditions, rules and priors."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.domains import Choice, Domain, Float, Int, Params
from search_spaces.priors import Normal, Prior, ScaledBy, Weights
from search_spaces.rules import Divides, Ordered, Product, Rule, Sum
from search_spaces.space import Space, SpaceError

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ("a", "b.0", "b.1", "c", "d.e", "f")


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    kind = draw(st.sampled_from(["float", "int", "large int", "numbers", "words"]))
    if kind == "float":
        low, high = sorted(draw(st.tuples(st.floats(0.01, 50), st.floats(0.01, 50))))
        return Float(low, high, draw(st.booleans()))
    if kind == "int":
        low, high = sorted(draw(st.tuples(st.integers(1, 30), st.integers(1, 30))))
        return Int(low, high, draw(st.booleans()))
    if kind == "large int":
        return Int(draw(st.integers(-5, 4)), draw(st.integers(2_000, 100_000)))
    if kind == "numbers":
        return Choice(tuple(draw(st.lists(st.integers(-4, 24), min_size=1, max_size=5, unique=True))))
    return Choice(tuple(draw(st.lists(st.sampled_from(["x", "y", True, False, 3, 0.5]), min_size=1, unique=True))))


@st.composite
def conditions_on(draw: st.DrawFn, chosen: dict[str, Domain]) -> list[Condition]:
    found: list[Condition] = []
    names = list(draw(st.permutations(list(chosen))))
    for i, name in enumerate(names[1:], start=1):
        if not draw(st.booleans()):
            continue
        parent = draw(st.sampled_from(names[:i]))
        domain = chosen[parent]
        if isinstance(domain, Choice):
            found.append(OneOf(name, parent, tuple(draw(st.sets(st.sampled_from(domain.values), min_size=1)))))
        else:
            found.append(AtLeast(name, parent, domain.decode(draw(st.floats(0.0, 1.0)))))
    return found


@st.composite
def rules_on(draw: st.DrawFn, chosen: dict[str, Domain]) -> list[Rule]:
    numeric = [
        name
        for name, domain in chosen.items()
        if not isinstance(domain, Choice) or all(type(value) is int for value in domain.values)
    ]
    integers = [name for name in numeric if not isinstance(chosen[name], Float)]
    found: list[Rule] = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from([Divides, Ordered, Product, Sum]))
        names = integers if kind is Divides else numeric
        if len(names) < 2:
            continue
        some = tuple(draw(st.lists(st.sampled_from(names), min_size=2, max_size=4, unique=True)))
        if kind is Divides:
            found.append(Divides(*some[:2]))
        elif kind is Ordered:
            found.append(Ordered(some))
        else:
            high = draw(st.floats(1.0, 1e5) | st.integers(1, 200))
            found.append(kind(some, draw(st.none() | st.just(high / 4)), high))
    return found


@st.composite
def priors_on(draw: st.DrawFn, chosen: dict[str, Domain]) -> dict[str, Prior]:
    found: dict[str, Prior] = {}
    for name, domain in chosen.items():
        if not draw(st.booleans()):
            continue
        if isinstance(domain, Choice):
            found[name] = Weights(tuple(draw(st.floats(0.1, 10.0)) for _ in domain.values))
            continue
        scales = [
            other
            for other, scale in chosen.items()
            if other != name and other not in found and not isinstance(scale, Choice) and scale.low > 0
        ]
        scaled_by = None
        if scales and draw(st.booleans()):
            scaled_by = ScaledBy(draw(st.sampled_from(scales)), 8.0, draw(st.floats(-1.0, 1.0)))
        centre = domain.decode(draw(st.floats(0.0, 1.0)))
        assume(centre > 0 or not domain.log)
        found[name] = Normal(centre, draw(st.floats(0.05, 5.0)), scaled_by)
    return found


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    chosen = {name: draw(domains()) for name in names}
    parts = (tuple(draw(conditions_on(chosen))), tuple(draw(rules_on(chosen))), draw(priors_on(chosen)))
    try:
        return Space(chosen, *parts)
    except SpaceError as error:
        assume(not any(text in str(error) for text in ("some assignment", "hold together", "depend on themselves")))
        raise


MODERATELY = settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def walk(space: Space, seed: int) -> list[Params]:
    rng = np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = space.crossover(first, second, rng)
    return [first, second, child, space.mutate(child, rng), space.mutate(first, rng, 3)]


@MODERATELY
@given(spaces(), SEEDS)
def test_what_it_proposes_lies_in_it_and_follows_from_the_generator(space: Space, seed: int) -> None:
    proposed = walk(space, seed)
    assert proposed == walk(space, seed)
    for params in [
        *proposed,
        space.most_likely(),
        *space.decode_many(np.random.default_rng(seed).random((4, len(space.names)))),
    ]:
        space.validate(params)
        assert list(params) == [name for name in space.names if name in params]
        assert {type(value) for value in params.values()} <= {bool, int, float, str}
        assert all(rule.holds(params) for rule in space.rules)
        assert space.repair(params) == params


@MODERATELY
@given(spaces(), SEEDS)
def test_a_mutation_changes_something_where_anything_can_change(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = space.sample(rng)
    before = dict(params)
    mutated = space.mutate(params, rng)
    assert params == before
    if space.neighbours(params):
        assert mutated != params


@MODERATELY
@given(spaces(), SEEDS)
def test_encode_and_decode_are_inverse_and_the_same_for_many(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assignments = [space.sample(rng) for _ in range(3)]
    points = space.encode_many(assignments)
    assert points.shape == (3, len(space.names))
    assert ((points >= 0) & (points <= 1)).all()
    assert (points == np.array([space.encode(params) for params in assignments])).all()
    for params, again in zip(assignments, space.decode_many(points), strict=True):
        assert params.keys() == again.keys()
        for name, value in params.items():
            if isinstance(space.domains[name], Float):
                assert again[name] == pytest.approx(value, rel=1e-6)
            else:
                assert (again[name], type(again[name])) == (value, type(value))
    somewhere = rng.random((5, len(space.names)))
    assert space.decode_many(somewhere) == [space.decode(point) for point in somewhere]


@MODERATELY
@given(spaces())
def test_it_is_a_value_and_survives_json_yaml_and_pickle(space: Space) -> None:
    data = space.to_dict()
    for again in (
        Space.from_dict(data),
        Space.from_dict(json.loads(json.dumps(data, allow_nan=False))),
        Space.from_dict(yaml.safe_load(yaml.safe_dump(data, sort_keys=False))),
        pickle.loads(pickle.dumps(space)),
        copy.deepcopy(space),
    ):
        assert again == space
        assert hash(again) == hash(space)
        assert again.to_dict() == data
    assert walk(again, 1) == walk(space, 1)
    assert space.without_priors().priors == {}
    assert (space.without_priors() == space) == (not space.priors)


@MODERATELY
@given(spaces(), SEEDS)
def test_neighbours_lie_in_it_and_differ(space: Space, seed: int) -> None:
    params = space.sample(np.random.default_rng(seed))
    found = space.neighbours(params)
    assert params not in found
    assert len({json.dumps(one) for one in found}) == len(found)
    for one in found:
        space.validate(one)


@MODERATELY
@given(spaces())
def test_a_grid_holds_what_is_valid_and_nothing_twice(space: Space) -> None:
    try:
        found = list(space.grid(2, limit=2_000))
    except SpaceError:  # words may be many
        assume(False)
        return
    assert len({json.dumps(params) for params in found}) == len(found)
    for params in found:
        space.validate(params)


@MODERATELY
@given(spaces(), SEEDS)
def test_a_prior_is_finite_wherever_the_space_is(space: Space, seed: int) -> None:
    params = space.sample(np.random.default_rng(seed))
    density = space.log_prior(params)
    assert math.isfinite(density)
    assert space.without_priors().log_prior(params) == 0.0
    here: Any = space.most_likely()
    if (
        not space.rules
        and not space.conditions
        and not any(isinstance(p, Normal) and p.scaled_by for p in space.priors.values())
    ):
        assert space.log_prior(here) >= density - 1e-9
