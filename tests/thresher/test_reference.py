"""The reference page is what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel

from llm_tuning.formats import ROLES
from llm_tuning.recipe import RECIPE_DEFAULTS
from thresher.config import StudyConfig, parse_config
from thresher.reference import _LEARNT, config_reference

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
REFERENCE = config_reference()


def test_the_page_in_the_repository_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == REFERENCE, "run: python scripts/make_config_reference.py"


def test_every_key_is_there_with_its_description() -> None:
    def check(model: type[BaseModel], above: str) -> None:
        for name, field in model.model_fields.items():
            models = [one for one in get_args(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
            inner = models[0] if len(models) == 1 else field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                check(inner, "" if above == "" and model is StudyConfig else f"{name}.")
            elif model is not StudyConfig:
                assert field.description, f"{model.__name__}.{name} lacks a description"
                assert f"| `{above}{name}` |" in REFERENCE
                assert field.description in REFERENCE

    check(StudyConfig, "")
    for name in StudyConfig.model_fields:
        assert f"\n## `{name}`\n" in REFERENCE


def test_the_config_of_all_defaults_is_the_smallest_one() -> None:
    blocks = [block.partition("```")[0] for block in REFERENCE.split("```yaml\n")[1:]]
    smallest, whole = (parse_config(yaml.safe_load(block)) for block in blocks[:2])
    assert whole == smallest
    for name, section in yaml.safe_load(blocks[1]).items():
        if isinstance(section, dict) and (keys := getattr(getattr(whole, name), "model_fields_set", None)):
            assert keys == set(type(getattr(whole, name)).model_fields)


def test_all_hyperparameters_and_formats_are_told() -> None:
    for name in RECIPE_DEFAULTS:
        assert f"| `{name}` |" in REFERENCE
    assert set(_LEARNT) == set(ROLES)
    assert "Exit codes" in REFERENCE
