from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig

from nas.architecture import Architecture, ArchitectureError
from tests.tiny_models import TINY, tiny_config

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 100,
    "tie_word_embeddings": True,
}


def test_a_saved_transformers_configuration_is_read(tmp_path: Path) -> None:
    LlamaConfig(**{**CONFIG, "head_dim": 10, "attention_bias": True}).save_pretrained(tmp_path)
    arch = Architecture.from_config(json.loads((tmp_path / "config.json").read_text()))
    assert arch == Architecture(
        num_hidden_layers=2,
        hidden_size=48,
        intermediate_size=80,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=10,
        vocab_size=100,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=False,
    )
    assert (arch.attention_size, arch.key_value_size) == (60, 30)


def test_what_is_left_out_has_the_defaults_of_transformers() -> None:
    sizes = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    config = {name: CONFIG[name] for name in sizes}
    expected = Architecture.from_config(LlamaConfig(**config).to_dict())
    assert Architecture.from_config(config) == expected
    assert Architecture.from_config({**config, "head_dim": None, "num_key_value_heads": None}) == expected
    assert (expected.num_key_value_heads, expected.head_dim, expected.tie_word_embeddings) == (6, 8, False)


@pytest.mark.parametrize("name", TINY)
def test_configurations_of_every_model_type_are_read(name: str, tmp_path: Path) -> None:
    changes = {} if name in ("gpt2", "gpt_neox") else {"num_key_value_heads": 1}
    config = tiny_config(name, **changes)
    config.save_pretrained(tmp_path)
    arch = Architecture.from_config(json.loads((tmp_path / "config.json").read_text()))
    assert arch == Architecture.from_config(config.to_dict())
    assert (arch.num_hidden_layers, arch.hidden_size, arch.intermediate_size) == (2, 32, 64)
    assert (arch.num_attention_heads, arch.head_dim) == (4, 8)
    assert arch.num_key_value_heads == (1 if changes else 4)
    assert (arch.model_type, arch.vocab_size) == (config.model_type, config.vocab_size)
    assert arch.tie_word_embeddings == config.tie_word_embeddings
    assert arch.learned_positions == (128 if name == "gpt2" else 0)
    assert (arch.attention_dropout, arch.residual_dropout) == ((0.1, 0.1) if name == "gpt2" else (0.0, 0.0))


@pytest.mark.parametrize("name", TINY)
def test_what_transformers_assumes_is_assumed(name: str) -> None:
    model_type, _ = TINY[name]
    sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    gpt2 = ("n_layer", "n_embd", "n_head", "vocab_size")
    given = dict.fromkeys(gpt2 if name == "gpt2" else sizes, 64)
    defaults = CONFIG_MAPPING[model_type](**given).to_dict()
    assert Architecture.from_config({"model_type": model_type, **given}) == Architecture.from_config(defaults)


def test_gpt2_has_a_name_of_its_own_for_each_size() -> None:
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 100}
    assert Architecture.from_config(config).intermediate_size == 128
    with pytest.raises(ArchitectureError, match=r"expected the sizes n_layer, .* got no n_embd, n_inner; add them"):
        Architecture.from_config({**config, "n_embd": None})
    with pytest.raises(ArchitectureError, match="add_cross_attention: expected false, got true"):
        Architecture.from_config({**config, "add_cross_attention": True})
    with pytest.raises(ArchitectureError, match="learned_positions: expected an integer of at least 0, got 'x'"):
        Architecture.from_config({**config, "n_positions": "x"})


def test_heads_of_a_width_of_their_own_need_not_divide_the_hidden_size() -> None:
    for model_type in ("mistral", "qwen3"):
        arch = Architecture.from_config({**CONFIG, "model_type": model_type, "hidden_size": 50, "head_dim": 8})
        assert (arch.hidden_size, arch.attention_size) == (50, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type: expected one of llama, .*, gpt_neox, got 'mamba'"),
        ({"model_type": "gemma3"}, "model_type: expected one of llama, .* got 'gemma3'"),  # it sees images too
        ({"model_type": None}, "model_type: expected one of llama, .* got None"),
        ({"model_type": ["llama"]}, "model_type: expected one of llama"),
        ({"attention_dropout": 1.5}, r"attention_dropout: expected a number in \[0, 1\), got 1.5"),
        ({"attention_dropout": True}, r"attention_dropout: expected a number in \[0, 1\), got True"),
        ({"vocab_size": None, "hidden_size": None}, "got no hidden_size, vocab_size; add them"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected an integer of at least 1, got 0"),
        ({"num_attention_heads": "6"}, "num_attention_heads: expected an integer of at least 1, got '6'"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected an integer of at least 1, got 0"),
        ({"num_key_value_heads": True}, "num_key_value_heads: expected an integer of at least 1, got True"),
        ({"head_dim": 2.5}, "head_dim: expected an integer of at least 1, got 2.5"),
        ({"num_key_value_heads": 4}, "num_attention_heads: expected a multiple of num_key_value_heads = 4, got 6"),
        ({"hidden_size": 50}, "hidden_size: expected a multiple of num_attention_heads = 6, got 50"),
        ({"mlp_bias": "no"}, "mlp_bias: expected true or false, got 'no'"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_config({**CONFIG, **change})
