"""The launchers in scripts/: short, and of use from a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))
MAX_LINES = 30


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_is_a_launcher(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith('"""'), "it says how it is started"
    assert 'if __name__ == "__main__":' in lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_explains_itself(script: Path) -> None:
    ran = run(sys.executable, script, "--help")
    assert ran.returncode == 0, ran
    assert script.name in ran.stdout
    assert ran.stderr == ""


def test_tune_is_thresher_run(tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    config.write_text("modle: {}")
    ran = run(sys.executable, "scripts/tune.py", config)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == run(sys.executable, "-m", "thresher", "run", config).stderr
    assert f"thresher: {config}: model: expected a value, got none" in ran.stderr


def test_tune_wants_a_config() -> None:
    ran = run(sys.executable, "scripts/tune.py")
    assert ran.returncode == 2
    assert "CONFIG" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_tune_under_the_launcher(tmp_path: Path) -> None:
    ran = run(Path(sys.executable).with_name("accelerate"), "launch", "scripts/tune.py", tmp_path / "none.yaml")
    assert ran.returncode == 1, "the launcher's own code"
    assert "expected a config file at" in ran.stderr
