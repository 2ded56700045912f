from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_tuning.rows import Conversation, DataError, Example, Text
from llm_tuning.splits import DataRequest, Rows, read_splits

SETS = Path(__file__).parents[3] / "shared" / "data" / "text"


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def pairs(count: int, word: str = "question", **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{word} {n}", "completion": f"answer {n}", **more} for n in range(count)]


def sizes(rows: Rows) -> dict[str, int]:
    return {name: len(split) for name, split in rows.splits.items()}


def test_given_files_are_taken_as_they_are(tmp_path: Path) -> None:
    files = {name: write(tmp_path / f"{name}.jsonl", pairs(n, name)) for name, n in [("train", 5), ("test", 2)]}
    validation = write(tmp_path / "validation.csv", [])
    Path(validation).write_text("prompt,completion\nv,007\n")
    rows = read_splits(DataRequest(**files, validation=validation))
    assert sizes(rows) == {"train": 5, "validation": 1, "test": 2}
    assert rows.splits["train"] == [Example(f"train {n}", f"answer {n}") for n in range(5)]
    assert rows.splits["validation"] == [Example("v", "007")]
    assert rows.notes == ("prompts and answers: 'prompt' is given, 'completion' is learnt (known names of columns)",)


def test_missing_splits_are_made_from_train(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", pairs(100))
    rows = read_splits(DataRequest(train, validation_share=0.2))
    assert sizes(rows) == {"train": 70, "validation": 20, "test": 10}
    assert "validation (20 rows) and test (10 rows) made from the 100 rows of train" in rows.notes[1]
    assert rows.splits["train"] == sorted(rows.splits["train"], key=lambda row: int(row.prompt.split()[1]))
    assert read_splits(DataRequest(train, validation_share=0.2)) == rows
    assert read_splits(DataRequest(train, validation_share=0.2, seed=1)).splits != rows.splits


def test_a_test_split_is_made_only_where_nothing_is_given(tmp_path: Path) -> None:
    train, other = write(tmp_path / "train.jsonl", pairs(100)), write(tmp_path / "other.jsonl", pairs(7, "other"))
    assert sizes(read_splits(DataRequest(train, validation=other))) == {"train": 100, "validation": 7}
    assert sizes(read_splits(DataRequest(train, test=other))) == {"train": 90, "validation": 10, "test": 7}
    assert sizes(read_splits(DataRequest(train, test_share=0))) == {"train": 90, "validation": 10}


def test_the_splits_of_a_source_are_used_unless_others_are_named(tmp_path: Path) -> None:
    source = tmp_path / "all.json"
    source.write_text(json.dumps({"train": pairs(5), "dev": pairs(2, "dev"), "test": pairs(3, "test")}))
    rows = read_splits(DataRequest(str(source)))
    assert sizes(rows) == {"train": 5, "validation": 2, "test": 3}
    assert f"validation is the split of that name in {source}" in rows.notes
    other = write(tmp_path / "other.jsonl", pairs(1, "other"))
    assert sizes(read_splits(DataRequest(str(source), validation=other)))["validation"] == 1
    assert sizes(read_splits(DataRequest(f"{source}:train", validation=f"{source}:test"))) == {
        "train": 5,
        "validation": 3,
    }


def test_splits_of_other_names_are_asked_for(tmp_path: Path) -> None:
    import datasets

    splits = {name: datasets.Dataset.from_list(pairs(4, name)) for name in ("train_sft", "test_sft")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "chat")
    chat = str(tmp_path / "chat")
    with pytest.raises(
        DataError, match=r"data\.train: expected a split named train in .*, got train_sft, test_sft; choose"
    ):
        read_splits(DataRequest(chat))
    assert sizes(read_splits(DataRequest(f"{chat}:train_sft", f"{chat}:test_sft"))) == {"train": 4, "validation": 4}


def test_a_dataset_of_the_hub_is_read_with_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    (tmp_path / "clone" / "data").mkdir(parents=True)
    for split, label in {"train": 1, "validation": 0, "test": -1}.items():
        columns = {"text": [f"{split} {n}" for n in range(4)], "label": [label] * 4}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset.to_parquet(tmp_path / "clone" / "data" / f"{split}-00000-of-00001.parquet")
    rows = read_splits(DataRequest(str(tmp_path / "clone")))
    assert rows.splits["train"][0] == Example("train 0\n\nClassify this text as one of: no, yes.", "yes")
    assert "the test split has no labels (they are kept secret) and is left out" in rows.notes
    assert list(rows.splits) == ["train", "validation"]
    assert sizes(read_splits(DataRequest(f"{tmp_path / 'clone'}:train", subset="default"))) == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


RECORDS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from("abcdefghijkl"), "completion": st.sampled_from("xyz"), "user": st.integers(0, 8)}
    ),
    min_size=6,
    max_size=60,
)


