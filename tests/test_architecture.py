"""The shape of the repository: which package may import which, what stays free of torch, what a launcher is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each package may import of ours, besides itself. Imports run downwards only.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "search_spaces": frozenset(),
    "nas": frozenset({"search_spaces"}),
    "controller": frozenset({"search_spaces"}),
    "llm_tuning": frozenset({"search_spaces", "nas", "controller"}),
    "thresher": frozenset({"search_spaces", "nas", "controller", "llm_tuning"}),
}
OUTSIDE_THE_WHEEL = frozenset({"tests", "scripts", "benchmarks"})
WITHOUT_TORCH = ("search_spaces", "controller", "thresher")
HEAVY = ("torch", "transformers", "peft", "accelerate")
MAX_LAUNCHER_LINES = 30


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a module.

    Those inside functions and under TYPE_CHECKING count too: the rule is about what a package knows of, not about
    when it loads. `importlib.import_module` counts when its argument is written out.
    """
    package = dotted_name(path.parent / "__init__.py").split(".")
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=0) if module is not None:
                yield node.lineno, module
            case ast.ImportFrom(module=module, names=names, level=level):
                anchor = package[: len(package) - level + 1]
                tails = [module] if module is not None else [alias.name for alias in names]
                yield from ((node.lineno, ".".join([*anchor, tail])) for tail in tails)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield node.lineno, name


def upward_imports(package: str, path: Path, source: str) -> list[str]:
    ours = (MAY_IMPORT.keys() | OUTSIDE_THE_WHEEL) - MAY_IMPORT[package] - {package}
    return [
        f"{path.relative_to(ROOT)}:{line}: {package} must not import {name}"
        for line, name in imported_names(ast.parse(source, filename=str(path)), path)
        if name.split(".")[0] in ours
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_downwards_only(package: str) -> None:
    modules = modules_of(package)
    assert modules, f"no modules found under {ROOT / package}"
    upward = [line for path in modules for line in upward_imports(package, path, path.read_text(encoding="utf-8"))]
    assert not upward, "\n" + "\n".join(upward)


@pytest.mark.parametrize(
    "source",
    [
        "import llm_tuning",
        "import json, thresher.config",
        "from nas.cost import flops",
        "from ..nas import cost",
        "from ...thresher.config import load",
        "def later():\n    from llm_tuning import train",
        "import importlib\nimportlib.import_module('nas.cost')",
        "from tests import conftest",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(source: str) -> None:
    depth = "samplers/asha.py" if "..." in source else "trial.py"
    assert len(upward_imports("controller", ROOT / "controller" / depth, source)) == 1


@pytest.mark.parametrize(
    "source",
    ["from search_spaces.space import Space", "from . import trial", "from .samplers import random", "import os"],
)
def test_a_permitted_import_is_not_reported(source: str) -> None:
    assert upward_imports("controller", ROOT / "controller" / "history.py", source) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_directory_with_modules_is_a_package(package: str) -> None:
    """Without an __init__.py setuptools leaves the directory out of the wheel."""
    directories = {path.parent for path in modules_of(package)}
    missing = sorted(str(d.relative_to(ROOT)) for d in directories if not (d / "__init__.py").is_file())
    assert not missing, f"expected an __init__.py in {missing}"


def heavy_modules_after(*imports: str) -> str:
    """The modules out of HEAVY that a fresh interpreter has loaded after these imports."""
    program = "\n".join(
        [
            "import sys",
            *(f"import {name}" for name in imports),
            f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_front_door_loads_no_torch() -> None:
    """`thresher --help` and `thresher status` must not wait seconds for it."""
    assert heavy_modules_after("thresher", "controller", "search_spaces") == ""


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_no_module_loads_torch_when_imported(package: str) -> None:
    """What needs torch imports it inside the function that uses it."""
    names = [dotted_name(path) for path in modules_of(package) if path.name != "__main__.py"]
    assert heavy_modules_after(*names) == ""


def test_launchers_are_short_scripts() -> None:
    """What a launcher would do beyond parsing its arguments belongs in a package, where it is tested and installed."""
    scripts = ROOT / "scripts"
    assert not (scripts / "__init__.py").exists(), "scripts/ holds launchers and is not a package"
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in scripts.rglob("*.py")}
    assert lengths, f"no launchers found under {scripts}"
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_LAUNCHER_LINES}
    assert not too_long, f"expected at most {MAX_LAUNCHER_LINES} lines, got {too_long}; move the work into a package"
