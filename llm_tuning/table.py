"""Records as a source gives them, before anybody has said what their columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Record = Mapping[str, object]

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval"),
    "test": ("test", "testing"),
}
"""The splits of a study, and what others call them."""

WHOLE = ""
"""The name of the one table of a source that has no splits of its own."""

_SAMPLE = 400


def split_name(name: str) -> str | None:
    """The study's word for a split's name such as `dev`; None if it is no such name."""
    lowered = name.lower()
    return next((split for split, names in SPLIT_NAMES.items() if lowered in names), None)


def value_of(record: Record, column: str) -> object:
    """The value of a column; `answers.text` is the part `text` of the column `answers`. None where there is none."""
    if column in record:
        value = record[column]
    else:
        value = record
        for part in column.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True, eq=False)
class Table:
    """The records of a file or of one split of a dataset.

    Attributes:
        origin: the file or dataset, for messages.
        sha256: of the content, in hex.
        lines: the line on which each record starts, where that is known.
        class_names: column -> names of its classes in order, where the source has them.
        path: the file, if it is one.
        documents: each record is a whole document, with the column `text`.
    """

    records: Sequence[Record]
    origin: str
    sha256: str
    lines: Sequence[int] | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path | None = None
    documents: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def place(self, index: int) -> str:
        """Where a record stands, for messages: `train.jsonl:12`, or `train.parquet, row 12` counted from 1."""
        return f"{self.origin}, row {index + 1}" if self.lines is None else f"{self.origin}:{self.lines[index]}"

    @cached_property
    def sample(self) -> Sequence[Record]:
        """Up to 400 records, evenly spaced: enough to tell what a column is."""
        step = max(1, math.ceil(len(self.records) / _SAMPLE))
        return self.records[::step]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for record in self.records for name in record))

    @cached_property
    def all_columns(self) -> tuple[str, ...]:
        """The columns and, after each that holds mappings, its parts, such as `answers` and `answers.text`."""
        return tuple(name for column in self.columns for name in (column, *self._parts(column)))

    def _parts(self, column: str) -> Iterable[str]:
        values = [value for record in self.sample if isinstance(value := record.get(column), Mapping)]
        return dict.fromkeys(f"{column}.{key}" for value in values for key in value)
