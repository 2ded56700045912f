"""Rows turned into tokens of at most a certain length, each marked as learnt or not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llm_tuning.rendering import RenderedDialogue, make_renderer
from llm_tuning.rows import DataError, Row, Text
from llm_tuning.tokenized_split import TokenizedSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TooLong = Literal["truncate-prompt", "truncate", "drop", "error"]
OnProgress = Callable[[int, int], None]

_LEAST_PROMPT_TOKENS = 8
"""How much of a long prompt is kept at least: an answer to nothing teaches nothing."""
_CHUNK = 256
_PLAIN = {"add_special_tokens": False, "verbose": False, "return_attention_mask": False}


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """What became of the rows of one split. Lengths are in tokens.

    Attributes:
        examples: how many rows were given.
        longest: the longest of them before anything was cut, with its template.
        prompts_cut: how many lost the oldest tokens of their prompt or their oldest turns.
        answers_cut: how many lost the end of their last answer.
        dropped: how many were left out.
        pieces: how many pieces the longer texts were cut into, all of which are kept.
        last_answer_only: how many conversations teach their last answer only; see `make_renderer`.
    """

    max_length: int
    examples: int
    longest: int
    prompts_cut: int = 0
    answers_cut: int = 0
    dropped: int = 0
    pieces: int = 0
    last_answer_only: int = 0

    @property
    def is_lossy(self) -> bool:
        """Whether some of the text is gone, or is not learnt although it could be expected."""
        return bool(self.prompts_cut or self.answers_cut or self.dropped or self.last_answer_only)

    def describe(self) -> str:
        """One line for people."""
        counts = {
            "prompts cut": self.prompts_cut,
            "answers cut": self.answers_cut,
            "dropped": self.dropped,
            "pieces of longer texts": self.pieces,
            "conversations of which only the last answer is learnt, as the chat template rewrites earlier ones": (
                self.last_answer_only
            ),
        }
        changes = ", ".join(f"{what}: {count}" for what, count in counts.items() if count)
        return (
            f"{self.examples} examples, the longest has {self.longest} tokens (at most {self.max_length} are kept); "
            f"{changes or 'nothing cut'}"
        )


def tokenize(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    too_long: TooLong = "truncate-prompt",
    *,
    system: str | None = None,
    context_length: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[TokenizedSplit, TruncationReport]:
    """Turn rows into tokens, at most `max_length` each. No answer is dropped or cut unless asked for.

    Examples and conversations are written as `make_renderer` says, and their answers are learnt. A text is
    written as it is, between the tokens that begin and end one for this tokenizer (no end where it goes
    on in another row); all but its first token is learnt. If it is longer than `max_length` it becomes
    several examples, consecutive pieces of nearly equal length, whatever `too_long` says.

    Args:
        max_length: tokens of prompt, answer and template together.
        too_long: what happens to longer examples. `truncate-prompt`: the oldest tokens go, of a
            conversation the oldest turns; the template's first part (with a system turn), the last answer
            and the end of what it answers stay. An earlier answer that lost its question or a part of
            itself is not learnt any more. `truncate`: where that is not enough, the last answer also loses
            its end. `drop`: they are left out. `error`: they are refused.
        system: text of the system turn, see `make_renderer`.
        context_length: the longest sequence the model can take (`max_position_embeddings`), if known.
        on_progress: called with (rows done, rows in total).

    Raises:
        DataError: there are no rows, `max_length` is beyond the context, an answer does not fit next to
            its template and a few prompt tokens, a system text is given for plain text, or no example
            is left.
    """
    _check_arguments(rows, max_length, too_long, context_length, system)
    kept: list[_Tokens] = []
    misfits: list[_Dialogue] = []
    longest = 0
    counts: Counter[str] = Counter()
    for done, whole in enumerate(_encode(rows, tokenizer, system), start=1):
        longest = max(longest, whole.length)
        if isinstance(whole, _Text):
            pieces = whole.pieces(max_length)
            kept += pieces
            counts["pieces"] += len(pieces) if len(pieces) > 1 else 0
            counts["dropped"] += not pieces
        elif (fitting := whole.within(max_length, too_long)) is None:
            misfits.append(whole)
            counts["dropped"] += 1
        else:
            kept.append(fitting.tokens)
            counts["prompts_cut"] += fitting.prompt_was_cut
            counts["answers_cut"] += fitting.answer_was_cut
            counts["last_answer_only"] += whole.is_shortened
        if on_progress is not None and (done % _CHUNK == 0 or done == len(rows)):
            on_progress(done, len(rows))
    report = TruncationReport(max_length, len(rows), longest, **counts)
    if misfits and (too_long != "drop" or not kept):
        raise _misfit_error(misfits, report, too_long, context_length)
    if not kept:
        raise DataError(f"expected texts of two tokens or more, got {len(rows)} without; fill them in or remove them")
    return _concatenate(kept), report


def _check_arguments(
    rows: Sequence[Row], max_length: int, too_long: str, context_length: int | None, system: str | None
) -> None:
    if too_long not in get_args(TooLong):
        raise DataError(f"expected too_long to be one of {', '.join(get_args(TooLong))}, got {too_long!r}; choose one")
    if not rows:
        raise DataError("expected at least one example, got none; check the data file and its row limit")
    has_texts = any(isinstance(row, Text) for row in rows)
    least = 3 if has_texts else 2  # with 2, a piece of a text could be left with one token and nothing to learn
    if max_length < least:
        raise DataError(f"expected max_length >= {least} tokens, got {max_length}; raise it")
    if context_length is not None and max_length > context_length:
        raise DataError(
            f"expected max_length within the model's context of {context_length} tokens, got {max_length}; "
            f"set max_length to {context_length} or less"
        )
    if has_texts and system is not None:
        raise DataError(
            "expected no system text with plain text, which has no turns, got one; "
            "remove `system`, or use data with prompts or messages"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """What becomes one example: token ids int32 [length] and which of them are learnt, bool [length]."""

    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A dialogue that fits, and what it lost for it."""

    tokens: _Tokens
    prompt_was_cut: bool
    answer_was_cut: bool


