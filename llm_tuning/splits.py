"""From a request for data to the rows of train, validation and test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_tuning.blocks import BLOCK_CHARACTERS, cut_into_blocks
from llm_tuning.division import divide, divide_in_order
from llm_tuning.formats import Converted, Format, to_rows
from llm_tuning.recognition import recognise
from llm_tuning.rows import Conversation, DataError, Example, Row, Text
from llm_tuning.sources import may_have_subsets, read_source
from llm_tuning.table import WHOLE, Table, value_of
from llm_tuning.template import listed
from search_spaces.suggestion import suggest

SPLITS = ("train", "validation", "test")
FEW_TEXTS = 20
"""Fewer texts than that are documents rather than rows: they are cut into blocks."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which data a study wants, and how it is divided.

    Attributes:
        train, validation, test: sources, see `read_source`. Where validation or test is not given, the splits that
            the source of train itself has are taken, and else some are made from train.
        subset: the configuration of a hub dataset that has several.
        format: `auto`, or one of `FORMAT_KINDS`.
        columns: role -> column or template, for what is not to be recognised.
        group_by: where splits are made, rows with the same value in this column go to the same one.
        validation_share, test_share: of the rows of train, in (0, 1), for splits that are made. A test split is
            made only where there is neither a validation nor a test split, and the share is not 0.
        limits: split -> at most that many rows, the first ones after a shuffle by `seed`; a smaller limit takes a
            subset of the rows of a larger one.
    """

    train: str
    validation: str | None = None
    test: str | None = None
    subset: str | None = None
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    group_by: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    limits: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a study.

    Attributes:
        splits: `train` and `validation`, and `test` where there is one.
        format: what the columns of train were taken for.
        identity: what the rows were made from: hashes of the sources, and every setting that changes rows.
        notes: lines that the user should read.
    """

    splits: Mapping[str, list[Row]]
    format: Format
    identity: Mapping[str, str]
    notes: tuple[str, ...]


def read_splits(request: DataRequest) -> Rows:
    """Read all sources, find out what their columns mean, and make the splits that are not given.

    Made splits are disjoint by content: rows with the same prompt (and texts that are the same) but for white space
    and case are in one split, as are rows of the same group. Documents, and texts that are only a few, are cut into
    blocks, of which the last ones are the validation and the test split.

    Raises:
        DataError: a source cannot be read, its columns cannot be understood, a row cannot be used, or there are too
            few different rows to divide.
    """
    _check(request)
    tables, notes = _read_tables(request)
    form = recognise(tables["train"], request.format, request.columns)
    notes = [form.describe(), *notes]
    if "test" in tables and request.test is None and _is_hidden(tables["test"], form):
        del tables["test"]
        notes.append("the test split has no labels (they are kept secret) and is left out")
    converted = {name: _converted(table, form) for name, table in tables.items()}
    notes += [note for rows in converted.values() for note in rows.notes]
    splits: dict[str, list[Row]] = {name: rows.rows for name, rows in converted.items()}
    shares = _shares(request, splits)
    if shares:
        train = converted["train"]
        splits |= _divided(tables["train"], train, shares, request)
        sizes = " and ".join(f"{name} ({len(splits[name]):,} rows)" for name in shares)
        notes.append(f"{sizes} made from the {len(train.rows):,} rows of train, with no prompt or text in common")
    elif request.group_by is not None:
        notes.append("group_by has nothing to do: no split is made from train")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    limits = _checked_limits(request.limits, splits)
    splits = {name: _limited(rows, limits.get(name), request.seed) for name, rows in splits.items()}
    identity = {f"the data of {name}": table.sha256 for name, table in tables.items()}
    settings = _settings(request, form, shares, limits)
    notes += _content_notes(splits)
    return Rows(splits, form, {**identity, "the settings of the rows": settings}, tuple(notes))


def _check(request: DataRequest) -> None:
    shares = (request.validation_share, request.test_share)
    if not (0 < shares[0] < 1 and 0 <= shares[1] < 1 and sum(shares) < 1):
        raise DataError(
            f"expected shares above 0 that leave something to train on, got {shares[0]} for validation and "
            f"{shares[1]} for test; lower them under data.split (0 for no test split)"
        )


def _read_tables(request: DataRequest) -> tuple[dict[str, Table], list[str]]:
    """The tables of the splits that are given, by the user or by the source of train."""
    sources = [source for source in (request.train, request.validation, request.test) if source is not None]
    if request.subset is not None and not any(map(may_have_subsets, sources)):
        raise DataError(
            f"data.subset: expected a dataset of the hub for {request.subset!r}, got {listed(sources)}; remove it"
        )
    found = _read("train", request.train, request)
    tables = {"train": _pick(found, "train", request.train)}
    notes = []
    for split, source in (("validation", request.validation), ("test", request.test)):
        if source is not None:
            tables[split] = _pick(_read(split, source, request), split, source)
        elif split in found:
            tables[split] = found[split]
            notes.append(f"{split} is the split of that name in {request.train}")
    return tables, notes


def _read(split: str, source: str, request: DataRequest) -> dict[str, Table]:
    """The tables of a source. A subset is one of the hub's dataset; a file beside it has none."""
    try:
        return read_source(source, subset=request.subset if may_have_subsets(source) else None)
    except DataError as error:
        raise DataError(f"data.{split}: {error}") from error


