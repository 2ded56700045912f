"""The text of a starting config: every choice as a line of YAML, with its reason beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from llm_tuning.base_model import context_length
from llm_tuning.splits import Rows
from nas.architecture import Architecture
from search_spaces.families import Family
from search_spaces.space import Space
from thresher.sizing import Lengths, Machine, Sizes, TooLong
from thresher.wording import format_duration

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COMMENT_COLUMN: Final = 44


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known about the base model without its weights."""

    name: str
    description: Mapping[str, Any]
    family: Family
    parameters: int
    architecture: Architecture | None
    tokenizer: PreTrainedTokenizerBase

    @property
    def context(self) -> int | None:
        return context_length(self.description)


@dataclass(frozen=True, slots=True)
class KnownData:
    """The rows, and where they come from.

    Attributes:
        files: the sources of the splits that were found, `train` among them.
        counts: training and held-out examples, of text the pieces that it is cut into.
    """

    rows: Rows
    files: Mapping[str, str]
    lengths: Lengths
    max_length: int
    too_long: TooLong
    counts: Mapping[str, int]

    def is_given(self, split: str) -> bool:
        """Whether the data has this split, so that none is made."""
        return f"the data of {split}" in self.rows.identity

    @property
    def is_text(self) -> bool:
        return self.lengths.is_text


