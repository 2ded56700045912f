"""The packaged families against the models that the installed transformers builds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers.pytorch_utils import Conv1D

from controller.trial import Continue, Job, Message, Report
from llm_tuning.adapters import lora_attached, trainable_parameters
from llm_tuning.base_model import context_length, load_model, model_config
from llm_tuning.recipe import RECIPE_DEFAULTS, Recipe
from llm_tuning.task import FineTuningTask
from search_spaces.families import Family, family_names, find_family, load_family
from tests.tiny_models import TINY, tiny_config, tiny_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = torch.arange(2, 20)[None]

# Another value of each size that keeps the rules for the sizes of the tiny models.
OTHER_SIZES = {
    "architecture.num_layers": 3,
    "architecture.hidden_size": 48,
    "architecture.intermediate_size": 80,
    "architecture.num_attention_heads": 8,
    "architecture.num_key_value_heads": 1,
    "architecture.head_dim": 16,
}


def family_of(name: str) -> Family:
    return find_family(None, tiny_config(name).to_dict())


def linear_layers(model: PreTrainedModel) -> set[str]:
    """All linear layers but the output layer over the vocabulary."""
    head = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    return {name for name, module in layers.items() if module is not head}


def named(layers: set[str], modules: tuple[str, ...]) -> set[str]:
    """The layers that peft finds under these names."""
    return {layer for layer in layers if any(f".{layer}".endswith(f".{module}") for module in modules)}


def test_every_family_has_a_tiny_model() -> None:
    assert {family_of(name).name for name in TINY} == set(family_names())
    model_types = {"gemma3"} | {tiny_config(name).model_type for name in TINY}
    assert {model_type for name in family_names() for model_type in load_family(name).model_types} == model_types


@pytest.mark.parametrize("name", family_names())
def test_defaults_and_space_are_hyperparameters_of_a_recipe(name: str) -> None:
    family = load_family(name)
    defaults, space = family.defaults_for({}), family.space_for({})
    assert defaults.keys() == RECIPE_DEFAULTS.keys()
    assert {key: type(value) for key, value in defaults.items()} == {
        key: type(value) for key, value in RECIPE_DEFAULTS.items()
    }
    Recipe.from_params(defaults)
    assert set(space.names) <= RECIPE_DEFAULTS.keys()
    assert {key for key in RECIPE_DEFAULTS if not key.startswith("lora.")} == family.full.defaults_at(576).keys()
    for tuning in (family.lora, family.full):
        for end in ("low", "high"):
            ends = {
                name: getattr(domain, end, None) or domain.decode(float(end == "high"))
                for name, domain in tuning.space_at(576).domains.items()
            }
            Recipe.from_params(ends)


class TestArchitecture:
    @pytest.mark.parametrize("name", TINY)
    def test_every_size_is_a_field_that_changes_the_model(self, name: str) -> None:
        fields = family_of(name).architecture.fields
        config, before = tiny_config(name), tiny_model(name)
        assert {"architecture.num_layers", "architecture.hidden_size", "architecture.num_attention_heads"} < set(fields)
        with torch.no_grad():
            expected = before(TOKENS).logits
        for size, field in fields.items():
            if (name, size) == ("smollm2", "architecture.head_dim"):
                continue
            assert isinstance(config.to_dict()[field], int), size
            after = tiny_model(name, **{field: OTHER_SIZES[size]})
            shapes = [[tuple(weight.shape) for weight in model.parameters()] for model in (before, after)]
            with torch.no_grad():
                changed = shapes[0] != shapes[1] or not torch.allclose(after(TOKENS).logits, expected, atol=1e-4)
            assert changed, f"{size}, the field {field}"

    @pytest.mark.parametrize("name", TINY)
    def test_a_tiny_model_keeps_the_rules(self, name: str) -> None:
        architecture = family_of(name).architecture
        config = tiny_config(name).to_dict()
        sizes = {size: config[field] for size, field in architecture.fields.items()}
        assert all(rule.holds(sizes) for rule in architecture.rules)

    @pytest.mark.parametrize("name", [name for name in TINY if name not in ("gpt2", "gpt_neox")])
    def test_key_heads_that_do_not_divide_the_heads_are_no_model(self, name: str) -> None:
        with pytest.raises(RuntimeError):
            tiny_model(name, num_key_value_heads=3)(TOKENS)

    @pytest.mark.parametrize("name", ["llama", "smollm2", "gemma3", "gpt2", "gpt_neox"])
    def test_heads_that_do_not_divide_the_width_are_no_model(self, name: str) -> None:
        width = family_of(name).architecture.fields["architecture.hidden_size"]
        with pytest.raises((ValueError, StrictDataclassClassValidationError)):
            tiny_model(name, **{width: 50})(TOKENS)

    @pytest.mark.parametrize("name", ["mistral", "qwen3"])
    def test_free_heads_need_not_divide_the_width(self, name: str) -> None:
        tiny_model(name, hidden_size=50)(TOKENS)
        assert len(family_of(name).architecture.rules) == 1


class TestLoraTargets:
    @pytest.mark.parametrize("name", TINY)
    def test_every_name_is_a_layer_and_all_linear_is_every_layer(self, name: str) -> None:
        layers = linear_layers(tiny_model(name))
        targets = family_of(name).lora_targets
        assert set(targets) == {"attention", "mlp", "all-linear"}
        for modules in targets.values():
            for module in modules:
                assert len(named(layers, (module,))) == 2, module  # in both layers, and in one place of each
        groups = {group: named(layers, modules) for group, modules in targets.items()}
        assert groups["all-linear"] == layers == groups["attention"] | groups["mlp"]
        assert not groups["attention"] & groups["mlp"]
        for group in ("attention", "mlp"):
            assert all(("mlp" in layer) == (group == "mlp") for layer in groups[group])

    @pytest.mark.parametrize("name", TINY)
    @pytest.mark.parametrize("group", ["attention", "mlp", "all-linear"])
    def test_adapters_go_on_and_leave_no_trace(self, name: str, group: str) -> None:
        base, targets = tiny_model(name), family_of(name).lora_targets
        base.requires_grad_(False)
        before, modules = snapshot(base), [path for path, _ in base.named_modules()]
        recipe = Recipe.from_params({"lora.rank": 4, "lora.targets": group})
        with torch.no_grad():
            expected = base(TOKENS).logits
        for checkpointing in (False, True):
            with lora_attached(base, recipe, 0, targets, gradient_checkpointing=checkpointing) as model:
                assert len(trainable_parameters(model)) == 2 * len(named(set(modules), targets[group]))
                with torch.no_grad():
                    assert torch.equal(model(TOKENS).logits, expected)
                model.train()
                model(input_ids=TOKENS, use_cache=False).logits.logsumexp(-1).sum().backward()
                assert all(parameter.grad is not None for parameter in trainable_parameters(model).values())
                with torch.no_grad():
                    for parameter in trainable_parameters(model).values():
                        parameter += 0.1
                    assert not torch.allclose(model.eval()(TOKENS).logits, expected)
            assert [path for path, _ in base.named_modules()] == modules
            assert snapshot(base) == before

    def test_an_unknown_family_has_all_linear_layers(self) -> None:
        for name in TINY:
            base = tiny_model(name)
            with lora_attached(base, Recipe.from_params({"lora.rank": 2}), 0, {}) as model:
                assert len(trainable_parameters(model)) == 2 * len(linear_layers(tiny_model(name)))

    def test_a_model_of_text_and_images_gets_them_on_its_language_model_only(self) -> None:
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        text = {key: value for key, value in TINY["gemma3"][1].items() if not key.endswith("_token_id")}
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        vision = {**{key: text[key] for key in sizes}, "image_size": 28, "patch_size": 14}
        config = Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_index=127,
            boi_token_index=126,
            eoi_token_index=125,
        )
        base = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
        family, before = find_family(None, config.to_dict()), snapshot(base)
        assert family.name == "gemma3"
        for targets in (family.lora_targets, {}):
            with lora_attached(base, Recipe.from_params({"lora.rank": 2}), 0, targets) as model:
                names = trainable_parameters(model)
                assert len(names) == 2 * 2 * 7
                assert all("language_model" in name for name in names)
            assert snapshot(base) == before


def snapshot(model: PreTrainedModel) -> dict[str, Any]:
    """Weights byte by byte, flags, and the configuration."""
    return {
        "weights": {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()},
        "flags": {name: (weight.requires_grad, weight.grad) for name, weight in model.named_parameters()},
        "config": model.config.to_json_string(),
        "training": model.training,
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint directory of a tiny model, written once."""
    root = tmp_path_factory.mktemp("families")

    def save(name: str) -> Path:
        if not (root / name).exists():
            tiny_model(name).save_pretrained(root / name)
        return root / name

    return save


