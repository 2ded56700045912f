"""What an architecture is: the sizes that decide the shape of every weight of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

SUPPORTED_MODEL_TYPES: Final = ("llama",)

_REQUIRED: Final = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
_FLAGS: Final = ("tie_word_embeddings", "attention_bias", "mlp_bias")


class ArchitectureError(ValueError):
    """A configuration that describes no architecture, or none that is supported."""


@final
@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a Llama-like decoder: RMS norms, rotary grouped-query attention, a gated feed-forward network.

    Attributes:
        hidden_size: width of the residual stream; a multiple of `num_attention_heads`.
        intermediate_size: width of the feed-forward network.
        num_key_value_heads: heads of the keys and values; divides `num_attention_heads`.
        head_dim: width of one head.
        tie_word_embeddings: whether the output layer is the embedding matrix.
        attention_bias: whether the four linear layers of the attention have biases.
        mlp_bias: whether the three linear layers of the feed-forward network have biases.

    Raises ArchitectureError if a size is below 1 or sizes do not divide as they must.
    """

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        for name in (*_REQUIRED, "num_key_value_heads", "head_dim"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ArchitectureError(f"{name}: expected an integer of at least 1, got {size!r}; correct it")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ArchitectureError(f"{name}: expected true or false, got {getattr(self, name)!r}; correct it")
        for name, whole, part in (
            ("hidden_size", self.hidden_size, self.num_attention_heads),
            ("num_attention_heads", self.num_attention_heads, self.num_key_value_heads),
        ):
            if whole % part:
                divisor = "num_attention_heads" if name == "hidden_size" else "num_key_value_heads"
                raise ArchitectureError(f"{name}: expected a multiple of {divisor} = {part}, got {whole}; change one")

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """The architecture of a transformers configuration, such as the content of a config.json.

        What the configuration leaves out takes the default of transformers' LlamaConfig, except for
        the sizes that have no default worth assuming.

        Raises ArchitectureError if the `model_type` is not supported, a size is missing, or sizes do
        not fit together.
        """
        model_type = config.get("model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise ArchitectureError(
                f"model_type: expected one of {', '.join(SUPPORTED_MODEL_TYPES)}, got {model_type!r}; "
                "choose a model of a supported type"
            )
        missing = [name for name in _REQUIRED if config.get(name) is None]
        if missing:
            raise ArchitectureError(f"expected the sizes {', '.join(_REQUIRED)}, got no {', '.join(missing)}; add them")
        hidden_size, heads = config["hidden_size"], config["num_attention_heads"]
        key_value_heads: Any = config.get("num_key_value_heads")
        head_dim: Any = config.get("head_dim")
        if head_dim is None and type(heads) is int and heads > 0 and type(hidden_size) is int:
            head_dim = hidden_size // heads
        return cls(
            **{name: config[name] for name in _REQUIRED},
            num_key_value_heads=heads if key_value_heads is None else key_value_heads,
            head_dim=head_dim,
            **{name: config.get(name, False) for name in _FLAGS},
        )
