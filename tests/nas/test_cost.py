from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.cost import (
    CostError,
    DType,
    LoraTraining,
    activation_bytes,
    checkpoint_bytes,
    linear_shapes,
    lora_parameter_count,
    parameter_count,
    training_memory_bytes,
)
from tests.tiny_models import TINY, tiny_config, tiny_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = (*ATTENTION, *MLP)

PLAIN = Architecture(
    num_hidden_layers=2,
    hidden_size=48,
    intermediate_size=80,
    num_attention_heads=6,
    num_key_value_heads=6,
    head_dim=8,
    vocab_size=101,
)
ARCHITECTURES = {
    "plain": PLAIN,
    "grouped_query": replace(PLAIN, num_key_value_heads=2),
    "multi_query_deep": replace(PLAIN, num_key_value_heads=1, num_hidden_layers=5),
    "tied": replace(PLAIN, tie_word_embeddings=True),
    "attention_bias": replace(PLAIN, num_key_value_heads=3, attention_bias=True),
    "mlp_bias": replace(PLAIN, mlp_bias=True, tie_word_embeddings=True),
    "head_dim": replace(PLAIN, head_dim=14, num_key_value_heads=2, attention_bias=True, mlp_bias=True),
}
SMOLLM2_135M = Architecture(
    num_hidden_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    tie_word_embeddings=True,
)

architectures = pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def build(arch: Architecture) -> LlamaForCausalLM:
    config = LlamaConfig(
        num_hidden_layers=arch.num_hidden_layers,
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_attention_heads=arch.num_attention_heads,
        num_key_value_heads=arch.num_key_value_heads,
        head_dim=arch.head_dim,
        vocab_size=arch.vocab_size,
        tie_word_embeddings=arch.tie_word_embeddings,
        attention_bias=arch.attention_bias,
        mlp_bias=arch.mlp_bias,
    )
    return LlamaForCausalLM(config)


def adapted(arch: Architecture, rank: int, targets: tuple[str, ...]) -> PeftModel:
    return get_peft_model(build(arch), LoraConfig(r=rank, target_modules=list(targets)))


@architectures
def test_parameters_are_those_of_the_real_model(arch: Architecture) -> None:
    assert parameter_count(arch) == sum(parameter.numel() for parameter in build(arch).parameters())


@architectures
def test_linear_layers_are_those_of_the_real_model(arch: Architecture) -> None:
    linears = {
        name.rpartition(".")[2]: tuple(module.weight.shape)
        for name, module in build(arch).model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert linear_shapes(arch) == linears


@architectures
@pytest.mark.parametrize(("rank", "targets"), [(4, ATTENTION), (8, MLP), (3, ALL_LINEAR), (16, ("v_proj",))])
def test_adapters_are_those_of_real_peft(arch: Architecture, rank: int, targets: tuple[str, ...]) -> None:
    trainable, _ = adapted(arch, rank, targets).get_nb_trainable_parameters()
    assert lora_parameter_count(arch, rank, targets) == trainable


# What a configuration may turn on and off, besides the sizes.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "gemma3": [{"attention_bias": True}, {"tie_word_embeddings": False, "num_key_value_heads": 1}],
    "gpt2": [{"tie_word_embeddings": False, "n_inner": None}],
    "gpt_neox": [{"attention_bias": False}, {"tie_word_embeddings": True}],
    "llama": [{"attention_bias": True, "mlp_bias": True}],
    "mistral": [{"head_dim": 12}, {"tie_word_embeddings": True}],
    "phi3": [{"num_key_value_heads": 4}, {"tie_word_embeddings": True}],
    "qwen2": [{"tie_word_embeddings": True, "num_key_value_heads": 1}],
    "qwen3": [{"attention_bias": True}, {"head_dim": 24}],
    "smollm2": [{}],
    "smollm3": [{"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}],
}


def real_parameter_count(config: PretrainedConfig) -> int:
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


class TestEveryModelType:
    @pytest.mark.parametrize("name", TINY)
    def test_parameters_of_tiny_models(self, name: str) -> None:
        for changes in ({}, *VARIANTS[name]):
            config = tiny_config(name, **changes)
            arch = Architecture.from_config(config.to_dict())
            assert parameter_count(arch) == real_parameter_count(config), changes

    @pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in TINY.values()}))
    def test_parameters_of_full_size(self, model_type: str) -> None:
        config = CONFIG_MAPPING[model_type]()
        assert parameter_count(Architecture.from_config(config.to_dict())) == real_parameter_count(config)

    @pytest.mark.parametrize("name", TINY)
    def test_adapters(self, name: str) -> None:
        arch = Architecture.from_config(tiny_config(name).to_dict())
        layers = list(linear_shapes(arch))
        conv = name == "gpt2"
        for targets in (layers, layers[:1], layers[-1:]):
            model = get_peft_model(tiny_model(name), LoraConfig(r=3, target_modules=targets, fan_in_fan_out=conv))
            trainable, _ = model.get_nb_trainable_parameters()
            assert lora_parameter_count(arch, 3, targets) == trainable

    @pytest.mark.parametrize("dropout", [False, True])
    @pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("name", [name for name in TINY if name != "smollm2"])  # its vocabulary dwarfs the rest
    def test_activations(self, name: str, compute_dtype: DType, dropout: bool) -> None:
        layers = "n_layer" if name == "gpt2" else "num_hidden_layers"
        model = tiny_model(name, **{layers: 6})
        arch = Architecture.from_config(model.config.to_dict())
        training = LoraTraining(16, tuple(linear_shapes(arch)), 3, 40, "float32", compute_dtype, dropout)
        assert activation_bytes(arch, training) == pytest.approx(saved_bytes(model, training), rel=0.1)

    def test_peft_takes_the_end_of_a_name_for_the_whole(self) -> None:
        arch = Architecture.from_config(tiny_config("gpt2").to_dict())
        both = lora_parameter_count(arch, 4, ["c_proj"])
        assert both == lora_parameter_count(arch, 4, ["attn.c_proj", "mlp.c_proj"])
        assert both == lora_parameter_count(arch, 4, ["h.attn.c_proj", "h.mlp.c_proj"])


