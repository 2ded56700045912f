from __future__ import annotations

import copy
import json
import math
import pickle
import timeit
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Params, Space, SpaceError

SPACE = Space(
    {
        "optimizer.learning_rate": Float(2e-5, 3e-3, log=True),
        "optimizer.batch_size": Choice((8, 16, 32)),
        "optimizer.weight_decay": Choice((0.0, 0.01, 0.1)),
        "schedule.kind": Choice(("linear", "cosine")),
        "schedule.warmup": Float(0, 0.1),
        "lora.rank": Int(4, 128, log=True),
        "lora.use_bias": Choice((True, False)),
        "lora.alpha": Choice((32.0,)),
    }
)
SEEDS = st.integers(0, 2**32 - 1)

NUMBERS = st.floats(-1e100, 1e100)
POSITIVES = st.floats(1e-100, 1e100)
WORDS = st.text(max_size=6).filter(lambda text: not any(letter in "eE" for letter in text))  # no 1e5: not a word
VALUES = st.one_of(st.booleans(), WORDS, st.integers(-(2**40), 2**40))
DOMAINS = st.one_of(
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: Float(min(pair), max(pair))),
    st.tuples(POSITIVES, POSITIVES).map(lambda pair: Float(min(pair), max(pair), log=True)),
    st.tuples(st.integers(1, 2**40), st.integers(1, 2**40), st.booleans()).map(
        lambda args: Int(min(args[:2]), max(args[:2]), log=args[2])
    ),
    st.lists(VALUES, min_size=1, max_size=5, unique_by=lambda value: (type(value), value)).map(
        lambda values: Choice(tuple(values))
    ),
    st.lists(NUMBERS, min_size=1, max_size=5, unique=True).map(lambda values: Choice(tuple(values))),
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,5}(\.[a-z][a-z0-9_]{0,5}){0,2}", fullmatch=True)
SPACES = st.dictionaries(NAMES, DOMAINS, min_size=1, max_size=6).map(Space)


