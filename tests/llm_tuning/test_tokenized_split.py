from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_tuning.rows import DataError
from llm_tuning.tokenized_split import TokenizedSplit, write_whole

ARRAYS = ("token_ids", "offsets", "learnt")


@pytest.fixture
def split() -> TokenizedSplit:
    """An example of three tokens, and a conversation of seven with two answers."""
    learnt = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 1], dtype=np.bool_)
    return TokenizedSplit(np.arange(10, dtype=np.int32), np.array([0, 3, 10], dtype=np.int64), learnt)


def test_gives_examples_back(split: TokenizedSplit) -> None:
    assert len(split) == 2
    assert split.longest == 7
    assert split.tokens(1).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert np.shares_memory(split.tokens(1), split.token_ids)


def test_tells_what_is_learnt(split: TokenizedSplit) -> None:
    assert split.learnt_counts.tolist() == [2, 3]
    assert [split.learnt_places(index).tolist() for index in range(2)] == [[1, 2], [2, 5, 6]]
    assert [split.prompt(index).tolist() for index in range(2)] == [[0], [3, 4]]
    assert [split.answer(index).tolist() for index in range(2)] == [[1, 2], [5]]


def test_an_empty_split() -> None:
    empty = TokenizedSplit(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.bool_))
    assert (len(empty), empty.longest, empty.learnt_counts.tolist()) == (0, 0, [])


def test_survives_the_disk(split: TokenizedSplit, tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    split.save(path)
    loaded = TokenizedSplit.load(path)
    types = {"token_ids": "int32", "offsets": "int64", "learnt": "bool"}
    assert {name: array.dtype.name for name, array in load_file(path).items()} == types
    assert all(np.array_equal(getattr(loaded, name), getattr(split, name)) for name in ARRAYS)
    assert loaded.fingerprint == split.fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.safetensors"]


@pytest.mark.parametrize("field", ARRAYS)
def test_the_fingerprint_covers_everything(split: TokenizedSplit, field: str) -> None:
    arrays = {name: getattr(split, name) for name in ARRAYS}
    changed = arrays[field].copy()
    changed[-1] = not changed[-1] if field == "learnt" else changed[-1] + 1
    assert TokenizedSplit(**{**arrays, field: changed}).fingerprint != split.fingerprint


def test_damage_is_noticed(split: TokenizedSplit, tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    with pytest.raises(DataError, match=r"expected tokenised examples in .*train\.safetensors"):
        TokenizedSplit.load(path)
    split.save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"expected tokenised examples in .*train\.safetensors"):
        TokenizedSplit.load(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "file", b"first")
    write_whole(tmp_path / "new" / "file", b"second")
    assert (tmp_path / "new" / "file").read_bytes() == b"second"
    with pytest.raises(DataError, match=r"expected to write .*/file/inside, got: File exists; free some disk space"):
        write_whole(tmp_path / "new" / "file" / "inside", b"third")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["file"]
