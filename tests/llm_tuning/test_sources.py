from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_tuning.rows import DataError
from llm_tuning.sources import is_hub_dataset, may_have_subsets, names_beside, read_source, sibling_splits
from llm_tuning.table import WHOLE

ROW = {"prompt": "a", "completion": "b"}


def write(path: Path, rows: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([json.dumps(ROW)] * rows))
    return path


def sizes(source: str) -> dict[str, int]:
    return {name: len(table) for name, table in read_source(source).items()}


def test_a_file_is_a_whole(tmp_path: Path) -> None:
    assert sizes(str(write(tmp_path / "train.jsonl", 3))) == {WHOLE: 3}


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "train.jsonl")
    assert sizes("~/train.jsonl") == {WHOLE: 1}


def test_a_directory_with_files_named_as_splits(tmp_path: Path) -> None:
    for name, rows in {"train.jsonl": 3, "valid.jsonl": 2, "test.jsonl": 1, "README.md": 1}.items():
        write(tmp_path / name, rows)
    assert sizes(str(tmp_path)) == {"train": 3, "validation": 2, "test": 1}
    assert sizes(f"{tmp_path}:dev") == {WHOLE: 2}
    write(tmp_path / "dev.jsonl")
    with pytest.raises(DataError, match=r"expected one file for validation in .*dev\.jsonl and valid\.jsonl"):
        read_source(str(tmp_path))


def test_a_split_of_a_file_is_chosen_by_a_colon(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": [ROW, ROW], "validation": [ROW]}))
    assert sizes(f"{path}:val") == {WHOLE: 1}
    with pytest.raises(DataError, match=r"expected the split 'test' in .*all\.json, got train, validation; name one"):
        read_source(f"{path}:test")
    with pytest.raises(DataError, match="got data without splits; remove the part after the colon"):
        read_source(f"{write(tmp_path / 'train.jsonl')}:test")


def test_a_part_of_a_split_is_chosen_by_a_colon_too() -> None:
    assert is_hub_dataset("owner/name:train[:10%]")
    assert is_hub_dataset("owner/name:train[10:20]+test[:5]")
    assert not is_hub_dataset("owner/name/more:train[:10%]")


def test_a_directory_in_the_layout_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    clone = tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    dataset = datasets.Dataset.from_list([ROW, ROW])
    dataset.to_parquet(clone / "data" / "train-00000-of-00001.parquet")
    assert sizes(str(clone)) == {"train": 2}
    dataset.save_to_disk(tmp_path / "saved")
    assert sizes(str(tmp_path / "saved")) == {WHOLE: 2}


def test_another_directory_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"a directory with a file named train, got .* with rows\.jsonl; name a file"):
        read_source(str(tmp_path))


def test_datasets_of_the_hub_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_dataset("openai/gsm8k")
    assert is_hub_dataset("openai/gsm8k:train")
    assert not is_hub_dataset("openai/gsm8k.jsonl")
    assert not is_hub_dataset("gsm8k")
    write(tmp_path / "openai" / "gsm8k" / "train.jsonl", 2)
    assert not is_hub_dataset("openai/gsm8k:train")
    assert not is_hub_dataset("openai/trian")
    assert sizes("openai/gsm8k:train") == {WHOLE: 2}
    assert may_have_subsets("openai/gsm8k:train")
    assert may_have_subsets("squad/squad")
    assert not may_have_subsets("openai/gsm8k/train.jsonl")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/name", "expected the dataset owner/name, got: .*; connect to the network"),
        ("gsm8k", "expected a file, or a dataset of the hub as owner/name, got 'gsm8k'"),
        ("trian.jsonl", r"got none; did you mean train\.jsonl\?"),
        ("https://example.org/train.jsonl", "got the address .*; download it first"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=message):
        read_source(source)


def test_a_file_has_no_subsets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"for the subset 'main', got .*; remove `subset`"):
        read_source(str(write(tmp_path / "train.jsonl")), subset="main")


def test_siblings_are_found_by_the_name_of_the_training_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl")
    assert sibling_splits(train) == {}
    valid, test = write(tmp_path / "valid.jsonl"), write(tmp_path / "test.jsonl")
    assert sibling_splits(train) == {"validation": valid, "test": test}
    qa, dev = write(tmp_path / "qa_train.v2.jsonl"), write(tmp_path / "qa_dev.v2.jsonl")
    assert sibling_splits(qa) == {"validation": dev}
    assert sibling_splits(write(tmp_path / "constraints.jsonl")) == {}


@pytest.mark.parametrize("content", [["no", "yes"], {"0": "no", "1": "yes"}, {"yes": 1, "no": 0}])
def test_the_names_of_classes_lie_beside_a_file(tmp_path: Path, content: object) -> None:
    assert names_beside(tmp_path / "train.jsonl") == ()
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert names_beside(tmp_path / "train.jsonl") == ("no", "yes")


@pytest.mark.parametrize("content", ["[1, 2]", "{", "3", '{"a": "b"}', "[]", "{}"])
def test_something_else_in_that_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(DataError, match=r"expected the names of classes in .*labels\.json.*; correct or remove it"):
        names_beside(tmp_path / "train.jsonl")
