from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_tuning.files import is_data_file, read_file
from llm_tuning.rows import DataError
from llm_tuning.table import WHOLE, Table

ROW = {"prompt": "a", "completion": "b"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def whole(path: Path) -> Table:
    tables = read_file(path)
    assert list(tables) == [WHOLE]
    return tables[WHOLE]


def test_lines_of_json_keep_their_numbers(tmp_path: Path) -> None:
    table = whole(write(tmp_path / "train.jsonl", {**ROW, "id": 7}, "", {"completion": "ü", "prompt": ""}))
    assert table.records == [{**ROW, "id": 7}, {"completion": "ü", "prompt": ""}]
    assert table.place(1) == f"{tmp_path / 'train.jsonl'}:3"


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    row = {"prompt": "one\u2028two", "completion": "x\x85"}
    assert whole(write(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False))).records == [row]


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "c"}\r\n')
    assert whole(path).records == [{"prompt": "a"}, {"prompt": "c"}]


def test_a_missing_file_names_the_near_ones(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROW)
    with pytest.raises(DataError, match=r"expected a data file at .*trian\.jsonl, got none; did you mean train\.jsonl"):
        read_file(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="nowhere does not exist either"):
        read_file(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match=r"expected a file, got the directory .*train\.jsonl"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{'prompt': 1}", r"t\.jsonl:2: expected one JSON object per line.*got \"\{'prompt'.*correct or remove"),
        (["a", "b"], r"t\.jsonl:2: .*got a list; write each example on its own line"),
        ("[" * 100_000, "2: .*nested too deeply"),
        ('{"n": ' + "1" * 5000 + "}", "2: expected one JSON object per line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, second_line: object, message: str) -> None:
    path = write(tmp_path / "t.jsonl", ROW, second_line)
    with pytest.raises(DataError, match=message):
        read_file(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.tsv", "empty.txt"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected at least one example, got an empty file"):
        read_file(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.txt"])
def test_another_encoding_is_refused(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes('{"prompt": "Käse", "completion": "b"}'.encode(encoding))
    with pytest.raises(DataError, match=r":1: expected UTF-8 text, got byte 0x(e4|ff|fe) at column \d+; save"):
        read_file(path)


def test_the_line_of_a_bad_byte_is_named_in_every_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,2\n3,\xe4\n")
    with pytest.raises(DataError, match=r"t\.csv:3: expected UTF-8 text, got byte 0xe4 at column 3"):
        read_file(path)


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ([ROW, ROW], [ROW, ROW]),
        ({"version": "1", "data": [ROW]}, [ROW]),
        (["one", "two"], [{"text": "one"}, {"text": "two"}]),
    ],
)
def test_json_is_a_list_or_an_object_with_one(tmp_path: Path, content: object, records: object) -> None:
    table = whole(write(tmp_path / "t.json", content))
    assert table.records == records
    assert table.place(0).endswith("t.json, row 1")


def test_json_may_hold_splits(tmp_path: Path) -> None:
    tables = read_file(write(tmp_path / "t.json", {"train": [ROW, ROW], "dev": [ROW], "test": [ROW]}))
    assert {name: len(table) for name, table in tables.items()} == {"train": 2, "validation": 1, "test": 1}


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    assert whole(write(tmp_path / "t.json", ROW, ROW)).records == [ROW, ROW]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{\n", r"t\.json:\d: expected JSON, got an error at column \d"),
        ("3", "got a int; write such a list"),
        (ROW, "got an object with 'prompt', 'completion'; put the examples into a list"),
        ({"a": [ROW], "b": [ROW]}, "got an object with 'a', 'b'; keep one list a file"),
        ([ROW, 3], "row 2: expected an object, got a int"),
        ({"train": [ROW], "test": []}, "split test: expected at least one example"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path / "t.json", content))


def test_values_of_csv_stay_the_text_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,label,text", "1,007,NA", '2,null,"two', 'lines, ""said"""', "", "3,1e4,")
    table = whole(path)
    assert table.records == [
        {"id": "1", "label": "007", "text": "NA"},
        {"id": "2", "label": "null", "text": 'two\nlines, "said"'},
        {"id": "3", "label": "1e4", "text": ""},
    ]
    assert table.lines == [2, 3, 6]


def test_csv_may_have_semicolons_and_columns_without_a_name(tmp_path: Path) -> None:
    assert whole(write(tmp_path / "t.csv", ";text", "0;a,b")).records == [{"column_1": "0", "text": "a,b"}]


@pytest.mark.parametrize(
    ("header", "row"), [("text\tlabel", "a,b\t0"), ('"text; all of it",label', "a,0"), ('"text, of it";label', "a;0")]
)
def test_what_is_between_the_fields_of_csv_is_in_its_header(tmp_path: Path, header: str, row: str) -> None:
    (record,) = whole(write(tmp_path / "t.csv", header, row)).records
    assert list(record)[1:] == ["label"]
    assert record["label"] == "0"


@pytest.mark.parametrize("indent", [None, 1])
def test_one_list_under_the_name_of_json_lines_is_read(tmp_path: Path, indent: int | None) -> None:
    assert whole(write(tmp_path / "t.jsonl", json.dumps([ROW, ROW], indent=indent))).records == [ROW, ROW]


def test_a_field_may_be_a_long_document(tmp_path: Path) -> None:
    long = "word " * 60_000
    assert whole(write(tmp_path / "t.csv", "text", long)).records == [{"text": long}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("a,b", "1,2", "1,2,3"), r"t\.csv:3: expected 2 fields as in the first line \(a, b\), got 3; put quotes"),
        (("a,b", "1"), r"t\.csv:2: expected 2 fields .*got 1"),
        (("a,b", '1,"x'), r"t\.csv:2: expected fields between ',', got an error: .*close the quotation marks"),
        (("a,a", "1,2"), r"t\.csv:1: expected column names that differ, got 'a' more than once"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path / "t.csv", *lines))


def test_tsv_is_read_with_quotes_and_without(tmp_path: Path) -> None:
    quoted = write(tmp_path / "quoted.tsv", "text\tlabel", '"a\tb"\t1')
    assert whole(quoted).records == [{"text": "a\tb", "label": "1"}]
    plain = write(tmp_path / "plain.tsv", "text\tlabel", '"so he said\t1', "x\t0")
    assert whole(plain).records == [{"text": '"so he said', "label": "1"}, {"text": "x", "label": "0"}]


def test_parquet_keeps_types_and_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    features = {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}, "tags": {"feature": {"_type": "Value"}}}
    table = pa.table({"label": [0, 1], "tags": [["a"], []], "part": [{"x": 1}, None]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    read = whole(path)
    assert read.records == [{"label": 0, "tags": ["a"], "part": {"x": 1}}, {"label": 1, "tags": [], "part": None}]
    assert read.class_names == {"label": ("no", "yes")}


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a Parquet file, got: .*; download or write it again"):
        read_file(write(tmp_path / "t.parquet", "no parquet at all"))


@pytest.mark.parametrize("name", ["t.txt", "t.md"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    table = whole(write(tmp_path / name, "One.", "", "Two."))
    assert table.records == [{"text": "One.\n\nTwo."}]
    assert table.documents


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert whole(path).records == [ROW]
    path.write_bytes(gzip.compress(json.dumps(ROW).encode())[:-9])
    with pytest.raises(DataError, match=r"expected a gzip file, got: .*; download or pack it again"):
        read_file(path)
    path.write_bytes(b"not packed")
    with pytest.raises(DataError, match="expected a gzip file"):
        read_file(path)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", ROW), write(tmp_path / "b.jsonl", ROW)
    assert whole(first).sha256 == whole(second).sha256
    assert whole(first).sha256 != whole(write(second, ROW, ROW)).sha256


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file that ends in \.jsonl, .*, got .*t\.xlsx; rename or convert"):
        read_file(write(tmp_path / "t.xlsx", "x"))
    assert is_data_file("a.JSONL.gz")
    assert not is_data_file("a.parquet.gz")
    assert not is_data_file("owner/name")
