from __future__ import annotations

from typing import Any

import pytest

from thresher.overrides import OverrideError, apply_overrides

DATA: dict[str, Any] = {"model": "some/model", "search": {"trials": 20}, "space": {"lora.rank": [8, 16]}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.trials=3", {"search": {"trials": 3}}),
        ("search.sampler.kind=random", {"search": {"trials": 20, "sampler": {"kind": "random"}}}),
        ("search={trials: 1}", {"search": {"trials": 1}}),
        ("output.directory=runs/a=b", {"output": {"directory": "runs/a=b"}}),
        ("space.lora.rank=[4]", {"space": {"lora.rank": [4]}}),
        (
            "space.optimizer.learning_rate.high=0.1",
            {"space": {**DATA["space"], "optimizer.learning_rate": {"high": 0.1}}},
        ),
        ("space.lora.unknown=3", {"space": {**DATA["space"], "lora.unknown": 3}}),
        ("space.only=true", {"space": {**DATA["space"], "only": True}}),
        ("hyperparameters.lora.alpha=16", {"hyperparameters": {"lora.alpha": 16}}),
        ("model.dtype=bfloat16", {"model": {"name": "some/model", "dtype": "bfloat16"}}),
        ("data.test=", {"data": {"test": None}}),
        (" search.trials = 3", {"search": {"trials": 3}}),
    ],
)
def test_one_value_takes_the_place_of_another(override: str, expected: dict[str, Any]) -> None:
    assert apply_overrides(DATA, [override]) == {**DATA, **expected}


def test_later_ones_win_and_the_content_stays() -> None:
    before = repr(DATA)
    assert apply_overrides(DATA, ["search.trials=3", "search.trials=4"])["search"] == {"trials": 4}  # type: ignore[index]
    assert repr(DATA) == before


def test_an_empty_file_can_be_filled() -> None:
    assert apply_overrides(None, ["model=a", "data=b"]) == {"model": "a", "data": "b"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.trials", "expected NAME=VALUE such as search.trials=20, got 'search.trials'"),
        ("=3", "expected NAME=VALUE"),
        ("search..trials=3", "expected NAME=VALUE"),
        ("search.trials=[", "--set search.trials: expected a value in YAML, got '['"),
        ("search.trials.more=3", "expected a mapping at search.trials, got 20"),
        ("model.name.more=3", "expected a mapping at model.name, got 'some/model'"),
    ],
)
def test_what_is_no_override(override: str, expected: str) -> None:
    with pytest.raises(OverrideError) as caught:
        apply_overrides(DATA, [override])
    assert expected in str(caught.value)
    assert ";" in str(caught.value)


def test_a_config_that_is_no_mapping() -> None:
    with pytest.raises(OverrideError, match="expected a mapping at the config, got 3"):
        apply_overrides(3, ["search.trials=3"])
