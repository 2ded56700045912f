from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from llm_tuning.adapters import adapter_config, adapter_weights, lora_attached, trainable_parameters
from llm_tuning.base_model import BaseModelError, load_model, load_tokenizer
from llm_tuning.export import ExportError
from llm_tuning.merge import export_merged
from llm_tuning.recipe import Recipe
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def checkpoint(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with random matrices, as peft writes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    directory = tmp_path_factory.mktemp("checkpoint")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(load_model(model_directory), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.2)
        model.save_pretrained(str(directory))
    return directory


def merge(checkpoint: Path, model: Path, destination: Path, dtype: str = "float32") -> None:
    export_merged(
        checkpoint,
        destination,
        model_directory=model,
        tokenizer_directory=model,
        base_model="some/model",
        dtype=dtype,
        details={"trial": 3},
    )


@pytest.mark.parametrize("exists", [False, True])
def test_the_merged_model_answers_as_base_and_adapter_do(
    checkpoint: Path, model_directory: Path, tmp_path: Path, exists: bool
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    destination = tmp_path / "a" / "merged"
    if exists:
        destination.mkdir(parents=True)
    merge(checkpoint, model_directory, destination)
    tokens = torch.arange(2, 22)[None]
    merged = AutoModelForCausalLM.from_pretrained(destination)
    base = load_model(model_directory)
    with torch.no_grad():
        plain = base(tokens).logits
        together = PeftModel.from_pretrained(base, str(checkpoint))(tokens).logits
        alone = merged(tokens).logits
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert (alone - plain).abs().max() > 0.1
    assert json.loads((destination / "thresher.json").read_text()) == {"trial": 3}
    assert load_tokenizer(destination).eos_token == "<end>"
    names = {path.name for path in destination.iterdir()}
    assert not any(name.startswith((".", "adapter")) for name in names)
    assert [path.name for path in destination.parent.iterdir()] == ["merged"]


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "gpt_neox", "phi3", "smollm2"])
def test_other_kinds_of_models_answer_so_too(name: str, model_directory: Path, tmp_path: Path) -> None:
    """Weights stored the other way round (GPT-2), several layers in one (NeoX, Phi-3), tied embeddings (the rest)."""
    import torch
    from transformers import AutoModelForCausalLM

    tiny_model(name, vocab_size=128).save_pretrained(tmp_path / "base")
    base = load_model(tmp_path / "base")
    tokens = torch.arange(2, 22)[None]
    recipe = Recipe.from_params({"lora.rank": 4, "lora.targets": "all-linear"})
    with lora_attached(base, recipe, 0, {}) as model, torch.no_grad():
        for number, parameter in enumerate(trainable_parameters(model).values()):
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
        together = model.eval()(tokens).logits
        (tmp_path / "trained").mkdir()
        save_file(adapter_weights(model), tmp_path / "trained" / "adapter_model.safetensors")
        (tmp_path / "trained" / "adapter_config.json").write_text(json.dumps(adapter_config(model)))
    export_merged(
        tmp_path / "trained",
        tmp_path / "merged",
        model_directory=tmp_path / "base",
        tokenizer_directory=model_directory,
        base_model="some/model",
        details={},
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        alone, plain = merged(tokens).logits, base(tokens).logits
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert (alone - plain).abs().max() > 0.1
    assert merged.config.tie_word_embeddings == base.config.tie_word_embeddings
    assert {name: weight.shape for name, weight in merged.state_dict().items()} == {
        name: weight.shape for name, weight in base.state_dict().items()
    }


def test_a_narrower_type(checkpoint: Path, model_directory: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    merge(checkpoint, model_directory, tmp_path / "merged", "bfloat16")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.bfloat16"}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_place_that_is_taken(checkpoint: Path, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ExportError, match="expected an empty or new directory to export to"):
        merge(checkpoint, model_directory, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_of_a_failure(checkpoint: Path, model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a checkpoint with"):
        merge(tmp_path / "none", model_directory, tmp_path / "out" / "merged")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError):
        merge(checkpoint, tmp_path / "empty", tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_in_the_way(checkpoint: Path, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="got: Not a directory; choose another place"):
        merge(checkpoint, model_directory, tmp_path / "file" / "out")
