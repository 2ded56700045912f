from __future__ import annotations

import pytest

from llm_tuning.table import Table, split_name, value_of


def make_table(records: list[dict[str, object]], **rest: object) -> Table:
    return Table(records, "rows.jsonl", "0" * 64, **rest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("train", "train"), ("Dev", "validation"), ("val", "validation"), ("testing", "test"), ("unsupervised", None)],
)
def test_names_of_splits_are_put_into_the_words_of_a_study(name: str, expected: str | None) -> None:
    assert split_name(name) == expected


def test_values_are_found_by_column_and_by_part() -> None:
    record = {"answers": {"text": ["yes"]}, "a.b": 1, "score": float("nan")}
    assert value_of(record, "answers.text") == ["yes"]
    assert value_of(record, "a.b") == 1
    assert value_of(record, "answers.start") is None
    assert value_of(record, "score") is None  # what pandas and Parquet write for nothing


def test_columns_come_in_the_order_of_their_first_appearance() -> None:
    table = make_table([{"b": 1}, {"a": {"x": 1}, "b": 2}, {"a": {"y": 1}}])
    assert table.columns == ("b", "a")
    assert table.all_columns == ("b", "a", "a.x", "a.y")


def test_places_are_lines_where_they_are_known_and_rows_elsewhere() -> None:
    assert make_table([{}, {}], lines=[1, 4]).place(1) == "rows.jsonl:4"
    assert make_table([{}, {}]).place(1) == "rows.jsonl, row 2"


def test_a_sample_is_spread_over_the_whole_table() -> None:
    sample = make_table([{"number": number} for number in range(1000)]).sample
    assert len(sample) <= 400
    assert sample[0] == {"number": 0}
    assert sample[-1]["number"] >= 990
