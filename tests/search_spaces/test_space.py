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

from search_spaces.conditions import AtLeast, OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Divides, Ordered, Product, Sum
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
# One with everything. What holds for every such space is in test_space_properties.py.
WHOLE = Space(
    {
        "optimizer.learning_rate": Float(1e-6, 1e-1, log=True),
        "optimizer.batch_size": Choice((8, 16, 32, 64)),
        "schedule.kind": Choice(("linear", "wsd")),
        "schedule.warmup": Float(0, 0.8),
        "schedule.decay": Float(0.1, 0.9),
        "architecture.num_layers": Int(2, 12),
        "architecture.heads": Choice((2, 4, 6, 8)),
        "architecture.kv_heads": Choice((1, 2, 3, 4)),
        "architecture.hidden": Int(32, 512),
        "architecture.skip.0": Choice((True, False)),
    },
    conditions=(
        OneOf("schedule.decay", "schedule.kind", ("wsd",)),
        AtLeast("architecture.skip.0", "architecture.num_layers", 6),
    ),
    rules=(
        Divides("architecture.kv_heads", "architecture.heads"),
        Divides("architecture.heads", "architecture.hidden"),
        Sum(("schedule.warmup", "schedule.decay"), high=1.0),
        Product(("architecture.num_layers", "architecture.hidden"), high=2048),
    ),
    priors={
        "optimizer.learning_rate": Normal(5e-4, 0.35, ScaledBy("optimizer.batch_size", 16, 0.5)),
        "optimizer.batch_size": Weights((1, 2, 2, 1)),
    },
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


def test_samples_follow_the_priors() -> None:
    rng = np.random.default_rng(0)
    drawn = [WHOLE.sample(rng) for _ in range(1500)]
    shares = [np.mean([one["optimizer.batch_size"] == size for one in drawn]) for size in (8, 16, 32, 64)]
    assert shares == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6], abs=0.04)
    for size in (8, 64):  # the centre grows with the square root
        decades = [math.log10(one["optimizer.learning_rate"]) for one in drawn if one["optimizer.batch_size"] == size]
        assert np.mean(decades) == pytest.approx(math.log10(5e-4 * math.sqrt(size / 16)), abs=0.08)
        assert np.std(decades) == pytest.approx(0.35, abs=0.05)
    uniform = WHOLE.without_priors()
    decades = [math.log10(uniform.sample(rng)["optimizer.learning_rate"]) for _ in range(1000)]
    assert np.std(decades) == pytest.approx(5 / math.sqrt(12), abs=0.1)


def test_samples_are_spread_over_what_the_rules_allow() -> None:
    space = Space({"a": Float(0, 1), "b": Float(0, 1)}, rules=(Sum(("a", "b"), high=1.0),))
    rng = np.random.default_rng(0)
    drawn = np.array([[space.sample(rng)[name] for name in "ab"] for _ in range(2000)])
    assert drawn.mean(axis=0) == pytest.approx([1 / 3] * 2, abs=0.03)
    names = tuple(f"x.{i}" for i in range(12))  # hardly any draw meets this: all are repaired
    tight = Space(dict.fromkeys(names, Float(0, 1)), rules=(Sum(names, high=3.0),))
    means = np.mean([list(tight.sample(rng).values()) for _ in range(200)], axis=0)
    assert means.sum() <= 3.0
    assert means.min() > 0.5 * means.max()  # the last are not left with what the first have not used up


@given(SPACES, SEEDS)
def test_uniform_quantiles_are_what_is_sampled(space: Space, seed: int) -> None:
    quantiles = np.random.default_rng(seed).random(len(space.names))
    assert space.from_quantiles(quantiles) == space.sample(np.random.default_rng(seed))


def test_quantiles_stand_in_the_priors_and_meet_the_rules() -> None:
    rng = np.random.default_rng(0)
    free = Space(WHOLE.domains, WHOLE.conditions, priors=WHOLE.priors)
    refused = 0
    for seed in range(200):
        quantiles = rng.random(len(WHOLE.names))
        params = WHOLE.from_quantiles(quantiles)
        if params is None:
            refused += 1
        else:
            WHOLE.validate(params)
            assert params == free.from_quantiles(quantiles)
        drawn = free.from_quantiles(np.random.default_rng(seed).random(len(free.names)))
        assert drawn == free.sample(np.random.default_rng(seed))
    assert 0 < refused < 200
    middle = free.from_quantiles([0.5] * len(free.names))
    assert middle is not None
    assert middle["optimizer.batch_size"] == 32  # half of the weight lies below it
    assert middle["optimizer.learning_rate"] == pytest.approx(5e-4 * math.sqrt(2), rel=1e-3)
    for wrong in ([0.5] * 3, [1.5] * len(WHOLE.names), [math.nan] * len(WHOLE.names)):
        with pytest.raises(SpaceError, match="expected 10 quantiles from 0 to 1"):
            WHOLE.from_quantiles(wrong)


