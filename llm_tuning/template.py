"""Text made from the columns of a record: one column, or a closed template such as "{context}\\n\\n{question}"."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llm_tuning.rows import DataError
from llm_tuning.table import Record, value_of

_TYPE_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


class RowError(DataError):
    """One record cannot be used. The message lacks the record's place, which the caller puts in front.

    Attributes:
        no_answer: there is nothing to learn in it; it may be left out where the user cannot edit the data.
        expected: it is left out always, for the format has a way to say that there is no answer (an empty list).
    """

    def __init__(self, message: str, *, no_answer: bool = False, expected: bool = False) -> None:
        super().__init__(message)
        self.no_answer = no_answer or expected
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Template:
    """Literal text and columns in turn: `literals[0] + columns[0] + literals[1] + ... + literals[-1]`.

    Values are put in as they are; nothing is evaluated and no attribute is looked up.
    """

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, known: Collection[str]) -> Template:
        """A column's name, or text with names in braces; `{{` and `}}` are braces.

        Raises:
            DataError: there is no such column, or the braces are not closed, empty or hold more than a name.
        """
        if text in known:
            return cls(("", ""), (text,))
        if "{" not in text and "}" not in text:
            raise DataError(f"expected the name of a column, got {text!r}; use one of {listed(known)}")
        literals, columns, before = [], [], ""
        try:
            for literal, name, specification, conversion in string.Formatter().parse(text):
                before += literal
                if name is None:
                    continue
                if specification or conversion:
                    raise ValueError("only names may stand in braces")
                if name not in known:
                    raise DataError(f"expected names of columns in {text!r}, got {name!r}; use one of {listed(known)}")
                literals.append(before)
                columns.append(name)
                before = ""
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"expected a text with names of columns in braces, got {text!r}: {error}; "
                "write {name}, and {{ or }} for a brace itself"
            ) from None
        if not columns:
            raise DataError(f"expected a text with a column in braces, got {text!r}; use one of {listed(known)}")
        return cls((*literals, before), tuple(columns))


def listed(names: Collection[str]) -> str:
    """Names for a message, the first few of many."""
    shown = list(names)[:20]
    return ", ".join(map(repr, shown)) + (" and more" if len(names) > len(shown) else "")


class Filler:
    """Fills a template with one record after the other, and notices when a column changes its type.

    Args:
        alternatives: a list holds alternatives of which the first is taken; else its parts are joined by commas.
        optional: columns that may be missing or null, which gives no text.
    """

    def __init__(self, template: Template, *, alternatives: bool = False, optional: Collection[str] = ()) -> None:
        self._template = template
        self._alternatives = alternatives
        self._optional = optional
        self._types: dict[str, str] = {}

    def value(self, record: Record) -> object:
        """The value itself where the template is one column and nothing else, for values that are no text."""
        return value_of(record, self._template.columns[0]) if len(self._template.columns) == 1 else None

    def __call__(self, record: Record) -> str:
        """The text for a record. Raises RowError."""
        literals, columns = self._template.literals, self._template.columns
        texts = [self._text(record, column) for column in columns]
        if len(texts) == 1 and not any(literals):
            return texts[0]
        filled = literals[0] + "".join(text + after for text, after in zip(texts, literals[1:], strict=True))
        if all(text.strip() for text in texts):
            return filled
        return re.sub(r"\n{3,}", "\n\n", filled).strip()  # an empty column takes its blank line along

    def _text(self, record: Record, column: str) -> str:
        value = value_of(record, column)
        if value is None:
            if column in self._optional:
                return ""
            raise _missing(record, column)
        word = type_word(value)
        if self._types.setdefault(column, word) != word:
            raise RowError(
                f"expected {self._types[column]} for {column!r} as in the rows before, got {word}; "
                f"{'put it in quotes' if self._types[column] == 'text' else 'write all rows alike'}"
            )
        if isinstance(value, list | tuple):
            return self._from_list(value, column)
        return _scalar(value, column)

    def _from_list(self, values: Sequence[object], column: str) -> str:
        texts = [_scalar(value, column) for value in values]
        if not self._alternatives:
            return ", ".join(texts)
        if not texts:
            raise RowError(f"expected an answer in {column!r}, got an empty list; remove the row", expected=True)
        return texts[0]


def type_word(value: object) -> str:
    """What a value is, in a word for messages."""
    return _TYPE_WORDS.get(type(value), f"a {type(value).__name__}")


def _missing(record: Record, column: str) -> RowError:
    if column in record or column.partition(".")[0] in record:
        return RowError(f"expected a value for {column!r}, got null; fill it in or remove the row", no_answer=True)
    return RowError(f"expected the column {column!r}, got only {listed(record)}; rename or add it")


def _scalar(value: object, column: str) -> str:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(
                f"expected valid Unicode for {column!r}, got half of a surrogate pair at character "
                f"{error.start + 1}; write the character itself or both halves"
            ) from None
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inside = f"name a part of it, such as {column}.{next(iter(value), 'text')}"
        raise RowError(f"expected text for {column!r}, got a mapping; {inside}")
    if value is None or isinstance(value, list | tuple | bytes | bytearray):
        raise RowError(f"expected text for {column!r}, got {type_word(value)} in it; choose another column")
    return str(value)
