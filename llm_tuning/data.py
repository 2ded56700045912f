"""Training text as tokens: tokenised once per study, kept as safetensors, checked when the study goes on."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llm_tuning.examples import DataError, Example, RenderedExample, make_renderer, read_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TooLong = Literal["truncate-prompt", "truncate", "drop", "error"]
OnProgress = Callable[[int, int], None]

_LEAST_PROMPT_TOKENS = 8
"""How much of a long prompt is kept at least: an answer to nothing teaches nothing."""
_CHUNK = 256
_INDEX = "data.json"


@dataclass(frozen=True, eq=False)
class TokenizedSplit:
    """All examples of one split, end to end in one array.

    Attributes:
        token_ids: int32 [total_tokens], the examples one after the other.
        offsets: int64 [examples + 1]; example i is `token_ids[offsets[i]:offsets[i + 1]]`.
        answer_starts: int32 [examples], index inside the example of its first answer token (>= 1, so
            that every answer token has a token before it to be predicted from).
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    answer_starts: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.answer_starts)

    def tokens(self, index: int) -> NDArray[np.int32]:
        """The token ids of one example, int32 [length], as a view."""
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def answer_length(self, index: int) -> int:
        """The number of answer tokens of one example: the tokens that the loss is taken over."""
        return int(self.offsets[index + 1] - self.offsets[index] - self.answer_starts[index])

    @property
    def longest(self) -> int:
        """The length of the longest example in tokens; 0 for an empty split."""
        return int(np.diff(self.offsets).max(initial=0))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the content, in hex."""
        digest = hashlib.sha256()
        for array in (self.token_ids, self.offsets, self.answer_starts):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors; the file appears whole or not at all. Raises DataError if it cannot."""
        from safetensors.numpy import save

        names = ("token_ids", "offsets", "answer_starts")
        _write(path, save({name: np.ascontiguousarray(getattr(self, name)) for name in names}))

    @classmethod
    def load(cls, path: Path) -> TokenizedSplit:
        """Read what `save` wrote. Raises DataError if the file is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise DataError(
                f"expected tokenised examples in {path}, got: {error}; "
                f"remove {path.parent}, it is made again from the same input files"
            ) from error


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """What `max_length` did to the examples of one split. Lengths are in tokens.

    Attributes:
        examples: how many were given.
        longest: the longest of them before anything was cut, with its template.
        prompts_cut: how many lost the oldest tokens of their prompt.
        answers_cut: how many lost the end of their answer.
        dropped: how many were left out.
    """

    max_length: int
    examples: int
    longest: int
    prompts_cut: int = 0
    answers_cut: int = 0
    dropped: int = 0

    def describe(self) -> str:
        """One line for people."""
        counts = {"prompts cut": self.prompts_cut, "answers cut": self.answers_cut, "dropped": self.dropped}
        changes = ", ".join(f"{what}: {count}" for what, count in counts.items() if count)
        return (
            f"{self.examples} examples, the longest has {self.longest} tokens (at most {self.max_length} are kept); "
            f"{changes or 'nothing cut'}"
        )


def tokenize(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    too_long: TooLong = "truncate-prompt",
    *,
    system: str | None = None,
    context_length: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[TokenizedSplit, TruncationReport]:
    """Turn examples into tokens, at most `max_length` each. No answer is dropped or cut unless asked for.

    Args:
        max_length: tokens of prompt, answer and template together.
        too_long: what happens to longer examples. `truncate-prompt`: the prompt loses its oldest tokens,
            the template and the answer stay whole. `truncate`: where that is not enough, the answer also
            loses its end. `drop`: they are left out. `error`: they are refused.
        system: text of the system turn, see `make_renderer`.
        context_length: the longest sequence the model can take (`max_position_embeddings`), if known.
        on_progress: called with (examples done, examples in total).

    Raises:
        DataError: there are no examples, `max_length` is beyond the context, an answer does not fit next
            to its template and a few prompt tokens, or no example is left.
    """
    _check_arguments(examples, max_length, too_long, context_length)
    kept: list[_TokenizedExample] = []
    misfits: list[_TokenizedExample] = []
    longest = prompts_cut = answers_cut = 0
    for done, whole in enumerate(_encode(examples, tokenizer, system), start=1):
        longest = max(longest, whole.length)
        fitting = whole if whole.length <= max_length else _shorten(whole, max_length, too_long)
        if fitting is None:
            misfits.append(whole)
        else:
            kept.append(fitting)
            prompts_cut += len(fitting.prompt) < len(whole.prompt)
            answers_cut += len(fitting.answer) < len(whole.answer)
        if on_progress is not None and (done % _CHUNK == 0 or done == len(examples)):
            on_progress(done, len(examples))
    report = TruncationReport(max_length, len(examples), longest, prompts_cut, answers_cut, len(misfits))
    if misfits and (too_long != "drop" or not kept):
        raise _misfit_error(misfits, report, too_long, context_length)
    return _concatenate(kept), report


@dataclass(frozen=True, slots=True)
class _TokenizedExample:
    """Tokens of one example; the first `head` and last `tail` prompt tokens belong to the template."""

    prompt: list[int]
    answer: list[int]
    head: int
    tail: int

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def least_prompt(self) -> int:
        """The prompt tokens that stay whatever happens."""
        frame = self.head + self.tail
        return frame + min(len(self.prompt) - frame, _LEAST_PROMPT_TOKENS)


def _check_arguments(examples: Sequence[Example], max_length: int, too_long: str, context_length: int | None) -> None:
    if too_long not in get_args(TooLong):
        raise DataError(f"expected too_long to be one of {', '.join(get_args(TooLong))}, got {too_long!r}; choose one")
    if not examples:
        raise DataError("expected at least one example, got none; check the data file and its row limit")
    if max_length < 2:
        raise DataError(f"expected max_length >= 2 tokens, got {max_length}; raise it")
    if context_length is not None and max_length > context_length:
        raise DataError(
            f"expected max_length within the model's context of {context_length} tokens, got {max_length}; "
            f"set max_length to {context_length} or less"
        )


def _encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, system: str | None
) -> Iterator[_TokenizedExample]:
    render = make_renderer(tokenizer, system)
    # A template writes its own first token; plain text gets the one that the tokenizer would add.
    first = [] if tokenizer.chat_template else _first_token(tokenizer)
    for start in range(0, len(examples), _CHUNK):
        rendered = [render(example) for example in examples[start : start + _CHUNK]]
        encode = {"add_special_tokens": False, "verbose": False, "return_attention_mask": False}
        prompts = tokenizer([text.prompt for text in rendered], return_offsets_mapping=tokenizer.is_fast, **encode)
        answers = tokenizer([text.answer for text in rendered], **encode)
        spans = prompts.get("offset_mapping") or [[]] * len(rendered)
        for text, prompt, answer, span in zip(rendered, prompts["input_ids"], answers["input_ids"], spans, strict=True):
            before = first if prompt else first or _stand_in_first_token(tokenizer)
            head, tail = _frame_tokens(text, span)
            yield _TokenizedExample(before + prompt, answer, len(before) + head, tail)


def _frame_tokens(text: RenderedExample, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """How many tokens at the start and the end of a prompt come from the template alone."""
    end = len(text.prompt) - text.tail_characters
    head = sum(1 for span in spans if span[1] <= text.head_characters)
    tail = sum(1 for span in spans if span[0] >= end)
    return head, tail


def _first_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added = tokenizer("a")["input_ids"][:1]
    return added if added == [tokenizer.bos_token_id] else []


def _stand_in_first_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """With an empty prompt something must still come before the answer: the end of another text will do."""
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [token]


def _shorten(example: _TokenizedExample, max_length: int, too_long: TooLong) -> _TokenizedExample | None:
    """The example within `max_length`, or None if the policy knows no way."""
    if too_long in ("drop", "error"):
        return None
    answer = example.answer
    room = max_length - example.least_prompt
    if len(answer) > room:
        if too_long != "truncate" or room < 1:
            return None
        answer = answer[:room]
    excess = max(0, len(example.prompt) + len(answer) - max_length)
    prompt = example.prompt[: example.head] + example.prompt[example.head + excess :]
    return replace(example, prompt=prompt, answer=answer)


def _misfit_error(
    misfits: Sequence[_TokenizedExample], report: TruncationReport, too_long: TooLong, context_length: int | None
) -> DataError:
    """Says how many examples do not fit, how long the longest is and which way out there is."""
    if too_long in ("drop", "error"):
        needed = max(example.length for example in misfits)
        ways = ["too_long: truncate-prompt" if too_long == "drop" else "too_long: truncate-prompt or drop"]
        what = f"{len(misfits)} of {report.examples} examples are longer, the longest has {needed}"
    else:
        needed = max(example.least_prompt + len(example.answer) for example in misfits)
        ways = ["too_long: drop"] if too_long == "truncate" else ["too_long: truncate (cuts answers) or drop"]
        what = (
            f"{len(misfits)} of {report.examples} answers do not fit next to the template and "
            f"{_LEAST_PROMPT_TOKENS} tokens of their prompt, the longest needs {needed}"
        )
    if context_length is None or needed <= context_length:
        ways.insert(0, f"max_length: {needed}")
    return DataError(f"expected examples of at most {report.max_length} tokens, got: {what}; set {' or '.join(ways)}")


def _concatenate(examples: Sequence[_TokenizedExample]) -> TokenizedSplit:
    lengths = np.array([0, *(example.length for example in examples)], dtype=np.int64)
    ids = itertools.chain.from_iterable(itertools.chain(example.prompt, example.answer) for example in examples)
    return TokenizedSplit(
        token_ids=np.fromiter(ids, dtype=np.int32, count=int(lengths.sum())),
        offsets=np.cumsum(lengths),
        answer_starts=np.array([len(example.prompt) for example in examples], dtype=np.int32),
    )


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The tokenised splits of one study.

    Attributes:
        splits: by name, such as `train`, `validation`, `test`.
        reports: what `max_length` did to each of them.
        notes: lines the user should read: what was cut, and examples that two splits share.
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
    paths: Mapping[str, Path],
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    max_length: int,
    too_long: TooLong = "truncate-prompt",
    system: str | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    context_length: int | None = None,
    on_progress: OnProgress | None = None,
) -> PreparedData:
    """Tokenise the files of all splits into `directory`, or read back what an earlier call left there.

    `directory` (the study's `data/`) gets one `{split}.safetensors` each and, last, `data.json` with the
    hashes of everything that went in. A later call with the same input reads the tokens back.

    Args:
        paths: split name -> JSONL file.
        limits: split name -> at most that many rows, the first ones after a shuffle by `seed`; a smaller
            limit takes a subset of the rows of a larger one.
        max_length, too_long, system, context_length, on_progress: see `tokenize`; progress counts the
            examples of all splits together.

    Raises:
        DataError: bad input (see `read_examples` and `tokenize`), a directory that cannot be written,
            or one whose tokens were made from other files, another tokenizer or other settings.
    """
    limits = _checked_limits(limits, paths)
    settings = {"max_length": max_length, "too_long": too_long, "system": system, "limits": limits and [limits, seed]}
    examples = {name: read_examples(path) for name, path in paths.items()}
    identity = {
        **{f"the file of {name}": _sha256(path.read_bytes()) for name, path in paths.items()},
        "the tokenizer": tokenizer_fingerprint(tokenizer),
        "the data settings": json.dumps(settings, sort_keys=True),
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
    chosen = {name: _limited(rows, limits.get(name), seed) for name, rows in examples.items()}
    prepared = _tokenize_splits(chosen, encode, on_progress)
    _store(prepared, directory, identity)
    return prepared


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
    return _sha256(json.dumps([rules, special], sort_keys=True).encode())


def _checked_limits(limits: Mapping[str, int] | None, paths: Mapping[str, Path]) -> dict[str, int]:
    limits = dict(limits or {})
    for name, limit in limits.items():
        if name not in paths:
            raise DataError(f"expected a row limit for one of {sorted(paths)}, got one for {name!r}; rename it")
        if limit < 1:
            raise DataError(f"expected a row limit of at least 1 for {name}, got {limit}; raise or remove it")
    return limits


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
    return value if value.startswith("{") else value[:12]


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return {key: index[key] for key in ("identity", "splits", "notes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected an index of tokenised data in {path}, got: {error}; "
            f"remove {path.parent}, it is made again from the same input files"
        ) from error


def _limited(rows: list[Example], limit: int | None, seed: int) -> list[Example]:
    if limit is None:
        return rows
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:limit]]


def _tokenize_splits(
    examples: Mapping[str, list[Example]],
    encode: Callable[..., tuple[TokenizedSplit, TruncationReport]],
    on_progress: OnProgress | None,
) -> PreparedData:
    total, done = sum(map(len, examples.values())), 0
    splits: dict[str, TokenizedSplit] = {}
    reports: dict[str, TruncationReport] = {}
    for name, rows in examples.items():
        step = None if on_progress is None else partial(_shifted, on_progress, done, total)
        try:
            splits[name], reports[name] = encode(rows, on_progress=step)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        done += len(rows)
    return PreparedData(splits, reports, tuple(_notes(examples, reports)))


def _shifted(on_progress: OnProgress, before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)


def _notes(examples: Mapping[str, Sequence[Example]], reports: Mapping[str, TruncationReport]) -> Iterator[str]:
    for name, report in reports.items():
        if report.prompts_cut or report.answers_cut or report.dropped:
            yield f"{name}: {report.describe()}"
    for first, second in itertools.combinations(examples, 2):
        seen = set(examples[first])
        shared = sum(row in seen for row in examples[second])
        if shared:
            yield (
                f"{shared} of {len(examples[second])} {second} examples are also in {first} "
                "(same prompt and completion): scores on them measure memory"
            )


def _store(prepared: PreparedData, directory: Path, identity: Mapping[str, str]) -> None:
    for name, split in prepared.splits.items():
        split.save(directory / f"{name}.safetensors")
    entries = {
        name: {"fingerprint": split.fingerprint, "report": asdict(prepared.reports[name])}
        for name, split in prepared.splits.items()
    }
    index = {"identity": identity, "splits": entries, "notes": prepared.notes}
    _write(directory / _INDEX, json.dumps(index, indent=1).encode())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a read-only file system even this is refused
            partial.unlink()
        raise DataError(
            f"expected to write {path}, got: {error.strerror}; "
            "free some disk space or choose a directory you may write to"
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
