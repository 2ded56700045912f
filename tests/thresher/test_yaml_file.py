from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from thresher.yaml_file import YamlError, read_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def refusal(file: Path) -> str:
    with pytest.raises(YamlError) as caught:
        read_yaml(file)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    assert ";" in message
    return message.replace(str(file), "FILE")


def test_reads_what_pyyaml_reads(file: Path) -> None:
    text = "a: {b: [1, 2.5, no]}\nc: 1e-4\nd: &d {e: f}\ng: *d\nh: ü\n"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == yaml.safe_load(text)


def test_an_empty_file_is_none(file: Path) -> None:
    file.write_text("# nothing\n")
    assert read_yaml(file) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "FILE:3: a: expected the key once, got it in line 1 too; remove one of them"),
        ("a:\n  b: {c: 1, c: 2}\n", "FILE:2: a.b.c: expected the key once, got it in line 2 too; remove one of them"),
        ("a:\n- b: 1\n  b: 2\n", "FILE:3: a.0.b: expected the key once, got it in line 2 too; remove one of them"),
    ],
)
def test_a_key_twice(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    assert refusal(file) == expected


def test_the_same_key_in_different_places_is_fine(file: Path) -> None:
    file.write_text("a: {b: 1}\nb: {b: 1, a: {b: 2}}\n")
    assert read_yaml(file) == {"a": {"b": 1}, "b": {"b": 1, "a": {"b": 2}}}


def test_a_circle_of_aliases_ends(file: Path) -> None:
    file.write_text("a: &a {b: *a}\n")
    content = read_yaml(file)
    assert isinstance(content, dict)
    assert content["a"]["b"] is content["a"]


def test_an_error_is_told_with_its_place(file: Path) -> None:
    file.write_text("a: 1\nb: [1, 2\nc: 3\n")
    assert refusal(file).startswith("FILE:3:2: expected YAML, got an error while parsing a flow sequence")


def test_no_code_is_run(file: Path) -> None:
    file.write_text("a: !!python/object/apply:os.getcwd []\n")
    assert "could not determine a constructor for the tag" in refusal(file)


def test_missing_and_undecodable_files(file: Path) -> None:
    assert refusal(file) == "expected a config file at FILE, got No such file or directory; check the path"
    file.write_bytes(b"a: \xff")
    assert refusal(file) == "FILE: expected UTF-8 text, got byte 0xff at offset 3; save it as UTF-8"


@given(text=st.text(st.sampled_from("ab:{}[],&*!|>-?'\"#%@ \n\t\x00é"), max_size=40))
def test_whatever_is_in_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / "file.yaml"
    file.write_bytes(text.encode())
    message = ""
    try:
        content = read_yaml(file)
    except YamlError as error:
        message = str(error)
    assert "expected" in message if message else content == yaml.safe_load(text)