@given(SPACES, SEEDS, st.integers(1, 4))
def test_what_a_space_proposes_lies_in_it(space: Space, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = space.crossover(first, second, rng)
    mutated = space.mutate(child, rng, count)
    decoded = space.decode(rng.random(len(space.names)))
    for params in (first, second, child, mutated, decoded):
        space.validate(params)
        assert tuple(params) == space.names
        assert {type(value) for value in params.values()} <= {bool, int, float, str}
    assert all(child[name] in (first[name], second[name]) for name in space.names)


@given(SPACES, SEEDS)
def test_mutation_changes_just_as_many_names_as_asked(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = space.sample(rng)
    before = dict(params)
    changeable = [name for name, domain in space.domains.items() if domain.size > 1]
    for count in (1, 2, 10):
        mutated = space.mutate(params, rng, count)
        changed = [
            name for name in space.names if (type(mutated[name]), mutated[name]) != (type(params[name]), params[name])
        ]
        # A Float may round back to where it was; every other domain always changes.
        floats = sum(isinstance(space.domains[name], Float) for name in changeable)
        assert min(count, len(changeable)) - floats <= len(changed) <= min(count, len(changeable))
    assert params == before


@given(SPACES, SEEDS)
def test_the_same_seed_proposes_the_same(space: Space, seed: int) -> None:
    def walk() -> list[Params]:
        rng = np.random.default_rng(seed)
        first, second = space.sample(rng), space.sample(rng)
        return [first, second, space.crossover(first, second, rng), space.mutate(first, rng, 2)]

    assert walk() == walk()


@given(SPACES, SEEDS)
def test_encode_and_decode_are_inverse(space: Space, seed: int) -> None:
    params = space.sample(np.random.default_rng(seed))
    point = space.encode(params)
    assert point.shape == (len(space.names),)
    assert point.dtype == np.float64
    assert ((point >= 0) & (point <= 1)).all()
    again = space.decode(point)
    for name, domain in space.domains.items():
        if isinstance(domain, Float):
            slack = 0.0 if domain.log else 1e-11 * (domain.high - domain.low)
            assert again[name] == pytest.approx(params[name], rel=1e-11, abs=slack)
        else:
            assert (again[name], type(again[name])) == (params[name], type(params[name]))


@given(SPACES)
def test_a_space_survives_json_and_yaml(space: Space) -> None:
    for data in (
        space.to_dict(),
        json.loads(json.dumps(space.to_dict(), allow_nan=False)),
        yaml.safe_load(yaml.safe_dump(space.to_dict(), sort_keys=False)),
    ):
        again = Space.from_dict(data)
        assert again == space
        assert hash(again) == hash(space)
        assert again.names == space.names


def test_crossover_and_mutation_choose_names_evenly() -> None:
    rng = np.random.default_rng(0)
    space = Space({name: Int(0, 1) for name in "abcd"})
    zeros, ones = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 1)
    children = [list(space.crossover(zeros, ones, rng).values()) for _ in range(2000)]
    assert np.mean(np.array(children, dtype=float), axis=0) == pytest.approx([0.5] * 4, abs=0.05)
    for count in (1, 3):
        mutants = [list(space.mutate(zeros, rng, count).values()) for _ in range(2000)]
        assert np.mean(np.array(mutants, dtype=float), axis=0) == pytest.approx([count / 4] * 4, abs=0.05)


def test_a_space_is_a_value() -> None:
    domains = dict(SPACE.domains)
    same = Space(domains)
    domains["lora.alpha"] = Choice((16.0,))
    assert same == SPACE
    assert hash(same) == hash(SPACE)
    assert Space(domains) != SPACE
    assert Space(dict(reversed(SPACE.domains.items()))) != SPACE  # the order decides what a seed gives
    assert SPACE != "space"
    assert pickle.loads(pickle.dumps(SPACE)) == copy.deepcopy(SPACE) == SPACE
    with pytest.raises(TypeError):
        SPACE.domains["lora.alpha"] = Int(1, 2)  # type: ignore[index]
    with pytest.raises(AttributeError):
        SPACE.domains = {}  # type: ignore[misc]


def test_size() -> None:
    assert SPACE.size == math.inf
    assert Space({"a": Int(1, 5), "b": Choice(("x", "y"))}).size == 10


def test_a_space_without_alternatives_mutates_into_itself() -> None:
    space = Space({"a": Int(1, 1)})
    assert space.mutate({"a": 1}, np.random.default_rng(0)) == {"a": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora.rnak": 4}, "got 'lora.rnak'; did you mean 'lora.rank'?"),
        ({"lora.rank": 256}, r"lora.rank: expected an integer from 4 to 128 \(log scale\), got 256 \(int\)"),
        ({"lora.rank": 8.0}, r"got 8.0 \(float\)"),
        ({"optimizer.weight_decay": 0}, r"expected one of 0.0, 0.01, 0.1, got 0 \(int\)"),
        ({"schedule.kind": "lineal"}, "expected one of 'linear', 'cosine', got 'lineal'"),
    ],
)
def test_params_outside_are_refused_with_a_remedy(change: dict[str, Any], message: str) -> None:
    params = {**SPACE.sample(np.random.default_rng(0)), **change}
    rng = np.random.default_rng(0)
    good = SPACE.sample(rng)
    for ask in (
        lambda: SPACE.validate(params),
        lambda: SPACE.encode(params),
        lambda: SPACE.mutate(params, rng),
        lambda: SPACE.crossover(good, params, rng),
        lambda: SPACE.crossover(params, good, rng),
    ):
        with pytest.raises(SpaceError, match=message):
            ask()


def test_a_missing_name_is_refused() -> None:
    params = SPACE.sample(np.random.default_rng(0))
    del params["lora.rank"]
    with pytest.raises(SpaceError, match=r"expected a value for 'lora.rank', got none; give an integer from 4"):
        SPACE.validate(params)


