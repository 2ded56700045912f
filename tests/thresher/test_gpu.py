"""A whole tiny study on a CUDA device."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.thresher.tiny_study import REPOSITORY, StudyPlace


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mixed_precision", ["no", "bf16", "fp16"])
def test_a_study_ends(make_study: Callable[..., StudyPlace], mixed_precision: str) -> None:
    place = make_study(resources={"mixed_precision": mixed_precision})
    command = [sys.executable, "-m", "thresher", "run", str(place.config)]
    ran = subprocess.run(command, cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    losses = [
        report["metrics"]["validation_loss"] for _, report in place.journal("Reported") if "per_example" not in report
    ]
    assert losses
    assert all(map(math.isfinite, losses))
