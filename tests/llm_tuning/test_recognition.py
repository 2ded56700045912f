from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tuning.formats import Format, to_rows
from llm_tuning.recognition import recognise
from llm_tuning.rows import Conversation, DataError, Example, Text
from llm_tuning.table import Table

WORDS = ["river", "stone", "cloud", "amber", "violet", "falcon", "meadow", "copper", "winter", "lantern", "harbour"]


def sentence(number: int, length: int = 6) -> str:
    """Some free text, another for each number."""
    return (
        " ".join(WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(length)) + f" {number}"
    )


def table(records: Sequence[dict[str, Any]], **rest: Any) -> Table:
    return Table(records, "t.jsonl", "0" * 64, **rest)


def made(count: int = 30, **columns: Any) -> Table:
    """Rows of columns that are functions of the row's number."""
    return table([{name: make(number) for name, make in columns.items()} for number in range(count)])


def turns(number: int, who: str = "role", what: str = "content") -> list[dict[str, str]]:
    names = ("user", "assistant") if who == "role" else ("human", "gpt")
    return [{who: names[0], what: sentence(number)}, {who: names[1], what: sentence(number + 1)}]


def ident(number: int) -> str:
    return f"row-{number}"


KNOWN_SETS = {
    "gsm8k": (
        made(id=ident, question=sentence, answer=sentence, rationale=sentence, final=str),
        Format("prompt_completion", {"prompt": "question", "completion": "answer"}),
    ),
    "banking77": (
        made(100, id=ident, text=sentence, label=lambda n: n % 25, label_name=lambda n: f"class_{n % 25}"),
        Format("text_label", {"text": "text", "label": "label", "label_name": "label_name"}),
    ),
    "e2e": (
        made(mr=sentence, slots=lambda n: {"name": "x", "area": sentence(n)}, ref=sentence, id=ident),
        Format("prompt_completion", {"prompt": "mr", "completion": "ref"}),
    ),
    "alpaca": (
        made(instruction=sentence, input=lambda n: "" if n % 2 else sentence(n), output=sentence, id=ident),
        Format("alpaca", {"instruction": "instruction", "output": "output", "input": "input"}),
    ),
    "dolly": (
        made(instruction=sentence, context=lambda n: "", response=sentence, category=lambda n: f"kind{n % 3}"),
        Format("alpaca", {"instruction": "instruction", "output": "response", "input": "context"}),
    ),
    "preference": (
        made(instruction=sentence, input=sentence, output=sentence, chosen=sentence, rejected=sentence, id=ident),
        Format("preference", {"chosen": "chosen", "rejected": "rejected", "prompt": "{instruction}\n\n{input}"}),
    ),
    "preference with messages": (
        made(prompt=sentence, prompt_id=ident, chosen=turns, rejected=turns, messages=turns),
        Format("preference", {"chosen": "chosen", "rejected": "rejected", "prompt": "prompt"}),
    ),
    "hh-rlhf": (
        made(chosen=sentence, rejected=sentence),
        Format("preference", {"chosen": "chosen", "rejected": "rejected"}),
    ),
    "plain text": (made(text=sentence), Format("text", {"text": "text"})),
    "a web corpus": (
        made(text=sentence, id=ident, dump=lambda n: "CC", url=ident, language=lambda n: "en", token_count=int),
        Format("text", {"text": "text"}),
    ),
    "an encyclopedia": (made(id=str, url=ident, title=sentence, text=sentence), Format("text", {"text": "text"})),
    "wikisql": (
        made(
            id=ident,
            table=ident,
            columns=lambda n: ["a", "b"],
            question=sentence,
            sql=lambda n: f"SELECT {sentence(n)}",
            prompt=lambda n: f"table: a, b\nQ: {sentence(n)}\nA:",
        ),
        Format("prompt_completion", {"prompt": "prompt", "completion": "sql"}),
    ),
    "sql-create-context": (
        made(answer=sentence, question=sentence, context=sentence),
        Format("prompt_completion", {"prompt": "{context}\n\n{question}", "completion": "answer"}),
    ),
    "spider": (
        made(db_id=lambda n: f"db{n % 3}", query=sentence, question=sentence),
        Format("prompt_completion", {"prompt": "question", "completion": "query"}),
    ),
    "messages": (made(messages=turns, source=lambda n: "x"), Format("messages", {"messages": "messages"})),
    "sharegpt": (
        made(id=ident, conversations=lambda n: turns(n, "from", "value")),
        Format("sharegpt", {"conversations": "conversations"}),
    ),
    "squad": (
        made(
            id=ident,
            title=lambda n: f"Title {n % 3}",
            context=sentence,
            question=sentence,
            answers=lambda n: {"text": [sentence(n, 2)], "answer_start": [n]},
        ),
        Format("prompt_completion", {"prompt": "{context}\n\n{question}", "completion": "answers.text"}),
    ),
    "boolq": (
        made(question=sentence, passage=sentence, answer=lambda n: n % 2 == 0),
        Format("prompt_completion", {"prompt": "{passage}\n\n{question}", "completion": "answer"}),
    ),
    "cnn": (
        made(article=sentence, highlights=sentence, id=ident),
        Format("prompt_completion", {"prompt": "article", "completion": "highlights"}),
    ),
    "xsum": (
        made(document=sentence, summary=sentence, id=str),
        Format("prompt_completion", {"prompt": "document", "completion": "summary"}),
    ),
    "humaneval": (
        made(task_id=ident, prompt=sentence, canonical_solution=sentence, test=sentence, entry_point=ident),
        Format("prompt_completion", {"prompt": "prompt", "completion": "canonical_solution"}),
    ),
    "triviaqa": (
        made(question=sentence, question_id=ident, answer=lambda n: {"value": sentence(n, 2), "aliases": ["x"]}),
        Format("prompt_completion", {"prompt": "question", "completion": "answer.value"}),
    ),
    "sentiment140": (
        made(user=lambda n: f"user{n % 9}", date=ident, text=sentence, target=lambda n: n % 2),
        Format("text_label", {"text": "text", "label": "target"}, choices=("0", "1")),
    ),
    "samsum": (
        made(id=ident, dialogue=sentence, summary=sentence),
        Format("prompt_completion", {"prompt": "dialogue", "completion": "summary"}),
    ),
    "nli": (
        made(premise=sentence, hypothesis=lambda n: sentence(n + 1), label=lambda n: n % 3, idx=int),
        Format(
            "text_label",
            {"text": "premise: {premise}\nhypothesis: {hypothesis}", "label": "label"},
            choices=("0", "1", "2"),
        ),
    ),
    "sst2": (
        made(sentence=sentence, label=lambda n: n % 2),
        Format("text_label", {"text": "sentence", "label": "label"}, choices=("0", "1")),
    ),
    "imdb as a table": (
        made(review=sentence, sentiment=lambda n: ("positive", "negative")[n % 2]),
        Format("text_label", {"text": "review", "label": "sentiment"}, choices=("negative", "positive")),
    ),
    "a title and its text": (
        made(title=sentence, content=lambda n: sentence(n + 3), label=lambda n: n % 2),
        Format("text_label", {"text": "title: {title}\ncontent: {content}", "label": "label"}, choices=("0", "1")),
    ),
    "translation": (
        made(id=str, translation=lambda n: {"en": sentence(n), "de": sentence(n + 1)}),
        Format("prompt_completion", {"prompt": "translation.en", "completion": "translation.de"}),
    ),
    "docstrings": (
        made(code=sentence, docstring=sentence),
        Format("prompt_completion", {"prompt": "code", "completion": "docstring"}),
    ),
    "mbpp": (
        made(task_id=int, text=sentence, code=sentence, test_list=lambda n: ["assert f()"]),
        Format("prompt_completion", {"prompt": "text", "completion": "code"}),
    ),
    "openorca": (
        made(id=ident, system_prompt=lambda n: "Be brief.", question=sentence, response=sentence),
        Format("prompt_completion", {"prompt": "question", "completion": "response", "system": "system_prompt"}),
    ),
    "capitals": (
        made(Question=sentence, Answer=sentence),
        Format("prompt_completion", {"prompt": "Question", "completion": "Answer"}),
    ),
    "messages as prompts": (
        made(prompt=lambda n: turns(n)[:1], completion=lambda n: turns(n)[1:]),
        Format("prompt_completion", {"prompt": "prompt", "completion": "completion"}),
    ),
    "unknown names": (
        made(key=lambda n: f"k{n}", plain=sentence, fancy=lambda n: sentence(n + 1), licence=lambda n: "MIT"),
        Format("prompt_completion", {"prompt": "plain", "completion": "fancy"}),
    ),
    "unknown names with classes": (
        made(60, words=sentence, tone=lambda n: ("warm", "cold")[n % 2]),
        Format("text_label", {"text": "words", "label": "tone"}, choices=("cold", "warm")),
    ),
    "an unknown number of a class": (
        made(60, comment_text=sentence, toxic=lambda n: n % 2),
        Format("text_label", {"text": "comment_text", "label": "toxic"}, choices=("0", "1")),
    ),
    "one unknown text": (made(key=ident, poem=sentence, licence=lambda n: "MIT"), Format("text", {"text": "poem"})),
}


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_the_columns_of_known_sets_are_recognised(name: str) -> None:
    source, expected = KNOWN_SETS[name]
    found = recognise(source)
    assert found == expected
    assert found.why
    if name != "hh-rlhf":  # its answers are transcripts, which the sentences here are not
        assert len(to_rows(source, found).rows) == len(source)


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_a_recognised_format_may_as_well_be_given(name: str) -> None:
    source, expected = KNOWN_SETS[name]
    assert recognise(source, expected.kind, expected.columns) == expected
    assert recognise(source, "auto", expected.columns).columns == expected.columns