@pytest.fixture
def serve(make_spec: Any, make_desk: Any, saved: Any, tmp_path: Path) -> Callable[..., list[Message]]:
    """Gives jobs of a trial to a fresh task that tunes a tiny model as its family says."""

    def serve(name: str, *jobs: Job, at: str = "checkpoints") -> list[Message]:
        family = family_of(name)
        defaults = {**family.defaults_for(tiny_config(name).to_dict()), "optimizer.batch_size": 6, "lora.rank": 4}
        spec = replace(
            make_spec(tmp_path / at),
            model_directory=str(saved(name)),
            lora_targets=family.lora_targets,
            defaults={**defaults, "optimizer.learning_rate": 0.01},
        )
        desk = make_desk(jobs)
        FineTuningTask(spec).run(desk, desk.emit)
        return desk.messages

    return serve


def job_of(from_budget: int, to_budget: int, **changes: Any) -> Job:
    entries = {"job_id": 1, "trial_id": 7, "params": {}, "seed": 3, "horizon": 60, **changes}
    return Job(from_budget=from_budget, to_budget=to_budget, **entries)


def reports(messages: list[Message]) -> list[Report]:
    found = [message for message in messages if isinstance(message, Report)]
    assert found, messages
    return found


class TestTuning:
    @pytest.mark.parametrize("name", TINY)
    def test_it_loads_as_it_was_saved(self, name: str, saved: Any) -> None:
        model, loaded = tiny_model(name), load_model(saved(name))
        assert type(loaded) is type(model)
        with torch.no_grad():
            assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
        assert context_length(model_config(saved(name))) == 128
        assert find_family(None, json.loads((saved(name) / "config.json").read_text())).name == family_of(name).name

    @pytest.mark.parametrize("name", TINY)
    def test_it_learns_in_a_few_steps(self, name: str, serve: Any) -> None:
        before, after = reports(serve(name, job_of(0, 0, trial_id=8), job_of(0, 60, job_id=2)))
        assert after.budget == 60
        assert after.metrics["validation_loss"] < 0.95 * before.metrics["validation_loss"]

    def test_a_model_with_dropout_of_its_own_resumes_bit_for_bit(self, serve: Any) -> None:
        (straight,) = reports(serve("gpt2", job_of(0, 60), at="straight"))
        serve("gpt2", job_of(0, 24), at="paused")
        (resumed,) = reports(serve("gpt2", job_of(24, 60, source=Continue(7, 24)), at="paused"))
        assert resumed.metrics["validation_loss"] == straight.metrics["validation_loss"]
