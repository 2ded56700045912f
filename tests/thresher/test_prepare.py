from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llm_tuning.rows import DataError
from tests.thresher.tiny_study import study_data
from thresher.config import ConfigError, parse_config
from thresher.prepare import data_request, lay_groundwork, validate


@pytest.fixture
def content(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    """The content of a config that can be run."""
    return study_data(tiny_model, tiny_data, tmp_path / "study")


def said(content: dict[str, Any]) -> str:
    """What `validate` prints."""
    console = Console(file=io.StringIO(), width=200)
    validate(parse_config(content), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_request_is_what_the_config_says() -> None:
    config = parse_config(
        {
            "model": "some/model",
            "data": {
                "train": "a.csv",
                "format": "alpaca",
                "columns": {"prompt": "x"},
                "group_by": "user",
                "split": {"validation": 0.3, "test": 0},
                "limits": {"train": 7},
            },
            "search": {"seed": 5},
        }
    )
    request = data_request(config)
    assert (request.train, request.validation, request.test) == ("a.csv", None, None)
    assert (request.format, request.columns, request.group_by) == ("alpaca", {"prompt": "x"}, "user")
    assert (request.validation_share, request.test_share) == (0.3, 0)
    assert (request.limits, request.seed) == ({"train": 7}, 5)


class TestValidate:
    def test_a_study_that_can_run(self, content: dict[str, Any], tmp_path: Path) -> None:
        printed = said(content)
        assert "valid: nothing was found that would keep this study from running" in printed
        assert "rungs: 8, 16 training examples; up to 5 trials" in printed
        assert "space: optimizer.learning_rate, lora.rank" in printed
        assert "40 train, 8 validation, 8 test examples" in printed

    def test_nothing_is_left_behind(
        self, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        said(content)
        assert not list(scratch.iterdir())
        assert not (tmp_path / "study").exists()

    def test_splits_that_are_made(self, content: dict[str, Any], tiny_data: Path) -> None:
        content["data"] = {"train": str(tiny_data / "train.jsonl"), "max_length": 64}
        assert "32 train, 4 validation, 4 test examples" in said(content)

    @pytest.mark.parametrize(
        ("section", "key", "value", "expected"),
        [
            ("data", "train", "none.jsonl", "none.jsonl"),
            ("data", "max_length", 8, "do not fit"),
            ("data", "columns", {"prompt": "question"}, "question"),
            ("model", "name", "./no-model", "no-model"),
            ("space", "lora.rank", {"kind": "choice", "values": [2, 8]}, "trial 0"),
            ("search", "budget", 4, "lowest rung"),
            ("resources", "max_checkpoint_gb", 1e-9, "max_checkpoint_gb"),
        ],
    )
    def test_what_would_keep_it_from_running(
        self, content: dict[str, Any], section: str, key: str, value: object, expected: str
    ) -> None:
        content[section][key] = value
        if section == "search":
            del content["search"]["scheduler"]["min_budget"]
        with pytest.raises(ValueError) as caught:
            said(content)
        assert expected in str(caught.value)
        assert "expected" in str(caught.value)
        assert ";" in str(caught.value)


def test_the_data_is_read_before_the_model_is_looked_for(content: dict[str, Any], tmp_path: Path) -> None:
    content["data"]["train"] = str(tmp_path / "none.jsonl")
    content["model"]["name"] = "nobody/nothing"
    with pytest.raises((DataError, ConfigError), match=r"none\.jsonl"):
        lay_groundwork(parse_config(content), Console(file=io.StringIO()))
