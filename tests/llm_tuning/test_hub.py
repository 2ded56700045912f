from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from llm_tuning.hub import load_hub_dataset, load_saved_dataset, to_table
from llm_tuning.rows import DataError
from llm_tuning.table import WHOLE

FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"]), "n": datasets.Value("int8")}
)


def make_dataset(rows: int) -> datasets.Dataset:
    columns = {"text": [f"text {n}" for n in range(rows)], "label": [n % 2 for n in range(rows)], "n": [1] * rows}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """A directory as a clone from the hub has it."""
    directory = tmp_path / "sentiment"
    (directory / "data").mkdir(parents=True)
    for split, rows in {"train": 6, "validation": 3}.items():
        make_dataset(rows).to_parquet(directory / "data" / f"{split}-00000-of-00001.parquet")
    return directory


def test_all_splits_of_a_dataset_are_loaded_with_the_names_of_classes(on_disk: Path) -> None:
    tables = load_hub_dataset(str(on_disk))
    assert {name: len(table) for name, table in tables.items()} == {"train": 6, "validation": 3}
    assert tables["train"].records[1] == {"text": "text 1", "label": 1, "n": 1}
    assert tables["train"].class_names == {"label": ("bad", "good")}
    assert tables["validation"].place(2) == f"{on_disk}:validation, row 3"


def test_one_split_is_the_whole(on_disk: Path) -> None:
    tables = load_hub_dataset(str(on_disk), split="train[:50%]")
    assert {name: len(table) for name, table in tables.items()} == {WHOLE: 3}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"split": "dev"}, r"split dev, got: Unknown split \"dev\".*'train', 'validation'.*; name one of these after"),
        ({"subset": "german"}, r"subset german, got: BuilderConfig 'german' not found.*; set data\.subset to one"),
    ],
)
def test_what_a_dataset_does_not_have_is_said(on_disk: Path, wanted: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_hub_dataset(str(on_disk), **wanted)


def test_without_a_network_the_remedy_is_named() -> None:
    with pytest.raises(
        DataError, match=r"expected the dataset owner/name, got: .*; connect to the network .* download"
    ):
        load_hub_dataset("owner/name")


def test_a_missing_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the dataset .*nothing-here, got: .*; check the name"):
        load_hub_dataset(str(tmp_path / "nothing-here"))


def test_saved_datasets_are_loaded(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": make_dataset(4), "val": make_dataset(2), "extra": make_dataset(1)})
    splits.save_to_disk(tmp_path / "all")
    make_dataset(5).save_to_disk(tmp_path / "one")
    assert list(load_saved_dataset(tmp_path / "all")) == ["train", "validation", "extra"]
    assert len(load_saved_dataset(tmp_path / "one")[WHOLE]) == 5
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected a saved dataset in .*; save it again"):
        load_saved_dataset(tmp_path / "one")


def test_the_hash_is_that_of_the_records() -> None:
    assert to_table(make_dataset(4), "a").sha256 == to_table(make_dataset(4), "b").sha256
    assert to_table(make_dataset(4), "a").sha256 != to_table(make_dataset(5), "a").sha256


def test_what_is_no_text_is_left_out() -> None:
    audio = make_dataset(2).to_dict() | {"sound": [None, None]}
    features = datasets.Features({**FEATURES, "sound": datasets.Audio()})
    table = to_table(datasets.Dataset.from_dict(audio, features=features), "speech")
    assert table.columns == ("text", "label", "n")