def _pick(tables: Mapping[str, Table], split: str, source: str) -> Table:
    if WHOLE in tables:
        return tables[WHOLE]
    if split in tables:
        return tables[split]
    if len(tables) == 1:
        return next(iter(tables.values()))
    raise DataError(
        f"data.{split}: expected a split named {split} in {source}, got {', '.join(tables)}; "
        f"choose one, as in {source}:{next(iter(tables))}"
    )


def _is_hidden(table: Table, form: Format) -> bool:
    """Public benchmarks give a class of -1 to the rows of their test split."""
    label = form.columns.get("label")
    return label is not None and all(value_of(record, label) in (-1, None) for record in table.records)


def _converted(table: Table, form: Format) -> Converted:
    lenient = table.path is None  # the rows of a hub dataset are not the user's to correct
    converted = to_rows(table, form, lenient=lenient)
    if form.kind != "text" or not (table.documents or len(converted.rows) < FEW_TEXTS):
        return converted
    rows: list[Row] = []
    records: list[int] = []
    for row, record in zip(converted.rows, converted.records, strict=True):
        if isinstance(row, Text):
            blocks = [block for block in cut_into_blocks(row.text) if block.strip()]
            rows += [Text(block, continues=number < len(blocks)) for number, block in enumerate(blocks, start=1)]
            records += [record] * len(blocks)
    notes = list(converted.notes)
    if len(rows) > len(converted.rows):
        notes.append(f"{table.origin}: cut into {len(rows):,} blocks of at most {BLOCK_CHARACTERS:,} characters")
    return Converted(rows, records, tuple(notes))


def _shares(request: DataRequest, splits: Mapping[str, object]) -> dict[str, float]:
    """The splits that are made from train."""
    if "validation" in splits:
        return {}
    makes_test = "test" not in splits and request.test_share > 0
    test = {"test": request.test_share} if makes_test else {}
    return {"validation": request.validation_share, **test}


def _divided(table: Table, train: Converted, shares: Mapping[str, float], request: DataRequest) -> dict[str, list[Row]]:
    rows = train.rows
    keys = [_content_key(row) for row in rows]
    if request.group_by is not None:
        groups = _groups(table, train, request.group_by)
        names = divide(list(zip(keys, groups, strict=True)), shares, request.seed)
    elif isinstance(rows[0], Text) and (table.documents or len(table) < FEW_TEXTS):
        names = divide_in_order(keys, shares)
    else:
        names = divide([(key,) for key in keys], shares, request.seed)
    splits: dict[str, list[Row]] = {"train": [], **{name: [] for name in shares}}
    for row, name in zip(rows, names, strict=True):
        splits[name].append(row)
    return splits


def _groups(table: Table, train: Converted, column: str) -> list[Hashable]:
    """The group of each row. A row without one stands alone."""
    if column not in table.all_columns:
        raise DataError(
            f"data.group_by: expected the name of a column, got {column!r}; {suggest(column, table.all_columns)}"
        )
    values = (value_of(table.records[record], column) for record in train.records)
    return [None if value is None else repr(value) for value in values]


def _content_key(row: Row) -> Hashable:
    """What two rows must not have in common if they are in different splits: white space and case aside."""
    match row:
        case Example(prompt, completion):
            return _folded(prompt) if prompt.strip() else ("", _folded(completion))
        case Conversation(turns):
            opening = tuple(itertools.takewhile(lambda turn: turn.role != "assistant", turns))
            told = opening if any(turn.role == "user" for turn in opening) else turns
            return tuple((turn.role, _folded(turn.content)) for turn in told)
        case Text(text):
            return _folded(text)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _checked_limits(limits: Mapping[str, int], splits: Mapping[str, object]) -> Mapping[str, int]:
    for name, limit in limits.items():
        if name not in splits:
            raise DataError(f"expected a row limit for one of {listed(splits)}, got one for {name!r}; rename it")
        if limit < 1:
            raise DataError(f"expected a row limit of at least 1 for {name}, got {limit}; raise or remove it")
    return limits


def _limited(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    if limit is None:
        return rows
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:limit]]


def _settings(request: DataRequest, form: Format, shares: Mapping[str, float], limits: Mapping[str, int]) -> str:
    """Every setting that changes rows, as JSON. The seed counts only where something is drawn."""
    settings = {
        "format": json.loads(form.identity()),
        "shares": dict(shares),
        "group_by": request.group_by if shares else None,
        "limits": dict(limits),
        "seed": request.seed if shares or limits else None,
    }
    return json.dumps(settings, sort_keys=True)


def _content_notes(splits: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Rows that are there twice, in train or in two splits."""
    contents = {name: set(rows) for name, rows in splits.items()}
    repeated = len(splits["train"]) - len(contents["train"])
    if repeated:
        yield f"{repeated:,} of {len(splits['train']):,} train rows repeat an earlier one: they weigh more"
    for first, second in itertools.combinations(splits, 2):
        shared = sum(row in contents[first] for row in splits[second])
        if shared:
            yield (
                f"{shared:,} of {len(splits[second]):,} {second} rows are also in {first} "
                "(same prompt and answer): scores on them measure memory"
            )
