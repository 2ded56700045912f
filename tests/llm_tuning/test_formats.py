from __future__ import annotations

from typing import Any

import pytest

from llm_tuning.formats import FORMAT_KINDS, ROLES, Format, class_name, columns_line, to_rows
from llm_tuning.rows import Conversation, DataError, Example, Text, Turn
from llm_tuning.table import Table

PAIR = Format("prompt_completion", {"prompt": "prompt", "completion": "completion"})
ASKED, SAID = Turn("user", "Hi"), Turn("assistant", "Hello")


def table(*records: dict[str, Any], lines: bool = True) -> Table:
    return Table(records, "t.jsonl", "0" * 64, lines=range(1, len(records) + 1) if lines else None)


def rows(form: Format, *records: dict[str, Any], **how: Any) -> list[object]:
    return list(to_rows(table(*records), form, **how).rows)


def test_prompts_and_completions_and_the_rest_is_ignored() -> None:
    assert rows(PAIR, {"prompt": "a", "completion": "b", "id": 7}, {"completion": "ü", "prompt": ""}) == [
        Example("a", "b"),
        Example("", "ü"),
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "response": "b"}, "2: expected the column 'completion', got only 'prompt', 'response'"),
        ({"prompt": None, "completion": "b"}, "2: expected a value for 'prompt', got null; fill it in"),
        ({"prompt": "a", "completion": 3}, "2: expected text for 'completion' as in the rows before, got a number"),
        ({"prompt": "a", "completion": " \n"}, "2: expected a completion, got an empty one; fill it in or remove"),
        ({"prompt": "\ud800", "completion": "b"}, "2: expected valid Unicode for 'prompt'"),
    ],
)
def test_a_bad_row_is_named(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:" + message):
        rows(PAIR, {"prompt": "a", "completion": "b"}, record)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(
        DataError, match=r"t\.jsonl: expected the name of a column, got 'prompt'; use one of 'question'"
    ):
        rows(PAIR, {"question": "a"})


def test_rows_without_an_answer_are_left_out_where_the_user_cannot_mend_them() -> None:
    records = [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": "c"}]
    converted = to_rows(table(*records, lines=False), PAIR, lenient=True)
    assert converted.rows == [Example("b", "c")]
    assert converted.records == [1]
    assert converted.notes == (
        "t.jsonl: 1 of 2 rows lack a prompt or an answer and are left out (the first is t.jsonl, row 1)",
    )
    with pytest.raises(DataError, match="expected at least one row with something to learn, got none in 1"):
        to_rows(table(records[0]), PAIR, lenient=True)


@pytest.mark.parametrize("record", [{"prompt": "a", "completion": None}, {"prompt": None, "completion": "c"}])
def test_so_are_rows_with_null(record: dict[str, Any]) -> None:
    whole = {"prompt": "b", "completion": "c"}
    converted = to_rows(table(whole, record, lines=False), PAIR, lenient=True)
    assert converted.rows == [Example("b", "c")]
    with pytest.raises(DataError, match="got null; fill it in or remove the row"):
        to_rows(table(whole, record), PAIR)


def test_so_are_rows_without_a_class() -> None:
    form = Format("text_label", {"text": "text", "label": "label"}, ("no", "yes"))
    records = [{"text": "a", "label": 1}, {"text": "b", "label": -1}, {"text": "c", "label": None}]
    assert to_rows(table(*records), form, lenient=True).records == [0]
    with pytest.raises(DataError, match=r"got -1 .this often marks hidden labels"):
        to_rows(table(*records), form)


def test_of_several_answers_the_first_is_learnt_and_rows_without_any_are_left_out() -> None:
    form = Format("prompt_completion", {"prompt": "{context}\n\n{question}", "completion": "answers.text"})
    records = [
        {"context": "C", "question": "Q", "answers": {"text": ["one", "two"]}},
        {"context": "C", "question": "R", "answers": {"text": []}},
    ]
    converted = to_rows(table(*records), form)
    assert converted.rows == [Example("C\n\nQ", "one")]
    assert "1 of 2 rows lack a prompt or an answer" in converted.notes[0]


def test_a_system_column_makes_a_system_turn() -> None:
    form = Format("prompt_completion", {**PAIR.columns, "system": "system"})
    assert rows(
        form, {"system": "Be brief.", "prompt": "Hi", "completion": "Hello"}, {"prompt": "a", "completion": "b"}
    ) == [
        Conversation((Turn("system", "Be brief."), ASKED, SAID)),
        Example("a", "b"),
    ]


def test_prompts_and_completions_may_be_messages() -> None:
    record = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello"}],
    }
    assert rows(PAIR, record) == [Conversation((ASKED, SAID))]


def test_instructions_with_and_without_input() -> None:
    form = Format("alpaca", {"instruction": "instruction", "input": "input", "output": "output"})
    assert rows(
        form,
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Rest.", "input": "", "output": "zzz"},
        {"instruction": "Stop.", "input": None, "output": "ok"},
    ) == [Example("Add.\n\n1 and 2", "3"), Example("Rest.", "zzz"), Example("Stop.", "ok")]
    with pytest.raises(DataError, match=r"t\.jsonl:1: expected a value for 'instruction', got null"):
        rows(form, {"instruction": None, "input": "1 and 2", "output": "3"})
    alone = Format("alpaca", {"instruction": "instruction", "output": "output"})
    assert rows(alone, {"instruction": "Add.", "output": "3"}) == [Example("Add.", "3")]


MESSAGES = Format("messages", {"messages": "messages"})


@pytest.mark.parametrize(("user", "assistant"), [("user", "assistant"), ("human", "gpt"), ("User", "bot")])
@pytest.mark.parametrize(("who", "what"), [("role", "content"), ("from", "value")])
def test_messages_under_all_their_names(user: str, assistant: str, who: str, what: str) -> None:
    messages = [{who: "system", what: "S"}, {who: user, what: "Hi"}, {who: assistant, what: "Hello"}]
    for form in (MESSAGES, Format("sharegpt", {"conversations": "messages"})):
        assert rows(form, {"messages": messages}) == [Conversation((Turn("system", "S"), ASKED, SAID))]


def test_parts_of_a_message_are_joined() -> None:
    content = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Hello"}]
    assert rows(MESSAGES, {"messages": messages}) == [Conversation((ASKED, SAID))]


def test_what_follows_the_last_answer_is_left_out_with_a_note() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    converted = to_rows(table({"messages": [*turns, {"role": "user", "content": "Bye"}]}), MESSAGES)
    assert converted.rows == [Conversation((ASKED, SAID))]
    assert converted.notes == ("t.jsonl: 1 conversations end with a turn of the user, which is left out",)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "1: expected a list of messages with a role and a content, got none"),
        ([], "got an empty list"),
        ("Hi", "got text"),
        (["Hi"], "message 1: expected a mapping with a role and a content, got text"),
        ([{"role": "user", "content": "Hi"}], "expected a turn of the assistant, got none"),
        ([{"role": "tool", "content": "Hi"}], r"message 1: expected a role out of user, .*got 'tool'.*not supported"),
        ([{"content": "Hi"}], "message 1: expected a role .*got None"),
        ([{"role": "user", "content": 3}], "message 1: expected text as its content, got a number"),
        ([{"role": "user", "content": None}], "message 1: expected text as its content, got none"),
        ([{"role": "assistant", "content": " "}], "message 1: expected an answer, got an empty one"),
        ([{"role": "assistant", "content": "Hi", "weight": 0}], "message 1: .*got one of weight 0"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1: expected text, got parts of another kind"),
        ([{"role": "user", "content": "\ud800"}], "message 1: expected valid Unicode"),
    ],
)
def test_broken_conversations_are_refused(messages: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows(MESSAGES, {"messages": messages})


def test_of_a_preference_the_chosen_answer_is_learnt() -> None:
    form = Format("preference", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"})
    assert rows(form, {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}) == [Example("Hi", "Hello")]
    whole = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert rows(form, {"prompt": "Hi", "chosen": whole}) == [Conversation((ASKED, SAID))]
    assert rows(form, {"prompt": whole[:1], "chosen": whole[1:]}) == [Conversation((ASKED, SAID))]
    assert rows(form, {"prompt": "Hi", "chosen": whole[1:]}) == [Example("Hi", "Hello")]
    assert "the rejected answers are not trained on" in form.describe()


def test_a_preference_without_a_prompt_is_a_transcript() -> None:
    form = Format("preference", {"chosen": "chosen", "rejected": "rejected"})
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Bye:\n\nbye"
    assert rows(form, {"chosen": text}) == [
        Conversation((ASKED, SAID, Turn("user", "Bye"), Turn("assistant", "Bye:\n\nbye")))
    ]
    with pytest.raises(DataError, match="expected a prompt beside the chosen answer, or a conversation with Human:"):
        rows(form, {"chosen": "Hello"})


def test_blank_texts_are_left_out_with_a_note() -> None:
    form = Format("text", {"text": "text"})
    converted = to_rows(table({"text": "One."}, {"text": " \n"}, {"text": None}, {"text": "Two."}), form)
    assert converted.rows == [Text("One."), Text("Two.")]
    assert converted.records == [0, 3]
    assert converted.notes == ("t.jsonl: 2 of 4 rows are blank and are left out (the first is t.jsonl:2)",)


def test_a_prompt_lists_classes_if_they_are_few() -> None:
    columns = {"text": "text", "label": "label"}
    few = Format("text_label", columns, class_names=("bad", "good"), choices=("bad", "good"))
    assert rows(few, {"text": "Nice!", "label": 1}) == [
        Example("Nice!\n\nClassify this text as one of: bad, good.", "good")
    ]
    many = Format("text_label", columns)
    assert rows(many, {"text": "Nice!", "label": "007"}) == [
        Example("Nice!\n\nClassify this text. Answer with the name of its class only.", "007")
    ]
    named = Format("text_label", {**columns, "label_name": "name"}, class_names=("bad", "good"))
    assert rows(named, {"text": "Nice!", "label": 1, "name": "fine"})[0] == Example(
        "Nice!\n\nClassify this text. Answer with the name of its class only.", "fine"
    )
    lists = [row.completion for row in rows(few, {"text": "x", "label": [0, 1]})]  # type: ignore[attr-defined]
    assert lists == ["bad, good"]


def test_classes_are_named_by_number() -> None:
    assert [class_name(label, ("no", "yes")) for label in (0, "1", "yes")] == ["no", "yes", "yes"]
    for wrong in (2, "maybe", -1, None):
        with pytest.raises(DataError, match="expected a class from 0 to 1, got "):
            class_name(wrong, ("no", "yes"))
    with pytest.raises(DataError, match="hidden labels"):
        rows(Format("text_label", {"text": "t", "label": "l"}, ("a", "b")), {"t": "x", "l": -1})


def test_a_format_describes_itself() -> None:
    form = Format(
        "prompt_completion", {"prompt": "question", "completion": "answer"}, why="known names", unused=("id",)
    )
    assert form.describe() == (
        "prompts and answers: 'question' is given, 'answer' is learnt (known names); not used: id"
    )
    for kind in FORMAT_KINDS:
        columns = {role: role for role in ROLES[kind].required}
        assert all(name in Format(kind, columns).describe() for name in list(columns)[-1:])


def test_what_decides_the_rows_is_the_identity() -> None:
    assert PAIR.identity() == Format(PAIR.kind, dict(PAIR.columns), why="other words", unused=("id",)).identity()
    assert PAIR.identity() != Format("text_label", {"text": "a", "label": "b"}, choices=("x",)).identity()


def test_the_line_to_write_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    columns = {"prompt": "{a}\n\n{b}", "completion": "c: d"}
    assert yaml.safe_load(columns_line(columns)) == {"columns": columns}
