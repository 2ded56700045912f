from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llm_tuning.rows import DataError
from thresher.config import parse_config
from thresher.data_view import preview

LONG = "x" * 100


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def show(model: Path, data: dict[str, Any], rows: int = 3, **how: Any) -> str:
    stream = io.StringIO()
    config = parse_config({"model": str(model), "data": {"max_length": 64, **data}})
    preview(config, Console(file=stream, width=200, **how), rows)
    return stream.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Two rows to train on, of which the second is too long, and one to validate."""
    train = write(
        tmp_path / "train.jsonl", {"question": "1 + 1?", "answer": "2"}, {"question": LONG, "answer": "why\x1b[2J"}
    )
    return {"train": train, "validation": write(tmp_path / "validation.jsonl", {"question": "2 + 2?", "answer": "4"})}


def test_the_format_the_lengths_and_the_rows_are_shown(tiny_model: Path, files: dict[str, Any]) -> None:
    output = show(tiny_model, files)
    lines = [line.strip() for line in output.splitlines()]
    assert "prompts and answers: 'question' is given, 'answer' is learnt (known names of columns)" in lines
    assert f"that of {tiny_model}, with a chat template" in lines
    cells = [line.split() for line in lines]
    assert ["train", "2", "61", "101", "111", "1"] in cells  # tokens: median, 90 %, longest, and how many are too long
    assert ["validation", "1", "11", "11", "11", "0"] in cells
    assert "rows beyond max_length 64: their prompts lose the oldest tokens (too_long: truncate-prompt)" in lines
    assert "train, row 1: 11 tokens, 2 of them learnt" in lines
    assert "<|user|>1 + 1?<|end|><|assistant|>[learnt]2<|end|>[/]" in lines
    assert "train, row 2: 64 tokens, 8 of them learnt" in lines
    assert "<|user|>2 + 2?<|end|><|assistant|>[learnt]4<|end|>[/]" in lines


def test_what_the_data_holds_does_not_move_the_cursor(tiny_model: Path, files: dict[str, Any]) -> None:
    output = show(tiny_model, files)
    assert "[learnt]why\\x1b[2J<|end|>[/]" in output
    assert "\x1b" not in output


def test_on_a_terminal_the_learnt_part_has_a_colour(tiny_model: Path, files: dict[str, Any]) -> None:
    output = show(tiny_model, files, rows=1, force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;32m2<|end|>\x1b[0m" in output
    assert "\x1b[2m<|user|>1 + 1?<|end|><|assistant|>\x1b[0m" in output


def test_as_many_rows_of_each_split_are_shown_as_asked_for(tiny_model: Path, files: dict[str, Any]) -> None:
    assert show(tiny_model, files, rows=1).count(", row ") == 2
    assert show(tiny_model, files, rows=9).count(", row ") == 3


def test_a_row_that_does_not_fit_hides_no_other(tiny_model: Path, files: dict[str, Any]) -> None:
    output = show(tiny_model, {**files, "too_long": "error"})
    assert "rows beyond max_length 64: they are refused (too_long: error)" in output
    assert "train, row 2: expected examples of at most 64 tokens" in output
    assert "validation, row 1: 11 tokens" in output


def test_plain_text_is_shown_by_its_first_piece(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(
        "".join(f"Line {number} of the book. {'word ' * 30}\n\n" for number in range(200))
    )
    output = show(tiny_model, {"train": str(tmp_path / "book.txt")}, rows=1)
    assert "plain text in 'text', all of it is learnt (a text file)" in output
    assert "texts beyond max_length 64 are cut into pieces, and nothing is lost" in output
    assert "train, row 1, piece 1 of" in output
    assert "L[learnt]ine 0 of the book." in output


def test_the_middle_of_a_long_part_is_left_out(
    tiny_model: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thresher.data_view.SHOWN_CHARACTERS", 30)
    output = show(tiny_model, {**files, "max_length": 128}, rows=2)
    assert "<|user|>xxxxxxx ... (98 characters) ... |><|assistant|>[learnt]why" in output
    assert "[learnt]2<|end|>[/]" in output


def test_data_that_cannot_be_used_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a data file at"):
        show(tiny_model, {"train": str(tmp_path / "none.jsonl")})
