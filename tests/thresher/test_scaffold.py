"""Configs written for real (tiny) models and data, and held against the loader and the checks of `validate`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from llm_tuning.base_model import BaseModelError
from llm_tuning.rows import DataError
from tests.thresher.tiny_study import StudyPlace
from thresher.config import StudyConfig, load_config
from thresher.prepare import validate
from thresher.scaffold import ScaffoldError, write_config
from thresher.schema import config_schema

ROWS = 60


def _text(rng: np.random.Generator, words: int = 4) -> str:
    return " ".join("".join(rng.choice(list("abcdefgh"), size=4)) for _ in range(words))


def _math(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "id": f"a-{rng.integers(10**9)}",
        "question": f"{_text(rng)}?",
        "answer": f"{_text(rng)} #### 4",
        "final": "4",
    }


def _classes(rng: np.random.Generator) -> dict[str, Any]:
    label = int(rng.integers(3))
    return {
        "id": f"b-{rng.integers(10**9)}",
        "text": _text(rng),
        "label": label,
        "label_name": ["up", "down", "on"][label],
    }


def _slots(rng: np.random.Generator) -> dict[str, Any]:
    name = _text(rng, 1)
    return {"mr": f"name[{name}], area[{_text(rng, 1)}]", "slots": {"name": name}, "ref": f"{name} is {_text(rng, 2)}."}


def _instructions(rng: np.random.Generator) -> dict[str, Any]:
    given = _text(rng, 2) if rng.random() < 0.5 else ""
    return {"instruction": f"Say {_text(rng, 2)}.", "input": given, "output": _text(rng, 3)}


def _preferences(rng: np.random.Generator) -> dict[str, Any]:
    return {**_instructions(rng), "chosen": _text(rng, 3), "rejected": _text(rng, 2)}


def _verses(rng: np.random.Generator) -> dict[str, Any]:
    return {"text": "\n\n".join(f"{_text(rng, 1)}:\n{_text(rng, 20)}" for _ in range(3))}


def _queries(rng: np.random.Generator) -> dict[str, Any]:
    question = _text(rng, 3)
    return {
        "table": "1-10",
        "columns": ["a", "b"],
        "question": question,
        "prompt": f"columns: a, b\nQ: {question}\nA:",
        "sql": f"SELECT a FROM t WHERE b = '{_text(rng, 1)}'",
    }


def _chats(rng: np.random.Generator) -> dict[str, Any]:
    turns = [
        ("user", _text(rng, 3)),
        ("assistant", _text(rng, 2)),
        ("user", _text(rng, 1)),
        ("assistant", _text(rng, 2)),
    ]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


LIKE: Mapping[str, tuple[Callable[[np.random.Generator], dict[str, Any]], str, dict[str, str]]] = {
    "gsm8k": (_math, "prompt_completion", {"prompt": "question", "completion": "answer"}),
    "banking77": (_classes, "text_label", {"text": "text", "label": "label", "label_name": "label_name"}),
    "e2e": (_slots, "prompt_completion", {"prompt": "mr", "completion": "ref"}),
    "instruct": (_instructions, "alpaca", {"instruction": "instruction", "input": "input", "output": "output"}),
    "preference": (
        _preferences,
        "preference",
        {"prompt": "{instruction}\n\n{input}", "chosen": "chosen", "rejected": "rejected"},
    ),
    "shakespeare": (_verses, "text", {"text": "text"}),
    "wikisql": (_queries, "prompt_completion", {"prompt": "prompt", "completion": "sql"}),
    "chats": (_chats, "messages", {"messages": "messages"}),
}


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_rows(like: str, rows: int = ROWS, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, rows])
    return [LIKE[like][0](rng) for _ in range(rows)]


def write_splits(directory: Path, like: str, **splits: int) -> Path:
    """Write JSONL files; the path of the training file."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, count in splits.items():
        rows = make_rows(like, count)
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "train.jsonl"


def written(model: Path, data: Path, tmp_path: Path) -> StudyConfig:
    """Write a config, check it as `validate` does and as an editor would, and load it."""
    destination = tmp_path / "written.yaml"
    write_config(str(model), str(data), destination, console=console())
    text = destination.read_text()
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))] == []
    config = load_config(destination)
    said = console()
    validate(config, said)
    assert "valid: nothing was found" in printed(said)
    return config


VALIDATOR = jsonschema.Draft202012Validator(config_schema())


@pytest.mark.parametrize("like", LIKE)
def test_a_written_config_is_valid_and_says_what_was_recognised(like: str, tiny_model: Path, tmp_path: Path) -> None:
    train = write_splits(tmp_path / "data" / like, like, train=ROWS, validation=12, test=12)
    config = written(tiny_model, train, tmp_path)
    _, kind, columns = LIKE[like]
    assert config.data.format == kind
    assert config.data.columns == columns
    assert config.data.validation == str(train.with_name("validation.jsonl"))
    assert config.data.test == str(train.with_name("test.jsonl"))
    assert config.data.max_length <= 128
    assert config.output.directory.name.endswith(f"-{like}")
    expected = ["validation_loss", "exact_match"] if like == "banking77" else ["validation_loss"]
    assert [objective.metric for objective in config.objective] == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "txt"])
