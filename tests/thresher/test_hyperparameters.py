"""What is told about hyperparameters is what a recipe takes."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from llm_tuning.recipe import RECIPE_DEFAULTS
from thresher.hyperparameters import HYPERPARAMETERS
from thresher.space_section import refusal

VALUES = [-1, -1.0, 0, 0.0, 0.5, 0.999, 1, 1.0, 1.001, 2, 3.5, 1000, 1e-9, "linear", "mlp", ""]


def test_all_are_known() -> None:
    assert list(HYPERPARAMETERS) == list(RECIPE_DEFAULTS)
    assert all(known.meaning and known.values and known.schema for known in HYPERPARAMETERS.values())


@pytest.mark.parametrize("name", RECIPE_DEFAULTS)
@pytest.mark.parametrize("value", VALUES)
def test_the_ranges_are_those_of_the_recipe(name: str, value: Any) -> None:
    valid = jsonschema.Draft202012Validator(dict(HYPERPARAMETERS[name].schema)).is_valid(value)
    if valid and isinstance(value, float) and isinstance(RECIPE_DEFAULTS[name], int):
        return  # JSON does not tell 1.0 from 1
    assert valid == (refusal(name, value) is None)
