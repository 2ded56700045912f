from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm_tuning.examples import DataError, Example, make_renderer, read_examples

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
EXAMPLE = Example("Add 1 and 2", "3")


def make_tokenizer(chat_template: str | None = None, eos_token: str | None = "</s>") -> PreTrainedTokenizerFast:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "</s>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token)
    wrapped.chat_template = chat_template
    return wrapped


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_reads_prompts_and_completions_and_ignores_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.jsonl", {"prompt": "a", "completion": "b", "id": 7}, "", {"completion": "ü", "prompt": ""}
    )
    assert read_examples(path) == [Example("a", "b"), Example("", "ü")]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "one\u2028two", "completion": "x\x85"}, ensure_ascii=False)
    assert read_examples(write(tmp_path / "t.jsonl", row)) == [Example("one\u2028two", "x\x85")]


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}\r\n{"prompt": "c", "completion": "d"}\r\n')
    assert read_examples(path) == [Example("a", "b"), Example("c", "d")]


def test_a_missing_file_names_the_near_ones(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"prompt": "a", "completion": "b"})
    with pytest.raises(DataError, match=r"expected a data file at .*trian\.jsonl, got none; did you mean train\.jsonl"):
        read_examples(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="nowhere does not exist either"):
        read_examples(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match=r"expected a file, got the directory .*train\.jsonl"):
        read_examples(tmp_path)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{'prompt': 1}", r"t\.jsonl:2: expected one JSON object per line.*got \"\{'prompt'"),
        (["a", "b"], r"t\.jsonl:2: .*got a list"),
        (
            {"prompt": "a", "response": "b"},
            r"2: expected the keys .*\['prompt', 'response'\]; rename or add 'completion'",
        ),
        ({"prompt": None, "completion": "b"}, "2: expected text for 'prompt', got NoneType"),
        ({"prompt": "a", "completion": 3}, "2: expected text for 'completion', got int"),
        ({"prompt": "a", "completion": " \n"}, "2: expected a completion, got an empty one"),
        ('{"prompt": "\\ud800", "completion": "b"}', "2: expected valid Unicode for 'prompt'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, second_line: object, message: str) -> None:
    path = write(tmp_path / "t.jsonl", {"prompt": "a", "completion": "b"}, second_line)
    with pytest.raises(DataError, match=message):
        read_examples(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected at least one example, got an empty file"):
        read_examples(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"prompt": "Käse", "completion": "b"}'.encode(encoding))
    with pytest.raises(DataError, match=r"t\.jsonl:1: expected UTF-8 text, got byte 0x(e4|ff|fe) at column"):
        read_examples(path)


def test_a_template_gives_prompt_and_answer_with_its_end_of_turn() -> None:
    text = make_renderer(make_tokenizer(CHATML))(EXAMPLE)
    assert text.prompt == "<|im_start|>user\nAdd 1 and 2<|im_end|>\n<|im_start|>assistant\n"
    assert text.answer == "3<|im_end|>"  # without the line break that the template puts after it
    assert text.prompt[text.head_characters : len(text.prompt) - text.tail_characters] == "Add 1 and 2"


def test_the_system_text_is_the_templates_own_unless_given() -> None:
    tokenizer = make_tokenizer(DEFAULT_SYSTEM)
    assert make_renderer(tokenizer)(EXAMPLE).prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert make_renderer(tokenizer, "Add.")(EXAMPLE).prompt.startswith("<|im_start|>system\nAdd.<|im_end|>\n")
    assert make_renderer(tokenizer, "")(EXAMPLE).prompt.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user")


def test_a_template_without_end_of_turn_gets_the_end_of_text() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert make_renderer(make_tokenizer(template))(EXAMPLE).answer == " 3</s>"


def test_a_template_that_rewrites_the_prompt_falls_back_to_the_completion() -> None:
    template = CHATML.replace("<|im_start|>{{", "<|im_start|>{{ messages|length }}{{")
    text = make_renderer(make_tokenizer(template))(EXAMPLE)
    assert text.prompt.startswith("<|im_start|>1user")
    assert text.answer == "3</s>"


def test_a_template_that_trims_still_finds_its_frame() -> None:
    template = CHATML.replace("m.content", "m.content | trim")
    text = make_renderer(make_tokenizer(template))(Example("  Add  ", " 3 "))
    assert text.prompt[text.head_characters : len(text.prompt) - text.tail_characters] == "Add"
    assert text.answer == "3<|im_end|>"


def test_a_template_that_refuses_a_system_turn_says_so() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    with pytest.raises(DataError, match=r"accept the turns system, user, got: no system role; .*remove `system`"):
        make_renderer(make_tokenizer(template), "Add.")(EXAMPLE)


def test_without_a_template_prompt_and_completion_are_plain() -> None:
    text = make_renderer(make_tokenizer())(EXAMPLE)
    assert (text.prompt, text.answer) == ("Add 1 and 2", "3</s>")
    with pytest.raises(DataError, match="expected a tokenizer with a chat template for a system text"):
        make_renderer(make_tokenizer(), "Add.")


def test_an_answer_must_be_able_to_end() -> None:
    with pytest.raises(DataError, match="expected a tokenizer with an end-of-text token"):
        make_renderer(make_tokenizer(eos_token=None))
