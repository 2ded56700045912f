"""What an architecture is: the sizes that decide the shape of every weight of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

_SIZES: Final = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
_HEADS: Final = ("num_key_value_heads", "head_dim")
_FLAGS: Final = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_DROPOUTS: Final = ("attention_dropout", "residual_dropout")


@final
@dataclass(frozen=True, slots=True)
class _Reading:
    """How the configurations of a model type are read.

    Attributes:
        defaults: what transformers assumes for a field that is left out, where that is no false or zero. Sizes that
            have no default worth assuming are not listed, and must be given.
        names: our name -> field of the configuration, where they differ.
        has_free_heads: whether the heads may have any width, so that their number need not divide the hidden size.
        has_one_key_per_head: whether there is no grouping of heads.
        flags: which of the flags the configuration has; the others are false, or true in every model of the type.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    has_free_heads: bool = False
    has_one_key_per_head: bool = False
    flags: tuple[str, ...] = ("tie_word_embeddings",)


_READINGS: Final[Mapping[str, _Reading]] = {
    "llama": _Reading(flags=_FLAGS),
    "smollm3": _Reading({"num_key_value_heads": 4, "tie_word_embeddings": True}, flags=_FLAGS),
    "mistral": _Reading({"num_key_value_heads": 8}, has_free_heads=True),
    "qwen2": _Reading({"num_key_value_heads": 32}),
    "qwen3": _Reading(
        {"num_key_value_heads": 32, "head_dim": 128},
        has_free_heads=True,
        flags=("tie_word_embeddings", "attention_bias"),
    ),
    "gemma3_text": _Reading(  # published configurations leave out what a 2B model has
        {
            "num_hidden_layers": 26,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_attention_heads": 8,
            "vocab_size": 262_208,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "tie_word_embeddings": True,
        },
        flags=("tie_word_embeddings", "attention_bias"),
    ),
    "phi3": _Reading(names={"residual_dropout": "resid_pdrop"}),
    "gpt2": _Reading(
        {
            "tie_word_embeddings": True,
            "attention_dropout": 0.1,
            "residual_dropout": 0.1,
            "max_position_embeddings": 1024,
        },
        names={
            "num_hidden_layers": "n_layer",
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "attention_dropout": "attn_pdrop",
            "residual_dropout": "resid_pdrop",
        },
        has_one_key_per_head=True,
    ),
    "gpt_neox": _Reading(
        {"attention_bias": True},
        names={"residual_dropout": "hidden_dropout"},
        has_one_key_per_head=True,
        flags=("tie_word_embeddings", "attention_bias"),
    ),
}


class ArchitectureError(ValueError):
    """A configuration that describes no architecture, or none that is supported."""


@final
@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a decoder. What they mean for its layers depends on the model type (`nas.layers`).

    Attributes:
        hidden_size: width of the residual stream; in most model types a multiple of `num_attention_heads`.
        intermediate_size: width of the feed-forward network.
        num_key_value_heads: heads of the keys and values; divides `num_attention_heads`.
        head_dim: width of one head.
        tie_word_embeddings: whether the output layer is the embedding matrix.
        attention_bias: whether the linear layers of the attention have biases, where the model type leaves it open.
        mlp_bias: the same of the feed-forward network.
        model_type: transformers' name of the kind of model.
        learned_positions: how many positions have an embedding of their own; 0 with rotary positions.
        attention_dropout: the model's own dropout of attention weights in training, in [0, 1).
        residual_dropout: that of what attention and feed-forward network add, in [0, 1).

    Raises ArchitectureError if a size is below 1, sizes do not divide as they must, or the model type is not supported.
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
    model_type: str = "llama"
    learned_positions: int = 0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        reading = _reading(self.model_type)
        for name in (*_SIZES, *_HEADS):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ArchitectureError(f"{name}: expected an integer of at least 1, got {size!r}; correct it")
        if type(self.learned_positions) is not int or self.learned_positions < 0:
            raise ArchitectureError(
                f"learned_positions: expected an integer of at least 0, got {self.learned_positions!r}; correct it"
            )
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ArchitectureError(f"{name}: expected true or false, got {getattr(self, name)!r}; correct it")
        for name in _DROPOUTS:
            dropout = getattr(self, name)
            if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
                raise ArchitectureError(f"{name}: expected a number in [0, 1), got {dropout!r}; correct it")
        if not reading.has_free_heads:
            self._check_divides("num_attention_heads", "hidden_size")
        self._check_divides("num_key_value_heads", "num_attention_heads")

    def _check_divides(self, divisor: str, name: str) -> None:
        whole, part = getattr(self, name), getattr(self, divisor)
        if whole % part:
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

        What the configuration leaves out takes transformers' default for the model type, except for
        the sizes that have no default worth assuming. Models of text and images are not supported, since
        their costs are not those of the language model alone.

        Raises ArchitectureError if the `model_type` is not supported, a size is missing, or sizes do
        not fit together.
        """
        model_type = config.get("model_type")
        reading = _reading(model_type)
        values: dict[str, Any] = {
            name: config.get(reading.names.get(name, name), reading.defaults.get(name))
            for name in (*_SIZES, *_HEADS, *_FLAGS, *_DROPOUTS, "max_position_embeddings")
        }
        if model_type == "gpt2":
            if config.get("add_cross_attention"):
                raise ArchitectureError("add_cross_attention: expected false, got true; choose a decoder by itself")
            if values["intermediate_size"] is None and type(values["hidden_size"]) is int:
                values["intermediate_size"] = 4 * values["hidden_size"]
        names = {name: reading.names.get(name, name) for name in _SIZES}
        missing = [names[name] for name in _SIZES if values[name] is None]
        if missing:
            raise ArchitectureError(
                f"expected the sizes {', '.join(names.values())}, got no {', '.join(missing)}; add them"
            )
        heads, hidden_size = values["num_attention_heads"], values["hidden_size"]
        if reading.has_one_key_per_head:
            values |= {"num_key_value_heads": heads, "head_dim": None}
        if values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = heads
        if values["head_dim"] is None and type(heads) is int and heads > 0 and type(hidden_size) is int:
            values["head_dim"] = hidden_size // heads
        positions = values.pop("max_position_embeddings")
        for name in _FLAGS:
            values[name] = values[name] if name in reading.flags and values[name] is not None else False
        for name in _DROPOUTS:
            values[name] = 0.0 if values[name] is None else values[name]
        return cls(
            **values,
            model_type=str(model_type),
            learned_positions=positions if model_type == "gpt2" else 0,
        )


def _reading(model_type: object) -> _Reading:
    if not isinstance(model_type, str) or model_type not in _READINGS:
        raise ArchitectureError(
            f"model_type: expected one of {', '.join(_READINGS)}, got {model_type!r}; "
            "choose a model of a supported type"
        )
    return _READINGS[model_type]
