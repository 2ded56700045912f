from __future__ import annotations

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from nas.architecture import Architecture
from nas.layers import keeps_attention_weights, kept_bytes_per_token, layers_named, linear_layers, norm_parameters
from tests.tiny_models import TINY, tiny_config, tiny_model


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("biased", [False, True])
def test_layers_are_those_of_the_real_model(name: str, biased: bool) -> None:
    flags = {"attention_bias": biased} if hasattr(tiny_config(name), "attention_bias") else {}
    flags |= {"mlp_bias": biased} if hasattr(tiny_config(name), "mlp_bias") else {}
    model = tiny_model(name, **flags)
    arch = Architecture.from_config(model.config.to_dict())
    layers = linear_layers(arch)
    head = model.get_output_embeddings()
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D) or module is head:
            continue
        (layer_name,) = [layer for layer in layers if f".{path}".endswith(f".{layer}")]
        found.append(layer_name)
        layer, shape = layers[layer_name], tuple(module.weight.shape)
        assert (layer.out_size, layer.in_size) == (shape[::-1] if isinstance(module, Conv1D) else shape), path
        assert layer.has_bias == (module.bias is not None), path
    assert sorted(found) == sorted(2 * list(layers))


@pytest.mark.parametrize("name", TINY)
def test_norms_are_those_of_the_real_model(name: str) -> None:
    model = tiny_model(name)
    of_layers, final = 0, 0
    for path, module in model.named_modules():
        if "Norm" in type(module).__name__:
            size = sum(parameter.numel() for parameter in module.parameters())
            of_layers, final = (of_layers + size, final) if ".0." in f"{path}." or ".1." in path else (of_layers, size)
    assert norm_parameters(Architecture.from_config(model.config.to_dict())) == (of_layers // 2, final)


def test_layers_are_found_by_the_end_of_their_names() -> None:
    arch = Architecture.from_config(tiny_config("gpt2").to_dict())
    assert layers_named(arch, ["c_proj", "h.attn.c_attn"]) == ("c_attn", "attn.c_proj", "mlp.c_proj")
    assert layers_named(arch, ["proj", "q_proj"]) == ()


def test_dropped_attention_weights_are_kept() -> None:
    dropping, plain = (
        Architecture.from_config(tiny_config("gpt2", attn_pdrop=dropout).to_dict()) for dropout in (0.1, 0.0)
    )
    assert keeps_attention_weights(dropping)
    assert not keeps_attention_weights(plain)
    grown = [kept_bytes_per_token(arch, 1000, 4) - kept_bytes_per_token(arch, 0, 4) for arch in (dropping, plain)]
    assert grown == [3 * 4 * 4 * 1000, 4 * 1000]
