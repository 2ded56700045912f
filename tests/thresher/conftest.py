"""A model, a tokenizer and data that a whole study can be run on in seconds, and how to run the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
SECONDS = 110.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 128
LEARNING_RATES = {"kind": "float", "low": "1e-3", "high": "3e-2", "log": True}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with random weights and a tokenizer of bytes that has a chat template."""
    directory = tmp_path_factory.mktemp("tiny")
    script = _MAKE_MODEL.format(directory=str(directory), template=CHAT_TEMPLATE, context=CONTEXT)
    # In a process of its own: most tests here have no need of torch, whose import takes seconds.
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY, timeout=SECONDS)
    return directory


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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl, validation.jsonl and test.jsonl with 40, 8 and 8 examples: a word, to be repeated."""
    directory = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, rows in {"train": 40, "validation": 8, "test": 8}.items():
        words = ["".join(rng.choice(list("abcdef"), size=6)) for _ in range(rows)]
        write_jsonl(directory / f"{split}.jsonl", [(word, f"{word} {word}") for word in words])
    return directory


def write_jsonl(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write (prompt, completion) pairs."""
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows))


@pytest.fixture
def config_data(tmp_path: Path) -> dict[str, Any]:
    """A valid config whose files do not exist, for tests that read no files."""
    return study_data(tmp_path / "model", tmp_path, tmp_path / "study")


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

    @property
    def everything(self) -> str:
        return self.output + self.errors


@dataclass(frozen=True)
class StudyPlace:
    """A config on disk with what it names, and the command line to run it with."""

    config: Path
    data: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return Path(self.data["output"]["directory"])

    def thresher(self, *arguments: str | Path, launch: Sequence[str] = ()) -> Ran:
        """Run `thresher` to its end, by default in a process of its own, else under a launcher."""
        return finish(self.start(*arguments, launch=launch))

    def start(self, *arguments: str | Path, launch: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start `thresher` as the leader of a process group."""
        command = [*(launch or (sys.executable,)), "-m", "thresher", *map(str, arguments)]
        return start(command, self.environment)

    def run(self, launch: Sequence[str] = ()) -> Ran:
        """`thresher run` of this config."""
        return self.thresher("run", self.config, launch=launch)


def start(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command as the leader of a process group, so that a signal can reach all of it."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> Ran:
    """Wait for a command; if it does not end, kill all of it and fail."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"{process.args} did not end within {seconds} seconds:\n{output}\n{errors}")
    return Ran(process.returncode, output, errors)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something to become true, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"expected {what} within {seconds} seconds")
        time.sleep(0.05)


@pytest.fixture
def make_study(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> Callable[..., StudyPlace]:
    """Makes the config of a tiny study; keyword arguments change its sections."""

    def make(name: str = "study", **sections: Mapping[str, Any]) -> StudyPlace:
        return place_study(tmp_path, name, tiny_model, tiny_data, sections)

    return make


def place_study(
    directory: Path, name: str, model: Path, data: Path, sections: Mapping[str, Mapping[str, Any]]
) -> StudyPlace:
    """Write the config of a tiny study called `name`."""
    content = study_data(model, data, directory / name)
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    config = directory / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    return StudyPlace(config, content)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> FinishedStudy:
    """A tiny study that `thresher run` has finished. Not to be changed: copy it with `copy_of`."""
    directory = tmp_path_factory.mktemp("finished")
    place = place_study(directory, "study", tiny_model, tiny_data, {})
    return FinishedStudy(place, place.run())


@dataclass(frozen=True)
class FinishedStudy:
    """A study that was run to its end, with what that printed."""

    place: StudyPlace
    ran: Ran

    def copy_to(self, directory: Path) -> StudyPlace:
        """A copy that a test may change."""
        target = directory / "copy"
        shutil.copytree(self.place.directory, target)
        content = {**self.place.data, "output": {**self.place.data["output"], "directory": str(target)}}
        config = directory / "copy.yaml"
        config.write_text(yaml.safe_dump(content))
        return StudyPlace(config, content)