@dataclass(frozen=True, slots=True)
class _Text:
    """The tokens of one text, with those that begin and end it."""

    ids: list[int]

    @property
    def length(self) -> int:
        return len(self.ids)

    def pieces(self, max_length: int) -> list[_Tokens]:
        """Consecutive pieces of at most `max_length` >= 3 tokens, none of a single token; none at all of such a text.

        Nearly equal in length, so that no rest has to be predicted from next to nothing.
        """
        if self.length < 2:
            return []
        parts = np.array_split(np.array(self.ids, dtype=np.int32), -(-self.length // max_length))
        return [_Tokens(part, np.arange(len(part)) > 0) for part in parts]


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """Tokens of an example or a conversation, as pairs of a prompt and its answer.

    The first `head` tokens of the first prompt and the last `tail` of the last belong to the template.
    """

    exchanges: list[tuple[list[int], list[int]]]
    head: int
    tail: int
    is_shortened: bool

    @property
    def length(self) -> int:
        return sum(len(prompt) + len(answer) for prompt, answer in self.exchanges)

    @property
    def answer(self) -> list[int]:
        """The last answer."""
        return self.exchanges[-1][1]

    @property
    def least_prompt(self) -> int:
        """The tokens before the last answer that stay whatever happens."""
        last = len(self.exchanges[-1][0]) - (self.head if len(self.exchanges) == 1 else 0)
        return self.head + min(last, self.tail + _LEAST_PROMPT_TOKENS)

    def within(self, max_length: int, too_long: TooLong) -> _Fitting | None:
        """The dialogue within `max_length`, or None if the policy knows no way."""
        if self.length <= max_length:
            return _Fitting(self._without(0, len(self.answer)), False, False)
        if too_long in ("drop", "error"):
            return None
        room = max_length - self.least_prompt
        if len(self.answer) > room and (too_long != "truncate" or room < 1):
            return None
        answer = min(len(self.answer), room)
        excess = max(0, self.length - len(self.answer) + answer - max_length)
        return _Fitting(self._without(excess, answer), excess > 0, answer < len(self.answer))

    def _without(self, excess: int, answer_length: int) -> _Tokens:
        """All but the `excess` oldest tokens after the head, and the last answer cut to a length."""
        ids = self.exchanges[0][0][: self.head]
        learnt = [False] * self.head
        for number, (prompt, answer) in enumerate(self.exchanges):
            if number == 0:
                prompt = prompt[self.head :]
            if number == len(self.exchanges) - 1:
                answer = answer[:answer_length]
            question = prompt[excess:]
            excess = max(0, excess - len(prompt))
            rest = answer[excess:]
            excess = max(0, excess - len(answer))
            has_question = len(question) >= min(len(prompt), self.tail + _LEAST_PROMPT_TOKENS)
            ids += question + rest
            learnt += [False] * len(question) + [has_question and len(rest) == len(answer)] * len(rest)
        learnt[0] = False  # an answer whose prompt has no tokens at all may have become the first thing that is left
        return _Tokens(np.array(ids, dtype=np.int32), np.array(learnt, dtype=np.bool_))


def _encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, system: str | None) -> Iterator[_Dialogue | _Text]:
    """The tokens of the rows in their order."""
    are_texts = all(isinstance(row, Text) for row in rows)
    render = None if are_texts else make_renderer(tokenizer, system)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        texts = _encode_texts([row for row in chunk if isinstance(row, Text)], tokenizer)
        dialogues = _encode_dialogues(
            [render(row) for row in chunk if render is not None and not isinstance(row, Text)], tokenizer
        )
        for row in chunk:
            yield next(texts) if isinstance(row, Text) else next(dialogues)


def _encode_texts(texts: list[Text], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Text]:
    if not texts:
        return
    first = _first_token(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded = tokenizer([row.text for row in texts], **_PLAIN)["input_ids"]
    for row, ids in zip(texts, encoded, strict=True):
        yield _Text([*first, *ids, *([] if row.continues else end)])


def _encode_dialogues(rendered: list[RenderedDialogue], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Dialogue]:
    if not rendered:
        return
    # A template writes its own first token; plain text gets the one that the tokenizer would add.
    first = [] if tokenizer.chat_template else _first_token(tokenizer)
    texts = [exchange for dialogue in rendered for exchange in dialogue.exchanges]
    prompts = tokenizer([prompt for prompt, _ in texts], return_offsets_mapping=tokenizer.is_fast, **_PLAIN)
    answers = _encode_answers([answer for _, answer in texts], tokenizer)
    spans = prompts.get("offset_mapping") or [[]] * len(texts)
    encoded = zip(prompts["input_ids"], answers, spans, strict=True)
    for dialogue in rendered:
        parts = list(itertools.islice(encoded, len(dialogue.exchanges)))
        exchanges = [(prompt, answer) for prompt, answer, _ in parts]
        before = first if exchanges[0][0] else first or _stand_in_first_token(tokenizer)
        exchanges[0] = (before + exchanges[0][0], exchanges[0][1])
        head = sum(1 for span in parts[0][2] if span[1] <= dialogue.head_characters)
        content_end = len(dialogue.exchanges[-1][0]) - dialogue.tail_characters
        tail = sum(1 for span in parts[-1][2] if span[0] >= content_end)
        yield _Dialogue(exchanges, len(before) + head, tail, dialogue.is_shortened)


def _encode_answers(answers: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens of texts that go on after another, the end of a prompt.

    Tokenizers in the manner of sentencepiece (Llama 2, Mistral) put a space before whatever they are given. So these
    texts are given to them after a line break, which is then taken off with that space.
    """
    plain: list[list[int]] = tokenizer(answers, **_PLAIN)["input_ids"]
    if not tokenizer.convert_ids_to_tokens(tokenizer("a", **_PLAIN)["input_ids"])[0].startswith("\u2581"):
        return plain
    before = tokenizer("\n", **_PLAIN)["input_ids"]
    after = tokenizer([f"\n{answer}" for answer in answers], **_PLAIN)["input_ids"]
    # Where the break grew together with what follows there is no telling them apart.
    return [
        ids[len(before) :] if ids[: len(before)] == before and len(ids) > len(before) else alone
        for ids, alone in zip(after, plain, strict=True)
    ]


def _first_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer puts before all text, if any."""
    added = tokenizer("a")["input_ids"][:1]
    return added if added == [tokenizer.bos_token_id] else []


def _stand_in_first_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """With an empty prompt something must still come before the answer: the end of another text will do."""
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [token]


def _misfit_error(
    misfits: Sequence[_Dialogue], report: TruncationReport, too_long: TooLong, context_length: int | None
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


def _concatenate(examples: Sequence[_Tokens]) -> TokenizedSplit:
    return TokenizedSplit(
        token_ids=np.concatenate([example.ids for example in examples]),
        offsets=np.cumsum([0, *(len(example.ids) for example in examples)], dtype=np.int64),
        learnt=np.concatenate([example.learnt for example in examples]),
    )
