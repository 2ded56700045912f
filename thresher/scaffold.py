"""A commented config to start from, written from a look at the model, the data and the machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from rich.console import Console

from llm_tuning.base_model import load_tokenizer, model_config, resolve_base_model
from llm_tuning.rows import DataError, Row
from llm_tuning.sources import sibling_splits
from llm_tuning.splits import DataRequest, Rows, read_splits
from nas.architecture import Architecture, ArchitectureError
from search_spaces.domains import Choice
from search_spaces.families import find_family
from search_spaces.space import Space
from thresher.build import build_plan
from thresher.config import parse_config
from thresher.prepare import say
from thresher.sizing import Lengths, Machine, TooLong, choose_max_length, choose_sizes, model_parameters, pieces
from thresher.starting_config import KnownData, KnownModel, starting_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENISED_ROWS: Final = 20_000
"""Of larger splits so many rows are looked at; then answers may have to be shortened, for one may be longer."""
FEW: Final = 0.05
"""Examples whose answer is too long are left out if they are no more than this share, else their answers are cut."""

_DESCRIBING_FILES: Final = ["*.json", "*.model", "*.txt", "*.jinja"]


class ScaffoldError(ValueError):
    """A config that cannot be written; the message says why and what to do."""


def write_config(model: str, data: str, destination: Path, *, force: bool = False, console: Console) -> None:
    """Write the YAML of a study of a model on some data, every choice with its reason, ready to run.

    Args:
        model: hub id, local directory, .gguf file, or package:file.gguf.
        data: a file, a directory or a hub data set, see `DataRequest`; files beside it that are named like
            its validation and test splits are found.
        destination: the file to write.
        force: replace it if it is there.

    Raises:
        ScaffoldError: the file is there, or cannot be written.
        BaseModelError, DataError: there is no such model or data, or it cannot be used.
    """
    if destination.exists() and not force:
        raise ScaffoldError(
            f"expected a new file for the config, got {destination}, which exists; choose another name, or replace it "
            "with --force"
        )
    files = _files(data)
    rows = read_splits(DataRequest(files["train"], files.get("validation"), files.get("test")))
    say(console, f"data: {rows.format.describe()}")
    say(console, f"base model: {model}")
    known = _look_at_model(model)
    machine = Machine.this()
    with console.status("tokenising"):
        looked = _look_at_data(rows, files, known, machine)
    space = known.family.space_for(known.description)
    sizes = choose_sizes(
        machine,
        known.parameters,
        known.architecture,
        looked.counts,
        looked.lengths,
        looked.max_length,
        largest_batch=_largest(space, known, "optimizer.batch_size"),
        largest_rank=_largest(space, known, "lora.rank"),
    )
    directory = parse_config({"model": model, "data": files}).output.directory
    text = starting_config(known, looked, space, sizes, machine, directory, destination)
    config = parse_config(yaml.safe_load(text))
    build_plan(config, known.description, {split: len(of_split) for split, of_split in rows.splits.items()})
    _write(destination, text)
    say(console, f"written: {destination}; look at it, then: thresher plan {shlex.quote(str(destination))}")


def _write(destination: Path, text: str) -> None:
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(destination)
    except OSError as error:
        raise ScaffoldError(
            f"expected to write the config to {destination}, got {error.strerror}; choose another place"
        ) from error


def _files(data: str) -> dict[str, str]:
    """The source of each split: the data, and the files beside it."""
    path = Path(data).expanduser()
    siblings = sibling_splits(path) if path.is_file() else {}
    return {"train": data, **{split: str(file) for split, file in siblings.items()}}


def _look_at_model(name: str) -> KnownModel:
    directory = _description_directory(name)
    description = model_config(directory)
    try:
        architecture = Architecture.from_config(description)
    except ArchitectureError:
        architecture = None
    return KnownModel(
        name=name,
        description=description,
        family=find_family(None, description),
        parameters=model_parameters(directory, architecture),
        architecture=architecture,
        tokenizer=load_tokenizer(directory),
    )


def _description_directory(name: str) -> Path:
    """A directory with the model's configuration and tokenizer; of a model on the hub, without its weights."""
    is_path = name.startswith((".", "/", "~")) or name.endswith(".gguf") or ":" in name or name.count("/") > 1
    if not is_path and not Path(name).exists():
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=_DESCRIBING_FILES, ignore_patterns=["*/*"]))
        except (OSError, ValueError):
            pass  # told by the next line, which finds it in a cache or says what is wrong
    return resolve_base_model(name)


def _look_at_data(rows: Rows, files: Mapping[str, str], model: KnownModel, machine: Machine) -> KnownData:
    from llm_tuning.tokenize import tokenize

    is_text = rows.format.kind == "text"
    looked_at = {split: list(of_split[:MAX_TOKENISED_ROWS]) for split, of_split in rows.splits.items()}
    tokens = {split: tokenize(some, model.tokenizer, 1 << 30)[0] for split, some in looked_at.items()}
    lengths = {split: (some.offsets[1:] - some.offsets[:-1]).tolist() for split, some in tokens.items()}
    answers = sorted(tokens["train"].learnt_counts.tolist())
    everything = tuple(length for of_split in lengths.values() for length in of_split)
    found = Lengths(everything, answers[int(0.95 * (len(answers) - 1))], is_text)
    max_length = choose_max_length(found, machine, model.context)
    if is_text:
        counts = {
            split: round(pieces(lengths[split], max_length) * len(of_split) / len(looked_at[split]))
            for split, of_split in rows.splits.items()
        }
        return KnownData(rows, files, found, max_length, "truncate-prompt", counts)
    longer = {
        split: [row for row, length in zip(some, lengths[split], strict=True) if length > max_length]
        for split, some in looked_at.items()
    }
    is_sampled = any(len(of_split) > len(looked_at[split]) for split, of_split in rows.splits.items())
    few = all(len(longer[split]) <= FEW * len(some) for split, some in looked_at.items())
    too_long = "truncate" if is_sampled else _policy(longer, model.tokenizer, max_length, few)
    counts = {split: len(of_split) for split, of_split in rows.splits.items()}
    return KnownData(rows, files, found, max_length, too_long, counts)


def _policy(
    longer: Mapping[str, Sequence[Row]], tokenizer: PreTrainedTokenizerBase, max_length: int, few: bool
) -> TooLong:
    """What to do with longer examples: shorten their prompts, if all their answers fit."""
    from llm_tuning.tokenize import tokenize

    try:
        for rows in longer.values():
            if rows:
                tokenize(rows, tokenizer, max_length, "truncate-prompt")
    except DataError:
        return "drop" if few else "truncate"
    return "truncate-prompt"


def _largest(space: Space, model: KnownModel, name: str) -> int:
    domain = space.domains.get(name)
    if domain is None:
        return int(model.family.defaults_for(model.description)[name])
    return int(max(domain.values) if isinstance(domain, Choice) else domain.high)
