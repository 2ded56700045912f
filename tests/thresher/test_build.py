from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed
from llm_tuning.recipe import RECIPE_DEFAULTS, FineTuningSpec, Recipe
from search_spaces.families import load_family
from tests.thresher.tiny_study import LLAMA_CONFIG
from thresher.build import Plan, build_plan, largest_rank, rung_budgets, worker_task
from thresher.config import ConfigError, parse_config

UNKNOWN = {"model_type": "unheard-of", "hidden_size": 64}
SMALLEST: dict[str, Any] = {
    "model": {"name": "some/model"},
    "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
    "search": {"budget": 9000},
    "output": {"directory": "runs/one"},
}


ROWS = {"train": 500, "validation": 50}


def plan(model: dict[str, Any] = LLAMA_CONFIG, /, **sections: dict[str, Any]) -> Plan:
    return build_plan(parse_config(data(**sections)), model, ROWS)


def data(**sections: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(SMALLEST)
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    return content


def refusal(model: dict[str, Any] = LLAMA_CONFIG, /, **sections: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(model, **sections)
    assert ";" in str(caught.value)
    return str(caught.value)


class TestRungs:
    @pytest.mark.parametrize(
        ("budget", "scheduler", "expected"),
        [
            (900, {"kind": "asha"}, (100, 300, 900)),
            (900, {"kind": "asha", "min_budget": 300}, (300, 900)),
            (900, {"kind": "asha", "min_budget": 900}, (900,)),
            (1000, {"kind": "asha", "min_budget": 100}, (112, 334, 1000)),
            (1024, {"kind": "asha", "reduction_factor": 2}, (256, 512, 1024)),
            (3, {"kind": "asha"}, (1, 3)),
            (900, {"kind": "full"}, (900,)),
        ],
    )
    def test_budgets(self, budget: int, scheduler: dict[str, Any], expected: tuple[int, ...]) -> None:
        config = parse_config(data(search={"budget": budget, "scheduler": scheduler}))
        assert rung_budgets(config, 500, 0) == expected

    @pytest.mark.parametrize(
        ("rows", "batch", "search", "expected"),
        [
            (9000, 32, {}, (1000, 3000, 9000)),
            (100, 32, {}, (256, 768, 2304)),
            (10**6, 32, {}, (5556, 16667, 50_000)),
            (100, 32, {"kind": "random"}, (256,)),
            (9000, 32, {"kind": "evolution"}, (9000,)),
            (9000, 32, {"scheduler": {"kind": "asha", "reduction_factor": 2}}, (2250, 4500, 9000)),
            (300, 1, {"scheduler": {"kind": "asha", "min_budget": 900}}, (900,)),
        ],
    )
    def test_without_a_budget_it_is_about_an_epoch(
        self, rows: int, batch: int, search: dict[str, Any], expected: tuple[int, ...]
    ) -> None:
        config = parse_config({**data(), "search": search})
        assert rung_budgets(config, rows, batch) == expected

    def test_a_lowest_rung_above_the_full_budget(self) -> None:
        message = refusal(search={"scheduler": {"kind": "asha", "min_budget": 9001}})
        assert message.startswith("search.scheduler: expected 1 <= min_budget <= max_budget, got 9001 and 9000;")

    def test_the_lowest_rung_holds_eight_of_the_largest_batches(self) -> None:
        space = {"optimizer.batch_size": {"kind": "choice", "values": [16, 125]}}
        assert plan(space=space).budgets == (1000, 3000, 9000)
        space = {"optimizer.batch_size": {"kind": "choice", "values": [16, 126]}}
        assert "at least 1008 training examples (8 of the largest batches, 126), got 1000" in refusal(space=space)

    def test_of_a_range_of_batches_the_high_end_counts(self) -> None:
        space = {"optimizer.batch_size": {"kind": "int", "low": 1, "high": 126}}
        assert "8 of the largest batches, 126" in refusal(space=space)

    def test_a_fixed_batch_counts_too(self) -> None:
        space = {"only": ["lora.rank"]}
        message = refusal(space=space, hyperparameters={"optimizer.batch_size": 126})
        assert "8 of the largest batches, 126" in message


class TestDefaults:
    def test_come_from_the_family_for_the_width(self) -> None:
        family = load_family("llama")
        made = plan()
        assert made.space == family.space_for(LLAMA_CONFIG)
        assert made.defaults == family.defaults_for(LLAMA_CONFIG)
        assert made.defaults["optimizer.learning_rate"] == pytest.approx(5e-4 * (2000 / 576) ** 0.781, rel=0.05)
        assert made.lora_targets == family.lora_targets
        assert made.notes == ()

    def test_are_a_recipe(self) -> None:
        assert Recipe.from_params(plan().defaults)
        assert plan().defaults.keys() == RECIPE_DEFAULTS.keys()

    def test_trial_0_is_their_part_in_the_space(self) -> None:
        made = plan(space={"only": True, "lora.rank": [8, 32]})
        assert made.default_params == {"lora.rank": 32}
        made.space.validate(made.default_params)

    def test_the_config_overrides_them(self) -> None:
        made = plan(hyperparameters={"optimizer.learning_rate": "1e-3", "lora.alpha": 16})
        assert made.defaults["optimizer.learning_rate"] == 1e-3
        assert made.default_params["optimizer.learning_rate"] == 1e-3
        assert made.defaults["lora.alpha"] == 16.0

    def test_what_the_family_proposes_outside_the_space_moves_into_it(self) -> None:
        made = plan(
            space={
                "only": ["lora.rank", "optimizer.learning_rate"],
                "lora.rank": [4, 8],
                "optimizer.learning_rate": {"low": 2e-3},
            }
        )
        assert made.default_params == {"lora.rank": 8, "optimizer.learning_rate": 2e-3}
        assert any(
            note.startswith("default lora.rank: 8, the value of this space that is nearest to 32")
            for note in made.notes
        )

    def test_what_the_config_sets_outside_the_space_is_refused(self) -> None:
        message = refusal(space={"lora.rank": [4, 8]}, hyperparameters={"lora.rank": 16})
        assert message == (
            "space.lora.rank: expected the default configuration (trial 0) to lie in the space, here one of 4, 8, got "
            "16; change it under `hyperparameters`, or widen the space"
        )

    def test_a_single_value_in_the_space_fixes_it(self) -> None:
        made = plan(space={"lora.rank": 8, "lora.dropout": 0})
        assert "lora.rank" not in made.space.names
        assert (made.defaults["lora.rank"], made.defaults["lora.dropout"]) == (8, 0.0)


class TestModels:
    def test_without_a_family_the_model_s_config_is_enough(self) -> None:
        made = plan(UNKNOWN)
        assert made.defaults.keys() == RECIPE_DEFAULTS.keys()
        assert "optimizer.learning_rate" in made.space.names
        assert made.architecture is None
        assert any("unheard-of" in note for note in made.notes)
        assert any("memory and disk are not estimated" in note for note in made.notes)

    def test_a_family_can_be_named(self) -> None:
        made = plan(UNKNOWN, model={"family": "llama"})
        assert made.space == load_family("llama").space_for(UNKNOWN)
        assert "attention" in made.lora_targets

    def test_a_misspelt_family(self) -> None:
        message = refusal(model={"family": "lama"})
        assert message.startswith(
            "model.family: expected a family or the path of a YAML file, got 'lama'; did you mean"
        )

    def test_texts_must_fit_the_context(self) -> None:
        assert plan(data={"max_length": 2048})
        message = refusal(data={"max_length": 2049})
        assert message.startswith(
            "data.max_length: expected at most 2048, the context of the model in tokens, got 2049;"
        )
        assert plan(UNKNOWN, data={"max_length": 2049}, model={"family": "llama"})


class TestCombinations:
    """What no single value is to blame for is found before a trial fails of it."""

    @pytest.mark.parametrize("kind", ["default", "searched"])
    def test_warmup_and_decay_that_overlap(self, kind: str) -> None:
        space: dict[str, Any] = {"schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.5}}
        hyperparameters: dict[str, Any] = {"schedule.decay": 0.6}
        if kind == "searched":
            space["schedule.kind"] = {"kind": "choice", "values": ["linear", "wsd"]}
        else:
            hyperparameters["schedule.kind"] = "wsd"
        message = refusal(space=space, hyperparameters=hyperparameters)
        assert "schedule.warmup + schedule.decay <= 1 with schedule.kind wsd, got up to 0.5 + 0.6" in message

    @pytest.mark.parametrize("condition", [{}, {"when": {"schedule.kind": ["wsd"]}}])
    def test_where_both_are_searched_a_rule_bounds_them(self, condition: dict[str, Any]) -> None:
        space: dict[str, Any] = {
            "schedule.kind": ["linear", "wsd"],
            "schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.5},
            "schedule.decay": {"kind": "float", "low": 0.1, "high": 0.9, **condition},
        }
        assert [str(rule) for rule in plan(space=space).space.rules] == ["schedule.warmup + schedule.decay <= 1.0"]

    def test_where_one_may_be_absent_with_wsd_its_default_counts(self) -> None:
        space: dict[str, Any] = {
            "schedule.kind": ["linear", "wsd"],
            "schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.9},
            "schedule.decay": {"kind": "float", "low": 0.1, "high": 0.5, "when": {"lora.rank": [32]}},
        }
        assert "got up to 0.9 + 0.5" in refusal(space=space)

    def test_an_integer_domain_of_a_float(self) -> None:
        space = {"optimizer.max_grad_norm": {"kind": "int", "low": 1, "high": 3}}
        made = plan(space=space, hyperparameters={"optimizer.max_grad_norm": 1})
        assert made.default_params["optimizer.max_grad_norm"] == 1
        assert not any("max_grad_norm" in note for note in made.notes)

    def test_without_wsd_the_decay_is_not_read(self) -> None:
        space = {"schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.5}}
        assert plan(space=space, hyperparameters={"schedule.decay": 0.6})

    def test_targets_that_only_a_family_knows(self) -> None:
        space = {"lora.targets": {"kind": "choice", "values": ["attention", "all-linear"]}}
        assert plan(space=space)
        message = refusal(UNKNOWN, space=space)
        assert message.startswith("lora.targets: expected one of all-linear, got 'attention'; name a family")

    def test_a_family_file_with_a_domain_out_of_range(self, tmp_path: Path) -> None:
        text = (resources.files("search_spaces") / "families" / "llama.yaml").read_text()
        family = tmp_path / "mine.yaml"
        family.write_text(text.replace("values: [0.0, 0.05, 0.1]", "values: [0.0, 0.05, 1.05]"))
        message = refusal(model={"family": str(family)})
        assert message.startswith("space.lora.dropout: expected a number in [0, 1), got 1.05;")


class TestStrategy:
    def parts(self, made: Plan) -> Composed:
        assert isinstance(made.search, Composed)
        return made.search

    def test_evolution_and_asha(self) -> None:
        sampler = {"kind": "evolution", "population_size": 6, "tournament_size": 2, "random_probability": 0.3}
        scheduler = {"kind": "asha", "reduction_factor": 2, "cap_promotions": True}
        made = plan(search={"trials": 7, "sampler": sampler, "scheduler": scheduler}, finalists={"count": 2})
        search = self.parts(made)
        assert search.sampler == EvolutionSampler(made.space, 6, 2, 0.5, 0.3)
        assert isinstance(search.scheduler, ASHA)
        assert search.scheduler.budgets == made.budgets == (2250, 4500, 9000)
        assert (search.scheduler.max_trials, search.scheduler.reduction_factor) == (7, 2)
        assert search.scheduler.cap_promotions
        assert search.scheduler.keep == made.finalists.count == 2

    def test_random_and_full_budget(self) -> None:
        made = plan(search={"trials": 7, "sampler": {"kind": "random"}, "scheduler": {"kind": "full"}})
        search = self.parts(made)
        assert search.sampler == RandomSampler(made.space)
        assert search.scheduler == FullBudget(7, keep=3)

    def test_a_tournament_larger_than_the_population(self) -> None:
        message = refusal(search={"sampler": {"kind": "evolution", "population_size": 3, "tournament_size": 4}})
        assert message.startswith("search.sampler: expected population_size >= 2")

    def test_finalists_are_tested_if_there_is_a_test_set(self) -> None:
        assert not plan().finalists.test
        assert build_plan(parse_config(data()), LLAMA_CONFIG, {**ROWS, "test": 50}).finalists.test


class TestWorkerTask:
    def test_is_a_specification_with_absolute_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = parse_config(
            data(
                data={"test": "test.jsonl"},
                resources={"save_every_minutes": 1.5, "mixed_precision": "bf16", "micro_batch_size": 2},
                output={"generations": 2, "max_new_tokens": 9},
            )
        )
        made = build_plan(config, LLAMA_CONFIG, ROWS)
        specification = FineTuningSpec.from_dict(worker_task(config, made, Path("model")))
        assert specification.model_directory == str(tmp_path / "model")
        assert specification.data_directory == str(tmp_path / "runs/one/data")
        assert specification.checkpoint_directory == str(tmp_path / "runs/one/checkpoints")
        assert specification.save_every_seconds == 90.0
        assert specification.mixed_precision == "bf16"
        assert (specification.micro_batch_size, specification.generations) == (2, 2)
        assert specification.defaults == made.defaults

    def test_the_largest_rank(self) -> None:
        assert largest_rank(plan()) == 128
        fixed = plan(space={"lora.rank": 5})
        assert largest_rank(fixed) == 5
