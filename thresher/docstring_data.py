"""A small real data set that needs no network: functions of the Python standard library and their docstrings.

Every Python installation carries it. The prompt is the source of a function without its docstring, the
completion is the docstring's first line. The splits are made by module, so that nothing leaks.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import random
import re
import shutil
import sys
import sysconfig
import tempfile
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

INSTRUCTION = "Describe this Python function in one sentence.\n\n"
SPLITS = ("train", "validation", "test")

_SKIPPED_DIRECTORIES = {"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_SENTENCE = re.compile(r"[A-Z][ -~]*[a-z0-9)'\"]\.")
_MANIFEST = "dataset.json"


class DocstringDataError(ValueError):
    """The data set cannot be built as asked; the message says what was expected, found and what to do."""


@dataclass(frozen=True, slots=True)
class DocstringExample:
    """One function. `id` is its place, such as `json.decoder.JSONDecoder.decode`; `module` the top-level module."""

    id: str
    module: str
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class DocstringData:
    """What `build` left in a directory.

    Attributes:
        rows: split name -> number of examples.
        created: False if an earlier call had already made it.
    """

    directory: Path
    rows: Mapping[str, int]
    created: bool

    def describe(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        return f"{self.directory}: {counts} examples" + ("" if self.created else " (already there, nothing done)")


def build(
    directory: Path,
    *,
    seed: int = 0,
    train: int = 1500,
    validation: int = 200,
    test: int = 200,
    max_source_chars: int = 300,
) -> DocstringData:
    """Write train.jsonl, validation.jsonl, test.jsonl and a README.md into `directory`.

    The directory appears whole or not at all. The same Python installation and seed give the same files.

    Args:
        train, validation, test: rows of each split. `train` may get fewer if the installation holds no more.
        max_source_chars: longer functions are left out.

    Raises:
        DocstringDataError: the directory holds something else, or this data set built in another way or
            changed since; it cannot be written; or this Python holds too few functions.
    """
    settings = {
        "seed": seed,
        "train": train,
        "validation": validation,
        "test": test,
        "max_source_chars": max_source_chars,
    }
    for name in (*SPLITS, "max_source_chars"):
        if settings[name] < 1:
            raise DocstringDataError(f"expected {name} to be at least 1, got {settings[name]}; raise it")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return _already_there(directory, settings)
    examples = _without_repeats(_stdlib_examples(max_source_chars))
    splits = _split_by_module(examples, {name: settings[name] for name in SPLITS}, seed)
    try:
        _write(directory, splits, settings)
    except OSError as error:
        if (directory / _MANIFEST).exists():  # another process was quicker
            return _already_there(directory, settings)
        raise DocstringDataError(
            f"expected to write {directory}, got: {error.strerror}; free some disk space or choose another directory"
        ) from error
    return DocstringData(directory, {name: len(rows) for name, rows in splits.items()}, created=True)


def _already_there(directory: Path, settings: Mapping[str, int]) -> DocstringData:
    remedy = "choose another directory, or remove this one"
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        made_with, files, rows = manifest["settings"], manifest["sha256"], manifest["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DocstringDataError(
            f"expected an empty directory or this data set, got {directory} without its {_MANIFEST}; {remedy}"
        ) from None
    if made_with != settings:
        raise DocstringDataError(f"expected a data set made with {settings}, got one made with {made_with}; {remedy}")
    for name, expected in files.items():
        file = directory / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise DocstringDataError(f"expected {file} as it was made, got it missing or changed; {remedy}")
    return DocstringData(directory, rows, created=False)


def _stdlib_examples(max_source_chars: int) -> Iterator[DocstringExample]:
    """All usable functions of the standard library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or _SKIPPED_DIRECTORIES.intersection(parts):
            continue
        try:
            with tokenize.open(path) as stream:
                text = stream.read()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in other people's strings
                tree = ast.parse(text)
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue  # a file that this Python itself could not import
        place = [part for part in parts if part != "__init__"]
        for name, node in _functions(tree, ""):
            completion = _summary(node)
            source = _source_without_docstring(node, text)
            if completion and source and len(source) <= max_source_chars:
                yield DocstringExample(".".join([*place, name]), _group(parts[0]), INSTRUCTION + source, completion)


def _group(module: str) -> str:
    """The module, with a twin counted to its original: `_pydatetime` to `datetime`, `_strptime` to `strptime`."""
    return module.removeprefix("_py").lstrip("_")


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods with their qualified names; functions inside functions are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from _functions(child, prefix)


