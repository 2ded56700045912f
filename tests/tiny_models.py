"""Tiny random models of every kind that a family covers, built by the installed transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

VOCABULARY: Final = 128

_LLAMA: Final[Mapping[str, Any]] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_WITHOUT_GROUPS: Final = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}

TINY: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "gemma3": ("gemma3_text", {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}),
    "gpt2": (
        "gpt2",
        {
            "n_layer": 2,
            "n_embd": 32,
            "n_inner": 64,
            "n_head": 4,
            "vocab_size": VOCABULARY,
            "n_positions": 128,
            "initializer_range": 0.2,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    ),
    "gpt_neox": ("gpt_neox", _WITHOUT_GROUPS),
    "llama": ("llama", {**_LLAMA, "head_dim": 8}),
    "mistral": ("mistral", {**_LLAMA, "head_dim": 8}),
    "phi3": ("phi3", _LLAMA),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 8}),
    "smollm2": ("llama", {**_LLAMA, "vocab_size": 49152, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", _LLAMA),
}
"""A model of each family by its name, two of the one that covers two types: model type and what its config says."""


def tiny_config(name: str, **changes: Any) -> PretrainedConfig:
    """The configuration of one of them, with changes."""
    from transformers import CONFIG_MAPPING

    model_type, entries = TINY[name]
    return CONFIG_MAPPING[model_type](**{**entries, **changes})


def tiny_model(name: str, **changes: Any) -> PreTrainedModel:
    """One of them with random weights, the same every time."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(tiny_config(name, **changes)).eval()
