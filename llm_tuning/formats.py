"""What the columns of a table mean, and its records as training rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from llm_tuning.rows import Conversation, DataError, Example, Row, Text, Turn
from llm_tuning.table import Record, Table, value_of
from llm_tuning.template import Filler, RowError, Template, listed, type_word

FormatKind = Literal["messages", "sharegpt", "preference", "alpaca", "prompt_completion", "text_label", "text"]
FORMAT_KINDS: tuple[FormatKind, ...] = get_args(FormatKind)


@dataclass(frozen=True, slots=True)
class Roles:
    """The parts that a format is made of: columns it must have, and columns it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


ROLES: Mapping[FormatKind, Roles] = {
    "messages": Roles(("messages",), ("system",)),
    "sharegpt": Roles(("conversations",), ("system",)),
    "preference": Roles(("chosen",), ("prompt", "rejected", "system")),
    "alpaca": Roles(("instruction", "output"), ("input", "system")),
    "prompt_completion": Roles(("prompt", "completion"), ("system",)),
    "text_label": Roles(("text", "label"), ("label_name",)),
    "text": Roles(("text",)),
}

MAX_LISTED_CLASSES = 20
"""A prompt of a classification lists the names of the classes if there are no more of them."""


@dataclass(frozen=True, slots=True)
class Format:
    """What the columns mean.

    Attributes:
        kind: one of `FORMAT_KINDS`.
        columns: role -> column, or template with columns in braces. The roles of each kind are in `ROLES`.
        class_names: the names of classes that the data gives as numbers, in order.
        choices: the names of classes that the prompt lists.
        why: how it was recognised.
        unused: the columns that are not used.
    """

    kind: FormatKind
    columns: Mapping[str, str]
    class_names: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    why: str = field(default="", compare=False)
    unused: tuple[str, ...] = field(default=(), compare=False)

    def describe(self) -> str:
        """A sentence for people: what was recognised, and why."""
        named = {role: repr(column) for role, column in self.columns.items()}
        match self.kind:
            case "messages" | "sharegpt":
                text = f"conversations in {next(iter(named.values()))}, all answers of the assistant are learnt"
            case "preference":
                given = f"{named['prompt']} is given, " if "prompt" in named else ""
                text = f"preferences: {given}{named['chosen']} is learnt; the rejected answers are not trained on"
            case "alpaca":
                given = " and ".join(named[role] for role in ("instruction", "input") if role in named)
                text = f"instructions: {given} given, {named['output']} is learnt"
            case "prompt_completion":
                text = f"prompts and answers: {named['prompt']} is given, {named['completion']} is learnt"
            case "text_label":
                label = named.get("label_name", named["label"])
                listed_names = f" out of {len(self.choices)} that the prompt lists" if self.choices else ""
                text = f"texts and classes: {named['text']} is given, its class {label}{listed_names} is learnt"
            case "text":
                text = f"plain text in {named['text']}, all of it is learnt"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{text} ({self.why}){unused}" if self.why else text + unused

    def identity(self) -> str:
        """All that decides how records become rows, as JSON."""
        values = asdict(self)
        return json.dumps(
            {name: values[name] for name in ("kind", "columns", "class_names", "choices")}, sort_keys=True
        )


def columns_line(columns: Mapping[str, str]) -> str:
    """The line to write under `data` in the YAML of a study to set the columns."""
    return "columns: {" + ", ".join(f"{role}: {json.dumps(name)}" for role, name in columns.items()) + "}"


@dataclass(frozen=True, slots=True)
class Converted:
    """The rows of a table.

    Attributes:
        rows: in the order of the table.
        records: for each row, the index of its record in the table.
        notes: what was left out or cut, for people.
    """

    rows: list[Row]
    records: list[int]
    notes: tuple[str, ...] = ()


def to_rows(table: Table, form: Format, *, lenient: bool = False) -> Converted:
    """Turn records into training rows.

    Left out, with a note, are blank texts of the format `text`, answers that are an empty list, and what a
    conversation has after the last turn of the assistant.

    Args:
        lenient: leave out records without a prompt or an answer (null, blank, a class of -1) too, with a note, instead
            of refusing them. For data that the user cannot edit.

    Raises:
        DataError: a column is missing, or a record cannot be used; the message names its line or row.
    """
    build = _builder(table, form)
    rows: list[Row] = []
    records: list[int] = []
    left_out: list[int] = []
    cut = 0
    for index, record in enumerate(table.records):
        try:
            row = build(record)
        except RowError as error:
            if not (error.expected or (lenient and error.no_answer)):
                raise DataError(f"{table.place(index)}: {error}") from None
            left_out.append(index)
            continue
        if isinstance(row, Conversation):
            whole, row = row, _up_to_the_last_answer(row)
            cut += row is not whole
        rows.append(row)
        records.append(index)
    if not rows:
        raise DataError(
            f"{table.origin}: expected at least one row with something to learn, got none in {len(table)}; "
            f"check the columns ({form.describe()})"
        )
    return Converted(rows, records, tuple(_notes(table, form, left_out, cut)))