def starting_config(
    model: KnownModel,
    data: KnownData,
    space: Space,
    sizes: Sizes,
    machine: Machine,
    directory: Path,
    destination: Path,
) -> str:
    """The YAML of a study.

    Args:
        space: what the family searches.
        directory: of the study; `destination`: the file that the text is for, which it names.
    """
    sections = [
        _heading(data, sizes, machine, destination),
        _model_lines(model, sizes),
        _data_lines(data, sizes),
        _space_lines(space, sizes),
        _search_lines(data, sizes),
        _objective_lines(data),
        _finalists_lines(sizes),
        _resource_lines(sizes, machine),
        _output_lines(sizes, directory),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _heading(data: KnownData, sizes: Sizes, machine: Machine, destination: Path) -> Iterator[str]:
    place = f"{machine.gpus} x {machine.gpu}" if machine.gpu else f"{machine.cores} CPU cores"
    name = shlex.quote(" ".join(str(destination).split()))
    commands = {
        f"thresher validate {name}": "checks it, and the data by it",
        f"thresher plan {name}": "tells what it will run, and how long that may take",
        f"thresher run {name}": "runs it, and goes on with it after a stop",
    }
    if machine.gpus > 1:
        commands[f"accelerate launch --num_processes {machine.gpus} -m thresher run {name}"] = "does so on all GPUs"
    width = max(map(len, commands))
    yield f"# A study, written by `thresher init` for {place}. Change what you like; what is left out has its default."
    yield from (f"#   {command:{width}}   {purpose}" for command, purpose in commands.items())
    yield "# Every key is told in docs/config.md. For an editor that checks as you type: run `thresher schema >"
    yield '# thresher.schema.json`, and begin with the line "# yaml-language-server: $schema=thresher.schema.json".'
    if sizes.is_small and sizes.seconds is not None:
        yield "#"
        time, epoch = format_duration(sizes.seconds), data.counts["train"]
        yield f"# Cut down to what these cores do in {time}, very roughly: enough to see it work. To grow it: raise"
        yield f"# search.budget (an epoch is {epoch:,}) and with it search.scheduler.min_budget, search.trials (20 are"
        yield "# usual), data.limits and finalists, and remove optimizer.batch_size from `space`."


def _model_lines(model: KnownModel, sizes: Sizes) -> Iterator[str]:
    context = f", {model.context:,} tokens of context" if model.context else ""
    known = f"family {model.family.name}" if model.family.name != "unknown" else "of no known family"
    yield "model:"
    yield _line("name", model.name, f"{known}, {_millions(model.parameters)} parameters{context}")
    why = "this GPU computes in it" if sizes.dtype == "bfloat16" else "exact, and what a CPU is good at"
    if sizes.dtype == "float32" and sizes.seconds is None:
        why = "this GPU does not know bfloat16"
    yield _line("dtype", sizes.dtype, f"of the frozen weights: {why}")


def _data_lines(data: KnownData, sizes: Sizes) -> Iterator[str]:
    rows = data.rows
    sizes_of = {split: _rows(len(of_split)) for split, of_split in rows.splits.items()}
    yield "data:"
    yield _line("train", data.files["train"], sizes_of["train"])
    purpose = {"validation": "the search compares by them", "test": "touched once, at the end, for the finalists"}
    for split in ("validation", "test"):
        if split in data.files:
            yield _line(split, data.files[split], f"{sizes_of[split]}, found beside it: {purpose[split]}")
        elif data.is_given(split):
            yield f"  # {split}: the split of that name in the same source, {sizes_of[split]}: {purpose[split]}"
        elif split == "test" and split not in sizes_of:
            yield "  # test: FILE                              # none was found, so the finalists are not tested"
    if not data.is_given("validation"):
        made = " and ".join(f"{sizes_of[split]} for {split}" for split in ("validation", "test") if split in sizes_of)
        shares = {"validation": 0.1, **({} if data.is_given("test") else {"test": 0.1})}
        yield _line("split", shares, f"shares of train, as no files were found: {made}")
        yield "  # group_by: COLUMN                        # keep rows with equal values in one split"
    yield _line("format", rows.format.kind, " ".join(rows.format.describe().split()))
    yield _line("columns", dict(rows.format.columns), "which column plays which part")
    yield _line("max_length", data.max_length, _about_lengths(data))
    yield _line("too_long", data.too_long, _about_too_long(data))
    if sizes.limits:
        why = "so that measuring takes no more time than training" if sizes.is_small else "enough to tell trials apart"
        # Of text, the examples are pieces of rows.
        limits = {
            split: max(1, limit * len(rows.splits[split]) // data.counts[split]) if data.is_text else limit
            for split, limit in sizes.limits.items()
        }
        yield _line("limits", limits, f"at most so many held-out rows: {why}")
    if not data.is_text:
        yield '  # system: ""                              # a system message; left out, the chat template has its own'


def _about_lengths(data: KnownData) -> str:
    lengths, longer = data.lengths, data.lengths.beyond(data.max_length)
    share = longer / len(lengths.values)
    about = f"tokens; half of the rows have up to {lengths.quantile(0.5):,}, the longest {lengths.longest:,}"
    if data.is_text:
        return f"{about}; longer ones become several examples"
    return f"{about}; {longer:,} are longer than this ({share:.1%})" if longer else f"{about}: all fit"


def _about_too_long(data: KnownData) -> str:
    if data.is_text:
        return "of prompts; no text is lost"
    return {
        "truncate-prompt": "longer prompts lose their oldest tokens, no answer is cut",
        "drop": "longer rows are left out: some answers do not fit",
        "truncate": "longer prompts lose their oldest tokens, and where that is not enough answers their end",
    }[data.too_long]


def _space_lines(space: Space, sizes: Sizes) -> Iterator[str]:
    yield f"{'space:':{_COMMENT_COLUMN}}# what is searched: what the family searches, but for what is said here"
    if sizes.batch_size is not None:
        yield _line("optimizer.batch_size", sizes.batch_size, "fixed: small batches, so that there are steps enough")
    yield "  # The family's domains. Take a # away to change one: narrow it, list values, or give one value to fix it."
    for name, entry in space.to_dict().items():
        if name == "rules" or (name == "optimizer.batch_size" and sizes.batch_size is not None):
            continue
        # Bounds alone, so that scale and prior stay as the family has them.
        domain = entry["values"] if entry["kind"] == "choice" else {key: entry[key] for key in ("low", "high")}
        yield f"  # {name}: {_value(domain)}"


def _search_lines(data: KnownData, sizes: Sizes) -> Iterator[str]:
    epochs = sizes.budget / max(1, data.counts["train"])
    yield "search:"
    yield _line("kind", "auto", "evolution over rungs: most trials stop early, the best go on")
    yield _line("trials", sizes.trials, "configurations that are tried; the first is the default one")
    yield _line("budget", sizes.budget, f"training examples of a full training, {epochs:.2g} epochs")
    if sizes.min_budget is not None:
        rungs = {"kind": "asha", "min_budget": sizes.min_budget, "reduction_factor": sizes.budget // sizes.min_budget}
        yield _line("scheduler", rungs, "two rungs: the best third goes on")
    yield "  # max_hours: 8                            # ends the search after so long, restarts added up"
    yield _line("seed", 0, "of everything random in the study")


def _objective_lines(data: KnownData) -> Iterator[str]:
    if data.rows.format.kind == "text_label":
        yield "objective:"
        yield "  - validation_loss                         # ranks the trials: finer than a share of right answers"
        yield "  - exact_match                             # the share of classes that are named right, shown beside it"
    else:
        yield f"{'objective: validation_loss':{_COMMENT_COLUMN}}# nats per answer token; see docs/config.md for others"


def _finalists_lines(sizes: Sizes) -> Iterator[str]:
    yield "finalists:"
    yield _line("count", sizes.finalists, "of the best trials, trained again; the default configuration joins them")
    yield _line("repeats", sizes.repeats, "times, with other seeds: a mean and an interval instead of one lucky run")


def _resource_lines(sizes: Sizes, machine: Machine) -> Iterator[str]:
    yield "resources:"
    why = "by its memory, estimated" if machine.gpu else "what fits a CPU"
    yield _line(
        "micro_batch_size", sizes.micro_batch_size, f"examples in one forward pass: {why}; results stay the same"
    )
    yield _line("evaluation_batch_size", 2 * sizes.micro_batch_size, "needs less memory than training")
    why = "the LoRA matrices stay in float32" if sizes.mixed_precision == "bf16" else "full precision"
    yield _line("mixed_precision", sizes.mixed_precision, why)


def _output_lines(sizes: Sizes, directory: Path) -> Iterator[str]:
    yield "output:"
    yield _line("directory", str(directory), "journal, checkpoints, report and the best adapter")
    yield _line("generations", 3, "test prompts that are answered side by side in the report")
    yield _line("max_new_tokens", sizes.max_new_tokens, "tokens of such an answer")


def _line(key: str, value: object, comment: str) -> str:
    """An entry of a section with its comment, which begins at the same column wherever there is room."""
    entry = f"  {key}: {_value(value)}"
    return f"{entry:{_COMMENT_COLUMN}}# {comment}" if len(entry) < _COMMENT_COLUMN else f"{entry}  # {comment}"


def _value(value: object) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_value(key)}: {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # In double quotes a line break is written as one; in single quotes PyYAML would begin a new line.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.safe_dump([value], default_flow_style=True, default_style=style, allow_unicode=True, width=1 << 30)
    return text.strip().removeprefix("[").removesuffix("]")


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _millions(count: int) -> str:
    return f"{count / 1e9:.2g}B" if count >= 10**9 else f"{count / 1e6:.3g}M"
