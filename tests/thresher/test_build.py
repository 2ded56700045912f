from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.gaussian_process import Constraint
from controller.samplers.grid import GridSampler
from controller.samplers.random import RandomSampler
from controller.samplers.tpe import TPESampler
from controller.samplers.warm_start import WarmStartSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategies.coarse_to_fine import CoarseToFine
from controller.strategies.dehb import DEHB
from controller.strategies.early_end import EarlyEnd
from controller.strategies.freeze_thaw import FreezeThaw
from controller.strategies.population_based import PopulationBasedTraining
from controller.strategy import Composed
from controller.trial import Objective
from llm_tuning.recipe import RECIPE_DEFAULTS, FineTuningSpec, Recipe
from search_spaces.families import load_family
from tests.thresher.tiny_study import LLAMA_CONFIG
from thresher.api import Study
from thresher.build import Plan, build_plan, largest_rank, rung_budgets, worker_task
from thresher.config import ConfigError, parse_config
from thresher.strategies import SEARCH_KINDS, make_strategy

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
        assert plan(space=space).budgets == (1000, 1500, 2250, 3375, 5062, 9000)
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
        assert made.notes == (
            "search.kind: auto is freeze-thaw here: training can be paused, and 20 trials are few enough for a model",
        )

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


class TestSearch:
    def test_auto_says_what_it_is(self) -> None:
        made = plan(space={"only": True, "lora.rank": [8, 32]})
        assert isinstance(made.search, Composed)
        assert type(made.search.sampler) is GridSampler
        assert made.search.scheduler.max_trials == 2  # type: ignore[attr-defined]
        assert any(note.startswith("search.kind: auto is grid-asha here: the space has 2") for note in made.notes)

    @pytest.mark.parametrize("kind", [kind for kind in SEARCH_KINDS if kind != "auto"])
    def test_every_kind_is_what_functions_get(self, kind: str) -> None:
        made = plan(search={"kind": kind, "trials": 12})
        words = make_strategy(kind, made.space, made.budgets, 12)
        assert type(made.search) is type(words)
        if isinstance(words, Composed):
            assert isinstance(made.search, Composed)
            assert type(made.search.sampler) is type(words.sampler)
            assert type(made.search.scheduler) is type(words.scheduler)
        assert made.budgets[0] >= 8 * 32
        assert made.budgets[-1] == 9000

    @pytest.mark.parametrize(
        ("sampler", "expected"),
        [
            ({"kind": "grid", "points": 2}, {"points": 2}),
            ({"kind": "tpe", "gamma": 0.3, "num_startup": 5}, {"gamma": 0.3, "num_startup": 5}),
            ({"kind": "gp", "max_points": 50, "several": "scalarised"}, {"max_points": 50, "several": "scalarised"}),
            ({"kind": "de", "mutation": "best/1"}, {"mutation": "best/1", "scale": 0.5}),
            ({"kind": "cma-es", "sigma": 0.1}, {"sigma": 0.1}),
            ({"kind": "nsga2", "population_size": 8}, {"population_size": 8}),
            ({"kind": "priorband"}, {"reduction_factor": 4}),
        ],
    )
    def test_options_of_samplers(self, sampler: dict[str, Any], expected: dict[str, Any]) -> None:
        scheduler = {"kind": "hyperband", "reduction_factor": 4, "min_budget": 2250}
        space = {"only": True, "optimizer.learning_rate": {"low": 1e-4}, "lora.rank": [8, 32]}
        made = plan(space=space, search={"sampler": sampler, "scheduler": scheduler})
        assert isinstance(made.search, Composed)
        assert made.budgets == (2250, 9000)
        assert {name: getattr(made.search.sampler, name) for name in expected} == expected

    @pytest.mark.parametrize(
        ("scheduler", "expected"),
        [
            ({"kind": "successive-halving"}, {"reduction_factor": 3, "budgets": (1000, 3000, 9000)}),
            ({"kind": "hyperband", "overlap": False}, {"overlap": False}),
            ({"kind": "async-hyperband", "reduction_factor": 2}, {"budgets": (2250, 4500, 9000)}),
            ({"kind": "median", "grace_budget": 1000, "compare": "average"}, {"grace_budget": 1000}),
            ({"kind": "mo-asha", "spread": "crowding"}, {"spread": "crowding"}),
        ],
    )
    def test_options_of_schedulers(self, scheduler: dict[str, Any], expected: dict[str, Any]) -> None:
        made = plan(search={"trials": 9, "scheduler": scheduler})
        assert isinstance(made.search, Composed)
        expected = {"max_trials": 9, "keep": 3, **expected}
        assert {name: getattr(made.search.scheduler, name) for name in expected} == expected

    def test_constraints(self) -> None:
        constraint = {"metric": "token_accuracy", "at_least": 0.5}
        made = plan(search={"sampler": {"kind": "gp", "constraints": [constraint]}})
        assert isinstance(made.search, Composed)
        assert made.search.sampler.constraints == (Constraint("token_accuracy", at_least=0.5),)  # type: ignore[attr-defined]

    def test_strategies_of_their_own(self) -> None:
        made = plan(search={"trials": 9, "strategy": {"kind": "dehb", "scale": 0.7, "reduction_factor": 2}})
        assert isinstance(made.search, DEHB)
        assert (made.search.scale, made.search.budgets) == (0.7, made.budgets) == (0.7, (2250, 4500, 9000))
        made = plan(search={"trials": 9, "strategy": {"kind": "freeze-thaw", "min_budget": 3000, "switch_cost": 20}})
        assert isinstance(made.search, FreezeThaw)
        assert (made.search.switch_cost, made.search.budgets) == (20, made.budgets) == (20, (3000, 4500, 6750, 9000))

    def test_population_based_training_leaves_what_weights_depend_on(self) -> None:
        made = plan(search={"trials": 4, "strategy": {"kind": "pbt", "every": 3000, "factors": [0.5, 2]}})
        assert isinstance(made.search, PopulationBasedTraining)
        assert made.budgets == (3000, 6000, 9000)
        assert (made.search.population_size, made.search.factors) == (4, (0.5, 2.0))
        fixed = {"lora.rank", "lora.alpha", "lora.targets", "optimizer.batch_size"}
        assert set(made.search.frozen) == fixed & set(made.space.names)
        assert plan(search={"kind": "pbt"}).budgets == tuple(range(900, 9001, 900))
        message = refusal(search={"strategy": {"kind": "pbt", "every": 30}})
        assert "got 30 (rungs 30, 60" in message
        assert "search.strategy.every" in message

    def test_coarse_to_fine(self) -> None:
        first = {"sampler": {"kind": "sobol"}, "scheduler": {"kind": "full"}, "trials": 4}
        second = {"sampler": {"kind": "gp"}, "scheduler": {"kind": "asha", "reduction_factor": 2}}
        strategy = {"kind": "coarse-to-fine", "first": first, "second": second, "margin": 0.2}
        made = plan(search={"trials": 10, "strategy": strategy})
        assert isinstance(made.search, CoarseToFine)
        assert made.budgets == (2250, 4500, 9000)
        assert isinstance(made.search.first, Composed)
        fine = made.search.second(made.space)
        assert made.search.first.scheduler == FullBudget(4, keep=3)
        assert (fine.scheduler.max_trials, fine.scheduler.budgets) == (6, made.budgets)  # type: ignore[attr-defined]
        assert made.search.margin == 0.2

    def test_an_early_end(self) -> None:
        made = plan(search={"kind": "gp", "end_early": True})
        assert isinstance(made.search, EarlyEnd)
        assert isinstance(made.search.strategy, Composed)
        assert made.search.surrogate is made.search.strategy.sampler
        assert isinstance(plan(search={"end_early": True}).search, EarlyEnd)

    def test_a_warm_start_from_an_earlier_run(self, tmp_path: Path) -> None:
        def loss(params: dict[str, Any]) -> float:
            return float(params["lora.rank"])

        earlier = Study({"lora.rank": [8, 32, 128]}, loss, metric="validation_loss", trials=3, directory=tmp_path / "a")
        earlier.run(progress=False)
        made = plan(search={"warm_start": {"runs": str(tmp_path / "a"), "num_first": 1, "strength": 2}})
        assert isinstance(made.search, Composed)
        sampler = made.search.sampler
        assert isinstance(sampler, WarmStartSampler)
        assert (type(sampler.inner), sampler.num_first, sampler.strength) == (TPESampler, 1, 2.0)
        history = History(seed=0, objectives=[Objective("validation_loss")], horizon=9000)
        assert sampler.propose(history, history.generator()).params["lora.rank"] == 8

    def test_a_warm_start_from_nothing(self, tmp_path: Path) -> None:
        message = refusal(search={"kind": "tpe", "warm_start": {"runs": [str(tmp_path / "none")]}})
        assert message.startswith("search.warm_start.runs: expected the directory of a study")
        Study({"x": [1, 2]}, lambda params: 1.0, trials=2, directory=tmp_path / "b").run(progress=False)
        message = refusal(search={"kind": "tpe", "warm_start": {"runs": [str(tmp_path / "b")]}})
        assert "expected studies that minimize validation_loss first" in message

    def test_rungs_that_a_strategy_lacks(self) -> None:
        message = refusal(search={"strategy": {"kind": "dehb", "min_budget": 9000}})
        assert message.startswith("search.strategy: expected at least two rungs")


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
