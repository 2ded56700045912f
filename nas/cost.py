"""What an architecture costs: parameters and checkpoints exactly, the memory of LoRA training as an estimate.

All of it is arithmetic on sizes: nothing is built and no device is touched, so that a candidate can
be refused before any time is spent on it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, final

from nas.architecture import Architecture
from nas.layers import (
    LinearLayer,
    keeps_attention_weights,
    kept_bytes_per_token,
    layers_named,
    linear_layers,
    norm_parameters,
)
from search_spaces.suggestion import suggest

DType = Literal["float32", "bfloat16", "float16"]

DTYPE_BYTES: Final[dict[DType, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}

_FP32_BYTES: Final = 4
_ADAMW_MOMENTS: Final = 2


class CostError(ValueError):
    """A question about costs that does not fit the architecture."""


@final
@dataclass(frozen=True, slots=True)
class LoraTraining:
    """The sizes that decide how much memory a LoRA training step takes.

    Attributes:
        rank: rank of the adapters.
        target_modules: names of the linear layers that get one, such as `q_proj`.
        micro_batch: sequences in one forward pass.
        length: tokens in each of them, padding included.
        base_dtype: how the frozen base model is kept. Adapters are kept in float32.
        compute_dtype: what matrix products are computed in (autocast, where it is not float32).
        dropout: whether the adapters use dropout.

    Raises CostError if a size is below 1 or a data type is unknown.
    """

    rank: int
    target_modules: tuple[str, ...]
    micro_batch: int
    length: int
    base_dtype: DType = "float32"
    compute_dtype: DType = "float32"
    dropout: bool = False

    def __post_init__(self) -> None:
        for name, size in (("rank", self.rank), ("micro_batch", self.micro_batch), ("length", self.length)):
            if size < 1:
                raise CostError(f"{name}: expected at least 1, got {size}; raise it")
        for name, dtype in (("base_dtype", self.base_dtype), ("compute_dtype", self.compute_dtype)):
            if dtype not in DTYPE_BYTES:
                raise CostError(f"{name}: expected a known data type, got {dtype!r}; {suggest(dtype, DTYPE_BYTES)}")


def linear_shapes(arch: Architecture) -> dict[str, tuple[int, int]]:
    """The linear layers of one decoder layer: name -> (out, in), the shape of the weight.

    Each occurs once in every decoder layer. The output layer over the vocabulary is not among them.
    """
    return {name: (layer.out_size, layer.in_size) for name, layer in linear_layers(arch).items()}


def parameter_count(arch: Architecture) -> int:
    """The number of parameters of the model, exactly; a tied output layer counts once."""
    per_layer, final_norm = norm_parameters(arch)
    for layer in linear_layers(arch).values():
        per_layer += layer.out_size * layer.in_size + (layer.out_size if layer.has_bias else 0)
    embeddings = arch.vocab_size * (1 if arch.tie_word_embeddings else 2) + arch.learned_positions
    return embeddings * arch.hidden_size + arch.num_hidden_layers * per_layer + final_norm


def lora_parameter_count(arch: Architecture, rank: int, target_modules: Collection[str]) -> int:
    """The number of trainable parameters of LoRA adapters of one rank, exactly.

    A linear layer of shape (out, in) gets A [rank, in] and B [out, rank]; Hu et al. 2021, arXiv:2106.09685.

    Raises CostError if `rank` is below 1, or a target is no linear layer of the architecture or named twice.
    """
    if rank < 1:
        raise CostError(f"rank: expected at least 1, got {rank}; raise it")
    targets = _targets(arch, target_modules).values()
    return arch.num_hidden_layers * sum(rank * (layer.out_size + layer.in_size) for layer in targets)


def checkpoint_bytes(arch: Architecture, rank: int, target_modules: Collection[str]) -> int:
    """The size of the tensors that a paused LoRA training needs, in bytes, exactly.

    The adapters and the two moments of AdamW, all in float32. File headers, the state of the random
    generators and the like come on top: a few kilobytes.

    Raises CostError as `lora_parameter_count`.
    """
    return (1 + _ADAMW_MOMENTS) * _FP32_BYTES * lora_parameter_count(arch, rank, target_modules)


def training_memory_bytes(arch: Architecture, training: LoraTraining) -> int:
    """An estimate of the memory of LoRA training at its peak, in bytes.

    The sum of
      - the base model: parameters times the bytes of `base_dtype`;
      - the adapters: weights, gradients and two AdamW moments in float32, 16 bytes a parameter;
      - what the forward pass keeps for the backward pass (`activation_bytes`);
      - the logits of every token: as computed, their log-softmax in float32, and its gradient.
    Left out: the workspaces of kernels, what the allocator wastes, and the runtime itself (several
    hundred megabytes on a GPU). No gradient checkpointing.

    Raises CostError as `lora_parameter_count`.
    """
    base = DTYPE_BYTES[training.base_dtype] * parameter_count(arch)
    adapters = lora_parameter_count(arch, training.rank, training.target_modules)
    adapter_bytes = (2 + _ADAMW_MOMENTS) * _FP32_BYTES * adapters
    logits = training.micro_batch * training.length * arch.vocab_size
    logit_bytes = (DTYPE_BYTES[training.compute_dtype] + 2 * _FP32_BYTES) * logits
    return base + adapter_bytes + activation_bytes(arch, training) + logit_bytes


def activation_bytes(arch: Architecture, training: LoraTraining) -> int:
    """An estimate of what the decoder layers keep between forward and backward pass, in bytes.

    One token in one layer keeps what `nas.layers.kept_bytes_per_token` lists, and the inputs of the adapters and rank
    values of each adapter: c * (inputs + rank * targets), with c the bytes of `compute_dtype`.
    A frozen linear layer keeps no input. In float32 without dropout, adapters on the same input share
    it, and the one after the attention shares the attention's output; otherwise each keeps a copy of its own, with
    dropout a mask of 4 bytes an element too (PyTorch on CPU; 1 byte on CUDA).
    Autocast also keeps cast copies of the weights: the adapters', and the base model's linear layers'
    where `base_dtype` is another.
    The list was read off PyTorch's saved tensors (torch 2.13, transformers 5.23 with SDPA, peft 0.21).

    Raises CostError as `lora_parameter_count`.
    """
    compute = DTYPE_BYTES[training.compute_dtype]
    targets = _targets(arch, training.target_modules)
    inputs = sum(layer.in_size for layer in targets.values())
    masks = _FP32_BYTES * inputs if training.dropout else 0
    if training.compute_dtype == "float32" and not training.dropout:
        shared = {layer.reads: layer.in_size for layer in targets.values()}
        if not keeps_attention_weights(arch):
            shared.pop("attention output", None)
        inputs = sum(shared.values())
    per_token = (
        kept_bytes_per_token(arch, training.length, compute) + compute * (inputs + training.rank * len(targets)) + masks
    )
    tokens = training.micro_batch * training.length
    return tokens * arch.num_hidden_layers * per_token + _cast_weight_bytes(arch, training)


def _targets(arch: Architecture, target_modules: Collection[str]) -> dict[str, LinearLayer]:
    """The linear layers that are meant: `c_proj` means every layer whose name ends so, as in peft."""
    layers = linear_layers(arch)
    if not target_modules or isinstance(target_modules, str):
        raise CostError(f"target_modules: expected names of linear layers, got {target_modules!r}; name at least one")
    meant: set[str] = set()
    for target in target_modules:
        names = set(layers_named(arch, [target]))
        if not names:
            raise CostError(f"target_modules: expected linear layers, got {target!r}; {suggest(target, layers)}")
        if names & meant:
            raise CostError(
                f"target_modules: expected each layer once, got {list(target_modules)}; drop the repeated ones"
            )
        meant |= names
    return {name: layer for name, layer in layers.items() if name in meant}


def _cast_weight_bytes(arch: Architecture, training: LoraTraining) -> int:
    """Bytes of the weights' copies that autocast keeps for the backward pass."""
    if training.compute_dtype == "float32":
        return 0
    cast = lora_parameter_count(arch, training.rank, training.target_modules)
    if training.base_dtype != training.compute_dtype:
        weights = sum(layer.out_size * layer.in_size for layer in linear_layers(arch).values())
        cast += arch.num_hidden_layers * weights
        cast += arch.vocab_size * arch.hidden_size
    return DTYPE_BYTES[training.compute_dtype] * cast