def test_a_checkpoint_holds_the_adapter_and_the_moments_of_adamw() -> None:
    arch = ARCHITECTURES["head_dim"]
    model = adapted(arch, 4, ALL_LINEAR)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    ids = torch.arange(6).reshape(1, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    tensors = list(get_peft_model_state_dict(model).values())
    tensors += [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert checkpoint_bytes(arch, 4, ALL_LINEAR) == sum(tensor.nbytes for tensor in tensors)


def test_published_counts() -> None:
    assert parameter_count(SMOLLM2_135M) == 134_515_008
    assert lora_parameter_count(SMOLLM2_135M, 32, ALL_LINEAR) == 9_768_960


def saved_bytes(base: PreTrainedModel, training: LoraTraining) -> int:
    """What PyTorch really keeps for the backward pass, but for the model's own weights and the logits."""
    torch.manual_seed(0)
    vocabulary = base.config.vocab_size
    config = LoraConfig(
        r=training.rank,
        target_modules=list(training.target_modules),
        lora_dropout=0.1 if training.dropout else 0.0,
        fan_in_fan_out=base.config.model_type == "gpt2",
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(getattr(torch, training.base_dtype))
    model.train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: list[torch.Tensor] = []  # alive until all are counted, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    ids = torch.randint(0, vocabulary, (training.micro_batch, training.length))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    full_precision = training.compute_dtype == "float32"
    autocast = nullcontext() if full_precision else torch.autocast("cpu", getattr(torch, training.compute_dtype))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        output = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False)
    assert output.loss.requires_grad
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in kept
        if tensor.shape[-1:] != (vocabulary,) and tensor.untyped_storage().data_ptr() not in weights
    }
    return sum(storages.values())


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(
    ("base_dtype", "compute_dtype"), [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]
)
@pytest.mark.parametrize("targets", [ALL_LINEAR, ATTENTION, MLP])
def test_activations_are_close_to_what_pytorch_keeps(
    targets: tuple[str, ...], base_dtype: DType, compute_dtype: DType, dropout: bool
) -> None:
    arch = replace(PLAIN, num_hidden_layers=6, num_key_value_heads=2)
    training = LoraTraining(32, targets, 3, 40, base_dtype, compute_dtype, dropout)
    assert activation_bytes(arch, training) == pytest.approx(saved_bytes(build(arch), training), rel=0.1)


def test_training_memory_is_the_sum_of_its_parts() -> None:
    training = LoraTraining(32, ALL_LINEAR, micro_batch=4, length=128)
    adapters, logits = 9_768_960, 4 * 128 * 49152
    without_activations = 4 * 134_515_008 + 16 * adapters + 12 * logits
    activations = activation_bytes(SMOLLM2_135M, training)
    assert training_memory_bytes(SMOLLM2_135M, training) == without_activations + activations
    assert activation_bytes(SMOLLM2_135M, replace(training, micro_batch=8)) == 2 * activations
    in_half = replace(training, base_dtype="bfloat16", compute_dtype="bfloat16")
    assert training_memory_bytes(SMOLLM2_135M, in_half) < training_memory_bytes(SMOLLM2_135M, training)


def test_questions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CostError, match="got 'q_prj'; did you mean 'q_proj'"):
        lora_parameter_count(PLAIN, 4, ["q_prj"])
    with pytest.raises(CostError, match="expected each layer once"):
        lora_parameter_count(PLAIN, 4, ["q_proj", "q_proj"])
    with pytest.raises(CostError, match="expected each layer once"):
        lora_parameter_count(PLAIN, 4, ["q_proj", "self_attn.q_proj"])
    with pytest.raises(CostError, match="name at least one"):
        checkpoint_bytes(PLAIN, 4, [])
    with pytest.raises(CostError, match="expected names of linear layers, got 'q_proj'"):
        checkpoint_bytes(PLAIN, 4, "q_proj")
    with pytest.raises(CostError, match="rank: expected at least 1, got 0"):
        lora_parameter_count(PLAIN, 0, ALL_LINEAR)
    with pytest.raises(CostError, match="length: expected at least 1, got 0"):
        LoraTraining(4, ALL_LINEAR, 1, 0)
    with pytest.raises(CostError, match=r"base_dtype: .*got 'bf16'; did you mean 'bfloat16'"):
        LoraTraining(4, ALL_LINEAR, 1, 8, base_dtype="bf16")  # type: ignore[arg-type]
    with pytest.raises(CostError, match="did you mean 'q_proj'"):
        activation_bytes(PLAIN, LoraTraining(4, ("q_prj",), 1, 8))
