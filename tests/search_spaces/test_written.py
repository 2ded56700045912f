from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.conditions import AtLeast, OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Divides, Ordered, Product, Sum
from search_spaces.space import Space, SpaceError
from search_spaces.written import read, write

TEXT = """
optimizer.learning_rate:
  {kind: float, low: 2e-5, high: 3.0e-3, log: true,
   prior: {kind: normal, centre: 5e-4, deviation: "0.35",
           scaled_by: {name: optimizer.batch_size, reference: 16, exponent: 5e-1}}}
optimizer.batch_size: {kind: choice, values: [8, 16, 32], prior: {kind: weights, weights: [1, 3, 1e0]}}
schedule.kind: {kind: choice, values: [linear, wsd], prior: null}
schedule.warmup: {kind: float, low: 0, high: 0.5, prior: {kind: uniform}}
schedule.decay: {kind: float, low: 0.05, high: 0.5, when: {schedule.kind: [wsd]}}
schedule.cycles: {kind: int, low: 1, high: 4, when: {schedule.kind: wsd, optimizer.batch_size: ["16", 32.0]}}
architecture.num_layers: {kind: int, low: 1, high: 3}
architecture.num_attention_heads: {kind: choice, values: [4, 8]}
architecture.num_key_value_heads: {kind: choice, values: [1, 2, 4]}
architecture.ffn:
  kind: per_layer
  length: architecture.num_layers
  item: {kind: choice, values: [64, 128], prior: {kind: weights, weights: [2, 1]}}
architecture.skip:
  kind: per_layer
  length: 2
  when: {architecture.num_layers: {at_least: "2"}}
  item: {kind: choice, values: [true, false]}
rules:
  - {kind: divides, divisor: architecture.num_key_value_heads, dividend: architecture.num_attention_heads}
  - {kind: divides, divisor: architecture.num_attention_heads, dividend: architecture.ffn}
  - {kind: ordered, names: [architecture.num_layers, architecture.num_attention_heads]}
  - {kind: product, names: [architecture.num_layers, optimizer.batch_size], low: 1e0, high: 4096}
  - {kind: sum, names: [schedule.warmup, schedule.decay], high: 1.0, low: null}
  - {kind: sum, names: [architecture.ffn], high: "300"}
"""
DATA: dict[str, Any] = yaml.safe_load(TEXT)


def test_what_people_write() -> None:
    space = Space.from_dict(DATA)
    layers = ("architecture.ffn.0", "architecture.ffn.1", "architecture.ffn.2")
    assert space.names[9:] == (*layers, "architecture.skip.0", "architecture.skip.1")
    assert space.domains["optimizer.learning_rate"] == Float(2e-5, 3e-3, log=True)
    assert space.domains["architecture.num_layers"] == Int(1, 3)
    assert space.domains["architecture.ffn.2"] == Choice((64, 128))
    assert dict(space.priors) == {
        "optimizer.learning_rate": Normal(5e-4, 0.35, ScaledBy("optimizer.batch_size", 16, 0.5)),
        "optimizer.batch_size": Weights((1, 3, 1)),
        **dict.fromkeys(layers, Weights((2, 1))),
    }
    assert set(space.conditions) == {
        OneOf("schedule.decay", "schedule.kind", ("wsd",)),
        OneOf("schedule.cycles", "schedule.kind", ("wsd",)),
        OneOf("schedule.cycles", "optimizer.batch_size", (16, 32)),
        *(AtLeast(name, "architecture.num_layers", i + 1) for i, name in enumerate(layers)),
        *(AtLeast(f"architecture.skip.{i}", "architecture.num_layers", 2) for i in range(2)),
    }
    assert space.rules == (
        Divides("architecture.num_key_value_heads", "architecture.num_attention_heads"),
        *(Divides("architecture.num_attention_heads", name) for name in layers),
        Ordered(("architecture.num_layers", "architecture.num_attention_heads")),
        Product(("architecture.num_layers", "optimizer.batch_size"), 1, 4096),
        Sum(("schedule.warmup", "schedule.decay"), high=1.0),
        Sum(layers, high=300),
    )


