"""The schema and the loader agree: what the loader takes, the schema takes; what has the wrong shape, neither does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thresher.tiny_study import LLAMA_CONFIG
from thresher.build import build_plan
from thresher.config import StudyConfig, parse_config
from thresher.schema import DIALECT, config_schema

REPOSITORY = Path(__file__).parents[2]
SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LLAMA = {**LLAMA_CONFIG, "max_position_embeddings": 4096}
FULL: dict[str, Any] = {
    "model": {
        "name": "some/model",
        "family": "llama",
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "revision": "a",
    },
    "data": {
        "train": "train.csv",
        "validation": "validation.csv",
        "test": None,
        "subset": None,
        "format": "prompt_completion",
        "columns": {"prompt": "question", "completion": "{answer}"},
        "group_by": "id",
        "split": {"validation": 0.2, "test": 0},
        "max_length": 256,
        "too_long": "drop",
        "system": "",
        "limits": {"train": 5000, "validation": 100},
    },
    "hyperparameters": {"optimizer.learning_rate": 1e-3, "lora.alpha": 16, "schedule.kind": "cosine"},
    "space": {
        "optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "lora.rank": [8, 16, 32],
        "optimizer.batch_size": {"low": 8, "high": 16},
        "lora.dropout": 0.1,
        "schedule.kind": {"kind": "choice", "values": ["linear", "cosine"]},
    },
    "search": {
        "kind": "auto",
        "trials": 12,
        "budget": 9000,
        "max_examples": None,
        "max_hours": 2.5,
        "max_gpu_hours": None,
        "sampler": {"kind": "evolution", "population_size": 8},
        "scheduler": {"kind": "asha", "min_budget": 1000, "cap_promotions": True},
        "seed": 3,
    },
    "objective": [{"metric": "validation_loss", "direction": "minimize"}, "exact_match"],
    "finalists": {"count": 2, "repeats": 1},
    "resources": {"micro_batch_size": 4, "mixed_precision": "bf16", "max_checkpoint_gb": 10, "save_every_minutes": 5},
    "output": {"directory": "runs/one", "generations": 2, "trackers": ["tensorboard"]},
}
SMALL: dict[str, Any] = {"model": "some/model", "data": "train.jsonl"}


def schema_takes(data: object) -> bool:
    return bool(VALIDATOR.is_valid(data))


def loader_takes(data: object) -> bool:
    """Whether a config can be loaded, and a plan laid out for a model of a known family."""
    try:
        build_plan(parse_config(data), LLAMA, {"train": 10_000, "validation": 100})
    except ValueError:
        return False
    return True


def changed(path: str, value: object, start: dict[str, Any] = FULL) -> dict[str, Any]:
    """A config with one value replaced; the parts of the path are divided by slashes."""
    data = copy.deepcopy(start)
    *sections, last = path.split("/")
    place: Any = data
    for section in sections:
        place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
    place[last] = value
    return data


@pytest.mark.parametrize("runs", ["runs/one", ["runs/one", "runs/two"]])
def test_a_warm_start(runs: object) -> None:
    data = changed("search", {"kind": "tpe", "warm_start": {"runs": runs, "num_first": "2"}, "end_early": True})
    assert schema_takes(data)
    assert parse_config(data)


def test_it_is_a_json_schema() -> None:
    assert SCHEMA["$schema"] == DIALECT == jsonschema.Draft202012Validator.META_SCHEMA["$schema"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_bounds_of_pydantic_are_those_of_json_schema() -> None:
    """pydantic leaves its own words where it does not know better."""
    words: set[str] = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            words.update(node)
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(inner)

    collect(SCHEMA)
    assert not words & {"ge", "gt", "le", "lt", "discriminator"}
    assert {"minimum", "exclusiveMinimum", "exclusiveMaximum"} <= words


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_of_the_repository_are_valid(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


@pytest.mark.parametrize("data", [FULL, SMALL], ids=["full", "small"])
def test_both_take_a_valid_config(data: dict[str, Any]) -> None:
    parse_config(data)
    assert loader_takes(data)
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


BOTH_TAKE = [
    ("data", "train.jsonl"),
    ("data/limits", {}),
    ("data/columns", {}),
    ("data/max_length", "256"),
    ("data/max_length", 256.0),
    ("data/split", {"validation": "1e-1"}),
    ("search/trials", "1e1"),
    ("search/budget", None),
    ("search/sampler", None),
    ("search/sampler", {"kind": "random"}),
    ("search/scheduler", {"kind": "full"}),
    ("search", {"kind": "bohb"}),
    ("search", {"sampler": {"kind": "gp", "constraints": [{"metric": "token_accuracy", "at_least": "0.5"}]}}),
    ("search", {"sampler": {"kind": "de", "mutation": "best/1"}, "scheduler": {"kind": "hyperband", "overlap": False}}),
    ("search", {"strategy": {"kind": "pbt", "every": 500, "factors": [0.5, "2.0"]}}),
    ("search", {"strategy": {"kind": "coarse-to-fine", "first": {"sampler": {"kind": "sobol"}, "trials": 5}}}),
    ("search/max_hours", "0.5"),
    ("hyperparameters", {}),
    ("hyperparameters", {"optimizer.learning_rate": "1e-3"}),
    ("hyperparameters", {"optimizer.weight_decay": 0}),
    ("space", None),
    ("space", {}),
    ("space", {"only": ["lora.rank"]}),
    ("space", {"lora.rank": [8, 16], "only": True}),
    ("space", {"optimizer.learning_rate": {"low": "1e-4"}}),
    ("space", {"optimizer.learning_rate": {"kind": "float", "low": "1e-4", "high": "1e-2", "log": True}}),
    ("space", {"optimizer.learning_rate": ["1e-4", "1e-3"]}),
    ("space", {"optimizer.learning_rate": "1e-4"}),
    ("space", {"lora.rank": {"kind": "int", "low": 4, "high": 64, "log": True}}),
    ("space", {"lora.rank": {"prior": {"kind": "weights", "weights": [1, 1, 1, 1, 1, 1]}}}),
    ("space", {"optimizer.learning_rate": {"prior": {"kind": "normal", "centre": "1e-3", "deviation": 0.3}}}),
    (
        "space",
        {
            "schedule.kind": ["cosine", "wsd"],
            "schedule.decay": {"kind": "float", "low": 0.1, "high": 0.5, "when": {"schedule.kind": ["wsd"]}},
        },
    ),
    (
        "space",
        {
            "lora.dropout": {"kind": "float", "low": 0.0, "high": 0.5},
            "rules": [{"kind": "sum", "names": ["lora.dropout", "schedule.warmup"], "high": 0.5}],
        },
    ),
    ("objective", "exact_match"),
    ("objective", {}),
    ("objective", {"metric": "token_accuracy"}),
    ("objective", {"metric": "token_accuracy", "direction": None}),
    ("objective", ["exact_match"]),
    ("resources/mixed_precision", False),
    ("resources/gradient_checkpointing", "yes"),
    ("resources/gradient_checkpointing", 1),
    ("data/columns", None),
    ("data/split", None),
    ("data/limits", None),
    ("hyperparameters", None),
    ("search", None),
    ("objective", None),
    ("finalists", None),
    ("resources", None),
    ("space", {"optimizer.learning_rate": {"prior": None}}),
    ("space", {"optimizer.learning_rate": {"prior": {"kind": "uniform"}}}),
    ("space", {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": "True"}}),
    ("space", {"rules": [{"kind": "sum", "names": ["schedule.warmup"], "low": 0.01}]}),
    ("output/trackers", "tensorboard"),
    ("output", None),
    ("output", {}),
    ("output/directory", None),
    ("output/trackers", []),
]
NEITHER_TAKES = [
    ("model", None),
    ("model", ""),
    ("model", 3),
    ("model", {}),
    ("model", ["some/model"]),
    ("model/name", 3),
    ("model/dtype", "float8"),
    ("model/nam", "a"),
    ("data", None),
    ("data", ""),
    ("data/train", ["a.jsonl"]),
    ("data/train", None),
    ("data/format", "csv"),
    ("data/columns", {"prompt": 3}),
    ("data/split", {"validation": 1}),
    ("data/split", {"validation": 0}),
    ("data/split", {"train": 0.5}),
    ("data/max_length", 7),
    ("data/max_length", 8.5),
    ("data/max_length", "many"),
    ("data/max_length", None),
    ("data/max_length", True),
    ("data/too_long", "cut"),
    ("data/limits", {"train": 0}),
    ("data/limits", {"training": 5}),
    ("data/limits", 5),
    ("hyperparameters", []),
    ("hyperparameters", {"lora.rnak": 8}),
    ("hyperparameters", {"lora.rank": 0}),
    ("hyperparameters", {"lora.rank": 8.5}),
    ("hyperparameters", {"lora.rank": None}),
    ("hyperparameters", {"lora.dropout": 1}),
    ("hyperparameters", {"lora.targets": "all"}),
    ("hyperparameters", {"optimizer.learning_rate": 0}),
    ("hyperparameters", {"optimizer.learning_rate": "fast"}),
    ("hyperparameters", {"optimizer.learning_rate": [1e-3]}),
    ("space", []),
    ("space", "all"),
    ("space", {"lora.rnak": [8]}),
    ("space", {"lora.rank": []}),
    ("space", {"lora.rank": {}}),
    ("space", {"lora.rank": None}),
    ("space", {"lora.rank": [8, None]}),
    ("space", {"lora.rank": {"kind": "ints", "values": [8]}}),
    ("space", {"lora.rank": {"kind": "choice", "low": 8}}),
    ("space", {"lora.rank": {"kind": "int", "low": 8}}),
    ("space", {"lora.rank": {"kind": "int", "low": 0, "high": 8}}),
    ("space", {"lora.rank": {"highest": 8}}),
    ("space", {"lora.rank": {"high": "many"}}),
    ("space", {"lora.rank": {"prior": {"kind": "weights"}}}),
    ("space", {"lora.dropout": {"kind": "float", "low": 0.0, "high": 1.0}}),
    ("space", {"schedule.kind": "sine"}),
    ("space", {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": "yes"}}),
    ("space", {"only": []}),
    ("space", {"only": False}),
    ("space", {"only": ["lora.rnak"]}),
    ("space", {"rules": {}}),
    ("space", {"rules": [{"kind": "sums"}]}),
    ("space", {"rules": [{"kind": "sum", "names": ["lora.dropout", "schedule.warmup"], "most": 1}]}),
    ("search/trials", 0),
    ("search/trials", 1.5),
    ("search/trials", None),
    ("search/trials", [20]),
    ("search/budget", 0),
    ("search/kind", "bayes"),
    ("search/sampler", {}),
    ("search/sampler", "random"),
    ("search/sampler", {"kind": "random", "population_size": 8}),
    ("search/sampler", {"kind": "evolution", "population_size": 1}),
    ("search/scheduler", {"kind": "asha", "min_budget": 0}),
    ("search/scheduler", {"kind": "median", "compare": "worst"}),
    ("search/sampler", {"kind": "tpe", "gamma": 1}),
    ("search", {"strategy": {"kind": "pbt", "factors": []}}),
    ("search", {"strategy": {"kind": "coarse-to-fine", "third": {}}}),
    ("search", {"warm_start": {}}),
    ("search", {"warm_start": {"runs": []}}),
    ("search/max_hours", 0),
    ("search/seed", -1),
    ("search/seed", 2**31),
    ("objective", []),
    ("objective", "accuracy"),
    ("objective", {"metric": "accuracy"}),
    ("objective", [{"metric": "exact_match", "weight": 1}]),
    ("finalists/count", 0),
    ("resources/mixed_precision", "bfloat16"),
    ("resources/mixed_precision", None),
    ("resources/gradient_checkpointing", "maybe"),
    ("resources/gradient_checkpointing", 2),
    ("resources/max_checkpoint_gb", 0),
    ("output/directory", 3),
    ("output/directory", ""),
    ("output/trackers", None),
    ("output/trackers", ["tensorbord"]),
    ("outputs", {}),
]


@pytest.mark.parametrize(("path", "value"), BOTH_TAKE, ids=map(str, BOTH_TAKE))
def test_both_take(path: str, value: object) -> None:
    data = changed(path, value)
    assert loader_takes(data)
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


@pytest.mark.parametrize(("path", "value"), NEITHER_TAKES, ids=map(str, NEITHER_TAKES))
def test_neither_takes(path: str, value: object) -> None:
    data = changed(path, value)
    assert not loader_takes(data)
    assert not schema_takes(data)


@pytest.mark.parametrize(
    "data", [None, [], "a", 3, {}, {"model": "a"}, {"data": "a"}, {1: 2, "model": "a", "data": "b"}]
)
def test_neither_takes_what_is_no_config(data: object) -> None:
    assert not loader_takes(data)
    assert not schema_takes(data)


def _places(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(-1, 2, allow_nan=False).map(lambda value: round(value, 3)),
    st.sampled_from(["", "a", "1e-4", "16", " 8 ", "0.5", "-1", "1_000", "yes", "NO", "on", "float", "asha", "random"]),
    st.sampled_from(
        ["exact_match", "cosine", "all-linear", "lora.rank", "bf16", "drop", "nan", "inf", "1.5", "+3", "3."]
    ),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=2),
    st.dictionaries(
        st.sampled_from(["kind", "low", "high", "values", "name", "train", "metric", "a"]), SCALARS, max_size=3
    ),
)


@given(place=st.sampled_from(_places(FULL)[1:]), value=VALUES, removes=st.booleans())
@settings(max_examples=400)
def test_the_schema_takes_whatever_the_loader_takes(place: tuple[str | int, ...], value: object, removes: bool) -> None:
    data = copy.deepcopy(FULL)
    section: Any = data
    for part in place[:-1]:
        section = section[part]
    if removes:
        del section[place[-1]]
    else:
        section[place[-1]] = value
    if loader_takes(data):
        assert [error.message for error in VALIDATOR.iter_errors(data)] == []


SECTIONS = [name for name in SCHEMA["$defs"] if name.endswith("Config")]


def test_every_key_is_described() -> None:
    """Editors show the descriptions."""
    undescribed = [
        f"{name}.{key}"
        for name, section in {"": SCHEMA, **{name: SCHEMA["$defs"][name] for name in SECTIONS}}.items()
        for key, entry in section.get("properties", {}).items()
        if key != "kind" and "$ref" not in entry and not entry.get("description")
    ]
    assert undescribed == []


def test_the_schema_is_of_the_models_that_check() -> None:
    """A key that a model gets tomorrow is in the schema too."""
    assert set(SCHEMA["properties"]) == set(StudyConfig.model_fields)