def _summary(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first line of the docstring, if it is a plain sentence of 3 to 20 words."""
    first, _, rest = (ast.get_docstring(node) or "").partition("\n")
    first = first.strip()
    if not _SENTENCE.fullmatch(first) or not 3 <= len(first.split()) <= 20 or "://" in first:
        return None
    return first if not rest or rest.startswith("\n") else None


def _source_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> str | None:
    """The dedented source from the first decorator on; None if nothing but the docstring is in the function."""
    docstring, *body = node.body
    if not body:
        return None
    lines = text.split("\n")
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    shares_a_line = docstring.lineno == node.lineno or docstring.end_lineno == body[0].lineno
    if shares_a_line or docstring.end_lineno is None:
        return None
    kept = lines[start - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    source = "\n".join(line.rstrip() for line in textwrap.dedent("\n".join(kept)).split("\n") if line.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError:
        return None  # a string in it reaches further left than the code, so that it could not be dedented
    return source


def _without_repeats(examples: Iterator[DocstringExample]) -> list[DocstringExample]:
    """The first example of each source and of each completion, so that no two splits share one."""
    seen: set[str] = set()
    kept = []
    for example in examples:
        keys = {re.sub(r"\s+", " ", example.prompt), example.completion.lower()}
        if seen.isdisjoint(keys):
            kept.append(example)
        seen |= keys
    return kept


def _split_by_module(
    examples: list[DocstringExample], sizes: Mapping[str, int], seed: int
) -> dict[str, list[DocstringExample]]:
    """Deal whole modules to test and validation until these are full; the others are for training.

    A module with more than a fifth of a held-out split stays in training, so that several kinds of code are tested.
    """
    modules: dict[str, list[DocstringExample]] = {}
    for example in examples:
        modules.setdefault(example.module, []).append(example)
    names = sorted(modules)
    generator = random.Random(seed)
    generator.shuffle(names)
    dealt: dict[str, list[DocstringExample]] = {name: [] for name in SPLITS}
    for name in names:
        rows = modules[name]
        held_out = [
            split
            for split in ("test", "validation")
            if len(dealt[split]) < sizes[split] and len(rows) <= max(1, sizes[split] // 5)
        ]
        dealt[held_out[0] if held_out else "train"].extend(rows)
    for split, rows in reversed(dealt.items()):
        if len(rows) < sizes[split] and (split != "train" or not rows):
            raise DocstringDataError(
                f"expected {sizes[split]} {split} examples, got {len(rows)} from {len(names)} modules of this Python's "
                f"standard library; ask for fewer (--{split}) or longer ones (--max-source-chars)"
            )
        generator.shuffle(rows)
        del rows[sizes[split] :]
    return dealt


def _write(directory: Path, splits: Mapping[str, list[DocstringExample]], settings: Mapping[str, int]) -> None:
    """Fill a directory beside the right one, then rename it: a killed build leaves no half of a data set."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        partial.chmod(0o755)
        files = {f"{name}.jsonl": _jsonl(rows) for name, rows in splits.items()}
        files["README.md"] = _readme(splits, settings)
        manifest = {
            "settings": settings,
            "python": platform.python_version(),
            "rows": {name: len(rows) for name, rows in splits.items()},
            "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        }
        for name, text in {**files, _MANIFEST: json.dumps(manifest, indent=1) + "\n"}.items():
            with (partial / name).open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _jsonl(rows: list[DocstringExample]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def _readme(splits: Mapping[str, list[DocstringExample]], settings: Mapping[str, int]) -> str:
    table = "\n".join(
        f"| {name}.jsonl | {len(rows)} | {len({row.module for row in rows})} |" for name, rows in splits.items()
    )
    return f"""# Docstrings of the Python standard library

Functions and methods of the standard library of Python {platform.python_version()}, as found on the machine that made
this data set. `prompt`: an instruction and the source of a function without its docstring (at most
{settings["max_source_chars"]} characters). `completion`: the first line of the docstring. `id`: where the function is
defined. `module`: its top-level module.

| file | examples | modules |
|---|---|---|
{table}

No module is in two files, and no source and no completion occurs twice. Made with the seed {settings["seed"]}; another
version of Python gives other rows.

The text is part of Python: Copyright (c) Python Software Foundation, under the PSF License Agreement
(https://docs.python.org/3/license.html).
"""
