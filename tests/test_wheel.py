"""The wheel: the five packages with all their files, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("controller", "llm_tuning", "nas", "search_spaces", "thresher")
# None of these belongs in a wheel; each is a mistake that a careless package list would let in.
DECOYS = ("benchmarks/decoy.py", "configs/decoy.yaml", "docs/decoy.py", "scripts/decoy.py", "tests/decoy.py")
# A family added later by dropping in a file: the rule must hold for it too.
ADDED_FAMILY = "search_spaces/families/added_later.yaml"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, so that the build writes nothing into the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in (*DECOYS, ADDED_FAMILY):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation: the build backend is the one of this environment, and no network is needed.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_top_level_names_are_the_five_packages(wheel: zipfile.ZipFile) -> None:
    names = {name.split("/")[0] for name in wheel.namelist()}
    dist_info = f"thresher-{metadata(wheel)['Version']}.dist-info"
    assert names == {*PACKAGES, dist_info}


def test_every_module_is_in_it(wheel: zipfile.ZipFile, source: Path) -> None:
    modules = {path.relative_to(source).as_posix() for package in PACKAGES for path in (source / package).rglob("*.py")}
    assert modules == {name for name in wheel.namelist() if name.endswith(".py")}


def test_every_data_file_is_in_it(wheel: zipfile.ZipFile, source: Path) -> None:
    """The model families above all: a space that names one must work from an installed wheel."""
    files = [path for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()]
    data = {path.relative_to(source).as_posix() for path in files if path.suffix != ".py"}
    assert ADDED_FAMILY in data
    assert data <= set(wheel.namelist())


def test_its_metadata_names_licence_python_and_command(wheel: zipfile.ZipFile) -> None:
    fields = metadata(wheel)
    assert fields["Name"] == "thresher"
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == ">=3.11"
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "thresher = thresher.cli:main" in wheel.read(entry_points).decode()
