from __future__ import annotations

import pytest

from llm_tuning.rows import DataError
from llm_tuning.template import Filler, RowError, Template

KNOWN = ("context", "question", "answers", "answers.text", "odd {name}")


def fill(text: str, record: dict[str, object], **how: object) -> str:
    return Filler(Template.parse(text, KNOWN), **how)(record)


def test_a_column_or_a_text_with_columns() -> None:
    record = {"context": "C", "question": "Q?", "answers": {"text": ["yes", "no"]}, "odd {name}": "odd"}
    assert fill("question", record) == "Q?"
    assert fill("{context}\n\n{question}", record) == "C\n\nQ?"
    assert fill("{{json}} {question}", record) == "{json} Q?"
    assert fill("odd {name}", record) == "odd"
    assert fill("answers.text", record, alternatives=True) == "yes"
    assert fill("{answers.text}", record) == "yes, no"


def test_values_are_not_read_as_templates() -> None:
    assert fill("{context} {question}", {"context": "{question}", "question": "{0.__class__}"}) == (
        "{question} {0.__class__}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qestion", "expected the name of a column, got 'qestion'; use one of 'context'"),
        ("{qestion}", "expected names of columns in '{qestion}', got 'qestion'"),
        ("{question.__class__}", r"got 'question\.__class__'"),
        ("{question!r}", "only names may stand in braces"),
        ("{question:>9}", "only names may stand in braces"),
        ("{question", r"expected '}' before end of string; write \{name\}"),
        ("{}", "got ''"),
        ("{{question}}", "expected a text with a column in braces"),
    ],
)
def test_what_is_no_template_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("{q", r"\{q").replace("n}'", r"n\}'")):
        Template.parse(text, KNOWN)


def test_an_empty_column_takes_its_blank_line_along() -> None:
    assert fill("{context}\n\n{question}", {"context": "", "question": "Q"}) == "Q"
    assert fill("A\n\n{context}\n\n{question}", {"context": "", "question": "Q"}) == "A\n\nQ"
    assert fill("{context}\n\n{question}", {"question": "Q"}, optional=("context",)) == "Q"


@pytest.mark.parametrize(
    ("value", "text"),
    [("007", "007"), (7, "7"), (0.5, "0.5"), (True, "true"), (["a", "b"], "a, b"), ([1, 2], "1, 2"), ("", "")],
)
def test_values_become_text(value: object, text: str) -> None:
    assert fill("question", {"question": value}) == text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"context": "x"}, "expected the column 'question', got only 'context'; rename or add it"),
        ({"question": None}, "expected a value for 'question', got null"),
        ({"question": {"en": "x"}}, r"got a mapping; name a part of it, such as question\.en"),
        ({"question": b"x"}, "expected text for 'question', got a bytes"),
        ({"question": [["x"]]}, "got a list in it"),
        ({"question": "\ud800"}, "expected valid Unicode for 'question', got half of a surrogate pair at character 1"),
    ],
)
def test_values_that_are_no_text_are_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(RowError, match=message):
        fill("question", record)


def test_a_column_that_changes_its_type_is_refused() -> None:
    filler = Filler(Template.parse("question", KNOWN))
    assert filler({"question": "seven"}) == "seven"
    with pytest.raises(RowError, match="expected text for 'question' as in the rows before, got a number; put it in"):
        filler({"question": 7})
    numbers = Filler(Template.parse("question", KNOWN))
    assert [numbers({"question": value}) for value in (1, 2.5)] == ["1", "2.5"]


def test_an_empty_list_of_alternatives_is_no_answer() -> None:
    with pytest.raises(RowError) as caught:
        fill("answers.text", {"answers": {"text": []}}, alternatives=True)
    assert caught.value.expected
    assert caught.value.no_answer
