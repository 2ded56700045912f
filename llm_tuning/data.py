"""The data of a study as tokens: made once, kept in its directory, checked when the study goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llm_tuning.rows import DataError, Row
from llm_tuning.tokenize import OnProgress, TooLong, TruncationReport, tokenize
from llm_tuning.tokenized_split import TokenizedSplit, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INDEX = "data.json"


class ReadRows(Protocol):
    """The rows of a study, as `llm_tuning.splits` reads them.

    Attributes:
        splits: by name, such as `train`, `validation`, `test`.
        identity: hashes and settings by what they are of, which say whether a later call has the same rows.
        notes: lines about the rows that the user should read.
    """

    @property
    def splits(self) -> Mapping[str, Sequence[Row]]: ...

    @property
    def identity(self) -> Mapping[str, str]: ...

    @property
    def notes(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The tokenised splits of one study.

    Attributes:
        splits: by name, such as `train`, `validation`, `test`.
        reports: what `max_length` did to each of them.
        notes: lines the user should read: those about the rows, and what was cut.
        fingerprint: sha256 over all splits, in hex; the study's manifest records it.
    """

    splits: Mapping[str, TokenizedSplit]
    reports: Mapping[str, TruncationReport]
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        names = "".join(f"{name}={split.fingerprint};" for name, split in sorted(self.splits.items()))
        return hashlib.sha256(names.encode()).hexdigest()


def prepare_splits(
    rows: ReadRows,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    max_length: int,
    too_long: TooLong = "truncate-prompt",
    system: str | None = None,
    context_length: int | None = None,
    on_progress: OnProgress | None = None,
) -> PreparedData:
    """Tokenise all splits into `directory`, or read back what an earlier call left there.

    `directory` (the study's `data/`) gets one `{split}.safetensors` each and, last, `data.json` with the
    identity of everything that went in. A later call with the same input reads the tokens back.

    Args:
        max_length, too_long, system, context_length, on_progress: see `tokenize`; progress counts the
            rows of all splits together.

    Raises:
        DataError: bad input (see `tokenize`), a directory that cannot be written, or one whose tokens were
            made from other rows, another tokenizer or other settings.
    """
    identity = {
        **rows.identity,
        "the tokenizer": tokenizer_fingerprint(tokenizer),
        "the data settings": json.dumps(
            {"max_length": max_length, "too_long": too_long, "system": system}, sort_keys=True
        ),
    }
    index = directory / _INDEX
    if index.exists():
        _check_identity(index, identity)
        with contextlib.suppress(DataError):  # damaged tokens are made again: the input is still the same
            return load_splits(directory)
    encode = partial(
        tokenize,
        tokenizer=tokenizer,
        max_length=max_length,
        too_long=too_long,
        system=system,
        context_length=context_length,
    )
    total, done = sum(map(len, rows.splits.values())), 0
    splits: dict[str, TokenizedSplit] = {}
    reports: dict[str, TruncationReport] = {}
    for name, examples in rows.splits.items():
        step = None if on_progress is None else partial(_shifted, on_progress, done, total)
        try:
            splits[name], reports[name] = encode(examples, on_progress=step)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        done += len(examples)
    cuts = (f"{name}: {report.describe()}" for name, report in reports.items() if report.is_lossy)
    prepared = PreparedData(splits, reports, (*rows.notes, *cuts))
    store_splits(prepared, directory, identity)
    return prepared


def store_splits(prepared: PreparedData, directory: Path, identity: Mapping[str, str]) -> None:
    """Write splits where `load_splits` finds them, the index last. Raises DataError if the directory refuses."""
    for name, split in prepared.splits.items():
        split.save(directory / f"{name}.safetensors")
    entries = {
        name: {"fingerprint": split.fingerprint, "report": asdict(prepared.reports[name])}
        for name, split in prepared.splits.items()
    }
    index = {"identity": identity, "splits": entries, "notes": prepared.notes}
    write_whole(directory / _INDEX, json.dumps(index, indent=1).encode())


def load_splits(directory: Path) -> PreparedData:
    """Read what `prepare_splits` left in a directory; needs no tokenizer. Raises DataError if it is damaged."""
    index = _read_index(directory / _INDEX)
    splits = {name: TokenizedSplit.load(directory / f"{name}.safetensors") for name in index["splits"]}
    for name, split in splits.items():
        expected = index["splits"][name]["fingerprint"]
        if split.fingerprint != expected:
            raise DataError(
                f"expected tokens with the hash {expected[:12]} in {directory / name}.safetensors, got "
                f"{split.fingerprint[:12]}; remove {directory}, it is made again from the same input files"
            )
    reports = {name: TruncationReport(**entry["report"]) for name, entry in index["splits"].items()}
    return PreparedData(splits, reports, tuple(index["notes"]))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The sha256 of all that decides how a tokenizer writes text, in hex."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # What the last call padded and cut to is no property of the tokenizer.
        rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {"template": tokenizer.chat_template, "bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
    return hashlib.sha256(json.dumps([rules, special], sort_keys=True).encode()).hexdigest()


def _check_identity(index: Path, identity: Mapping[str, str]) -> None:
    stored: Mapping[str, str] = _read_index(index)["identity"]
    for what in [*identity, *(key for key in stored if key not in identity)]:
        expected, got = stored.get(what, "nothing"), identity.get(what, "nothing")
        if expected != got:
            raise DataError(
                f"this study's data changed: {what} was {_brief(expected)} when {index.parent} was made, got "
                f"{_brief(got)}; restore what it was, or start a new study directory"
            )


def _brief(value: str) -> str:
    """A hash by its first characters; settings in full."""
    is_hash = len(value) == 64 and all(character in "0123456789abcdef" for character in value)
    return value[:12] if is_hash else value


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return {key: index[key] for key in ("identity", "splits", "notes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected an index of tokenised data in {path}, got: {error}; "
            f"remove {path.parent}, it is made again from the same input files"
        ) from error


def _shifted(on_progress: OnProgress, before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)