def test_other_files(suffix: str, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    table = pd.DataFrame(make_rows("gsm8k"))
    match suffix:
        case "csv":
            table.to_csv(path, index=False)
        case "parquet":
            table.to_parquet(path)
        case "json":
            path.write_text(json.dumps(make_rows("gsm8k")))
        case "txt":
            path.write_text("\n\n".join(row["text"] for row in make_rows("shakespeare")))
    config = written(tiny_model, path, tmp_path)
    assert config.data.format == ("text" if suffix == "txt" else "prompt_completion")
    assert config.data.validation is None
    assert "  split: {validation: 0.1, test: 0.1}" in (tmp_path / "written.yaml").read_text()


def test_a_directory_of_splits(tiny_model: Path, tmp_path: Path) -> None:
    write_splits(tmp_path / "set", "gsm8k", train=ROWS, validation=12)
    config = written(tiny_model, tmp_path / "set", tmp_path)
    assert config.data.train == str(tmp_path / "set")
    text = (tmp_path / "written.yaml").read_text()
    assert "# validation: the split of that name in the same source, 12 rows" in text
    assert "# test: FILE" in text
    assert "  split:" not in text


@pytest.mark.parametrize(("long", "policy"), [(1, "drop"), (30, "truncate")])
def test_answers_beyond_the_context(long: int, policy: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = [*make_rows("gsm8k"), *({"question": f"{i}?", "answer": "abcd " * 60} for i in range(long))]
    write_splits(tmp_path, "gsm8k", validation=10, test=10)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = written(tiny_model, tmp_path / "train.jsonl", tmp_path)
    assert config.data.too_long == policy
    assert config.data.max_length <= 128


def test_long_prompts_are_shortened(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*make_rows("gsm8k"), {"question": "abcd " * 60, "answer": "so"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert written(tiny_model, tmp_path / "rows.jsonl", tmp_path).data.too_long == "truncate-prompt"


class TestRefusals:
    def test_an_existing_file_is_kept(self, tiny_model: Path, tmp_path: Path) -> None:
        train = write_splits(tmp_path, "gsm8k", train=ROWS)
        destination = tmp_path / "mine.yaml"
        destination.write_text("mine")
        with pytest.raises(ScaffoldError, match=r"expected a new file.*, got .*mine.yaml.*--force"):
            write_config(str(tiny_model), str(train), destination, console=console())
        assert destination.read_text() == "mine"
        write_config(str(tiny_model), str(train), destination, force=True, console=console())
        load_config(destination)

    @pytest.mark.parametrize(
        ("model", "data", "kind", "remedy"),
        [
            (None, "none.jsonl", DataError, "none.jsonl"),
            ("./no-model", None, BaseModelError, "expected a model at no-model, got nothing there"),
            ("no_package:a.gguf", None, BaseModelError, "pip install"),
            ("some/model", None, BaseModelError, "check the name"),
        ],
    )
    def test_what_is_missing_is_named(
        self,
        model: str | None,
        data: str | None,
        kind: type[Exception],
        remedy: str,
        tiny_model: Path,
        tmp_path: Path,
    ) -> None:
        train = write_splits(tmp_path, "gsm8k", train=ROWS)
        destination = tmp_path / "new.yaml"
        with pytest.raises(kind, match=remedy):
            write_config(
                model or str(tiny_model), str(tmp_path / data) if data else str(train), destination, console=console()
            )
        assert not destination.exists()

    def test_a_place_that_cannot_be_written(self, tiny_model: Path, tmp_path: Path) -> None:
        train = write_splits(tmp_path, "gsm8k", train=ROWS)
        (tmp_path / "file").write_text("")
        with pytest.raises(ScaffoldError, match="choose another place"):
            write_config(str(tiny_model), str(train), tmp_path / "file" / "new.yaml", console=console())


def test_it_tells_what_it_found_and_what_comes_next(tiny_model: Path, tmp_path: Path) -> None:
    train = write_splits(tmp_path, "gsm8k", train=ROWS)
    said = console()
    write_config(str(tiny_model), str(train), tmp_path / "deep" / "my new.yaml", console=said)
    assert "'question' is given, 'answer' is learnt" in printed(said)
    assert f"thresher plan '{tmp_path / 'deep' / 'my new.yaml'}'" in printed(said)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["my new.yaml"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("like", ["gsm8k", "banking77", "shakespeare", "chats"])
def test_a_written_config_runs_unchanged(like: str, tiny_model: Path, tmp_path: Path) -> None:
    train = write_splits(tmp_path / "data" / like, like, train=ROWS, validation=12, test=12)
    destination = tmp_path / "new.yaml"
    write_config(str(tiny_model), str(train), destination, console=console())
    text = destination.read_text().replace("directory: runs", f"directory: {tmp_path}/runs")
    destination.write_text(text)
    ran = StudyPlace(destination, yaml.safe_load(text)).run()
    assert ran.code == 0, ran