def test_what_is_not_used_is_said() -> None:
    source, _ = KNOWN_SETS["gsm8k"]
    assert recognise(source).describe() == (
        "prompts and answers: 'question' is given, 'answer' is learnt (known names of columns); "
        "not used: id, rationale, final"
    )


def test_a_document_is_text() -> None:
    assert recognise(table([{"text": "Once."}], documents=True)).describe() == (
        "plain text in 'text', all of it is learnt (a text file)"
    )


def test_one_column_may_be_given_and_the_rest_recognised() -> None:
    source, _ = KNOWN_SETS["gsm8k"]
    found = recognise(source, columns={"completion": "final"})
    assert found == Format("prompt_completion", {"prompt": "question", "completion": "final"})
    assert "partly set in the config" in found.describe()


def test_templates_are_taken_as_they_are() -> None:
    source, _ = KNOWN_SETS["e2e"]
    columns = {"prompt": "Describe {slots.area}:\n{mr}", "completion": "ref"}
    assert recognise(source, columns=columns) == Format("prompt_completion", columns)
    assert to_rows(source, recognise(source, columns=columns)).rows[0] == Example(
        f"Describe {sentence(0)}:\n{sentence(0)}", sentence(0)
    )


def test_another_format_may_be_asked_for() -> None:
    source, _ = KNOWN_SETS["gsm8k"]
    assert recognise(source, "text", {"text": "answer"}) == Format("text", {"text": "answer"})
    source, _ = KNOWN_SETS["nli"]
    assert recognise(source, columns={"prompt": "premise", "completion": "hypothesis"}).kind == "prompt_completion"
    shared, _ = KNOWN_SETS["sharegpt"]
    as_messages = recognise(shared, "messages")
    assert as_messages == Format("messages", {"messages": "conversations"})
    assert isinstance(to_rows(shared, as_messages).rows[0], Conversation)


