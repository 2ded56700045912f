"""How the package starts: at once, and without what takes seconds to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.thresher.tiny_study import FinishedStudy, finish, start_command

pytestmark = pytest.mark.timeout(300)  # the first test of a file may pay for a whole study

HEAVY = ("torch", "transformers", "accelerate", "peft", "safetensors.torch")


def modules_after(*arguments: str | Path) -> set[str]:
    """The modules that a command of `thresher` has imported when it ends."""
    script = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('thresher', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as error:\n"
        "    assert not error.code, error.code\n"
        "print('MODULES', *sys.modules)\n"
    )
    ran = finish(start_command(sys.executable, "-c", script, *arguments))
    assert ran.code == 0, ran
    return set(ran.output.rpartition("MODULES ")[2].split())


def test_module_and_command_are_the_same() -> None:
    module = finish(start_command(sys.executable, "-m", "thresher", "--help"))
    command = finish(start_command(Path(sys.executable).with_name("thresher"), "--help"))
    assert module.code == command.code == 0
    assert module.output.replace("python -m thresher", "thresher").split() == command.output.split()


def test_help_names_the_commands_and_the_exit_codes() -> None:
    ran = finish(start_command(sys.executable, "-m", "thresher", "--help"))
    for word in ("run", "status", "best", "export", "Exit codes: 0 done", "130 stopped or interrupted"):
        assert word in " ".join(ran.output.split())


def test_help_imports_nothing_heavy() -> None:
    assert modules_after("--help").isdisjoint({*HEAVY, "numpy", "pydantic", "sqlalchemy"})


@pytest.mark.parametrize(
    "arguments", [("status", "RUN"), ("best", "RUN"), ("trial", "RUN", "0"), ("compare", "RUN", "RUN")]
)
def test_commands_that_only_read_import_no_torch(finished: FinishedStudy, arguments: tuple[str, ...]) -> None:
    run = str(finished.place.directory)
    modules = modules_after(*(run if argument == "RUN" else argument for argument in arguments))
    assert modules.isdisjoint(HEAVY)


def test_a_config_is_refused_without_torch(tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    config.write_text("modle: {}")
    timed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "thresher", "run", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert timed.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines()}
    assert "thresher.config" in imported
    assert imported.isdisjoint(HEAVY)
