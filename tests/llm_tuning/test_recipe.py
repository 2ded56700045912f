from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest

from llm_tuning.recipe import (
    METRICS,
    RECIPE_DEFAULTS,
    FineTuningSpec,
    Metric,
    Recipe,
    RecipeError,
    SpecificationError,
)
from search_spaces.space import ParamValue


def test_no_params_give_the_defaults() -> None:
    recipe = Recipe.from_params({})
    assert recipe == Recipe.from_params(RECIPE_DEFAULTS)
    assert (recipe.learning_rate, recipe.batch_size, recipe.schedule) == (5e-4, 16, "linear")
    assert (recipe.rank, recipe.alpha, recipe.targets) == (32, 32.0, "all-linear")


def test_every_name_reaches_its_own_field() -> None:
    params: dict[str, ParamValue] = {
        "optimizer.learning_rate": 0.001,
        "optimizer.weight_decay": 0.002,
        "optimizer.max_grad_norm": 0.003,
        "optimizer.batch_size": 4,
        "schedule.kind": "wsd",
        "schedule.warmup": 0.05,
        "schedule.decay": 0.06,
        "lora.rank": 7,
        "lora.alpha": 8.5,
        "lora.dropout": 0.09,
        "lora.targets": "mlp",
    }
    assert params.keys() == RECIPE_DEFAULTS.keys()
    assert Recipe.from_params(params) == Recipe(0.001, 0.002, 0.003, 4, "wsd", 0.05, 0.06, 7, 8.5, 0.09, "mlp")


def test_an_integer_is_a_number_too() -> None:
    recipe = Recipe.from_params({"lora.alpha": 16, "optimizer.weight_decay": 0})
    assert isinstance(recipe.alpha, float)
    assert recipe.alpha == 16.0


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'\?"):
        Recipe.from_params({"optimizer.learning_rat": 1e-4})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.learning_rate", "1e-4"),
        ("optimizer.learning_rate", True),
        ("optimizer.weight_decay", -0.1),
        ("optimizer.max_grad_norm", 0.0),
        ("optimizer.batch_size", 0),
        ("optimizer.batch_size", 8.0),
        ("optimizer.batch_size", True),
        ("schedule.kind", "linaer"),
        ("schedule.warmup", 1.1),
        ("schedule.warmup", -0.1),
        ("schedule.decay", 2.0),
        ("lora.rank", 0),
        ("lora.alpha", 0.0),
        ("lora.dropout", 1.0),
        ("lora.dropout", -0.1),
        ("lora.targets", "everything"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: ParamValue) -> None:
    with pytest.raises(RecipeError, match=rf"{name}: expected .*, got {value!r}; "):
        Recipe.from_params({name: value})


def test_warmup_and_decay_may_overlap_only_where_decay_is_not_read() -> None:
    params: dict[str, ParamValue] = {"schedule.warmup": 0.6, "schedule.decay": 0.5}
    assert Recipe.from_params(params).warmup == 0.6
    with pytest.raises(RecipeError, match=r"expected schedule.warmup \+ schedule.decay <= 1 with wsd, got 0.6 \+ 0.5"):
        Recipe.from_params({**params, "schedule.kind": "wsd"})


def test_a_specification_survives_json(spec: FineTuningSpec) -> None:
    tracked = replace(spec, trackers=("tensorboard", "wandb"), tracking_directory="runs/tracking")
    for written in (spec, tracked):
        assert FineTuningSpec.from_dict(json.loads(json.dumps(written.to_dict()))) == written


def test_every_metric_has_a_name_on_the_test_split() -> None:
    assert set(METRICS) == set(get_args(Metric))
    assert len(set(METRICS.values()) - set(METRICS)) == len(METRICS)


def test_a_specification_is_checked(spec: FineTuningSpec) -> None:
    with pytest.raises(SpecificationError, match=r"'micro_batch_siz'; did you mean 'micro_batch_size'"):
        FineTuningSpec.from_dict({**spec.to_dict(), "micro_batch_siz": 4})
    with pytest.raises(SpecificationError, match="micro_batch_size: expected at least 1, got 0"):
        FineTuningSpec.from_dict({**spec.to_dict(), "micro_batch_size": 0})
    with pytest.raises(SpecificationError, match="dtype: expected one of float32, bfloat16, float16, got 'int8'"):
        FineTuningSpec.from_dict({**spec.to_dict(), "dtype": "int8"})
    with pytest.raises(SpecificationError, match=r"metric: expected one of validation_loss, .*, got 'train_loss'"):
        FineTuningSpec.from_dict({**spec.to_dict(), "metric": "train_loss"})
    with pytest.raises(SpecificationError, match="tracking_directory: expected a directory for wandb, got none"):
        FineTuningSpec.from_dict({**spec.to_dict(), "trackers": ["wandb"]})
    with pytest.raises(SpecificationError, match="'data_directory', got none"):
        FineTuningSpec.from_dict({name: value for name, value in spec.to_dict().items() if name != "data_directory"})


def test_what_the_front_door_needs_comes_without_torch() -> None:
    code = (
        "import sys, llm_tuning.recipe, llm_tuning.schedule, llm_tuning.batches, llm_tuning.checkpoint\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