def _notes(table: Table, form: Format, left_out: Sequence[int], cut: int) -> list[str]:
    notes = []
    if left_out:
        what = "are blank" if form.kind == "text" else "lack a prompt or an answer"
        notes.append(
            f"{table.origin}: {len(left_out):,} of {len(table):,} rows {what} and are left out "
            f"(the first is {table.place(left_out[0])})"
        )
    if cut:
        notes.append(f"{table.origin}: {cut:,} conversations end with a turn of the user, which is left out")
    return notes


def _up_to_the_last_answer(conversation: Conversation) -> Conversation:
    turns = conversation.turns
    last = max(index for index, turn in enumerate(turns) if turn.role == "assistant")
    return conversation if last == len(turns) - 1 else Conversation(turns[: last + 1])


_Builder = Callable[[Record], Row]


def _builder(table: Table, form: Format) -> _Builder:
    columns = dict(form.columns)
    match form.kind:
        case "messages" | "sharegpt":
            (role,) = ROLES[form.kind].required
            return _conversations(table, columns[role], columns.get("system"))
        case "preference":
            return _preferences(table, columns)
        case "alpaca":
            return _prompts(table, _alpaca_prompt(table, columns), columns["output"], columns.get("system"))
        case "prompt_completion":
            return _prompts(table, _filler(table, columns["prompt"]), columns["completion"], columns.get("system"))
        case "text_label":
            return _labels(table, form)
        case "text":
            return _texts(table, columns["text"])


def _parsed(table: Table, text: str) -> Template:
    try:
        return Template.parse(text, table.all_columns)
    except DataError as error:
        raise DataError(f"{table.origin}: {error}") from None


def _filler(table: Table, text: str, *, alternatives: bool = False, optional: bool = False) -> Filler:
    template = _parsed(table, text)
    return Filler(template, alternatives=alternatives, optional=template.columns if optional else ())


def _alpaca_prompt(table: Table, columns: Mapping[str, str]) -> Filler:
    """An instruction and, in a paragraph below, its input, which may be empty. Both may be templates."""
    parts = [_parsed(table, columns[role]) for role in ("instruction", "input") if role in columns]
    optional = [column for part in parts[1:] for column in part.columns]
    literals, names = parts[0].literals, parts[0].columns
    for part in parts[1:]:
        literals = (*literals[:-1], literals[-1] + "\n\n" + part.literals[0], *part.literals[1:])
        names = (*names, *part.columns)
    return Filler(Template(literals, names), optional=optional)


def _prompts(table: Table, give: Filler, completion: str, system: str | None) -> _Builder:
    learn = _filler(table, completion, alternatives=True)
    instruct = None if system is None else _filler(table, system, optional=True)

    def build(record: Record) -> Row:
        before = _given(give, record)
        answer = learn.value(record)
        if _is_turns(answer):
            return _with_system(_turns(answer), before, instruct, record)
        text = _answered(learn(record))
        return _with_system([Turn("assistant", text)], before, instruct, record)

    return build


def _given(give: Filler, record: Record) -> str | list[Turn]:
    value = give.value(record)
    return _turns(value) if _is_turns(value) else give(record)


def _with_system(answer: list[Turn], before: str | list[Turn], instruct: Filler | None, record: Record) -> Row:
    system = "" if instruct is None else instruct(record)
    if isinstance(before, str) and len(answer) == 1 and answer[0].role == "assistant" and not system.strip():
        return Example(before, answer[0].content)
    prompt = [Turn("user", before)] if isinstance(before, str) else before
    opening = [Turn("system", system)] if system.strip() else []
    return _conversation([*opening, *prompt, *answer])


def _answered(text: str) -> str:
    if not text.strip():
        raise RowError("expected a completion, got an empty one; fill it in or remove the line", no_answer=True)
    return text


def _preferences(table: Table, columns: Mapping[str, str]) -> _Builder:
    chosen = _filler(table, columns["chosen"])
    give = _filler(table, columns["prompt"], optional=True) if "prompt" in columns else None
    instruct = _filler(table, columns["system"], optional=True) if "system" in columns else None

    def build(record: Record) -> Row:
        value = chosen.value(record)
        before: str | list[Turn] = [] if give is None else _given(give, record)
        if _is_turns(value):
            answer = _turns(value)
            # Many sets repeat the prompt as the first turns of the chosen conversation.
            return _with_system(answer, before if answer[0].role == "assistant" else [], instruct, record)
        text = _answered(chosen(record))
        if give is None:
            return _conversation(_transcript(text))
        return _with_system([Turn("assistant", text)], before, instruct, record)

    return build


