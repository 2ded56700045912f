"""docs/own-objective.md, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "own-objective.md"


@pytest.mark.timeout(180)
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1])}
    command = [sys.executable, "-W", "error", str(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0, ran.stderr
    assert "20 trials, compared at 3, 4, 6, 9, 14, 21, 27 epochs" in ran.stdout
    assert "Best(trial=" in ran.stdout
    assert (tmp_path / "runs" / "moons" / "journal.sqlite").is_file()
