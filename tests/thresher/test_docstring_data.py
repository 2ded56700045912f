from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from thresher.docstring_data import INSTRUCTION, DocstringDataError, build

ROOT = Path(__file__).parents[2]
SIZES = {"train": 300, "validation": 40, "test": 40}
Rows = list[dict[str, str]]


def read(directory: Path) -> dict[str, Rows]:
    texts = {name: (directory / f"{name}.jsonl").read_text(encoding="utf-8") for name in SIZES}
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the Python that runs the tests."""
    directory = tmp_path_factory.mktemp("made") / "docstrings"
    result = build(directory, **SIZES)
    assert result.created
    assert result.rows == SIZES
    return directory


class TestOfThisPython:
    def test_the_directory_is_complete(self, made: Path) -> None:
        names = sorted(file.name for file in made.iterdir())
        assert names == ["README.md", "dataset.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
        assert {name: len(rows) for name, rows in read(made).items()} == SIZES
        readme = (made / "README.md").read_text()
        assert "PSF License" in readme
        assert "| validation.jsonl | 40 |" in readme
        assert [entry.name for entry in made.parent.iterdir()] == ["docstrings"]

    def test_nothing_leaks_between_the_splits(self, made: Path) -> None:
        rows = [row for split in read(made).values() for row in split]
        owners = {row["module"]: name for name, split in read(made).items() for row in split}
        assert all(owners[row["module"]] == name for name, split in read(made).items() for row in split)
        for key in ("prompt", "completion", "id"):
            assert len({row[key] for row in rows}) == len(rows)

    def test_rows_are_functions_and_their_sentences(self, made: Path) -> None:
        for row in (row for split in read(made).values() for row in split):
            assert row["prompt"].startswith(INSTRUCTION)
            source = row["prompt"].removeprefix(INSTRUCTION)
            assert len(source) <= 300
            (function,) = ast.parse(source).body
            assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            assert ast.get_docstring(function) is None
            assert row["id"].endswith("." + function.name)
            assert 3 <= len(row["completion"].split()) <= 20
            assert row["completion"].isascii()
            assert row["completion"].endswith(".")
            assert row["completion"] not in source

    def test_held_out_sets_hold_many_kinds_of_code(self, made: Path) -> None:
        for name in ("validation", "test"):
            assert len({row["module"] for row in read(made)[name]}) >= 5


@pytest.fixture
def stdlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of a few files, with which building takes no time."""
    root = tmp_path / "lib"
    names = [f"module{index}" for index in range(8)]
    for name in names:
        write(root / f"{name}.py", f"def f(a):\n    'Do {name} work.'\n    return a + {name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({*names, "extra", "_pyextra", "package"}))
    return root


def write(path: Path, *functions: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(functions), encoding="utf-8")


def completions(directory: Path) -> set[str]:
    build(directory, train=50, validation=1, test=1)
    return {row["completion"] for split in read(directory).values() for row in split}


@pytest.mark.parametrize(
    ("function", "completion"),
    [
        ("def g(a):\n    'Give back the number.'\n    return a", "Give back the number."),
        ("class C:\n    async def g(a):\n        'Give back the number.'\n        return a", "Give back the number."),
        ("if True:\n    def g(a):\n        'Give back the number.'\n        return a", "Give back the number."),
        ("def g(a):\n    '''Give back the number.\n\n    At once.'''\n    return a", "Give back the number."),
        ("def g(a):\n    '''Give back the number. Or\n    not.'''\n    return a", None),
        ("def g(a):\n    'Give back.'\n    return a", None),
        ("def g(a):\n    'give back the number.'\n    return a", None),
        ("def g(a):\n    'Give back the number'\n    return a", None),
        ("def g(a):\n    'Give back the größe.'\n    return a", None),
        ("def g(a):\n    'See https://x.org for it.'\n    return a", None),
        (f"def g(a):\n    'Give {'a ' * 20}number.'\n    return a", None),
        ("def g(a): 'Give back the number.'; return a", None),
        ("def g(a):\n    'Give back the number.'", None),
        (f"def g(a):\n    'Give back the number.'\n    return '{'a' * 300}'", None),
    ],
)
def test_which_functions_are_taken(stdlib: Path, tmp_path: Path, function: str, completion: str | None) -> None:
    write(stdlib / "extra.py", function)
    extra = {text for text in completions(tmp_path / "out") if not text.startswith("Do module")}
    assert extra == ({completion} if completion else set())


def test_the_docstring_is_cut_out_and_the_rest_stays(stdlib: Path, tmp_path: Path) -> None:
    write(
        stdlib / "extra.py",
        "class C:\n    @property\n    def g(self):\n        '''Give back the number.\n\n        Now.\n        '''\n\n"
        "        # why\n        return self.a",
    )
    build(tmp_path / "out", train=50, validation=1, test=1)
    rows = [row for split in read(tmp_path / "out").values() for row in split]
    (row,) = (row for row in rows if row["module"] == "extra")
    assert row["prompt"] == INSTRUCTION + "@property\ndef g(self):\n    # why\n    return self.a"
    assert row["id"] == "extra.C.g"


def test_only_the_library_itself_is_read(stdlib: Path, tmp_path: Path) -> None:
    function = "def g(a):\n    'Give back the number.'\n    return a"
    for place in ("site-packages/extra.py", "package/test/extra.py", "package/idle_test/extra.py", "stranger.py"):
        write(stdlib / place, function)
    write(stdlib / "package" / "broken.py", "def g(:")
    (stdlib / "package" / "binary.py").write_bytes(b"\xff\xfe\x00")
    assert "Give back the number." not in completions(tmp_path / "out")
    write(stdlib / "package" / "inner.py", function)
    assert "Give back the number." in completions(tmp_path / "out2")


def test_twins_are_one_module(stdlib: Path, tmp_path: Path) -> None:
    write(stdlib / "extra.py", "def g(a):\n    'Give back the number.'\n    return a")
    write(stdlib / "_pyextra.py", "def g(b):\n    'Give back that number.'\n    return b")
    build(tmp_path / "out", train=50, validation=1, test=1)
    rows = [row for split in read(tmp_path / "out").values() for row in split]
    assert {row["id"]: row["module"] for row in rows if "extra" in row["id"]} == {
        "extra.g": "extra",
        "_pyextra.g": "extra",
    }


def test_a_second_build_does_nothing(stdlib: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "out", train=50, validation=1, test=1)
    before = {file: file.stat().st_mtime_ns for file in first.directory.iterdir()}
    shutil.rmtree(stdlib)
    second = build(tmp_path / "out", train=50, validation=1, test=1)
    assert (first.created, second.created) == (True, False)
    assert second.rows == first.rows
    assert {file: file.stat().st_mtime_ns for file in first.directory.iterdir()} == before
    assert "already there, nothing done" in second.describe()


def test_what_is_there_is_never_overwritten(stdlib: Path, tmp_path: Path) -> None:
    directory = build(tmp_path / "out", train=50, validation=1, test=1).directory
    with pytest.raises(
        DocstringDataError, match=r"expected a data set made with \{.*'train': 51.*'train': 50.*; choose"
    ):
        build(directory, train=51, validation=1, test=1)
    with (directory / "train.jsonl").open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(DocstringDataError, match=r"expected .*train\.jsonl as it was made, got it missing or changed"):
        build(directory, train=50, validation=1, test=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text("precious")
    with pytest.raises(DocstringDataError, match=r"expected an empty directory or this data set, got .*mine"):
        build(tmp_path / "mine")
    assert (tmp_path / "mine" / "train.jsonl").read_text() == "precious"


def test_an_empty_directory_is_filled(stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert build(tmp_path / "out", train=50, validation=1, test=1).created


def test_the_seed_decides(stdlib: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(tmp_path / name, seed=seed, train=50, validation=1, test=1)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert read(tmp_path / "a") != read(tmp_path / "c")


def test_too_little_text_is_an_error(stdlib: Path, tmp_path: Path) -> None:
    with pytest.raises(DocstringDataError, match=r"expected 40 (test|validation) examples, got \d+ from 8 modules"):
        build(tmp_path / "out", train=1, validation=40, test=40)
    with pytest.raises(DocstringDataError, match="expected train to be at least 1, got 0"):
        build(tmp_path / "out", train=0)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DocstringDataError, match=r"expected to write .*free some disk space or choose another"):
        build(tmp_path / "file" / "out", train=50, validation=1, test=1)


def test_the_script_says_what_it_did(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "make_docstring_data.py"), "--out", str(tmp_path / "out")]
    sizes = ["--train", "30", "--validation", "10", "--test", "10", "--max-source-chars", "200"]

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*script, *options], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": "."})

    assert "out: 30 train, 10 validation, 10 test examples\n" in call(*sizes).stdout
    assert "already there, nothing done" in call(*sizes).stdout
    refused = call(*sizes, "--seed", "3")
    assert refused.returncode == 2
    assert "choose another directory, or remove this one" in refused.stderr
