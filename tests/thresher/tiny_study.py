"""A study that ends in seconds, and how to run the command line on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from thresher.cli import app

REPOSITORY = Path(__file__).parents[2]
SECONDS = 240.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 128
LLAMA_CONFIG: Mapping[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
"""A transformers configuration as wide as SmolLM2-135M, for tests that need no weights."""
LEARNING_RATES = {"kind": "float", "low": "1e-3", "high": "3e-2", "log": True}


_MAKE_MODEL = """
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

vocabulary = {{token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"])
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
fast.chat_template = {template!r}
fast.save_pretrained({directory!r})
torch.manual_seed(0)
config = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=len(fast), max_position_embeddings={context}, initializer_range=0.2,
    bos_token_id=None, eos_token_id=fast.eos_token_id,
)
LlamaForCausalLM(config).save_pretrained({directory!r})
"""


def make_model(directory: Path) -> None:
    """Save a Llama of one layer with random weights and a tokenizer of bytes that has a chat template."""
    script = _MAKE_MODEL.format(directory=str(directory), template=CHAT_TEMPLATE, context=CONTEXT)
    # In a process of its own: most tests here have no need of torch, whose import takes seconds.
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY, timeout=SECONDS, capture_output=True)


def write_jsonl(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write (prompt, completion) pairs."""
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows))


def study_data(model: Path, data: Path, directory: Path) -> dict[str, Any]:
    """The config of a study of 5 trials with rungs at 8 and 16 examples."""
    return {
        "model": {"name": str(model)},
        "data": {split: str(data / f"{split}.jsonl") for split in ("train", "validation", "test")} | {"max_length": 64},
        "hyperparameters": {
            "optimizer.learning_rate": "3e-3",
            "optimizer.batch_size": 1,
            "lora.rank": 4,
            "lora.dropout": 0.1,
        },
        "space": {
            "only": True,
            "optimizer.learning_rate": dict(LEARNING_RATES),
            "lora.rank": {"kind": "choice", "values": [2, 4, 8]},
        },
        "search": {
            "trials": 5,
            "budget": 16,
            "sampler": {"kind": "random"},
            "scheduler": {"kind": "asha", "reduction_factor": 2, "min_budget": 8},
            "seed": 1,
        },
        "finalists": {"count": 2, "repeats": 1},
        "resources": {"threads_per_worker": 1, "micro_batch_size": 4, "evaluation_batch_size": 8},
        "output": {"directory": str(directory), "generations": 1, "max_new_tokens": 4},
    }


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class StudyPlace:
    """A config on disk with what it says, and the command line for it."""

    config: Path
    content: Mapping[str, Any]

    @property
    def directory(self) -> Path:
        return Path(self.content["output"]["directory"])

    def thresher(self, *arguments: str | Path) -> Ran:
        """Run `python -m thresher` to its end."""
        return finish(self.start(*arguments))

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `python -m thresher` as the leader of a process group."""
        return start_command(sys.executable, "-m", "thresher", *arguments)

    def run(self) -> Ran:
        """`thresher run` of this config."""
        return self.thresher("run", self.config)

    def journal(self, kind: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(kind, payload) of the journal's entries, as they are on disk."""
        path = self.directory / "journal.sqlite"
        if not path.is_file():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            try:
                rows = connection.execute("SELECT kind, payload FROM journal ORDER BY sequence").fetchall()
            except sqlite3.OperationalError:  # the file is there, its tables are not yet
                return []
        return [(name, json.loads(payload)) for name, payload in rows if kind in (None, name)]


def start_command(*command: str | Path) -> subprocess.Popen[str]:
    """Start a command as the leader of a process group, so that a signal can reach all of it, and without devices."""
    return subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def run_here(*arguments: str | Path) -> Ran:
    """Run `thresher` in this process: for commands that train nothing but load torch, which takes seconds."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> Ran:
    """Wait for a command; if it does not end, kill all of it and fail."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"{process.args} did not end within {seconds} seconds:\n{output}\n{errors}")
    return Ran(process.returncode, output, errors)


@contextlib.contextmanager
def paused(process: subprocess.Popen[str]) -> Iterator[None]:
    """Hold a command still, so that it cannot end meanwhile; its workers have sessions of their own and go on."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something to become true, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"expected {what} within {seconds} seconds")
        time.sleep(0.05)


def place_study(directory: Path, model_files: Path, data_files: Path, /, **sections: Any) -> StudyPlace:
    """Write the config of a tiny study in a directory; the sections change what `study_data` says."""
    content = study_data(model_files, data_files, directory / "study")
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    config = directory / "study.yaml"
    config.write_text(yaml.safe_dump(content))
    return StudyPlace(config, content)


@dataclass(frozen=True)
class FinishedStudy:
    """A study that was run to its end, with what that printed. Not to be changed: take a copy."""

    place: StudyPlace
    ran: Ran

    def copy_to(self, directory: Path, **sections: Any) -> StudyPlace:
        """A copy that a test may change, under a config that the sections change."""
        shutil.copytree(self.place.directory, directory / "copy")
        content = {
            **self.place.content,
            "output": {**self.place.content["output"], "directory": str(directory / "copy")},
        }
        for section, changes in sections.items():
            content[section] = {**content.get(section, {}), **changes}
        config = directory / "copy.yaml"
        config.write_text(yaml.safe_dump(content))
        return StudyPlace(config, content)


SLOWER: dict[str, Any] = {
    "search": {
        "trials": 2,
        "budget": 800,
        "sampler": {"kind": "random"},
        "scheduler": {"kind": "asha", "reduction_factor": 2, "min_budget": 400},
        "seed": 1,
    },
    "finalists": {"count": 1, "repeats": 0},
    "resources": {"threads_per_worker": 1, "save_every_minutes": 0.001},
}
"""Sections of a study whose jobs take about a second and save all the time: something can happen in their midst."""


@dataclass(frozen=True)
class InterruptedStudy:
    """A study that Ctrl-C stopped in the middle of its second trial.

    Attributes:
        ran: the stopped command.
        journal: the journal's entries when it had stopped.
        checkpoints: what checkpoints there were then.
        second: what another `thresher run` of it did while the first was at work.
        status: what `thresher status` did then.
        left: processes that were started by the study and outlived it.
    """

    place: StudyPlace
    ran: Ran
    journal: list[tuple[str, dict[str, Any]]]
    checkpoints: list[str]
    second: Ran
    status: Ran
    left: frozenset[int]


def all_checkpoints(place: StudyPlace) -> list[Path]:
    """The directories of a study's checkpoints, in order."""
    return sorted(path for path in (place.directory / "checkpoints").glob("trial-*/*") if path.is_dir())


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def descendants(pid: int) -> set[int]:
    """All processes below one, as Linux tells."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