def test_the_density_of_a_scaled_prior() -> None:
    params = WHOLE.most_likely()
    assert params["optimizer.batch_size"] == 16
    assert params["optimizer.learning_rate"] == pytest.approx(5e-4)
    same = {**params, "optimizer.batch_size": 32}
    assert WHOLE.log_prior(same) < WHOLE.log_prior(params)
    shifted = {**same, "optimizer.learning_rate": 5e-4 * math.sqrt(2)}
    assert WHOLE.log_prior(shifted) == pytest.approx(WHOLE.log_prior(params))


def test_what_does_not_exist_is_absent_and_encoded_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    for params in (WHOLE.sample(rng) for _ in range(50)):
        assert ("schedule.decay" in params) == (params["schedule.kind"] == "wsd")
        point = dict(zip(WHOLE.names, WHOLE.encode(params), strict=True))
        if params["schedule.kind"] != "wsd":
            assert point["schedule.decay"] == 0.5


def test_sums_of_floats_are_met_exactly() -> None:
    rng = np.random.default_rng(0)
    for params in WHOLE.decode_many(rng.random((300, len(WHOLE.names)))):
        assert params["schedule.warmup"] + params.get("schedule.decay", 0.0) <= 1.0


def test_repair_brings_anything_into_the_space() -> None:
    params = WHOLE.repair(
        {
            "optimizer.learning_rate": 1,
            "optimizer.batch_size": 40.0,
            "schedule.kind": "wsd",
            "schedule.warmup": 0.7,
            "schedule.decay": 0.7,
            "architecture.num_layers": 3.2,
            "architecture.heads": 8,
            "architecture.kv_heads": 3,
            "architecture.hidden": np.int64(100),
            "architecture.skip.0": True,
        }
    )
    WHOLE.validate(params)
    assert params["optimizer.learning_rate"] == 0.1
    assert params["optimizer.batch_size"] == 32
    assert params["architecture.num_layers"] == 3
    assert "architecture.skip.0" not in params
    assert params["architecture.hidden"] == pytest.approx(100, abs=10)
    assert params["schedule.warmup"] == pytest.approx(0.5, abs=0.1)
    assert WHOLE.repair({}) == WHOLE.most_likely()
    assert WHOLE.repair(params) == params
    with pytest.raises(SpaceError, match=r"schedule.kind: expected one of 'linear', 'wsd', got 'cosine' \(str\)"):
        WHOLE.repair({"schedule.kind": "cosine"})
    with pytest.raises(SpaceError, match=r"got 'schedule.knid'; did you mean 'schedule.kind'\?"):
        WHOLE.repair({"schedule.knid": "wsd"})
    with pytest.raises(SpaceError, match="got nan"):
        WHOLE.repair({"schedule.warmup": math.nan})


def test_a_mutation_of_a_condition_brings_children_and_takes_them() -> None:
    space = Space(
        {"kind": Choice(("a", "b")), "x": Float(0, 1), "y": Float(0, 1)},
        conditions=(OneOf("x", "kind", ("a",)), OneOf("y", "kind", ("b",))),
    )
    rng = np.random.default_rng(0)
    kinds = [space.mutate({"kind": "a", "x": 0.5}, rng) for _ in range(40)]
    assert {tuple(one) for one in kinds} == {("kind", "x"), ("kind", "y")}
    assert len({one["y"] for one in kinds if "y" in one}) > 10  # drawn, and not always the same
    children = [space.crossover({"kind": "a", "x": 0.1}, {"kind": "b", "y": 0.2}, rng) for _ in range(20)]
    assert {tuple(one.values()) for one in children} == {("a", 0.1), ("b", 0.2)}


def test_a_mutation_keeps_the_mutated_value_where_it_can() -> None:
    space = Space({"heads": Choice((2, 4, 8)), "kv": Choice((1, 2, 4, 8))}, rules=(Divides("kv", "heads"),))
    rng = np.random.default_rng(0)
    mutants = [space.mutate({"heads": 2, "kv": 2}, rng) for _ in range(60)]
    assert {one["kv"] for one in mutants} == {1, 2, 4, 8}  # heads follow where kv moves past them
    fixed = Space({"a": Int(1, 9), "b": Int(5, 5)}, rules=(Ordered(("b", "a")), Sum(("a",), high=5)))
    assert fixed.mutate({"a": 5, "b": 5}, rng) == {"a": 5, "b": 5}
    assert fixed.neighbours({"a": 5, "b": 5}) == []


def test_neighbours_are_one_step_away() -> None:
    space = Space(
        {"kind": Choice(("a", "b", "c")), "n": Int(1, 4), "x": Float(0, 1), "r": Choice((4, 8))},
        conditions=(OneOf("x", "kind", ("b",)),),
        rules=(Divides("n", "r"),),
    )
    assert space.neighbours({"kind": "a", "n": 2, "r": 4}) == [
        {"kind": "b", "n": 2, "x": 0.5, "r": 4},
        {"kind": "c", "n": 2, "r": 4},
        {"kind": "a", "n": 1, "r": 4},
        {"kind": "a", "n": 2, "r": 8},
    ]
    with pytest.raises(SpaceError, match="expected a value for 'r'"):
        space.neighbours({"kind": "a", "n": 2})


