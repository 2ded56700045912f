"""Where data comes from: a file, a directory, or a dataset of the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from llm_tuning.files import is_data_file, read_bytes, read_file
from llm_tuning.hub import load_hub_dataset, load_saved_dataset
from llm_tuning.rows import DataError
from llm_tuning.table import SPLIT_NAMES, WHOLE, Table, split_name

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"(?:train|validation|valid|val|dev|test)[-_.].*\.(?:parquet|jsonl?|csv|arrow)(?:\.gz)?")
_SPLIT = re.compile(r"(?P<location>.+?):(?P<split>[^:/]+|[^:/]*\[[^/]*\])")  # as in x:test, x:train[:10%]
_SAVED = ("dataset_dict.json", "state.json")


def read_source(source: str, *, subset: str | None = None) -> dict[str, Table]:
    """Read a source into tables by split.

    Args:
        source: a file (see `read_file`); a directory with files named train, validation and test, or in the
            layout of the datasets library; or a dataset of the hub as `owner/name`. `:split` after it takes one
            split of it.
        subset: the configuration of a dataset that has several.

    Returns:
        Tables under `train`, `validation` and `test`, and under their own names where those are others. A source
        without splits, or of which one was named, gives the one table `WHOLE`.

    Raises:
        DataError: there is no such source, split or subset, or it cannot be read; see `read_file`.
    """
    location, split = _located(source)
    path = Path(location).expanduser()
    if path.is_dir():
        return _chosen(_read_directory(path, subset), split, location)
    if is_hub_dataset(source):
        return load_hub_dataset(location, subset=subset, split=split)
    if "://" in source:
        raise DataError(f"expected a file or a dataset owner/name, got the address {source}; download it first")
    if subset is not None:
        raise DataError(f"expected a dataset of the hub for the subset {subset!r}, got {source}; remove `subset`")
    if not path.exists() and not is_data_file(path.name) and "/" not in location:
        raise DataError(
            f"expected a file, or a dataset of the hub as owner/name, got {source!r} (now in {Path.cwd()}); "
            "check the path, or write the owner in front"
        )
    return _chosen(read_file(path), split, location)


def is_hub_dataset(source: str) -> bool:
    """Whether a source is taken for a dataset of the hub: it looks like `owner/name`, and no such file exists."""
    location, _ = _located(source)
    path = Path(location).expanduser()
    if path.exists() or is_data_file(location) or not _HUB_ID.fullmatch(location):
        return False
    # `data/trian` beside an existing directory `data` is a misspelt path rather than a dataset of somebody `data`.
    return not path.parent.is_dir()


def may_have_subsets(source: str) -> bool:
    """Whether a source is a dataset of the hub or a directory, which may be laid out like one."""
    return is_hub_dataset(source) or Path(_located(source)[0]).expanduser().is_dir()


def sibling_splits(path: Path) -> dict[str, Path]:
    """The files beside a training file that are named like its other splits.

    `data/train.jsonl` finds `data/valid.jsonl` as validation, `qa_train.csv` finds `qa_test.csv`. Empty if the
    name says nothing of training, or nothing lies there.
    """
    found: dict[str, Path] = {}
    for split in ("validation", "test"):
        for name in SPLIT_NAMES[split]:
            sibling = re.sub(r"(?<![A-Za-z])train(?:ing)?(?![A-Za-z])", name, path.name, count=1)
            if sibling != path.name and path.with_name(sibling).is_file():
                found.setdefault(split, path.with_name(sibling))
    return found


def names_beside(path: Path) -> tuple[str, ...]:
    """The class names in the `labels.json` beside a file: a list, or a mapping from or to numbers. Empty if none.

    Raises:
        DataError: the file is there, but is none of these.
    """
    file = path.parent / "labels.json"
    if not file.is_file():
        return ()
    try:
        content = json.loads(read_bytes(file))
        if isinstance(content, list):
            names = content
        elif all(isinstance(value, int) for value in content.values()):
            names = sorted(content, key=lambda name: content[name])
        else:
            names = [content[key] for key in sorted(content, key=int)]
        if names and all(isinstance(name, str) for name in names):
            return tuple(names)
    except (ValueError, AttributeError, TypeError):
        pass  # told below, with what else can be wrong
    raise DataError(
        f'expected the names of classes in {file}, as ["name", ...] or {{"0": "name", ...}}, got something else; '
        "correct or remove it"
    )


def _located(source: str) -> tuple[str, str | None]:
    """A source as its location and the split that is named after a colon."""
    found = _SPLIT.fullmatch(source)
    if found is None or Path(source).expanduser().exists():
        return source, None
    return found["location"], found["split"]


def _chosen(tables: dict[str, Table], split: str | None, location: str) -> dict[str, Table]:
    if split is None:
        return tables
    name = split if split in tables else split_name(split) or ""
    if name in tables and name != WHOLE:
        return {WHOLE: tables[name]}
    there, remedy = ", ".join(tables), "name one of these"
    if WHOLE in tables:
        there, remedy = "data without splits", "remove the part after the colon"
    raise DataError(f"expected the split {split!r} in {location}, got {there}; {remedy}")


def _read_directory(directory: Path, subset: str | None) -> dict[str, Table]:
    names = sorted(entry.name for entry in directory.iterdir())
    if any(name in names for name in _SAVED):
        return load_saved_dataset(directory)
    files = _split_files(directory, names)
    if files and subset is None:
        return {name: _only_table(file) for name, file in files.items()}
    inner = sorted(entry.name for entry in (directory / "data").iterdir()) if (directory / "data").is_dir() else []
    if subset is not None or any(_SHARD.fullmatch(name) for name in [*names, *inner]):
        return load_hub_dataset(str(directory), subset=subset)
    data = [name for name in names if is_data_file(name)]
    raise DataError(
        f"expected a file, or a directory with a file named train, got the directory {directory} with "
        f"{', '.join(data[:8]) or 'no data files'}; name a file in it"
    )


def _split_files(directory: Path, names: list[str]) -> Mapping[str, Path]:
    files: dict[str, Path] = {}
    for name in names:
        split = split_name(name.split(".", 1)[0])
        if split is None or not is_data_file(name):
            continue
        if split in files:
            raise DataError(
                f"expected one file for {split} in {directory}, got {files[split].name} and {name}; name the files "
                "under train, validation and test"
            )
        files[split] = directory / name
    return files if "train" in files else {}


def _only_table(path: Path) -> Table:
    tables = read_file(path)
    if len(tables) > 1:
        raise DataError(f"expected one split in {path}, got {', '.join(tables)}; name this file alone as the source")
    return next(iter(tables.values()))