def test_points_of_the_wrong_shape_or_outside_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"expected shape \(8,\), got \(3,\)"):
        SPACE.decode([0.1, 0.2, 0.3])
    with pytest.raises(SpaceError, match=r"unit cube.*got 1\.5"):
        SPACE.decode([1.5] * 8)
    with pytest.raises(SpaceError, match="count of at least 1, got 0"):
        SPACE.mutate(SPACE.decode([0.5] * 8), np.random.default_rng(0), count=0)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({}, "at least one domain"),
        ({"": Int(1, 2)}, "dotted name"),
        ({"a..b": Int(1, 2)}, "dotted name such as 'optimizer.learning_rate', got 'a..b'"),
        ({"a b": Int(1, 2)}, "dotted name"),
        ({"a": (1, 2)}, r"a: expected a Float, Int or Choice, got \(1, 2\)"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(domains: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Space(domains)


def test_yaml_as_people_write_it() -> None:
    text = """
        optimizer.learning_rate: {kind: float, low: 1e-4, high: 3e-3, log: true}
        optimizer.weight_decay: {kind: choice, values: [0, 1e-2, 0.1]}
        lora.alpha: {kind: choice, values: [1e1, 2e1]}
        lora.rank: {kind: int, low: 4.0, high: '64', log: "true"}
        schedule.kind: {kind: choice, values: [linear, '16']}
        schedule.warmup: {kind: float, low: 0, high: 1}
    """
    assert Space.from_dict(yaml.safe_load(text)) == Space(
        {
            "optimizer.learning_rate": Float(1e-4, 3e-3, log=True),
            "optimizer.weight_decay": Choice((0.0, 0.01, 0.1)),
            "lora.alpha": Choice((10.0, 20.0)),
            "lora.rank": Int(4, 64, log=True),
            "schedule.kind": Choice(("linear", "16")),
            "schedule.warmup": Float(0.0, 1.0),
        }
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "float", "low": "tiny", "high": 1}, r"space.optimizer.lr.low: expected a number, got 'tiny'"),
        ({"kind": "float", "low": 0, "high": True}, r"space.optimizer.lr.high: expected a number, got True"),
        ({"kind": "float", "low": 0, "high": "inf"}, r"space.optimizer.lr: expected a finite number for high"),
        ({"kind": "int", "low": 1.5, "high": 2}, r"space.optimizer.lr.low: expected an integer, got 1.5"),
        ({"kind": "int", "low": 1, "high": "inf"}, r"space.optimizer.lr.high: expected an integer, got 'inf'"),
        ({"kind": "int", "low": 3, "high": 2}, r"space.optimizer.lr: expected low <= high"),
        ({"kind": "float", "low": 1, "high": 2, "log": "maybe"}, r"space.optimizer.lr.log: expected true or false"),
        ({"kind": "float", "low": 1, "hihg": 2}, r"space.optimizer.lr.hihg: .*did you mean 'high'\?"),
        ({"kind": "float", "low": 1}, r"space.optimizer.lr.high: expected a value, got none"),
        ({"kind": "flaot"}, r"space.optimizer.lr.kind: .*did you mean 'float'\?"),
        ({"low": 1, "high": 2}, r"space.optimizer.lr.kind: expected float, int or choice, got None"),
        ({"kind": ["float"]}, r"space.optimizer.lr.kind"),
        ({"kind": "choice", "values": "abc"}, r"space.optimizer.lr.values: expected a list"),
        ({"kind": "choice", "values": []}, r"space.optimizer.lr: expected at least one value"),
        ({"kind": "choice", "values": [[1]]}, r"space.optimizer.lr: expected a bool, a finite number or a string"),
        ([1, 2], r"space.optimizer.lr: expected a mapping with a kind"),
    ],
)
def test_entries_that_make_no_sense_are_refused_with_their_path(entry: object, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Space.from_dict({"optimizer.lr": entry})


def test_texts_that_are_no_space_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"search.space: expected a mapping of names to domains, got None"):
        Space.from_dict(None, path="search.space")
    with pytest.raises(SpaceError, match=r"space: expected a dotted name such as .*, got True"):
        Space.from_dict({True: {"kind": "int", "low": 1, "high": 2}})  # what PyYAML makes of `on: ...`


def test_proposing_is_quick() -> None:
    rng = np.random.default_rng(0)
    first, second = SPACE.sample(rng), SPACE.sample(rng)
    for propose in (
        lambda: SPACE.sample(rng),
        lambda: SPACE.mutate(first, rng),
        lambda: SPACE.crossover(first, second, rng),
    ):
        best_of_five = min(timeit.repeat(propose, number=200, repeat=5)) / 200
        assert best_of_five < 50e-6  # about 5e-6 on a desktop
