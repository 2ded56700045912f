"""A language model, a tokenizer and data small enough to train in the tests, on one CPU thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from controller.trial import Job, Message
from llm_tuning.recipe import FineTuningSpec
from llm_tuning.rows import Example, Row
from llm_tuning.tokenized_split import TokenizedSplit

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from llm_tuning.train import Ranks

VOCABULARY = 128
END = 1


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Accelerate reads this once; without it these tests would run on a GPU where there is one."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    yield
    if before is None:
        del os.environ["ACCELERATE_USE_CPU"]
    else:
        os.environ["ACCELERATE_USE_CPU"] = before


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, fp32, and its tokenizer, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny-llama")
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        initializer_range=0.2,  # else the answers are so close to uniform that no test can tell them apart
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    words = {"<pad>": 0, "<end>": END} | {f"w{number}": number for number in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.save_pretrained(directory)
    return directory


@pytest.fixture
def base(model_directory: Path) -> LlamaForCausalLM:
    """The tiny model, loaded afresh for each test."""
    from llm_tuning.base_model import load_model

    return load_model(model_directory)


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """The one rank of this process."""
    from accelerate import Accelerator

    from llm_tuning.train import Ranks

    return Ranks(Accelerator())


@pytest.fixture(scope="session")
def make_split() -> Callable[..., TokenizedSplit]:
    """Makes examples whose answers repeat their prompts, so that there is something to learn."""

    def make(examples: int, seed: int = 0, longest_prompt: int = 9) -> TokenizedSplit:
        rng = np.random.default_rng(seed)
        tokens: list[np.ndarray] = []
        learnt: list[np.ndarray] = []
        for _ in range(examples):
            prompt = rng.integers(2, 20, size=rng.integers(2, longest_prompt))
            answer = np.append(prompt[: rng.integers(1, len(prompt) + 1)], END)
            tokens.append(np.concatenate([prompt, answer]))
            learnt.append(np.arange(len(tokens[-1])) >= len(prompt))
        lengths = [0, *map(len, tokens)]
        return TokenizedSplit(
            token_ids=np.concatenate(tokens).astype(np.int32),
            offsets=np.cumsum(lengths, dtype=np.int64),
            learnt=np.concatenate(learnt),
        )

    return make


@dataclass
class GivenRows:
    """Rows as if they had been read from somewhere."""

    splits: dict[str, list[Row]]
    identity: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def given_rows() -> type[GivenRows]:
    """The class GivenRows; a conftest cannot be imported."""
    return GivenRows


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> Path:
    """25 training examples, 10 to validate and 7 to test on, tokenised."""
    from llm_tuning.base_model import load_tokenizer
    from llm_tuning.data import prepare_splits

    directory = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    splits: dict[str, list[Row]] = {}
    for name, examples in {"train": 25, "validation": 10, "test": 7}.items():
        splits[name] = []
        for _ in range(examples):
            words = [f"w{number}" for number in rng.integers(2, 20, size=rng.integers(2, 9))]
            answer = words[: rng.integers(1, len(words) + 1)]
            splits[name].append(Example(" ".join(words), " " + " ".join(answer)))
    prepare_splits(GivenRows(splits), load_tokenizer(model_directory), directory / "tokens", max_length=32)
    return directory / "tokens"


@pytest.fixture(scope="session")
def make_spec(model_directory: Path, data_directory: Path) -> Callable[[Path], FineTuningSpec]:
    """Makes a study of the tiny model with its checkpoints in a directory."""

    def make(checkpoint_directory: Path) -> FineTuningSpec:
        return FineTuningSpec(
            model_directory=str(model_directory),
            tokenizer_directory=str(model_directory),
            data_directory=str(data_directory),
            checkpoint_directory=str(checkpoint_directory),
            lora_targets={"attention": ("q_proj", "k_proj", "v_proj", "o_proj")},
            defaults={"optimizer.batch_size": 6, "optimizer.learning_rate": 0.01, "lora.rank": 4, "lora.dropout": 0.1},
            micro_batch_size=4,
            evaluation_batch_size=4,
            generations=2,
            max_new_tokens=5,
        )

    return make


@pytest.fixture
def spec(make_spec: Callable[[Path], FineTuningSpec], tmp_path: Path) -> FineTuningSpec:
    """A study of the tiny model that no other test uses."""
    return make_spec(tmp_path / "checkpoints")


@dataclass
class Desk:
    """An inbox with jobs in it that keeps what is emitted, and can ask to stop when it has seen enough."""

    jobs: Sequence[Job]
    stop_when: Callable[[list[Message]], bool] = lambda messages: False
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = list(self.jobs)

    def get(self) -> Job | None:
        return self._waiting.pop(0) if self._waiting and not self.stopping else None

    def poll(self) -> Job | None:
        return self.get()

    @property
    def stopping(self) -> bool:
        return self.stop_when(self.messages)

    def emit(self, message: Message) -> None:
        self.messages.append(message)


@pytest.fixture(scope="session")
def make_desk() -> type[Desk]:
    """The class Desk; a conftest cannot be imported."""
    return Desk
