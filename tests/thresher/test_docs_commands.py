"""Every command that the documentation shows is run here, in the order in which a page shows them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.thresher.tiny_study import Ran, run_here
from thresher.cli import app

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SHELL_BLOCK = re.compile(r"```(?:sh|bash)\n(.*?)```", re.DOTALL)
CONFIG_BLOCK = re.compile(r"```yaml\n# (\S+\.yaml)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(thresher [^`]+)`")
HUB_ID = re.compile(r"\b(HuggingFaceTB/[\w.-]+)")
ELSEWHERE = {
    "git": "a clone is what CI starts from",
    "cd": "follows the clone",
    "make": "CI runs `make test`; `make slow` runs the demo",
    "pip": "CI installs by pip",
}
"""Commands that are not run here, and why not."""
SMALL: Mapping[str, Mapping[str, Any]] = {
    "search": {"trials": 3, "budget": 72},
    "finalists": {"count": 1, "repeats": 1},
    "hyperparameters": {"optimizer.batch_size": 1, "lora.rank": 4},
    "space": {"only": ["optimizer.learning_rate"]},
    "data": {"max_length": 96},
    "output": {"generations": 1, "max_new_tokens": 4},
}
"""What takes the place of a page's settings: the commands are as shown, the study is small."""


def shell_commands(page: Path) -> list[list[str]]:
    """The commands in a page's shell blocks, without comments."""
    blocks = SHELL_BLOCK.findall(page.read_text())
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def with_commands() -> list[Path]:
    """The pages that show commands."""
    return [page for page in PAGES if shell_commands(page)]


@pytest.fixture
def sandbox(tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the pages speak of: data files, the repository's scripts, and models of the hub.

    The models are tiny ones, put where a download would have left those that the pages name.
    """
    for file in tiny_data.iterdir():
        shutil.copy(file, tmp_path)
    for folder in ("scripts", "configs"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    hub = tmp_path / "hub"
    for name in {name for page in PAGES for name in HUB_ID.findall(page.read_text())}:
        repository = hub / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0123456789")
        shutil.copytree(tiny_model, repository / "snapshots" / "0123456789")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_small(config: Path) -> None:
    """Let a study end in seconds."""
    content = yaml.safe_load(config.read_text())
    for section, changes in SMALL.items():
        whole = content.get(section, {}) if section != "space" else {}
        content[section] = {**({"train": whole} if isinstance(whole, str) else whole), **changes}
    for key in ("sampler", "scheduler"):
        content["search"].pop(key, None)
    config.write_text(yaml.safe_dump(content))


def execute(words: list[str]) -> Ran:
    """Run a command: `thresher` in this process, which has torch loaded, others in one of their own."""
    if words[0] == "thresher":
        return run_here(*words[1:])
    done = subprocess.run(words, capture_output=True, text=True, timeout=110, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", with_commands(), ids=lambda page: page.name)
def test_the_commands_of_a_page_work_in_their_order(page: Path, sandbox: Path) -> None:
    for name, content in CONFIG_BLOCK.findall(page.read_text()):
        (sandbox / name).write_text(content)
        make_small(sandbox / name)
    for words in shell_commands(page):
        if words[0] in ELSEWHERE:
            continue
        ran = execute(words)
        assert ran.code == 0, f"{shlex.join(words)}\n{ran.output}\n{ran.errors}"
        assert "Traceback" not in ran.errors
        if words[:2] == ["thresher", "init"]:
            make_small(sandbox / "study.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_running_text_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    for text in INLINE.findall(page.read_text()):
        words = shlex.split(text.partition(" > ")[0])[1:]
        if words[0].startswith("-"):
            continue
        command = group.get_command(typer.Context(group), words[0])  # type: ignore[attr-defined]
        assert command is not None, f"{page.name}: {text}"
        if len(words) > 1 and not any(word.isupper() for word in words):
            command.make_context(words[0], words[1:])


@pytest.mark.timeout(600)
def test_the_python_of_the_readme_works(sandbox: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    shown = 'search={"trials": 10}'
    assert shown in block
    small = {**SMALL, "data": {"train": "train.jsonl", **SMALL["data"]}}
    arguments = ", ".join(f"{section}={dict(values)!r}" for section, values in small.items() if section != "data")
    block = block.replace(shown, arguments).replace('data="train.jsonl"', f"data={small['data']!r}")
    ran = execute([sys.executable, "-c", block])
    assert ran.code == 0, ran.errors
    assert ran.output.count("Best(trial=") == 2
