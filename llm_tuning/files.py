"""Data files as tables: JSONL, JSON, Parquet, CSV, TSV and plain text, each but Parquet also as .gz."""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from llm_tuning.rows import DataError
from llm_tuning.table import WHOLE, Record, Table, split_name

_LINE_FORMAT = 'one JSON object per line, such as {"prompt": "...", "completion": "..."}'
_LIST_FORMAT = 'a list of objects, such as [{"prompt": "...", "completion": "..."}]'


def is_data_file(name: str) -> bool:
    """Whether a file of this name can be read, as far as its ending tells."""
    return _ending(name) in _READERS


def read_file(path: Path) -> dict[str, Table]:
    """Read a file into tables by split. A file without splits of its own has one, named `WHOLE`.

    Numbers and truth values of JSON and Parquet keep their types; all values of CSV and TSV stay the text
    that they are in the file ("007", "NA").

    Raises:
        DataError: the file is missing, unreadable, empty, of an unknown kind, broken or not UTF-8. The
            message names the line or row.
    """
    content = read_bytes(path)
    ending = _ending(path.name)
    if ending not in _READERS:
        raise DataError(
            f"expected a file that ends in {', '.join(_READERS)}, got {path}; rename or convert it (CSV will do)"
        )
    tables = _READERS[ending](_Content(path, content))
    for name, table in tables.items():
        if not table.records:
            where = f"{path}, split {name}" if name else str(path)
            raise DataError(f"{where}: expected at least one example, got an empty file; add rows to it")
    return tables


def read_bytes(path: Path) -> bytes:
    """The content of a file as it is on disk. Raises DataError if there is none; the message names similar files."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected a data file at {path}, got none; {_where_it_might_be(path)}") from None
    except IsADirectoryError:
        found = sorted(entry.name for entry in path.iterdir() if is_data_file(entry.name))
        raise DataError(
            f"expected a file, got the directory {path}; name a file in it ({', '.join(found) or 'no data file there'})"
        ) from None
    except OSError as error:
        raise DataError(f"expected a readable file, got {path}: {error.strerror}; check its permissions") from error


def _where_it_might_be(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist either; check the path (now in {Path.cwd()})"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
    near = near or [name for name in names if is_data_file(name)][:3]
    return f"did you mean {' or '.join(near)}?" if near else f"{path.parent} holds no file of a similar name"


def _ending(name: str) -> str:
    lowered = name.lower().removesuffix(".gz")
    ending = Path(lowered).suffix
    return ".parquet.gz" if ending == ".parquet" and name.lower().endswith(".gz") else ending


class _Content:
    """The bytes of a file, unpacked, with what every reader needs."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            unpacked = gzip.decompress(content) if path.name.lower().endswith(".gz") else content
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a gzip file, got: {error}; download or pack it again") from error
        self.bytes = unpacked.removeprefix(b"\xef\xbb\xbf")

    @property
    def text(self) -> str:
        """Raises DataError with the line of the first byte that is not UTF-8."""
        try:
            return self.bytes.decode("utf-8")
        except UnicodeDecodeError as error:
            line = self.bytes.count(b"\n", 0, error.start) + 1
            column = error.start - (self.bytes.rfind(b"\n", 0, error.start) + 1) + 1
            raise not_utf8(f"{self.path}:{line}", self.bytes[error.start], column) from None

    def table(self, records: list[Record], lines: list[int] | None = None, documents: bool = False) -> Table:
        return Table(records, str(self.path), self.sha256, lines, path=self.path, documents=documents)


def not_utf8(place: str, byte: int, column: int) -> DataError:
    """The error for a byte that is no UTF-8."""
    return DataError(
        f"{place}: expected UTF-8 text, got byte 0x{byte:02x} at column {column}; "
        "save the file as UTF-8 (iconv -f latin1 -t utf-8, or -f utf-16)"
    )


def _read_jsonl(content: _Content) -> dict[str, Table]:
    if content.bytes.lstrip().startswith(b"["):
        return _read_json(content)  # many a .jsonl holds one list
    records: list[Record] = []
    lines: list[int] = []
    for number, line in enumerate(content.bytes.split(b"\n"), start=1):
        if line.strip():
            records.append(_parse_line(line, f"{content.path}:{number}"))
            lines.append(number)
    return {WHOLE: content.table(records, lines)}


