from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from llm_tuning.adapters import (
    AdapterError,
    adapter_config,
    adapter_weights,
    load_adapter_weights,
    lora_attached,
    trainable_parameters,
)
from llm_tuning.recipe import Recipe
from search_spaces.space import Params

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TARGETS = {"attention": ("q_proj", "v_proj"), "mlp": ("gate_proj",)}


def recipe(params: Params | None = None) -> Recipe:
    return Recipe.from_params({"lora.rank": 4, **(params or {})})


def snapshot(model: LlamaForCausalLM) -> dict[str, Any]:
    """All that may be seen of a model: modules, weights byte by byte, flags, hooks, settings."""
    hooks = {
        (name, kind): len(registered)
        for name, module in model.named_modules()
        for kind, registered in vars(module).items()
        if kind.endswith("_hooks") and isinstance(registered, dict)
    }
    return {
        "modules": {name: (type(module), module.training) for name, module in model.named_modules()},
        "weights": {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()},
        "flags": {name: (weight.requires_grad, weight.grad) for name, weight in model.named_parameters()},
        "places": {name: weight.data_ptr() for name, weight in model.named_parameters()},
        "hooks": hooks,
        "config": model.config.to_json_string(),
        "is_adapted": "peft_config" in vars(model),
        "recomputes": model.is_gradient_checkpointing,
    }


