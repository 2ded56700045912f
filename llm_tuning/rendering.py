"""Examples and conversations written out as the text that the model sees, with what of it is learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

from llm_tuning.rows import Conversation, DataError, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a-prompt-to-find-again"
_Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class RenderedDialogue:
    """An example or a conversation as the model's text.

    Prompts and answers are tokenised one by one, so that no token spans a prompt and an answer.

    Attributes:
        exchanges: pairs of (what comes before an answer, the answer), which joined are the whole text. An
            answer is learnt, up to and with the token that ends its turn.
        head_characters: how much of the start of the first prompt belongs to the template.
        tail_characters: how much of the end of the last prompt does.
        is_shortened: only the last answer of several is learnt, because the template writes the earlier
            ones differently when more turns come after them.
    """

    exchanges: tuple[tuple[str, str], ...]
    head_characters: int = 0
    tail_characters: int = 0
    is_shortened: bool = False


Renderer = Callable[[Example | Conversation], RenderedDialogue]


def make_renderer(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Renderer:
    """The way this tokenizer's model writes down examples and conversations.

    With a chat template, an example is one user turn and one assistant turn. An answer is what the
    conversation up to and with its turn has after the prompt, until the end-of-turn token; the line
    break that many templates put after it is nothing the model has to say, and begins the next prompt.
    Where the last answer has no such token, the end-of-text token is appended.

    All turns of the assistant are learnt if each prompt and each answer begins the text that has one
    more turn. A template that writes earlier turns differently later on (it strips their reasoning, say)
    would have the model learn what it never sees: then the last one alone is learnt. Where not even
    the last prompt begins the conversation, the answer is the bare text of the last turn and the
    end-of-text token.

    Without a template, an example is the plain prompt, the completion and the end-of-text token, with a line
    break after the prompt where neither it ends nor the completion begins with white space: "...in May?Natalia"
    would be no text that the model has ever seen. The break is given, not learnt, so whoever asks the model later
    must end the prompt with it too. A conversation is its turns with a blank line between them, `User: ...` and
    `Assistant: ...`, each answer with the end-of-text token, and the system turn without a name at the start.

    Args:
        system: the text of a system turn, for examples and for conversations that have none. None leaves
            this to the template: most then have no such turn, some (SmolLM2, Qwen2) put in a default
            sentence. "" makes the turn empty.

    Raises:
        DataError: a system text comes with no template, or there is no end-of-text token where one is
            needed. The renderer raises it where the template refuses a conversation.
    """
    if tokenizer.chat_template:
        return _ChatRenderer(tokenizer, system).render
    if system is not None:
        raise DataError(
            "expected a tokenizer with a chat template for a system text, got one without; "
            "remove `system` or put the text into the prompts"
        )
    end = end_of_text(tokenizer)
    return lambda row: _render_plainly(row, end)


def _render_plainly(row: Example | Conversation, end: str) -> RenderedDialogue:
    if isinstance(row, Example):
        touch = row.prompt and not row.prompt[-1].isspace() and not row.completion[:1].isspace()
        return RenderedDialogue(((f"{row.prompt}\n" if touch else row.prompt, row.completion + end),))
    exchanges, before = [], ""
    for number, turn in enumerate(row.turns):
        gap = "\n\n" if number else ""
        if turn.role == "assistant":
            exchanges.append((f"{before}{gap}Assistant:", f" {turn.content}{end}"))
            before = ""
        else:
            before += gap + (f"User: {turn.content}" if turn.role == "user" else turn.content)
    return RenderedDialogue(tuple(exchanges))


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the token that ends all text. Raises DataError if the tokenizer has none."""
    if tokenizer.eos_token is None:
        raise DataError(
            "expected a tokenizer with an end-of-text token, got none, so the model could never learn to stop; "
            "set eos_token in tokenizer_config.json"
        )
    return str(tokenizer.eos_token)