def _transcript(text: str) -> list[Turn]:
    """The turns of a conversation written as one text with `Human:` and `Assistant:` (hh-rlhf)."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if len(parts) < 5 or parts[0].strip():
        raise RowError(
            "expected a prompt beside the chosen answer, or a conversation with Human: and Assistant: in it, got "
            f"{text[:40]!r}; name the prompt's column"
        )
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [Turn("user" if who == "Human" else "assistant", said.strip()) for who, said in pairs]


def _conversations(table: Table, column: str, system: str | None) -> _Builder:
    if column not in table.all_columns:
        raise DataError(
            f"{table.origin}: expected the column {column!r}, got {listed(table.columns)}; rename or add it"
        )
    instruct = None if system is None else _filler(table, system, optional=True)

    def build(record: Record) -> Row:
        return _with_system(_turns(value_of(record, column)), [], instruct, record)

    return build


def _is_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


_ROLE_NAMES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}


def _turns(value: object) -> list[Turn]:
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else "none" if value is None else type_word(value)
        raise RowError(f"expected a list of messages with a role and a content, got {got}; fill it in or remove it")
    return [_turn(message, number) for number, message in enumerate(value, start=1)]


def _turn(message: object, number: int) -> Turn:
    where = f"message {number}"
    if not isinstance(message, dict):
        raise RowError(f"{where}: expected a mapping with a role and a content, got {type_word(message)}; correct it")
    name = message.get("role", message.get("from"))
    role = _ROLE_NAMES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError(
            f"{where}: expected a role out of user, assistant and system, got {name!r}; rename it "
            "(calls of tools are not supported)"
        )
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts, as some chat services write them
        content = _joined_parts(content, where)
    if not isinstance(content, str):
        got = "none" if content is None else type_word(content)
        raise RowError(f"{where}: expected text as its content, got {got}; put it in quotes or remove the conversation")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{where}: expected valid Unicode, got half of a surrogate pair; write both halves") from None
    if role == "assistant" and message.get("weight") == 0:
        raise RowError(
            f"{where}: expected an answer to learn, got one of weight 0 (weights are not supported); remove the weight "
            "or the conversation"
        )
    if role == "assistant" and not content.strip():
        raise RowError(f"{where}: expected an answer, got an empty one; fill it in or remove it", no_answer=True)
    return Turn(role, content)


def _joined_parts(parts: Sequence[object], where: str) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type", "text") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise RowError(f"{where}: expected text, got parts of another kind (images are not supported); remove it")
    return "".join(map(str, texts))


def _conversation(turns: Sequence[Turn]) -> Conversation:
    if all(turn.role != "assistant" for turn in turns):
        raise RowError("expected a turn of the assistant, got none; add an answer or remove the row", no_answer=True)
    return Conversation(tuple(turns))


def _labels(table: Table, form: Format) -> _Builder:
    give = _filler(table, form.columns["text"])
    label = form.columns.get("label_name", form.columns["label"])
    learn = _filler(table, label)
    names = () if "label_name" in form.columns else form.class_names
    if form.choices:
        question = f"\n\nClassify this text as one of: {', '.join(form.choices)}."
    else:
        question = "\n\nClassify this text. Answer with the name of its class only."

    def build(record: Record) -> Row:
        value = learn.value(record)
        if names and isinstance(value, list):
            return Example(give(record) + question, _answered(", ".join(class_name(item, names) for item in value)))
        answer = class_name(value, names) if names and value is not None else learn(record)
        return Example(give(record) + question, _answered(answer))

    return build


def class_name(label: object, names: Sequence[str]) -> str:
    """The name of a class given by number, which CSV gives as text. Raises RowError if there is no such class."""
    if isinstance(label, str) and label in names:
        return label
    number = int(label) if isinstance(label, int) or (isinstance(label, str) and label.isdecimal()) else -1
    if not 0 <= number < len(names):
        hidden = " (this often marks hidden labels)" if label == -1 else ""
        raise RowError(
            f"expected a class from 0 to {len(names) - 1}, got {label!r}{hidden}; correct it, or leave out this split",
            no_answer=label == -1,
        )
    return names[number]


def _texts(table: Table, column: str) -> _Builder:
    fill = _filler(table, column, optional=True)

    def build(record: Record) -> Row:
        text = fill(record)
        if not text.strip():
            raise RowError("expected text, got none", expected=True)
        return Text(text)

    return build
