from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.families import FamilyError, family_names, find_family, load_family
from search_spaces.family import FamilyError as SameError

NINE = ("gemma3", "gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm2")
DIRECTORY = Path(__file__).parents[2] / "search_spaces" / "families"


def test_the_families() -> None:
    assert family_names() == NINE
    assert FamilyError is SameError


@pytest.mark.parametrize("name", NINE)
def test_every_file_can_be_found_by_name_path_and_configuration(name: str) -> None:
    path = DIRECTORY / f"{name}.yaml"
    family = load_family(name)
    assert family.name == name
    assert family.description
    assert family == load_family(path) == load_family(str(path)) == find_family(name, {}) == find_family(path, {})
    for model_type in family.model_types:
        marks = family.recognised_by.get(model_type, {})
        for config in ({"model_type": model_type, **marks}, {"text_config": {"model_type": model_type, **marks}}):
            assert find_family(None, config) == family


@pytest.mark.parametrize("name", NINE)
def test_every_source_is_given_and_every_learning_rate_is_sane(name: str) -> None:
    family = load_family(name)
    for width in (576, 2048, 8192):
        rate = family.defaults_for({"hidden_size": width})["optimizer.learning_rate"]
        assert isinstance(rate, float)
        assert 1e-4 < rate < 2e-3
        full = family.full.defaults_at(width)["optimizer.learning_rate"]
        assert full == pytest.approx(rate / 10, rel=0.1)
    measured = "Measured on" in family.lora.sources["optimizer.learning_rate"]
    assert measured == (name in ("llama", "qwen2", "qwen3"))
    assert measured or "Not measured" in family.lora.sources["optimizer.learning_rate"]


def test_the_most_specific_family_is_taken() -> None:
    config = {"model_type": "llama", "vocab_size": 49152, "attention_bias": False}
    assert find_family(None, config).name == "smollm2"
    assert find_family(None, {**config, "attention_bias": True}).name == "llama"
    assert find_family(None, {**config, "vocab_size": 32000}).name == "llama"
    assert find_family("llama", config).name == "llama"


def test_the_language_model_of_a_model_of_text_and_images_decides() -> None:
    config = {"model_type": "llava", "hidden_size": 9, "text_config": {"model_type": "qwen2", "hidden_size": 576}}
    family = find_family(None, config)
    assert family.name == "qwen2"
    assert family.defaults_for(config) == family.defaults_for({"hidden_size": 576})


def test_an_unknown_model_gets_what_its_configuration_reveals() -> None:
    config = {"model_type": "mpt", "d_model": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 50}
    family = find_family(None, config)
    assert family.model_types == ("mpt",)
    assert family.architecture.fields == {
        "architecture.num_layers": "n_layers",
        "architecture.hidden_size": "d_model",
        "architecture.num_attention_heads": "n_heads",
    }
    assert family.lora_targets == {}
    assert family.defaults_for(config)["optimizer.learning_rate"] == 7.5e-4
    assert family.defaults_for(config)["lora.targets"] == "all-linear"
    (note,) = family.notes
    assert note.startswith(
        "no family covers the model type 'mpt': general defaults (width 768), adapters on all linear"
    )
    assert all(load_family(name).notes == () for name in NINE)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": ["x"]}, {"model_type": "x", "dim": "big"}])
def test_a_configuration_that_reveals_nothing_is_said_to(config: dict[str, object]) -> None:
    family = find_family(None, config)
    assert "no width, so that the learning rate is that of a width of 2000" in family.notes[0]
    assert family.defaults_for(config)["optimizer.learning_rate"] == 5e-4
    family.space_for(config)


def test_the_family_in_the_docs_is_one(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    (block,) = [part for part in docs.split("```") if part.startswith("yml\n# my_family.yaml")]
    path = tmp_path / "my_family.yaml"
    path.write_text(block.removeprefix("yml\n"))
    family = find_family(path, {"model_type": "mpt"})
    assert family.defaults_for({"d_model": 2000})["optimizer.learning_rate"] == 4e-4
    assert family.defaults_for({"d_model": 2000})["lora.rank"] == 16
    assert family.lora_targets["attention"] == ("Wqkv", "out_proj")
    for name in NINE:
        types = "`, `".join(load_family(name).model_types) if name != "smollm2" else "llama` with their vocabulary"
        assert f"| `{name}` | " in docs
        assert f"| `{types}" in docs


def test_an_unknown_name_is_refused() -> None:
    for find in (load_family, lambda name: find_family(name, {"model_type": "llama"})):
        with pytest.raises(FamilyError, match="got 'lama'; did you mean 'llama'"):
            find("lama")
    with pytest.raises(FamilyError, match="got '_unmeasured'; use one of"):
        load_family("_unmeasured")
    with pytest.raises(FamilyError, match=r"none.yaml: expected a family file, got No such file"):
        find_family("none.yaml", {})
