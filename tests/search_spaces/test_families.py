from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.domains import Choice, Float
from search_spaces.families import Family, FamilyError, family_for, load_family

SOURCE = Path(__file__).parents[2] / "search_spaces" / "families" / "llama.yaml"


@pytest.fixture
def llama() -> Family:
    return load_family("llama")


def test_llama_says_what_the_literature_says(llama: Family) -> None:
    assert llama.name == "llama"
    assert llama.space.domains["optimizer.learning_rate"] == Float(2e-5, 3e-3, log=True)
    assert llama.space.domains["lora.rank"] == Choice((4, 8, 16, 32, 64, 128))
    assert set(llama.lora_targets["all-linear"]) == {*llama.lora_targets["attention"], *llama.lora_targets["mlp"]}


def test_every_file_can_be_found_by_name_and_model_type(llama: Family) -> None:
    for path in SOURCE.parent.glob("*.yaml"):
        family = load_family(path.stem)
        assert family.name == path.stem
        assert family == load_family(path) == load_family(str(path))
        assert all(family_for(model_type) == family for model_type in family.model_types)
    assert family_for("llama") == llama
    assert family_for("gpt2") is None


def test_defaults_are_complete_and_lie_in_the_space(llama: Family) -> None:
    for hidden_size in (1, 64, 576, 2000, 4096, 10**9):
        params = llama.default_params(hidden_size)
        llama.space.validate({name: params[name] for name in llama.space.names})
    assert llama.default_params(576) == {
        "optimizer.learning_rate": 0.0013,
        "optimizer.weight_decay": 0.0,
        "optimizer.max_grad_norm": 1.0,
        "optimizer.batch_size": 16,
        "schedule.kind": "linear",
        "schedule.warmup": 0.05,
        "schedule.decay": 0.2,
        "lora.rank": 32,
        "lora.alpha": 32.0,
        "lora.dropout": 0.0,
        "lora.targets": "all-linear",
    }


def test_the_learning_rate_follows_the_width(llama: Family) -> None:
    assert llama.learning_rate_centre.at(2000) == 5e-4
    assert llama.learning_rate_centre.at(576) == pytest.approx(5e-4 * (2000 / 576) ** 0.781)
    rates = {size: llama.default_params(size)["optimizer.learning_rate"] for size in (1, 2000, 4096, 10**9)}
    assert rates == {1: 3e-3, 2000: 5e-4, 4096: 2.9e-4, 10**9: 2e-5}
    with pytest.raises(FamilyError, match="hidden_size of at least 1, got 0"):
        llama.default_params(0)


def edited(tmp_path: Path, keys: tuple[str, ...], value: Any) -> Path:
    """The packaged file with one entry set (or removed, if the value is ...)."""
    data = yaml.safe_load(SOURCE.read_text())
    entry = data
    for key in keys[:-1]:
        entry = entry[key]
    if value is ...:
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model_type",), ["llama"], "got 'model_type'; did you mean 'model_types'?"),
        (("model_types",), ..., "got no 'model_types'; add it"),
        (("model_types",), "llama", "model_types: expected a list of words, got 'llama'"),
        (("model_types",), [], "model_types: expected a list of words"),
        (("name",), False, "name: expected a word, got False"),
        (("lora_targets",), {}, "lora_targets: expected a mapping by name"),
        (("lora_targets", "mlp"), [True], "lora_targets.mlp: expected a word, got True"),
        (("learning_rate_centre", "exponnent"), 1, "learning_rate_centre: .*did you mean 'exponent'"),
        (
            ("learning_rate_centre", "value"),
            "much",
            "learning_rate_centre.value: expected a number above 0, got 'much'",
        ),
        (("learning_rate_centre", "value"), 0, "learning_rate_centre.value: expected a number above 0, got 0"),
        (("learning_rate_centre", "value"), math.inf, "learning_rate_centre.value: expected a number above 0"),
        (("defaults",), [1], "defaults: expected a mapping by name"),
        (("defaults", "lora.rank"), 33, "defaults.lora.rank: expected one of 4, 8, 16, 32, 64, 128, got 33"),
        (("defaults", "lora.rank"), None, "defaults.lora.rank: expected a bool, a finite number or a string, got None"),
        (("defaults", "lora.rank"), ..., "space.lora.rank: expected a default, got none"),
        (("defaults", "lora.targets"), "atention", "defaults.lora.targets: .*did you mean 'attention'"),
        (("defaults", "optimizer.learning_rate"), 1e-3, "defaults: expected no optimizer.learning_rate"),
        (("space", "lora.rank"), {"kind": "int", "low": "x", "high": 3}, "space.lora.rank.low: expected a number"),
        (("space", "optimizer.learning_rate"), {"kind": "choice", "values": [0.1]}, "expected kind: float"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(
    tmp_path: Path, keys: tuple[str, ...], value: Any, message: str
) -> None:
    path = edited(tmp_path, keys, value)
    with pytest.raises(FamilyError, match=message) as caught:
        load_family(path)
    assert str(path) in str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path, llama: Family) -> None:
    text = (
        SOURCE.read_text().replace("value: 5.0e-4", "value: 5e-4").replace("max_grad_norm: 1.0", "max_grad_norm: 1e0")
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)["learning_rate_centre"]["value"] == "5e-4"
    assert load_family(path) == llama


def test_files_that_are_missing_or_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="got 'lama'; did you mean 'llama'"):
        load_family("lama")
    with pytest.raises(FamilyError, match=r"expected a family file at .*none.yaml, got No such file"):
        load_family(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [llama")
    with pytest.raises(FamilyError, match=r"broken.yaml: expected YAML"):
        load_family(broken)
    broken.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(FamilyError, match=r"broken.yaml: expected YAML"):
        load_family(broken)
    broken.write_text("just a word")
    with pytest.raises(FamilyError, match=r"broken.yaml: family: expected a mapping by name, got 'just a word'"):
        load_family(broken)