def test_a_grid_respects_conditions_and_rules() -> None:
    space = Space(
        {"kind": Choice(("a", "b")), "n": Int(1, 4), "x": Float(0, 1), "r": Choice((4, 6))},
        conditions=(OneOf("x", "kind", ("b",)),),
        rules=(Divides("n", "r"),),
    )
    found = list(space.grid({"x": 3}))
    assert len(found) == 6 * (1 + 3)  # 1, 2 and 4 divide 4; 1, 2 and 3 divide 6
    assert next(iter(space.grid(points=2))) == {"kind": "a", "n": 1, "r": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule.kind": "linear"}, "schedule.decay: expected no value, since it exists only where schedule.kind is"),
        ({"schedule.kind": "cosine"}, "schedule.kind: expected one of 'linear', 'wsd', got 'cosine'|schedule.decay: "),
        ({"architecture.num_layers": 7}, "expected a value for 'architecture.skip.0', got none"),
        ({"architecture.num_layers": "7"}, r"got '7' \(str\)"),
        (
            {"architecture.kv_heads": 3},
            r"'architecture.kv_heads divides .*', got architecture.kv_heads=3, arch.*repair",
        ),
        ({"schedule.warmup": 0.7}, "expected 'schedule.warmup [+] schedule.decay <= 1.0', got schedule.warmup=0.7"),
    ],
)
def test_params_that_break_conditions_and_rules_are_refused(change: dict[str, Any], message: str) -> None:
    params = {
        "optimizer.learning_rate": 1e-3,
        "optimizer.batch_size": 8,
        "schedule.kind": "wsd",
        "schedule.warmup": 0.1,
        "schedule.decay": 0.5,
        "architecture.num_layers": 4,
        "architecture.heads": 8,
        "architecture.kv_heads": 2,
        "architecture.hidden": 64,
    }
    WHOLE.validate(params)
    with pytest.raises(SpaceError, match=message):
        WHOLE.validate({**params, **change})


def test_points_of_many_rows() -> None:
    with pytest.raises(SpaceError, match=r"expected shape \(n, 8\), got \(8,\)"):
        SPACE.decode_many([0.5] * 8)
    with pytest.raises(SpaceError, match=r"points of the unit cube: .* got 1\.5"):
        SPACE.decode_many([[0.5] * 7 + [1.5]])
    with pytest.raises(SpaceError, match="expected numbers from 0 to 1, got"):
        SPACE.decode(["x"] * 8)  # type: ignore[arg-type]
    assert SPACE.decode_many(np.empty((0, 8))) == []
    assert SPACE.encode_many([]).shape == (0, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space({"rules": Int(1, 2)}), "got 'rules', which holds the rules; rename"),
        (lambda: Space({"0.a": Int(1, 2)}), "expected a dotted name"),
        (lambda: Space({"a.²": Int(1, 2)}), "expected a dotted name"),
        (lambda: Space([("a", Int(1, 2))]), "expected a mapping of names to domains"),
        (lambda: Space({"a": Int(1, 2)}, rules=(Sum(("a",), low=3),)), "got '3 <= a', which cannot be met"),
        (
            lambda: Space(
                {"a": Float(1, 2), "b": Float(1, 2)},
                (AtLeast("a", "b", 1.5),),
                (),
                {"b": Normal(1, 1, ScaledBy("a", 1, 1))},
            ),
            "do not depend on themselves, got a -> b -> a",
        ),
    ],
)
def test_parts_that_make_no_sense_together_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_conditions_rules_and_priors_are_part_of_the_value() -> None:
    domains = {"a": Int(1, 2), "b": Choice((1, True))}
    one = Space(domains, (OneOf("a", "b", (1,)),))
    assert one != Space(domains, (OneOf("a", "b", (True,)),))
    assert one == Space(domains, [OneOf("a", "b", (1,)), OneOf("a", "b", (True, 1))])  # type: ignore[arg-type]
    assert Space(domains, (), (), {"a": Weights((1, 2))}) != Space(domains, (), (), {"a": Weights((2, 1))})
    assert Space(domains, (), (Sum(("a",), high=1),)) != Space(domains)
    assert pickle.loads(pickle.dumps(WHOLE)) == copy.deepcopy(WHOLE) == Space.from_dict(WHOLE.to_dict()) == WHOLE
    with pytest.raises(TypeError):
        WHOLE.priors["optimizer.batch_size"] = Weights((1, 1, 1, 1))  # type: ignore[index]


def test_proposing_with_rules_takes_less_than_a_millisecond() -> None:
    rng = np.random.default_rng(0)
    first, second = WHOLE.sample(rng), WHOLE.sample(rng)
    for propose in (
        lambda: WHOLE.sample(rng),
        lambda: WHOLE.mutate(first, rng),
        lambda: WHOLE.crossover(first, second, rng),
    ):
        best_of_five = min(timeit.repeat(propose, number=50, repeat=5)) / 50
        assert best_of_five < 2e-3  # about 2e-4 on a desktop