def test_a_prompt_that_would_lack_its_choices_is_not_guessed() -> None:
    source = made(question=sentence, choices=lambda n: ["a", "b"], answer=lambda n: n % 2)
    with pytest.raises(DataError, match=r"'choices': a list \['a', 'b'\].*; say under data: what they mean") as caught:
        recognise(source)
    assert r'columns: {prompt: "{question}\n\n{choices}", completion: "answer"}' in str(caught.value)


def test_several_texts_of_unknown_names_are_shown_with_the_lines_to_write() -> None:
    source = made(one=sentence, two=lambda n: sentence(n + 1), three=lambda n: sentence(n + 2), number=int)
    with pytest.raises(DataError) as caught:
        recognise(source)
    message = str(caught.value)
    assert "'one': 'river" in message
    assert "'number': 0" in message
    assert r'columns: {prompt: "{one}\n\n{two}", completion: "three"} or columns: {text: "one"}' in message


def test_numbers_alone_are_nothing_to_learn() -> None:
    with pytest.raises(DataError, match=r"t\.jsonl: expected columns that are known, got 'x': 0; 'y': 0; say under"):
        recognise(made(x=int, y=int))


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("alpca", {}, r"data\.format: expected auto or a known format, got 'alpca'; did you mean 'alpaca'"),
        (
            "auto",
            {"promt": "question"},
            r"data\.columns: expected the name of a role, got 'promt'; did you mean 'prompt'",
        ),
        (
            "auto",
            {"prompt": "qestion"},
            r"data\.columns: expected the name of a column, got 'qestion'; use one of 'id'",
        ),
        ("auto", {"prompt": "{qestion}"}, r"data\.columns: expected names of columns in '\{qestion\}'"),
        ("auto", {"prompt": "question", "label": "answer"}, "expected the roles of one format, got 'prompt', 'label'"),
        ("text", {"prompt": "question"}, r"expected the name of a role, got 'prompt'; use one of 'text'"),
        ("messages", {}, r"expected the columns of the format messages, got .*columns: \{messages: "),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        recognise(KNOWN_SETS["gsm8k"][0], kind, columns)