def _parse_line(line: bytes, place: str) -> Record:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_utf8(place, line[error.start], error.start + 1) from None
    except (ValueError, RecursionError) as error:
        shown = line[:60].decode("utf-8", "replace")
        raise DataError(
            f"{place}: expected {_LINE_FORMAT}, got {shown!r} ({_json_problem(error)}); correct or remove the line"
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f"{place}: expected {_LINE_FORMAT}, got a {type(record).__name__}; write each example on its own line"
        )
    return record


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_json(content: _Content) -> dict[str, Table]:
    try:
        value = json.loads(content.text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and content.bytes.lstrip().startswith(b"{"):
            return _read_jsonl(content)  # many a .json holds JSON lines
        raise DataError(
            f"{content.path}:{error.lineno}: expected JSON, got an error at column {error.colno} ({error.msg}); "
            "correct this line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{content.path}: expected JSON, got: {_json_problem(error)}; correct the file") from None
    lists = _lists_of(value, content.path)
    return {name: _table_of_list(content, name, rows) for name, rows in lists.items()}


def _lists_of(value: object, path: Path) -> dict[str, list[object]]:
    """The lists of records in a JSON file, by split."""
    if isinstance(value, list):
        return {WHOLE: value}
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected {_LIST_FORMAT}, got a {type(value).__name__}; write such a list")
    lists = {key: entry for key, entry in value.items() if isinstance(entry, list)}
    splits = {split_name(key) for key in value}
    if lists and len(lists) == len(value) == len(splits) and None not in splits:
        return {str(split_name(key)): entry for key, entry in lists.items()}
    filled = {key: entry for key, entry in lists.items() if entry and isinstance(entry[0], dict)}
    if len(filled) == 1:
        return {WHOLE: next(iter(filled.values()))}
    raise DataError(
        f"{path}: expected {_LIST_FORMAT}, or an object with one such list or with lists named train, validation "
        f"and test, got an object with {', '.join(map(repr, value)) or 'nothing in it'}; "
        f"{'keep one list a file' if filled else 'put the examples into a list'}"
    )


def _table_of_list(content: _Content, split: str, rows: list[object]) -> Table:
    if rows and all(isinstance(row, str) for row in rows):
        rows = [{"text": row} for row in rows]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            where = f"{content.path}, {split + ' ' if split else ''}row {number}"
            raise DataError(f"{where}: expected an object, got a {type(row).__name__}; write {_LIST_FORMAT}")
    records: list[Record] = [row for row in rows if isinstance(row, dict)]
    return content.table(records)


def _read_parquet(content: _Content) -> dict[str, Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content.bytes))
        records: list[Record] = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{content.path}: expected a Parquet file, got: {reason}; download or write it again") from None
    names = _class_names((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    return {WHOLE: Table(records, str(content.path), content.sha256, class_names=names, path=content.path)}


def _class_names(metadata: bytes) -> dict[str, tuple[str, ...]]:
    """The names of classes that the datasets library writes into the schema; nothing if it is not as expected."""
    try:
        features = json.loads(metadata).get("info", {}).get("features", {})
    except ValueError:
        return {}
    described: Mapping[str, object] = features if isinstance(features, dict) else {}
    found = ((column, _names_in(feature)) for column, feature in described.items())
    return {column: names for column, names in found if names}


def _names_in(feature: object) -> tuple[str, ...]:
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names", ())))
    inner = feature.get("feature") if isinstance(feature, dict) else None  # of a list
    return () if inner is None else _names_in(inner)


def _read_csv(content: _Content) -> dict[str, Table]:
    text = content.text
    header = re.sub(r'"[^"]*"', "", text.split("\n", 1)[0])
    # Spreadsheets of half of Europe write semicolons, for their comma is in the numbers; others write tabs.
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    return {WHOLE: content.table(*_delimited(content.path, text, delimiter, quoted=True))}


def _read_tsv(content: _Content) -> dict[str, Table]:
    text = content.text
    try:
        return {WHOLE: content.table(*_delimited(content.path, text, "\t", quoted=True))}
    except DataError:
        if '"' not in text:
            raise
        # Many TSV files have no quoting, and then a quotation mark is a character as any other.
        return {WHOLE: content.table(*_delimited(content.path, text, "\t", quoted=False))}


def _delimited(path: Path, text: str, delimiter: str, quoted: bool) -> tuple[list[Record], list[int]]:
    rows = _fields(path, text, delimiter, quoted)
    first = next(rows, None)
    if first is None:
        return [], []
    header = first[1]
    repeated = sorted({name for name in header if header.count(name) > 1 and name})
    if repeated:
        raise DataError(
            f"{path}:1: expected column names that differ, got {', '.join(map(repr, repeated))} more than once; "
            "rename one of them"
        )
    names = [name or f"column_{number}" for number, name in enumerate(header, start=1)]
    records: list[Record] = []
    lines: list[int] = []
    for line, values in rows:
        if len(values) != len(names):
            raise DataError(
                f"{path}:{line}: expected {len(names)} fields as in the first line ({', '.join(names)}), got "
                f"{len(values)}; put quotes around a field that holds {delimiter!r}, or correct the line"
            )
        records.append(dict(zip(names, values, strict=True)))
        lines.append(line)
    return records, lines


def _fields(path: Path, text: str, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, with the line on which it starts; blank lines are left out."""
    limit = csv.field_size_limit(sys.maxsize)  # a long document is no mistake
    try:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        line = 1
        try:
            for values in reader:
                if any(values):
                    yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}:{line}: expected fields between {delimiter!r}, got an error: {error}; "
                'close the quotation marks, and double those inside a field ("")'
            ) from None
    finally:
        csv.field_size_limit(limit)


def _read_text(content: _Content) -> dict[str, Table]:
    text = content.text
    records: list[Record] = [{"text": text}] if text.strip() else []
    return {WHOLE: content.table(records, [1] * len(records), documents=True)}


_READERS: Mapping[str, Callable[[_Content], dict[str, Table]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
    ".md": _read_text,
}
