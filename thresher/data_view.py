"""What `thresher data` shows: what the data was taken for, how long its rows are, and what of them is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_tuning.base_model import context_length, load_tokenizer, model_config, resolve_base_model
from llm_tuning.rows import DataError, Row
from llm_tuning.splits import read_splits
from llm_tuning.tokenize import tokenize
from thresher.config import StudyConfig
from thresher.prepare import data_request

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from llm_tuning.tokenized_split import TokenizedSplit

MEASURED_ROWS = 20_000
"""Lengths are those of at most that many rows of a split, evenly spaced."""
SHOWN_CHARACTERS = 1200
"""A longer part of a row is shown without its middle."""

_NO_LIMIT = 2**31
_GIVEN, _LEARNT, _MARK = "dim", "bold green", "cyan"


def preview(config: StudyConfig, console: Console, rows: int = 3) -> None:
    """Show the data of a study as training will see it. Nothing is written, and no weights are loaded.

    Prints what the columns were taken for with its notes; for each split the number of rows and their lengths in
    tokens before anything is cut; and some rows of each split after that, as text of the chat template. What is learnt
    is coloured, and stands between [learnt] and [/] for those without colours.

    Args:
        rows: how many rows of each split are shown.

    Raises:
        DataError, BaseModelError: the data or the tokenizer cannot be used.
    """
    data = read_splits(data_request(config))
    _say(console, "\n".join(["data", *(f"  {note}" for note in data.notes)]))
    model = resolve_base_model(config.model.name, revision=config.model.revision)
    tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
    has_template = "with" if tokenizer.chat_template else "without"
    _say(console, f"tokenizer\n  that of {config.model.name}, {has_template} a chat template\n")
    lengths = {name: _lengths(split, tokenizer, config.data.system) for name, split in data.splits.items()}
    console.print(_table(lengths, {name: len(split) for name, split in data.splits.items()}, config.data.max_length))
    _say(console, _consequence(lengths, config, data.format.kind))
    context = context_length(model_config(model))
    for name, split in data.splits.items():
        _show_rows(name, split[:rows], tokenizer, config, context, console)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _lengths(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, system: str | None) -> NDArray[np.int64]:
    """The lengths of rows in tokens, uncut."""
    step = -(-len(rows) // MEASURED_ROWS)
    split, _ = tokenize(rows[::step], tokenizer, _NO_LIMIT, system=system)
    lengths: NDArray[np.int64] = np.diff(split.offsets)
    return lengths


def _table(lengths: Mapping[str, NDArray[np.int64]], sizes: Mapping[str, int], max_length: int) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, title_justify="left")
    table.add_column("split")
    for heading in ("rows", "tokens: median", "90 %", "longest", f"beyond {max_length}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measured in lengths.items():
        beyond = int((measured > max_length).sum())
        share = f"{beyond:,}" if len(measured) == sizes[name] else f"{beyond / len(measured):.1%}"
        median, ninety = np.percentile(measured, [50, 90])
        table.add_row(name, f"{sizes[name]:,}", f"{median:,.0f}", f"{ninety:,.0f}", f"{measured.max():,}", share)
    return table


def _consequence(lengths: Mapping[str, NDArray[np.int64]], config: StudyConfig, kind: str) -> str:
    """What happens to the rows that are too long, if there are any."""
    most = config.data.max_length
    if all(measured.max() <= most for measured in lengths.values()):
        return f"all rows fit into max_length {most}"
    if kind == "text":
        return f"texts beyond max_length {most} are cut into pieces, and nothing is lost"
    ways = {
        "truncate-prompt": "their prompts lose the oldest tokens",
        "truncate": "their prompts lose the oldest tokens, and their answers the last ones where that is not enough",
        "drop": "they are left out",
        "error": "they are refused",
    }
    return f"rows beyond max_length {most}: {ways[config.data.too_long]} (too_long: {config.data.too_long})"


def _show_rows(
    name: str,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    config: StudyConfig,
    context: int | None,
    console: Console,
) -> None:
    """The rows one by one, so that one that does not fit hides no other."""
    for number, row in enumerate(rows, start=1):
        try:
            split, _ = tokenize(
                [row],
                tokenizer,
                config.data.max_length,
                config.data.too_long,
                system=config.data.system,
                context_length=context,
            )
        except DataError as error:
            _say(console, f"\n{name}, row {number}: {error}")
            continue
        learnt = int(split.learnt_counts[0])
        pieces = f", piece 1 of {len(split)}" if len(split) > 1 else ""
        _say(console, f"\n{name}, row {number}{pieces}: {len(split.tokens(0)):,} tokens, {learnt:,} of them learnt")
        console.print(_coloured(split, tokenizer), highlight=False, soft_wrap=not console.is_terminal)


def _coloured(split: TokenizedSplit, tokenizer: PreTrainedTokenizerBase) -> Text:
    """The first example of a split, what is learnt of it marked."""
    text = Text()
    for is_learnt, words in _runs(split, tokenizer):
        if is_learnt:
            text.append("[learnt]", _MARK).append(words, _LEARNT).append("[/]", _MARK)
        else:
            text.append(words, _GIVEN)
    return text


def _runs(split: TokenizedSplit, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[bool, str]]:
    """The stretches of the first example that are learnt or not, as text."""
    ids, learnt = split.tokens(0), split.learnt[: split.offsets[1]]
    edges = [0, *(np.flatnonzero(np.diff(learnt)) + 1).tolist(), len(ids)]
    for start, end in itertools.pairwise(edges):
        words = tokenizer.decode(ids[start:end].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield bool(learnt[start]), _shortened(_harmless(words))


def _harmless(text: str) -> str:
    """Control characters would move the cursor or worse; they are shown as escapes."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters) ... {text[-half:]}"
