from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.families import load_family
from search_spaces.family import FamilyError
from search_spaces.family_file import packaged_files, read_family, read_tunings

DIRECTORY = Path(__file__).parents[2] / "search_spaces" / "families"
LLAMA = yaml.safe_load((DIRECTORY / "llama.yaml").read_text())
SMALL = {
    "name": "mine",
    "description": "a model of my own",
    "model_types": ["mine"],
    "like": "llama",
    "lora": {"defaults": {"lora.rank": 8}},
}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def edited(keys: tuple[str, ...], value: Any, content: dict[str, Any] = LLAMA) -> dict[str, Any]:
    """The content with one entry set (or removed, if the value is ...)."""
    data = copy.deepcopy(content)
    entry = data
    for key in keys[:-1]:
        entry = entry[key]
    if value is ...:
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = value
    return data


def test_every_file_of_the_package_can_be_read() -> None:
    assert set(packaged_files()) == {path.stem for path in DIRECTORY.glob("*.yaml")}
    for name, file in packaged_files().items():
        if name.startswith("_"):
            read_tunings(file)
        else:
            assert read_family(file).name == name


class TestLike:
    def test_what_is_left_out_is_the_other_familys(self, tmp_path: Path) -> None:
        family, llama = load_family(write(tmp_path, SMALL)), load_family("llama")
        assert (family.architecture, family.lora_targets, family.full) == (
            llama.architecture,
            llama.lora_targets,
            llama.full,
        )
        assert family.lora.defaults == {**llama.lora.defaults, "lora.rank": 8}
        assert (family.lora.domains, family.lora.sources) == (llama.lora.domains, llama.lora.sources)

    def test_a_domain_is_taken_as_a_whole(self, tmp_path: Path) -> None:
        domain = {"kind": "int", "low": 1, "high": 9}
        family = load_family(write(tmp_path, edited(("lora", "space"), {"lora.rank": domain}, SMALL)))
        assert family.lora.domains["lora.rank"] == domain
        assert family.lora.domains["lora.dropout"] == load_family("llama").lora.domains["lora.dropout"]

    def test_architecture_and_targets_are_taken_as_a_whole(self, tmp_path: Path) -> None:
        own = {"architecture": {"fields": {"architecture.num_layers": "depth"}}, "lora_targets": {"mlp": ["up"]}}
        family = load_family(write(tmp_path, {**SMALL, **own}))
        assert family.architecture.fields == {"architecture.num_layers": "depth"}
        assert family.architecture.rules == ()
        assert family.lora_targets == {"mlp": ("up",)}

    def test_over_several_steps(self) -> None:
        assert load_family("qwen3").lora.learning_rate.exponent == 0.0775
        assert load_family("qwen3").lora.defaults == load_family("llama").lora.defaults

    @pytest.mark.parametrize("name", ["lama", 3, None, ["llama"], "mine.yaml"])
    def test_only_a_family_of_the_package(self, tmp_path: Path, name: object) -> None:
        with pytest.raises(
            FamilyError, match=r"like: expected a family of this package, got .*; (did you mean|use one)"
        ):
            load_family(write(tmp_path, {**SMALL, "like": name}))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model_type",), ["llama"], "got 'model_type'; did you mean 'model_types'?"),
        (("model_types",), ..., "got no 'model_types'; add it"),
        (("lora",), ..., "got no 'lora'; add it, or say `like: llama`"),
        (("model_types",), "llama", "model_types: expected a list of words, got 'llama'"),
        (("model_types",), [], "model_types: expected a list of words"),
        (("name",), False, "name: expected text, got False"),
        (("description",), " ", "description: expected text, got ' '"),
        (("recognised_by",), {"llama": 3}, "recognised_by.llama: expected a mapping by name, got 3"),
        (("recognised_by",), {"lama": {"a": 3}}, "recognised_by: .*got 'lama'; did you mean 'llama'"),
        (("recognised_by",), {"llama": {"a": [3]}}, r"recognised_by.llama.a: expected a bool, .* got \[3\]"),
        (("architecture",), [], r"architecture: expected a mapping by name, got \[\]"),
        (("architecture", "field"), {}, "architecture: .*got 'field'; did you mean 'fields'"),
        (("architecture", "fields"), ..., "architecture: expected the keys fields, got no 'fields'"),
        (("architecture", "fields", "num_layers"), "x", "expected names such as 'architecture.num_layers'"),
        (("architecture", "fields", "architecture.depth"), 3, "architecture.fields.architecture.depth: expected text"),
        (("architecture", "rules"), {}, r"architecture.rules: expected a list of rules, got \{\}"),
        (("architecture", "rules"), ["a | b"], r"architecture.rules\[0\]: expected .*, got 'a \| b'"),
        (("architecture", "rules"), [{"kind": "eval"}], r"architecture.rules\[0\].kind: expected"),
        (
            ("architecture", "rules"),
            [{"kind": "divides", "divisor": "architecture.heads", "dividend": "architecture.hidden_size"}],
            "got 'architecture.heads'; did you mean",
        ),
        (("lora_targets",), {}, "lora_targets: expected a mapping by name"),
        (("lora_targets", "mlp"), [True], "lora_targets.mlp: expected text, got True"),
        (("lora", "learning_rate"), 5e-4, "lora.learning_rate: expected a mapping by name, got 0.0005"),
        (("lora", "learning_rate", "exponnent"), 1, "lora.learning_rate: .*did you mean 'exponent'"),
        (("lora", "learning_rate", "value"), "much", "learning_rate.value: expected a number above 0, got 'much'"),
        (("lora", "learning_rate", "value"), 0, "learning_rate.value: expected a number above 0, got 0"),
        (("lora", "learning_rate", "value"), math.inf, "learning_rate.value: expected a number above 0"),
        (("lora", "learning_rate", "exponent"), -1, "learning_rate.exponent: expected a number of at least 0, got -1"),
        (("lora", "learning_rate", "deviation"), ..., "lora.learning_rate: .*got no 'deviation'; add it"),
        (("lora", "default"), {}, "lora: .*got 'default'; did you mean 'defaults'"),
        (("lora", "defaults"), [1], "lora.defaults: expected a mapping by name"),
        (("lora", "defaults", "lora.rank"), 33, "lora.defaults.lora.rank: expected one of 4, 8, .*, got 33"),
        (("lora", "defaults", "lora.rank"), None, "lora.defaults.lora.rank: expected a bool, .* got None"),
        (("lora", "defaults", "lora.rank"), ..., "lora.space.lora.rank: expected a default, got none"),
        (("lora", "defaults", "lora.targets"), "atention", "lora.defaults.lora.targets: .*did you mean 'attention'"),
        (("full", "defaults", "optimizer.learning_rate"), 1e-3, "full.defaults: expected no optimizer.learning_rate"),
        (("full", "sources"), {"schedule.warmup": "here"}, "full.sources: expected where the prior of"),
        (("lora", "sources", "lora.rank"), 3, "lora.sources.lora.rank: expected text, got 3"),
        (("lora", "space", "lora.rank"), {"kind": "int", "low": "x", "high": 3}, "lora.space.lora.rank.low: expected"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(
    tmp_path: Path, keys: tuple[str, ...], value: Any, message: str
) -> None:
    path = write(tmp_path, edited(keys, value))
    with pytest.raises(FamilyError, match=message) as caught:
        load_family(path)
    assert str(path) in str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    text = (DIRECTORY / "llama.yaml").read_text()
    text = text.replace("value: 5.0e-4", "value: 5e-4").replace("max_grad_norm: 1.0", "max_grad_norm: 1e0")
    assert yaml.safe_load(text)["lora"]["learning_rate"]["value"] == "5e-4"
    assert load_family(write(tmp_path, text)) == load_family("llama")


@pytest.mark.parametrize(
    "text",
    [
        "name: [llama",
        "when: 2026-13-99",
        "number: !!int ''",
        "flag: !!bool x",
        "day: !!timestamp x",
        "code: !!python/object/apply:os.getcwd []",
        "? [a]\n: b",
        "=",
        "[" * 5000,
        "number: " + "1" * 5000,
        "\0",
    ],
)
def test_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FamilyError, match=r"mine.yaml: "):
        load_family(write(tmp_path, text))


