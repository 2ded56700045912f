"""LoRA adapters on a warm base model: put on for one trial, taken off without a trace."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from llm_tuning.batches import Stream, derived_seed
from llm_tuning.recipe import Recipe

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_PEFT_ATTRIBUTE = "peft_config"
"""What peft leaves on a model that it has put adapters on."""


class AdapterError(ValueError):
    """Adapters that do not fit on the model, or weights that do not fit into the adapters."""


@contextmanager
def lora_attached(
    base: PreTrainedModel,
    recipe: Recipe,
    seed: int,
    lora_targets: Mapping[str, Sequence[str]],
    *,
    gradient_checkpointing: bool = False,
) -> Iterator[PeftModel]:
    """The base model with fresh LoRA matrices, which are the only trainable parameters; B is zero, A random.

    The base model is changed in place. On leaving, also by an exception, it is what it was before:
    the same modules, weights, flags and hooks.

    Args:
        seed: seed of the trial; A depends on nothing else (nor on the device).
        lora_targets: module names of each group of linear layers. A group `all-linear` that is not
            given means all linear layers but the output layer. In a model of text and images only the layers of
            the language model are meant, though others may have the same names.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory.

    Raises AdapterError if the group is unknown or the model has no such layers.
    """
    from peft import get_peft_model

    requires_grad = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    was_training = base.training
    config = _lora_config(base, recipe, lora_targets)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft 0.21 asks every base model for a property that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            # Not torch.manual_seed, which also changes the generators of accelerators: peft draws on the CPU.
            torch.default_generator.manual_seed(derived_seed(seed, Stream.INITIALISATION))
            try:
                model = get_peft_model(base, config)
            except ValueError as error:
                raise AdapterError(
                    f"expected a model with layers named {_names(config)}, got: {error}; "
                    "correct the LoRA targets of the model family"
                ) from error
        if gradient_checkpointing:
            _set_gradient_checkpointing(base, True)
        yield model
    finally:
        _detach(base)
        if gradient_checkpointing:
            _set_gradient_checkpointing(base, False)
        base.train(was_training)
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(requires_grad[name])
            parameter.grad = None


def _lora_config(base: PreTrainedModel, recipe: Recipe, lora_targets: Mapping[str, Sequence[str]]) -> LoraConfig:
    from peft import LoraConfig

    modules: str | list[str]
    if recipe.targets in lora_targets:
        modules = list(lora_targets[recipe.targets])
    elif recipe.targets == "all-linear":
        modules = "all-linear"
    else:
        raise AdapterError(
            f"expected lora.targets to be one of {', '.join([*lora_targets, 'all-linear'])}, got {recipe.targets!r}; "
            "choose one of them or name its modules in the model family"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=modules,
        exclude_modules=_outside_the_language_model(base),
        fan_in_fan_out=_stores_weights_transposed(base),
        bias="none",
    )


def _outside_the_language_model(base: PreTrainedModel) -> str | None:
    """A pattern of the modules that are no part of the language model; None where all are."""
    if "text_config" not in base.config.sub_configs:
        return None
    decoder = base.get_decoder()
    name = next((name for name, module in base.named_modules() if module is decoder), "")
    return rf"(?!{re.escape(name)}\.).*" if name else None


def _stores_weights_transposed(base: PreTrainedModel) -> bool:
    """Whether the linear layers are GPT-2's Conv1D, whose weights have the shape [in, out]."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in base.modules())


def _names(config: LoraConfig) -> str:
    targets = config.target_modules
    return targets if isinstance(targets, str) else ", ".join(sorted(targets))


def _detach(base: PreTrainedModel) -> None:
    """Put every wrapped layer back in its place.

    Not peft's own `unload`, which needs the PeftModel that there is none of when attaching failed half-way.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, module.get_base_layer())
    vars(base).pop(_PEFT_ATTRIBUTE, None)


def _set_gradient_checkpointing(base: PreTrainedModel, enabled: bool) -> None:
    with warnings.catch_warnings():
        # The only names that all versions 5 of transformers have; late ones prefer activation_checkpointing_*.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing_(en|dis)able` is deprecated")
        if enabled:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """The LoRA matrices on the CPU, under the names of peft's file format."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


def load_adapter_weights(model: PeftModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the LoRA matrices. Raises AdapterError unless names and shapes are exactly those of the model."""
    from peft import set_peft_model_state_dict

    expected = {name: tuple(weight.shape) for name, weight in adapter_weights(model).items()}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != got:
        differing = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        name = differing[0]
        raise AdapterError(
            f"expected LoRA weights of the same structure, got {len(differing)} that differ, such as {name}: "
            f"{got.get(name, 'none')} instead of {expected.get(name, 'none')}; "
            "take over weights only between trials of the same lora.rank and lora.targets"
        )
    set_peft_model_state_dict(model, dict(weights))


def adapter_config(model: PeftModel) -> dict[str, Any]:
    """The LoRA settings in terms of JSON, as peft's `adapter_config.json` holds them."""
    settings = model.peft_config["default"].to_dict()
    listed = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    return {**listed, "inference_mode": True}
