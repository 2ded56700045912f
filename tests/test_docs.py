"""What the documentation shows must work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from thresher.config import parse_config

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
CONFIGS = [(page.name, block) for page in PAGES for block in YAML_BLOCK.findall(page.read_text())]


@pytest.mark.parametrize(("page", "block"), CONFIGS, ids=[page for page, _ in CONFIGS])
def test_configs_in_the_docs_are_valid(page: str, block: str) -> None:
    parse_config(yaml.safe_load(block))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_runnable_examples_are_valid(path: Path) -> None:
    parse_config(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_pages_named_in_examples_exist(path: Path) -> None:
    for page in re.findall(r"docs/[\w./-]+\.md", path.read_text()):
        assert (REPOSITORY / page).exists(), f"{path.name} names {page}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"\b(?:DEMO|WARM|OVERHEAD)_[A-Z]+\b", page.read_text())
