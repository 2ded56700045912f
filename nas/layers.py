"""What a decoder layer of each model type consists of: its linear layers, its norms, and what training keeps of it.

Read off transformers 5.23; the tests compare all of it with the models that transformers builds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, final

from nas.architecture import Architecture

Input = Literal["attention", "attention output", "feed-forward", "feed-forward output"]

_FP32_BYTES: Final = 4


@final
@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear layer that occurs once in every decoder layer.

    Attributes:
        out_size, in_size: widths of its output and input.
        has_bias: whether it has a bias.
        reads: what its input is; layers that read the same share it.
    """

    out_size: int
    in_size: int
    has_bias: bool
    reads: Input


def linear_layers(arch: Architecture) -> dict[str, LinearLayer]:
    """The linear layers of one decoder layer by module name, in the order of the model.

    The names are those that the model families use: the last part of the module's name, and the part before it where
    the last alone occurs twice. The output layer over the vocabulary is not among them.
    """
    hidden, inner = arch.hidden_size, arch.intermediate_size
    queries, keys = arch.attention_size, arch.key_value_size
    match arch.model_type:
        case "gpt2":
            return {
                "c_attn": LinearLayer(3 * hidden, hidden, True, "attention"),
                "attn.c_proj": LinearLayer(hidden, hidden, True, "attention output"),
                "c_fc": LinearLayer(inner, hidden, True, "feed-forward"),
                "mlp.c_proj": LinearLayer(hidden, inner, True, "feed-forward output"),
            }
        case "gpt_neox":
            return {
                "query_key_value": LinearLayer(3 * hidden, hidden, arch.attention_bias, "attention"),
                "attention.dense": LinearLayer(hidden, hidden, arch.attention_bias, "attention output"),
                "dense_h_to_4h": LinearLayer(inner, hidden, True, "feed-forward"),
                "dense_4h_to_h": LinearLayer(hidden, inner, True, "feed-forward output"),
            }
        case "phi3":
            return {
                "qkv_proj": LinearLayer(queries + 2 * keys, hidden, False, "attention"),
                "o_proj": LinearLayer(hidden, queries, False, "attention output"),
                "gate_up_proj": LinearLayer(2 * inner, hidden, False, "feed-forward"),
                "down_proj": LinearLayer(hidden, inner, False, "feed-forward output"),
            }
        case model_type:
            into_heads = arch.attention_bias or model_type == "qwen2"
            return {
                "q_proj": LinearLayer(queries, hidden, into_heads, "attention"),
                "k_proj": LinearLayer(keys, hidden, into_heads, "attention"),
                "v_proj": LinearLayer(keys, hidden, into_heads, "attention"),
                "o_proj": LinearLayer(hidden, queries, arch.attention_bias, "attention output"),
                "gate_proj": LinearLayer(inner, hidden, arch.mlp_bias, "feed-forward"),
                "up_proj": LinearLayer(inner, hidden, arch.mlp_bias, "feed-forward"),
                "down_proj": LinearLayer(hidden, inner, arch.mlp_bias, "feed-forward output"),
            }


def layers_named(arch: Architecture, modules: Collection[str]) -> tuple[str, ...]:
    """The linear layers that are meant by module names as peft reads them: `c_proj` is every layer whose name ends so.

    In the order of the model. A name that is no layer's means none.
    """
    return tuple(
        name
        for name in linear_layers(arch)
        if any(f".{name}".endswith(f".{module}") or f".{module}".endswith(f".{name}") for module in modules)
    )


def norm_parameters(arch: Architecture) -> tuple[int, int]:
    """The parameters of the norms: of one decoder layer, and of the one at the end."""
    norms = 4 if arch.model_type == "gemma3_text" else 2
    of_each = arch.hidden_size * (2 if _has_layer_norms(arch) else 1)  # a LayerNorm has a bias too
    return norms * of_each + (2 * arch.head_dim if _has_head_norms(arch) else 0), of_each


def kept_bytes_per_token(arch: Architecture, length: int, compute_bytes: int) -> int:
    """What one decoder layer keeps of one token for the backward pass, adapters aside, in bytes (estimate).

    With H, I, Q, K the widths of residual stream, feed-forward network, all query heads and all key heads, and c
    `compute_bytes`:
      - norms, always in float32: their inputs, 4 * 2H (Gemma 3: 4 * 4H; in NeoX both norms read the same: 4 * H),
        and their scales; norms of the heads 4 * (Q + K) and a scale each;
      - attention: queries, its output, and keys and values repeated to all query heads, c * 4Q (NeoX, whose three in
        one stay alive as a whole, c * 6Q), the log of the softmax's denominator, 4 * heads, and the row of the padding
        mask, c * length. With dropout of its weights PyTorch on CPU keeps c * 3Q and three rows of heads * length in
        float32 instead;
      - feed-forward network: gate, its activation, and the other factor: c * 3I; ungated c * I, and c * 4I with
        GPT-2's approximation of GELU, which is four operations;
      - the model's own dropout: masks of 4 bytes for H twice (PyTorch on CPU; 1 byte on CUDA).
    """
    hidden, queries = arch.hidden_size, arch.attention_size
    norm_inputs = {"gemma3_text": 4, "gpt_neox": 1}.get(arch.model_type, 2)
    scales = {"gemma3_text": 4, "gpt_neox": 4, "gpt2": 4}.get(arch.model_type, 2)
    kept = _FP32_BYTES * (norm_inputs * hidden + scales)
    if _has_head_norms(arch):
        kept += _FP32_BYTES * (queries + arch.key_value_size + arch.num_attention_heads + arch.num_key_value_heads)
    if keeps_attention_weights(arch):
        kept += compute_bytes * 3 * queries + 3 * _FP32_BYTES * arch.num_attention_heads * length
    else:
        kept += compute_bytes * ((6 if arch.model_type == "gpt_neox" else 4) * queries + length)
        kept += _FP32_BYTES * arch.num_attention_heads
    kept += compute_bytes * {"gpt2": 4, "gpt_neox": 1}.get(arch.model_type, 3) * arch.intermediate_size
    return kept + (2 * _FP32_BYTES * hidden if arch.residual_dropout else 0)


def keeps_attention_weights(arch: Architecture) -> bool:
    """Whether the attention weights themselves are kept, as PyTorch on CPU does to drop some of them out."""
    return arch.attention_dropout > 0


def _has_layer_norms(arch: Architecture) -> bool:
    return arch.model_type in ("gpt2", "gpt_neox")


def _has_head_norms(arch: Architecture) -> bool:
    return arch.model_type in ("qwen3", "gemma3_text")