def test_files_that_are_missing_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"none.yaml: expected a family file, got No such file"):
        load_family(tmp_path / "none.yaml")
    with pytest.raises(FamilyError, match=r"expected a family file, got Is a directory"):
        load_family(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(FamilyError, match=r"broken.yaml: expected YAML"):
        load_family(broken)
    with pytest.raises(FamilyError, match=r"mine.yaml: family: expected a mapping by name, got 'just a word'"):
        load_family(write(tmp_path, "just a word"))


def paths(content: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry of nested mappings and lists."""
    items: list[Any] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    return [path, *(found for key, value in items for found in paths(value, (*path, key)))]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.just(int("9" * 4000)),
    st.floats(),
    st.text("abc.:é %", max_size=4),
    st.sampled_from(["1e-4", "llama", "normal", "weights", "lora.rank", "optimizer.batch_size", "divides"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.one_of(st.text("ab.", max_size=3), st.integers(0, 2)), st.integers(0, 2), max_size=2),
)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), odd=ODD, content=st.sampled_from([LLAMA, SMALL]), times=st.integers(1, 3))
def test_whatever_is_in_a_file_it_is_a_family_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, odd: Any, content: dict[str, Any], times: int
) -> None:
    rng = random.Random(seed)
    data: Any = {"family": copy.deepcopy(content)}
    for _ in range(times):
        path = rng.choice(paths(data["family"], ("family",)))
        entry = data
        for key in path[:-1]:
            entry = entry[key]
        match rng.randrange(3) if isinstance(entry, dict) and len(path) > 1 else 2:
            case 0:
                del entry[path[-1]]
            case 1:
                entry[f"{path[-1]}x"] = entry.pop(path[-1])
            case _:
                entry[path[-1]] = copy.deepcopy(odd)
    file = write(tmp_path_factory.getbasetemp(), data["family"])
    try:
        family = load_family(file)
    except FamilyError:
        return
    config = {"hidden_size": 576}
    params, space = family.defaults_for(config), family.space_for(config)
    assert params.keys() >= set(space.names)