def test_names_of_classes_come_from_the_source_or_from_beside_the_file(tmp_path: Path) -> None:
    records = [{"text": sentence(number), "label": number % 2} for number in range(10)]
    columns = {"text": "text", "label": "label"}
    named = Format("text_label", columns, ("bad", "good"), ("bad", "good"))
    assert recognise(table(records, class_names={"label": ("bad", "good")})) == named
    (tmp_path / "labels.json").write_text(json.dumps(["bad", "good"]))
    assert recognise(table(records, path=tmp_path / "t.jsonl")) == named
    as_text = [{**record, "label": str(record["label"])} for record in records]  # as CSV has it
    assert recognise(table(as_text, path=tmp_path / "t.csv")) == named
    assert to_rows(table(as_text), named).rows[1] == Example(
        f"{sentence(1)}\n\nClassify this text as one of: bad, good.", "good"
    )
    (tmp_path / "labels.json").write_text(json.dumps([f"class {number}" for number in range(30)]))
    assert recognise(table(records, path=tmp_path / "t.jsonl")).choices == ()


def test_more_than_twenty_classes_are_not_listed() -> None:
    assert len(recognise(made(200, text=sentence, label=lambda n: f"l{n % 20}")).choices) == 20
    assert recognise(made(200, text=sentence, label=lambda n: f"l{n % 21}")).choices == ()


def test_classes_that_are_lists_are_listed_one_by_one() -> None:
    source = made(text=sentence, labels=lambda n: [n % 2, 2])
    assert recognise(source).choices == ("0", "1", "2")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "en", "de", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
COLUMN_NAMES = st.sampled_from(
    (
        *("prompt", "completion", "chosen", "rejected", "messages", "text", "label", "instruction", "output"),
        *("translation", "question", "context", "answers", "choices", "id", "", "a.b", "{x}", "system", "label_name"),
    )
)


@given(st.lists(st.dictionaries(COLUMN_NAMES, JSON_VALUES, max_size=5), min_size=1, max_size=4))
@settings(max_examples=300)
def test_whatever_a_file_holds_it_is_rows_or_a_clear_error(records: list[dict[str, Any]]) -> None:
    source = table(records)
    try:
        rows = to_rows(source, recognise(source)).rows
    except DataError as error:
        message = str(error)
    else:
        message = "expected nothing; got nothing"
        assert all(isinstance(row, Example | Conversation | Text) for row in rows)
    assert "expected" in message
    assert ";" in message  # a remedy
