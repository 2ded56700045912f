"""docs/strategies.md: every configuration makes a strategy, every block of Python runs, every kind has its row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from controller.history import History
from controller.strategy import Decision, Strategy
from controller.trial import Objective
from search_spaces.domains import Choice, Float
from search_spaces.space import Space
from thresher.build import rung_budgets
from thresher.config import StudyConfig, parse_config
from thresher.search_section import OwnConfig, SamplerConfig, SchedulerConfig
from thresher.searching import make_search
from thresher.strategies import SEARCH_KINDS

PAGE = Path(__file__).parents[1] / "docs" / "strategies.md"
CONTENT = PAGE.read_text()
SPACE = Space({"optimizer.learning_rate": Float(1e-5, 1e-3, log=True), "lora.rank": Choice((8, 16, 32))})
FRAGMENTS = [
    fragment for block in re.findall(r"```yml\n(.*?)```", CONTENT, re.DOTALL) for fragment in yaml.safe_load_all(block)
]


def words(parts: Any) -> set[str]:
    """The words that the sections of a union go by."""
    return {get_args(part.model_fields["kind"].annotation)[0] for part in get_args(parts)}


def built(config: StudyConfig) -> Strategy:
    """The strategy of a config, with earlier studies left out: there are none."""
    budgets = rung_budgets(config, 9000, 16)
    search = config.search.model_copy(update={"warm_start": None})
    return make_search(search, SPACE, budgets, config.objectives, keep=3, notes=[])[0]


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: str(fragment["search"])[:60])
def test_a_configuration_makes_a_strategy(fragment: dict[str, Any]) -> None:
    strategy = built(parse_config({"model": "owner/model", "data": "train.jsonl", **fragment}))
    history = History(seed=0, objectives=[Objective("validation_loss")], horizon=9000)
    assert isinstance(strategy.next(history), get_args(Decision))


def test_the_table_has_a_row_for_every_kind() -> None:
    table = CONTENT.partition("## All of them")[2].partition("## Examples")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {*SEARCH_KINDS, *words(SamplerConfig), *words(SchedulerConfig), *words(OwnConfig)}


def test_every_kind_has_examples() -> None:
    examples = CONTENT.partition("## Examples")[2]
    python = "".join(re.findall(r"```python\n(.*?)```", examples, re.DOTALL))
    for kind in set(SEARCH_KINDS) - {"auto"}:
        assert re.search(rf"kind: {kind}\b(?!-)", str(FRAGMENTS).replace("'", "")), kind
        assert f'"{kind}"' in python, kind


@pytest.mark.timeout(120)
def test_the_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", CONTENT, re.DOTALL)))
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1])}
    command = [sys.executable, "-W", "error", str(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Best(trial=") == 2
    assert "30 trials in " in ran.stdout