@given(RECORDS, st.booleans(), st.integers(0, 3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_made_splits_have_no_content_in_common(
    tmp_path: Path, records: list[dict[str, Any]], grouped: bool, seed: int
) -> None:
    records = [{**record, "completion": f"{record['completion']} {record['user']}"} for record in records]
    request = DataRequest(write(tmp_path / "t.jsonl", records), group_by="user" if grouped else None, seed=seed)
    try:
        rows = read_splits(request)
    except DataError as error:
        few = "expected at least 3 rows of different content or group"
        if few in str(error):
            return
        raise
    assert sum(sizes(rows).values()) == len(records)
    assert all(sizes(rows).values())
    prompts = [{row.prompt for row in split} for split in rows.splits.values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    if grouped:
        users = [{row.completion.split()[1] for row in split} for split in rows.splits.values()]
        assert sum(map(len, users)) == len(set().union(*users))
    assert read_splits(request) == rows


def test_conversations_that_begin_alike_stay_together(tmp_path: Path) -> None:
    def talk(opening: str, *more: str) -> dict[str, Any]:
        said = [opening, *more]
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}

    records = [talk(f"hello {n % 10}", f"reply {n}", "and?", f"more {n}") for n in range(40)]
    rows = read_splits(DataRequest(write(tmp_path / "t.jsonl", records)))
    openings = [{row.turns[0] for row in split if isinstance(row, Conversation)} for split in rows.splits.values()]
    assert sum(map(len, openings)) == 10


def test_prompts_that_nearly_are_the_same_stay_together(tmp_path: Path) -> None:
    spellings = ("What is {}?", " what is  {}?\n", "WHAT IS {}?")
    records = [{"prompt": spellings[n % 3].format(n // 3), "completion": f"a {n}"} for n in range(60)]
    rows = read_splits(DataRequest(write(tmp_path / "t.jsonl", records)))
    asked = [{row.prompt.split()[2] for row in split if isinstance(row, Example)} for split in rows.splits.values()]
    assert sum(map(len, asked)) == 20


def test_without_prompts_the_answers_differ(tmp_path: Path) -> None:
    records = [{"prompt": "", "completion": f"poem {n}"} for n in range(20)]
    assert sizes(read_splits(DataRequest(write(tmp_path / "t.jsonl", records))))["validation"] == 2


def test_a_document_is_cut_into_blocks_of_which_the_last_are_held_out(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {n}: {'word ' * 40}\n\n" for n in range(300))
    (tmp_path / "book.txt").write_text(text)
    rows = read_splits(DataRequest(str(tmp_path / "book.txt"), test_share=0.05))
    joined = "".join(row.text for split in rows.splits.values() for row in split if isinstance(row, Text))
    assert joined == text
    assert list(rows.splits) == ["train", "validation", "test"]
    assert sizes(rows)["validation"] == round(0.1 * sum(sizes(rows).values()))
    assert any("cut into" in note for note in rows.notes)
    # few long texts of a table are documents too, and are cut where splits are given as well
    (tmp_path / "book.jsonl").write_text(json.dumps({"text": text}))
    assert read_splits(DataRequest(str(tmp_path / "book.jsonl"), test_share=0.05)).splits == rows.splits
    given_split = read_splits(DataRequest(str(tmp_path / "book.txt"), str(tmp_path / "book.jsonl")))
    assert sizes(given_split)["validation"] == sizes(given_split)["train"] > 20


def test_a_repeated_paragraph_is_in_one_split_only(tmp_path: Path) -> None:
    (tmp_path / "song.md").write_text(("la " * 600 + "\n\n") * 5 + "x " * 1500 + "\n\n" + "y " * 1500)
    rows = read_splits(DataRequest(str(tmp_path / "song.md")))
    contents = [set(split) for split in rows.splits.values()]
    assert sum(map(len, contents)) == len(set().union(*contents))


def test_a_document_too_short_to_divide_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Just this.")
    with pytest.raises(DataError, match=r"expected at least 3 rows of different content .* got 1; add rows, or name"):
        read_splits(DataRequest(str(tmp_path / "note.txt")))


def test_a_smaller_limit_takes_some_of_the_rows_of_a_larger(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", pairs(50))
    few, more = (read_splits(DataRequest(train, limits={"train": limit})).splits["train"] for limit in (5, 20))
    assert few == more[:5]
    assert len(more) == 20
    assert more != sorted(more, key=lambda row: row.prompt)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {"train": 0}}, "expected a row limit of at least 1 for train, got 0"),
        (
            {"limits": {"trian": 5}},
            "expected a row limit for one of 'train', 'validation', 'test', got one for 'trian'",
        ),
        ({"validation_share": 0.0}, r"expected shares above 0 .* got 0\.0 for validation"),
        ({"validation_share": 0.6, "test_share": 0.4}, "leave something to train on"),
        ({"group_by": "usr"}, r"data\.group_by: expected the name of a column, got 'usr'; did you mean 'user'\?"),
        ({"subset": "main"}, r"data\.subset: expected a dataset of the hub for 'main', got .*; remove it"),
        ({"columns": {"prompt": "x"}}, "expected the name of a column, got 'x'"),
        ({"format": "messages"}, "expected the columns of the format messages"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_splits(DataRequest(write(tmp_path / "train.jsonl", pairs(20, user=1)), **settings))


def test_one_group_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected at least 3 rows of different content or group .* got 1"):
        read_splits(DataRequest(write(tmp_path / "train.jsonl", pairs(20, user=1)), group_by="user"))


def test_a_split_with_other_columns_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", pairs(5))
    other = write(tmp_path / "other.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        DataError, match=r"other\.jsonl: expected the name of a column, got 'prompt'; use one of 'quest"
    ):
        read_splits(DataRequest(train, other))


def test_repeated_and_shared_rows_are_said(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*pairs(5), *pairs(2)])
    notes = read_splits(DataRequest(train, write(tmp_path / "v.jsonl", [*pairs(1), *pairs(3, "new")]))).notes
    assert "2 of 7 train rows repeat an earlier one: they weigh more" in notes
    assert "1 of 4 validation rows are also in train (same prompt and answer): scores on them measure memory" in notes


def test_the_identity_names_all_that_changes_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", pairs(50))
    plain = read_splits(DataRequest(train)).identity
    assert set(plain) == {"the data of train", "the settings of the rows"}
    assert re.fullmatch("[0-9a-f]{64}", plain["the data of train"])
    for other in (
        DataRequest(train, seed=1),
        DataRequest(train, limits={"train": 5}),
        DataRequest(train, validation_share=0.2),
        DataRequest(train, columns={"prompt": "completion", "completion": "prompt"}),
    ):
        assert read_splits(other).identity["the settings of the rows"] != plain["the settings of the rows"]
    moved = write(tmp_path / "moved.jsonl", pairs(50))
    assert read_splits(DataRequest(moved)).identity == plain
    given_splits = DataRequest(train, moved)  # nothing is drawn, so the seed changes nothing
    assert read_splits(given_splits).identity == read_splits(DataRequest(train, moved, seed=9)).identity
    assert read_splits(DataRequest(write(Path(train), pairs(51)))).identity != plain


@pytest.mark.parametrize(
    ("name", "kind", "columns"),
    [
        ("banking77", "text_label", {"text": "text", "label": "label", "label_name": "label_name"}),
        ("e2e_small", "prompt_completion", {"prompt": "mr", "completion": "ref"}),
        ("gsm8k", "prompt_completion", {"prompt": "question", "completion": "answer"}),
        ("instruct1100", "alpaca", {"instruction": "instruction", "output": "output", "input": "input"}),
        ("tinyshakespeare", "text", {"text": "text"}),
        ("wikisql_mini", "prompt_completion", {"prompt": "prompt", "completion": "sql"}),
    ],
)
def test_real_sets_are_recognised(name: str, kind: str, columns: dict[str, str]) -> None:
    if not SETS.is_dir():
        pytest.skip(f"no directory {SETS} with the real sets")
    rows = read_splits(DataRequest(str(SETS / name)))
    assert (rows.format.kind, dict(rows.format.columns)) == (kind, columns)
    assert list(rows.splits) == ["train", "validation", "test"]
