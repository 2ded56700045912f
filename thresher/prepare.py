"""Everything before the first job: model files, rows, plan, tokens, and the checks of what they need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from llm_tuning.base_model import context_length, load_tokenizer, model_config, resolve_base_model
from llm_tuning.data import PreparedData, prepare_splits
from llm_tuning.splits import DataRequest, Rows, read_splits
from llm_tuning.tracking import check_trackers
from thresher.build import Plan, build_plan, largest_rank
from thresher.config import ConfigError, StudyConfig
from thresher.resources import check_disk, check_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Groundwork:
    """What follows from a config before anything is tokenised.

    Attributes:
        model: directory of the base model's files.
        description: the model's transformers configuration.
        rows: the data, read and split.
    """

    model: Path
    description: Mapping[str, Any]
    rows: Rows
    plan: Plan


def say(console: Console, text: str) -> None:
    """Print a line as it is: a path in brackets is no markup, and nothing in it is coloured or wrapped."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def data_request(config: StudyConfig) -> DataRequest:
    """What a config asks of its data."""
    data = config.data
    return DataRequest(
        train=data.train,
        validation=data.validation,
        test=data.test,
        subset=data.subset,
        format=data.format,
        columns=data.columns,
        group_by=data.group_by,
        validation_share=data.split.validation,
        test_share=data.split.test,
        limits={str(split): rows for split, rows in data.limits.items()},
        seed=config.search.seed,
    )


def lay_groundwork(config: StudyConfig, console: Console) -> Groundwork:
    """Find the model, read the data and lay out the plan. Raises ValueError for anything wrong with these."""
    check_trackers(config.output.trackers)
    rows = read_splits(data_request(config))
    say(console, f"base model: {config.model.name}")
    model = resolve_base_model(config.model.name, revision=config.model.revision)
    description = model_config(model)
    plan = build_plan(config, description, {split: len(examples) for split, examples in rows.splits.items()})
    return Groundwork(model, description, rows, plan)


def tokenise(
    config: StudyConfig, ground: Groundwork, directory: Path, console: Console
) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """The rows as tokens, kept in a directory, with a progress bar on a terminal. Raises DataError."""
    tokenizer = load_tokenizer(ground.model, trust_remote_code=config.model.trust_remote_code)
    with _tokenising(console) as on_progress:
        data = prepare_splits(
            ground.rows,
            tokenizer,
            directory,
            max_length=config.data.max_length,
            too_long=config.data.too_long,
            system=config.data.system,
            context_length=context_length(ground.description),
            on_progress=on_progress,
        )
    sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    say(console, f"data: {sizes} examples")
    return data, tokenizer


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Save the tokenizer, whole or not at all, unless it was saved before. Raises ConfigError if the disk refuses."""
    if directory.is_dir():
        return
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        tokenizer.save_pretrained(str(unfinished))
        unfinished.rename(directory)
    except Exception as error:  # tokenizers raises it bare for a full disk
        raise ConfigError(
            f"output.directory: expected to write the tokenizer to {directory}, got: {error}; "
            "free some space, or choose another directory"
        ) from error


def check_needs(config: StudyConfig, plan: Plan, data: PreparedData | None) -> list[str]:
    """Check disk, and with the data memory too. Returns notes about what could not be held against anything."""
    if plan.architecture is None:
        return []
    rank = largest_rank(plan)
    return list(check_disk(config, plan, rank) if data is None else check_memory(config, plan, rank, data))


def validate(config: StudyConfig, console: Console) -> None:
    """Check everything that can be checked without training, and print what was found. Nothing is left behind.

    Raises ValueError for the first thing that is wrong.
    """
    ground = lay_groundwork(config, console)
    notes = [*ground.plan.notes, *check_needs(config, ground.plan, None)]
    with tempfile.TemporaryDirectory(prefix="thresher-validate-") as directory:
        data, _ = tokenise(config, ground, Path(directory), console)
    notes += [*data.notes, *check_needs(config, ground.plan, data)]
    for note in dict.fromkeys(notes):
        say(console, f"note: {note}")
    plan = ground.plan
    say(console, f"space: {', '.join(plan.space.names)}")
    say(console, f"rungs: {', '.join(map(str, plan.budgets))} training examples; up to {config.search.trials} trials")
    say(console, "valid: nothing was found that would keep this study from running")


@contextmanager
def _tokenising(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal, for what takes long with a large data set."""
    with Progress(console=console, transient=True, disable=not console.is_interactive) as progress:
        bar = progress.add_task("tokenising", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
