"""Training examples: read from JSONL, and written out as the text that the model sees."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 'one JSON object per line: {"prompt": "...", "completion": "..."}'


class DataError(ValueError):
    """The data cannot be used as it is; the message says what was expected, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """What the model is given, and what it should answer."""

    prompt: str
    completion: str


def read_examples(path: Path) -> list[Example]:
    """Read a JSONL file whose lines have a `prompt` and a `completion`; other keys and blank lines are ignored.

    Raises:
        DataError: the file is missing, unreadable, empty or not UTF-8, or one of its lines is not an
            object with a string `prompt` and a non-blank string `completion`.
    """
    lines = _read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    examples = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise DataError(f"{path}: expected at least one example, got an empty file; write {_FORMAT}")
    return examples


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected a data file at {path}, got none; {_where_it_might_be(path)}") from None
    except IsADirectoryError:
        found = sorted(entry.name for entry in path.glob("*.jsonl"))
        raise DataError(
            f"expected a file, got the directory {path}; name a file in it ({', '.join(found) or 'no .jsonl there'})"
        ) from None
    except OSError as error:
        raise DataError(f"expected a readable file, got {path}: {error.strerror}; check its permissions") from error


def _where_it_might_be(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist either; check the path (now in {Path.cwd()})"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
    near = near or [name for name in names if name.endswith(".jsonl")][:3]
    return f"did you mean {' or '.join(near)}?" if near else f"{path.parent} holds no file of a similar name"


def _parse(line: bytes, place: str) -> Example:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: expected UTF-8 text, got byte 0x{line[error.start]:02x} at column {error.start + 1}; "
            "save the file as UTF-8 (iconv -f latin1 -t utf-8, or -f utf-16)"
        ) from None
    except json.JSONDecodeError as error:
        shown = line[:60].decode("utf-8", "replace")
        raise DataError(f"{place}: expected {_FORMAT}, got {shown!r} ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected {_FORMAT}, got a {type(row).__name__}; write each example on its own line")
    missing = [key for key in ("prompt", "completion") if key not in row]
    if missing:
        raise DataError(
            f"{place}: expected the keys 'prompt' and 'completion', got {sorted(row)}; "
            f"rename or add {' and '.join(map(repr, missing))}"
        )
    example = Example(_text(row, "prompt", place), _text(row, "completion", place))
    if not example.completion.strip():
        raise DataError(f"{place}: expected a completion, got an empty one; fill it in or remove the line")
    return example


def _text(row: dict[str, object], key: str, place: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{place}: expected text for {key!r}, got {type(value).__name__}; put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: expected valid Unicode for {key!r}, got half of a surrogate pair at character "
            f"{error.start + 1}; write the character itself or both halves"
        ) from None
    return value


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as the model's text. Prompt and answer are tokenised separately, so that no token spans both.

    Attributes:
        prompt: all that comes before the answer, with the turns of the chat template.
        answer: what is learnt, ending in the token that ends the turn.
        head_characters: how much of the start of `prompt` belongs to the template.
        tail_characters: how much of its end does.
    """

    prompt: str
    answer: str
    head_characters: int = 0
    tail_characters: int = 0


Renderer = Callable[[Example], RenderedExample]


def make_renderer(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Renderer:
    """The way this tokenizer's model writes down an example.

    With a chat template: one user turn and one assistant turn. The answer is what the full
    conversation has after the prompt, up to and with the end-of-turn token; the line break that many
    templates put after it is nothing the model has to say. Without that token, the end-of-text token
    is appended. Where the template writes an earlier turn differently once it is answered, so that the
    prompt is no prefix of the conversation, the answer is the completion and the end-of-text token.
    Without a template: the plain prompt, the completion and the end-of-text token.

    Args:
        system: the text of a system turn. None leaves this to the template: most then have no such
            turn, some (SmolLM2, Qwen2) put in a default sentence. "" makes the turn empty.

    Raises:
        DataError: the template refuses the conversation, a system text comes with no template, or
            there is no end-of-text token to end an answer with.
    """
    if tokenizer.chat_template:
        return _chat_renderer(tokenizer, system)
    if system is not None:
        raise DataError(
            "expected a tokenizer with a chat template for a system text, got one without; "
            "remove `system` or put the text into the prompts"
        )
    end = _end_of_text(tokenizer)
    return lambda example: RenderedExample(example.prompt, example.completion + end)


def _chat_renderer(tokenizer: PreTrainedTokenizerBase, system: str | None) -> Renderer:
    opening = [] if system is None else [{"role": "system", "content": system}]
    end_tokens = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    probe = "a-prompt-to-find-again"
    frame = _apply(tokenizer, [*opening, {"role": "user", "content": probe}], prompt=True)
    head, found, tail = frame.partition(probe)

    def render(example: Example) -> RenderedExample:
        turns = [*opening, {"role": "user", "content": example.prompt}]
        prompt = _apply(tokenizer, turns, prompt=True)
        full = _apply(tokenizer, [*turns, {"role": "assistant", "content": example.completion}], prompt=False)
        if full.startswith(prompt):
            answer = full[len(prompt) :].rstrip()
            if not answer.endswith(end_tokens):
                answer += _end_of_text(tokenizer)
        else:
            answer = example.completion + _end_of_text(tokenizer)
        framed = found and len(prompt) >= len(head) + len(tail) and prompt.startswith(head) and prompt.endswith(tail)
        return RenderedExample(prompt, answer, len(head), len(tail)) if framed else RenderedExample(prompt, answer)

    return render


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise DataError(
            f"expected the model's chat template to accept the turns {roles}, got: {error}; "
            "if it has no system turn, remove `system` or put the text into the prompts"
        ) from error
    return str(text)


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise DataError(
            "expected a tokenizer with an end-of-text token, got none, so the model could never learn to stop; "
            "set eos_token in tokenizer_config.json"
        )
    return str(tokenizer.eos_token)