def test_there_and_back() -> None:
    space = Space.from_dict(DATA)
    data = space.to_dict()
    assert write(space.domains, space.conditions, space.rules, space.priors) == data
    assert Space.from_dict(data) == space
    assert Space.from_dict(json.loads(json.dumps(data))) == space
    assert (
        Space.from_dict(yaml.safe_load(yaml.safe_dump(data))).names != space.names
    )  # sorted: the order is kept or lost
    parts = read(data, "space")
    assert Space(parts.domains, tuple(parts.conditions), tuple(parts.rules), parts.priors) == space
    assert "rules" not in Space({"a": Int(1, 2)}).to_dict()


LEARNING_RATE, FFN = "optimizer.learning_rate", "architecture.ffn"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            [LEARNING_RATE, "prior", "deviation"],
            "wide",
            "space.optimizer.learning_rate.prior.deviation: expected a number, got 'wide'; write one such as 0.001",
        ),
        (
            [LEARNING_RATE, "prior", "deviation"],
            0,
            "space.optimizer.learning_rate.prior.deviation: expected a number ab",
        ),
        ([LEARNING_RATE, "prior", "center"], 1, r"prior.center: expected kind, centre, .*; did you mean 'centre'\?"),
        ([LEARNING_RATE, "prior", "kind"], "norml", r"prior.kind: expected normal, weights or .*mean 'normal'\?"),
        ([LEARNING_RATE, "prior"], 5e-4, "learning_rate.prior: expected a mapping with a kind, got 0.0005"),
        ([LEARNING_RATE, "prior", "scaled_by"], "b", "prior.scaled_by: expected a mapping, got 'b'"),
        ([LEARNING_RATE, "prior", "scaled_by", "nane"], "b", r"scaled_by.nane: .*did you mean 'name'\?"),
        (
            [LEARNING_RATE, "prior", "scaled_by", "name"],
            "lora.rank",
            "space.optimizer.learning_rate.prior.scaled_by.name: ",
        ),
        ([LEARNING_RATE, "prior", "scaled_by", "name"], 3, "scaled_by.name: expected the name of a parameter, got 3"),
        (
            [LEARNING_RATE, "prior", "scaled_by", "reference"],
            -1,
            "prior.scaled_by.reference: expected a number above 0",
        ),
        ([LEARNING_RATE, "prior", "scaled_by"], {"name": "b"}, "scaled_by.reference: expected a value, got none"),
        (
            ["optimizer.batch_size", "prior", "weights"],
            [1, 2],
            "space.optimizer.batch_size.prior.weights: expected a wei",
        ),
        (["optimizer.batch_size", "prior", "weights"], 3, "prior.weights: expected a list, got 3"),
        (["optimizer.batch_size", "prior", "weights"], [1, "b", 2], "prior.weights: expected a number, got 'b'"),
        (["schedule.decay", "when"], ["wsd"], "space.schedule.decay.when: expected a mapping of names to values"),
        (["schedule.decay", "when"], {}, "space.schedule.decay.when: expected a mapping of names"),
        (["schedule.decay", "when"], {"schedule.knid": ["wsd"]}, r"decay.when: .*did you mean 'schedule.kind'\?"),
        (
            ["schedule.decay", "when"],
            {"schedule.kind": ["wds"]},
            "space.schedule.decay: expected values that schedule.",
        ),
        (["schedule.decay", "when"], {"schedule.kind": [False]}, "YAML reads an unquoted"),
        (["schedule.decay", "when"], {"schedule.kind": []}, "decay.when.schedule.kind: expected values"),
        (
            ["schedule.decay", "when"],
            {"schedule.kind": {"at_most": 3}},
            "schedule.kind.at_most: expected at_least, got",
        ),
        (["schedule.decay", "when"], {"schedule.kind": {}}, "schedule.kind: expected at_least, got an empty"),
        (["schedule.decay", "when"], {"schedule.decay": {"at_least": 0.1}}, "do not depend on themselves"),
        ([FFN, "length"], "architecture.layers", r"space.architecture.ffn.length: .*did you mean 'architecture.num_la"),
        ([FFN, "length"], "schedule.kind", "ffn.length: architecture.ffn: expected a length from 1 to 1024"),
        ([FFN, "length"], "schedule.warmup", "ffn.length: expected an int or a choice of ints, got schedule.warmup"),
        ([FFN, "length"], "rules", "ffn.length: expected an integer or a name"),
        ([FFN, "length"], FFN, "space.architecture.ffn.kind: expected float, int or choice, got 'per_layer'"),
        ([FFN, "length"], 0, "architecture.ffn: expected a length"),
        ([FFN, "length"], None, "ffn.length: expected a number, got None"),
        ([FFN, "item"], 64, "space.architecture.ffn.item: expected a mapping with a kind, got 64"),
        ([FFN, "item", "values"], 64, "space.architecture.ffn.item.values: expected a list, got 64"),
        ([FFN, "item", "kind"], "per_layer", "space.architecture.ffn.item.kind: expected float, int or choice"),
        (
            ["architecture.ffn.1"],
            {"kind": "int", "low": 1, "high": 2},
            "space.architecture.ffn.1: expected each name once",
        ),
        (["rules"], {}, "space.rules: expected a list of rules, got {}"),
        (["rules"], ["a <= b"], r"space.rules\[0\]: expected a mapping with a kind, got 'a <= b'"),
        (["rules"], [{"kind": "order"}], r"space.rules\[0\].kind: expected divides, .*did you mean 'ordered'\?"),
        (["rules"], [{"kind": "sum", "names": "ab"}], r"space.rules\[0\].names: expected names of the space, got 'ab'"),
        (["rules"], [{"kind": "sum", "names": ["a"]}], r"space.rules\[0\]: Sum: expected low, high or both"),
        (["rules"], [{"kind": "sum", "names": ["a"], "high": 1}], "space: rule 'a <= 1': expected names of the space"),
        (["rules"], [{"kind": "sum", "names": [FFN], "high": 10}], "space: expected rules that some assignment meets"),
        (["rules"], [{"kind": "divides", "divisor": 2, "dividend": FFN}], r"rules\[0\].divisor: expected names of the"),
        (["rules"], [{"kind": "divides", "divisor": FFN}], r"space.rules\[0\].dividend: expected a value, got none"),
        ([True], {"kind": "int", "low": 1, "high": 2}, "space: expected a dotted name such as .*, got True; quote it"),
        ([LEARNING_RATE, 10**5000], 3, "learning_rate.<int>: expected kind, low"),
    ],
)
def test_mistakes_are_reported_with_their_path(path: list[Any], value: object, message: str) -> None:
    data = copy.deepcopy(DATA)
    entry: Any = data
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    with pytest.raises(SpaceError, match=message):
        Space.from_dict(data)


