"""Whatever becomes of a valid config, it is a study or a clear error, never a traceback."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llm_tuning.recipe import RECIPE_DEFAULTS, Recipe
from tests.thresher.tiny_study import LLAMA_CONFIG
from thresher.build import build_plan
from thresher.config import StudyConfig, parse_config

FULL = """
model: {name: some/model, family: llama, dtype: bfloat16}
data:
  train: train.jsonl
  validation: validation.jsonl
  columns: {prompt: question, completion: answer}
  split: {validation: 0.1, test: 0.2}
  max_length: 128
  too_long: drop
  limits: {train: 500, test: 50}
hyperparameters: {optimizer.learning_rate: 1e-3, schedule.kind: cosine}
space:
  only: true
  optimizer.learning_rate:
    {kind: float, low: 1e-4, high: 1e-2, log: true, prior: {kind: normal, centre: 1e-3, deviation: 0.35}}
  lora.rank: [8, 16, 32]
  optimizer.batch_size: {kind: int, low: 4, high: 32, log: true}
  schedule.kind: [linear, cosine, wsd]
  schedule.warmup: {low: 0.01}
  schedule.decay: {kind: float, low: 0.1, high: 0.5, when: {schedule.kind: [wsd]}}
  lora.dropout: 0.1
  rules: [{kind: product, names: [lora.rank, optimizer.batch_size], high: 512}]
search:
  trials: 12
  budget: 9000
  max_hours: 3
  sampler: {kind: evolution, population_size: 8, tournament_size: 2}
  scheduler: {kind: asha, min_budget: 1000, reduction_factor: 3, cap_promotions: true}
objective: [validation_loss, {metric: exact_match, direction: maximize}]
finalists: {count: 2, repeats: 1}
resources: {gpus_per_trial: 2, mixed_precision: bf16, save_every_minutes: 1.5}
output: {directory: runs/one, generations: 2, trackers: [tensorboard]}
"""
SHORT = "{model: some/model, data: train.jsonl, search: {kind: random, trials: 3}}"
WORDS = [
    *StudyConfig.model_fields, *RECIPE_DEFAULTS, "kind", "trials", "budget", "name", "directory", "only", "rules",
    "low", "high", "log", "values", "prior", "when", "centre", "deviation", "weights", "scaled_by", "names",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 64),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [*RECIPE_DEFAULTS, "1e-4", "no", "random", "evolution", "asha", "choice", "int", "float", "normal"]
    ),
    st.sampled_from(["weights", "sum", "divides", "ordered", "product", "per_layer", "~", "~nobody/x", "\x00", "wsd"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), SCALARS), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = st.one_of(st.sampled_from(WORDS), SCALARS)


def places(data: object) -> list[Callable[[object], None]]:
    """Setters of every value in the data."""
    found: list[Callable[[object], None]] = []
    if isinstance(data, dict | list):
        for key, value in list(data.items()) if isinstance(data, dict) else list(enumerate(data)):
            found.append(lambda new, key=key: data.__setitem__(key, new))  # type: ignore[misc]
            found += places(value)
    return found


def mappings(data: object) -> list[dict[Any, Any]]:
    """All mappings in the data."""
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [*([data] if isinstance(data, dict) else []), *(found for value in inner for found in mappings(value))]


def mutated(data: st.DataObject) -> dict[Any, Any]:
    """A valid config with one to three values replaced, added or removed, anywhere in it."""
    content: dict[Any, Any] = copy.deepcopy(yaml.safe_load(data.draw(st.sampled_from([FULL, FULL, SHORT]))))
    for _ in range(data.draw(st.integers(1, 3))):
        change = data.draw(st.sampled_from(["replace", "add", "remove"]))
        section = data.draw(st.sampled_from(mappings(content)))
        if change == "replace":
            data.draw(st.sampled_from(places(content)))(data.draw(VALUES))
        elif change == "add":
            section[data.draw(KEYS)] = data.draw(VALUES)
        elif section:
            del section[data.draw(st.sampled_from(list(section)))]
        if not content:
            break
    return content


def outcome(content: dict[Any, Any]) -> str:
    """What becomes of a config. It makes a plan whose default is a recipe, or the error says what was expected."""
    try:
        config = parse_config(content)
        again = parse_config(config.model_dump(mode="json"))
        plan = build_plan(config, LLAMA_CONFIG, {"train": 5000, "validation": 100})
    except UnicodeError:
        raise
    except ValueError as error:
        lines = str(error).splitlines() or [""]
        unclear = [line for line in lines if "expected" not in line or ";" not in line]
        return f"unclear: {unclear}" if unclear else "refused"
    assert again == config
    assert Recipe.from_params({**plan.defaults, **plan.default_params})
    plan.space.validate(plan.default_params)
    return "accepted"


@pytest.mark.parametrize("text", [FULL, SHORT])
def test_what_is_mutated_is_valid(text: str) -> None:
    assert outcome(yaml.safe_load(text)) == "accepted"


ODD: list[Any] = [
    None, True, 0, -1, 0.5, 1e300, float("nan"), 2**70, "", "\x85", "only", [], [[]], [None], {}, {"a": 1},
    {"\x85": [1]}, {"kind": "per_layer", "length": 3, "item": {"kind": "choice", "values": [1]}},
]  # fmt: skip


@pytest.mark.parametrize("text", [FULL, SHORT])
def test_every_value_is_replaced_by_odd_ones(text: str) -> None:
    count = len(places(yaml.safe_load(text)))
    for place in range(count):
        for odd in ODD:
            content = yaml.safe_load(text)
            places(content)[place](copy.deepcopy(odd))
            assert outcome(content) in ("accepted", "refused"), content


@pytest.mark.parametrize("key", ["\x85", "", 3, None, "rules", "only", "length"])
def test_every_mapping_gets_an_odd_key(key: Any) -> None:
    for place in range(len(mappings(yaml.safe_load(FULL)))):
        content = yaml.safe_load(FULL)
        mappings(content)[place][key] = None
        assert outcome(content) in ("accepted", "refused"), content


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_some_mutations(data: st.DataObject) -> None:
    found = outcome(mutated(data))
    event(found)
    assert found in ("accepted", "refused")


@pytest.mark.slow
@given(st.data())
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ten_thousand_mutations(data: st.DataObject) -> None:
    assert outcome(mutated(data)) in ("accepted", "refused")