@final
class _ChatRenderer:
    """Renders with the tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._end_tokens = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._frame = lru_cache(maxsize=64)(self._find_frame)

    def render(self, row: Example | Conversation) -> RenderedDialogue:
        turns = self._messages(row)
        # An answer to nothing cannot be rendered: an opening turn of the assistant is part of the prompt.
        answers = [index for index, turn in enumerate(turns) if index and turn["role"] == "assistant"]
        if not answers:
            raise DataError(
                f"expected a turn before the assistant's, got the turns {', '.join(turn['role'] for turn in turns)}; "
                "add a user turn, or remove the conversation"
            )
        exchanges = self._every_answer(turns, answers)
        is_shortened = exchanges is None and len(answers) > 1
        exchanges = exchanges or (self._last_answer(turns),)
        system = turns[0]["content"] if turns[0]["role"] == "system" else None
        head, tail = self._frame(system)
        first, last = exchanges[0][0], exchanges[-1][0]
        room = len(first) >= len(head) + (len(tail) if len(exchanges) == 1 else 0)
        if not (room and first.startswith(head) and last.endswith(tail)):
            head = tail = ""
        return RenderedDialogue(exchanges, len(head), len(tail), is_shortened)

    def _messages(self, row: Example | Conversation) -> list[_Message]:
        if isinstance(row, Example):
            turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
        else:
            turns = [{"role": turn.role, "content": turn.content} for turn in row.turns]
        if self._system is None or turns[0]["role"] == "system":
            return turns
        return [{"role": "system", "content": self._system}, *turns]

    def _every_answer(self, turns: list[_Message], answers: list[int]) -> tuple[tuple[str, str], ...] | None:
        """The exchanges up to each answer; None if the template writes a turn differently with more turns after it."""
        prompts = [self._apply(turns[:index], prompt=True) for index in answers]
        exchanges, text = [], ""
        for index, prompt, following in zip(answers, prompts, [*prompts[1:], None], strict=True):
            answered = self._apply(turns[: index + 1], prompt=False)
            if not (prompt.startswith(text) and answered.startswith(prompt)):
                return None
            answer = answered[len(prompt) :].rstrip()
            if following is None:
                answer = self._ended(answer)
            elif not following.startswith(prompt + answer):
                answer = self._without_end_of_text(answer)
            exchanges.append((prompt[len(text) :], answer))
            text = prompt + answer
        return tuple(exchanges)

    def _without_end_of_text(self, answer: str) -> str:
        """An answer whose turn has ended without the end-of-text token that some templates (Phi-3) put after it."""
        end = self._tokenizer.eos_token
        turn = answer.removesuffix(str(end)).rstrip() if end is not None else answer
        return turn if turn.endswith(self._end_tokens) else answer

    def _last_answer(self, turns: list[_Message]) -> tuple[str, str]:
        """The last answer with all that comes before it as the prompt."""
        prompt = self._apply(turns[:-1], prompt=True)
        answered = self._apply(turns, prompt=False)
        if answered.startswith(prompt):
            return prompt, self._ended(answered[len(prompt) :].rstrip())
        return prompt, turns[-1]["content"] + end_of_text(self._tokenizer)

    def _ended(self, answer: str) -> str:
        return answer if answer.endswith(self._end_tokens) else answer + end_of_text(self._tokenizer)

    def _find_frame(self, system: str | None) -> tuple[str, str]:
        """What the template writes before and after the text of the first user turn, a system turn included."""
        opening = [] if system is None else [{"role": "system", "content": system}]
        frame = self._apply([*opening, {"role": "user", "content": _PROBE}], prompt=True)
        head, found, tail = frame.partition(_PROBE)
        return (head, tail) if found else ("", "")

    def _apply(self, turns: list[_Message], prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise DataError(
                f"expected the model's chat template to accept the turns {roles}, got: {error}; "
                "if it has no system turn, remove `system` or put the text into the prompts"
            ) from error
        return str(text)
