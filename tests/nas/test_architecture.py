from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from nas.architecture import Architecture, ArchitectureError

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: expected one of llama, got 'gpt2'"),
        ({"model_type": None}, "model_type: expected one of llama, got None"),
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