def train_a_little(model: torch.nn.Module) -> None:
    parameters = list(trainable_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for _ in range(2):
        model.train()
        logits = model(input_ids=torch.arange(2, 10)[None], use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


# transformers 5.23 has renamed the property; snapshot asks for it under the name that all versions 5 have.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
class TestNoTrace:
    @pytest.mark.parametrize("gradient_checkpointing", [False, True])
    def test_after_training(self, base: LlamaForCausalLM, gradient_checkpointing: bool) -> None:
        base.lm_head.weight.requires_grad_(True)  # neither training nor leaving adapters may change a flag for good
        before = snapshot(base)
        with lora_attached(base, recipe(), 0, TARGETS, gradient_checkpointing=gradient_checkpointing) as model:
            assert snapshot(base)["modules"] != before["modules"]
            train_a_little(model)
        assert snapshot(base) == before

    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory"), KeyError("a"), KeyboardInterrupt()]
    )
    def test_after_an_exception_in_the_middle(self, base: LlamaForCausalLM, error: BaseException) -> None:
        before = snapshot(base)

        def fail(model: torch.nn.Module) -> None:
            train_a_little(model)
            raise error

        with pytest.raises(type(error)), lora_attached(base, recipe(), 0, TARGETS) as model:
            fail(model)
        assert snapshot(base) == before

    def test_after_attaching_failed_half_way(self, base: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
        from peft.tuners.lora.layer import Linear

        before = snapshot(base)
        made = []
        make = Linear.__init__

        def fail_at_the_third(layer: Linear, *args: Any, **kwargs: Any) -> None:
            made.append(layer)
            if len(made) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            make(layer, *args, **kwargs)

        monkeypatch.setattr(Linear, "__init__", fail_at_the_third)
        with pytest.raises(torch.OutOfMemoryError), lora_attached(base, recipe(), 0, TARGETS):
            pass
        assert len(made) == 3
        assert snapshot(base) == before


def test_fresh_adapters_change_nothing_and_depend_on_the_seed_alone(base: LlamaForCausalLM) -> None:
    tokens = torch.arange(2, 12)[None]
    weights = []
    with torch.no_grad():
        expected = base(tokens).logits
        for chance, seed in enumerate((5, 5, 6)):
            torch.manual_seed(chance)
            state = torch.get_rng_state()
            with lora_attached(base, recipe(), seed, TARGETS) as model:
                assert torch.equal(model(tokens).logits, expected)
                weights.append({name: weight.clone() for name, weight in adapter_weights(model).items()})
            assert torch.equal(torch.get_rng_state(), state)
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        is_a = name.endswith("lora_A.weight")
        assert bool(first[name].any()) == is_a
        assert torch.equal(first[name], other[name]) != is_a


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        ("attention", {"q_proj", "v_proj"}),
        ("mlp", {"gate_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_targets_name_groups_of_layers(base: LlamaForCausalLM, targets: str, modules: set[str]) -> None:
    with lora_attached(base, recipe({"lora.targets": targets, "lora.alpha": 8.0}), 0, TARGETS) as model:
        parameters = trainable_parameters(model)
        assert {name.split(".")[-4] for name in parameters} == modules
        assert len(parameters) == 2 * 2 * len(modules)
        assert all("lora_" in name for name in parameters)
        config = adapter_config(model)
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["task_type"]) == (
        4,
        8.0,
        "LORA",
        "CAUSAL_LM",
    )


def test_a_family_may_say_what_all_linear_means(base: LlamaForCausalLM) -> None:
    with lora_attached(base, recipe(), 0, {"all-linear": ("q_proj",)}) as model:
        assert len(trainable_parameters(model)) == 2 * 2


def test_unknown_groups_and_modules_are_refused(base: LlamaForCausalLM) -> None:
    with (
        pytest.raises(AdapterError, match=r"expected lora.targets to be one of attention, all-linear, got 'mlp'"),
        lora_attached(base, recipe({"lora.targets": "mlp"}), 0, {"attention": ("q_proj",)}),
    ):
        pass
    with (
        pytest.raises(
            AdapterError, match=r"expected a model with layers named c_attn, got: .*correct the LoRA targets"
        ),
        lora_attached(base, recipe({"lora.targets": "attention"}), 0, {"attention": ("c_attn",)}),
    ):
        pass


def test_adapters_stay_in_float32_on_a_base_in_bfloat16(model_directory: Any) -> None:
    from llm_tuning.base_model import load_model

    base = load_model(model_directory, "bfloat16")
    with lora_attached(base, recipe(), 0, TARGETS) as model:
        assert {weight.dtype for weight in trainable_parameters(model).values()} == {torch.float32}
        train_a_little(model)
    assert {weight.dtype for weight in base.parameters()} == {torch.bfloat16}


def test_weights_can_be_taken_out_and_put_in(base: LlamaForCausalLM) -> None:
    tokens = torch.arange(2, 12)[None]
    with lora_attached(base, recipe(), 0, TARGETS) as model:
        train_a_little(model)
        weights = {name: weight.clone() for name, weight in adapter_weights(model).items()}
        with torch.no_grad():
            expected = model.eval()(tokens).logits
    with lora_attached(base, recipe(), 1, TARGETS) as model, torch.no_grad():
        load_adapter_weights(model, weights)
        assert torch.equal(model.eval()(tokens).logits, expected)


@pytest.mark.parametrize("params", [{"lora.rank": 8}, {"lora.targets": "mlp"}])
def test_weights_of_another_structure_are_refused(base: LlamaForCausalLM, params: Params) -> None:
    with lora_attached(base, recipe(), 0, TARGETS) as model:
        weights = {name: weight.clone() for name, weight in adapter_weights(model).items()}
    with lora_attached(base, recipe(params), 0, TARGETS) as model:
        before = [weight.clone() for weight in adapter_weights(model).values()]
        with pytest.raises(
            AdapterError, match=r"expected LoRA weights of the same structure, got .* such as .*: .* instead"
        ):
            load_adapter_weights(model, weights)
        assert all(map(torch.equal, adapter_weights(model).values(), before))


def test_recomputed_activations_give_the_same_gradient(base: LlamaForCausalLM) -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        with lora_attached(
            base, recipe({"lora.dropout": 0.5}), 0, TARGETS, gradient_checkpointing=gradient_checkpointing
        ) as model:
            model.train()
            torch.manual_seed(0)
            model(input_ids=torch.arange(2, 12)[None], use_cache=False).logits.logsumexp(-1).sum().backward()
            gradients.append([parameter.grad.clone() for parameter in trainable_parameters(model).values()])
    assert any(gradient.any() for gradient in gradients[0])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*gradients, strict=True))
