"""Datasets of the hub, and directories in the layout of the datasets library, as tables."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from llm_tuning.rows import DataError
from llm_tuning.table import WHOLE, Record, Table, split_name

if TYPE_CHECKING:
    from datasets import Dataset

_NOT_TEXT = ("Audio", "Image", "Mesh", "Nifti", "Pdf", "Video")


def load_hub_dataset(name: str, *, subset: str | None = None, split: str | None = None) -> dict[str, Table]:
    """Load a dataset by its hub id, or from a directory laid out like one, through `datasets.load_dataset`.

    Args:
        subset: the configuration of a dataset that has several, such as `main` of openai/gsm8k.
        split: one split, or a part of it such as `train[:10%]`; the result is then the one table `WHOLE`.

    Returns:
        Tables by split; train, validation and test under the study's names for them, others under their own.

    Raises:
        DataError: the dataset cannot be reached or does not exist, has no such subset or split, or cannot be read.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, name=subset, split=split)
    except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise _loading_error(name, subset, split, error) from error
    if isinstance(loaded, datasets.Dataset):
        return {WHOLE: to_table(loaded, f"{name}:{split}")}
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"expected a dataset of known size at {name}, got a {type(loaded).__name__}; name a split")
    return _tables(loaded, name)


def load_saved_dataset(directory: Path) -> dict[str, Table]:
    """Load what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote. Raises DataError if it cannot be read."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(directory))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"expected a saved dataset in {directory}, got: {reason}; save it again") from error
    if isinstance(loaded, datasets.Dataset):
        return {WHOLE: to_table(loaded, str(directory))}
    return _tables(loaded, str(directory))


def _tables(splits: dict[str, Dataset], name: str) -> dict[str, Table]:
    # A second split of the same meaning (val beside validation) keeps its own name.
    tables: dict[str, Table] = {}
    for split, dataset in splits.items():
        known = split_name(split)
        tables[split if known is None or known in tables else known] = to_table(dataset, f"{name}:{split}")
    return tables


def to_table(dataset: Dataset, origin: str) -> Table:
    """A loaded dataset as a table; columns with sound, images or the like are left out."""
    import datasets

    unreadable = [name for name, feature in dataset.features.items() if type(feature).__name__ in _NOT_TEXT]
    readable = dataset.remove_columns(unreadable).with_format(None)
    records: list[Record] = readable.to_list()
    names: dict[str, tuple[str, ...]] = {}
    for column, feature in dataset.features.items():
        inner = getattr(feature, "feature", feature)  # of a list of classes
        if isinstance(inner, datasets.ClassLabel):
            names[column] = tuple(inner.names)
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, default=str, sort_keys=True).encode("utf-8", "surrogatepass"))
    return Table(records, origin, digest.hexdigest(), class_names=names)


def _loading_error(name: str, subset: str | None, split: str | None, error: Exception) -> DataError:
    wanted = "".join([name, f", subset {subset}" if subset else "", f", split {split}" if split else ""])
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ConnectionError):
        remedy = "connect to the network (HF_HUB_OFFLINE unset), or download it and name the files"
    elif isinstance(error, FileNotFoundError):
        remedy = "check the name; a private or gated dataset needs `hf auth login`; a local file needs its right path"
    elif "onfig" in reason:  # "Config name is missing" and "BuilderConfig ... not found" list what there is
        remedy = "set data.subset to one of these"
    elif "split" in reason:
        remedy = "name one of these after the colon"
    else:
        remedy = "download it and name the files"
    return DataError(f"expected the dataset {wanted}, got: {reason}; {remedy}")