SCRAPS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.sampled_from([10**400, 2**63, float("nan"), float("inf"), 1e308, 0.0, 1e-320]),
    st.just(5000).map(lambda digits: -(10**digits)),  # too long to be printed
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["1e-4", "inf", "nan", "1_0", "9" * 400, *DATA, "kind", "at_least", "float", "per_layer"]),
    st.binary(max_size=2),
    st.dates(),
)
NESTED = st.recursive(
    SCRAPS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "low", *DATA]) | SCRAPS, inner, max_size=3)
    ),
    max_leaves=6,
)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container in a piece of data with each of its keys."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else []
    return [place for key in keys for place in [(data, key), *places(data[key])]]


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_written_is_a_space_or_a_clear_error(data: st.DataObject) -> None:
    written = copy.deepcopy(DATA)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(written)))
        what = data.draw(st.sampled_from(["drop", "scrap", "repeat"]))
        if what == "drop":
            container.pop(key)
        else:
            other = NESTED if what == "scrap" else st.sampled_from(places(written)).map(lambda place: place[0])
            container[key] = copy.deepcopy(data.draw(other))
        if not places(written):
            break
    try:
        space = Space.from_dict(written)
    except SpaceError as error:
        text = str(error)
        assert "expected" in text
        assert ";" in text
        assert len(text) < 4_000
    else:
        assert Space.from_dict(space.to_dict()) == space


@settings(max_examples=100)
@given(NESTED)
def test_any_other_data_is_a_clear_error(data: Any) -> None:
    with pytest.raises(SpaceError, match="expected"):
        Space.from_dict(data)
