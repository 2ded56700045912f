"""How large a first study should be: rules for a starting config, by the machine, the model and the data.

They are meant to be looked at and changed: every figure here ends as a line of YAML with a comment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from llm_tuning.recipe import Dtype, MixedPrecision
from nas.architecture import Architecture
from nas.cost import LoraTraining, linear_shapes, parameter_count, training_memory_bytes
from thresher.build import MAX_AUTO_BUDGET, MIN_BATCHES_PER_RUNG
from thresher.resources import available_cores

CPU_SECONDS: Final = 900.0
"""What a first study on a machine without a GPU may take, by a rough estimate."""

MAX_EPOCHS: Final = 4
"""What small data is trained for at most, unless even batches of 4 need more."""

# Of LoRA training on a CPU: 6 operations for each parameter and token, at 5e10 a second and core (SmolLM2-135M on two
# cores: 3 to 4 s for 4 x 128 tokens).
_OPERATIONS: Final = 6.0
_CORE_SPEED: Final = 5e10
_FACTOR: Final = 3  # of two neighbouring rungs

TooLong = Literal["truncate-prompt", "truncate", "drop"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to train on.

    Attributes:
        gpu: the name of the first GPU; None if there is none.
        gpus: how many there are.
        memory: bytes of the first GPU.
        bf16: whether it computes in bfloat16.
        cores: CPU cores that this process may use.
    """

    gpu: str | None
    gpus: int
    memory: int
    bf16: bool
    cores: int

    @classmethod
    def this(cls) -> Machine:
        """The machine that this process runs on."""
        import torch

        if not torch.cuda.is_available():
            return cls(None, 0, 0, False, available_cores())
        memory = torch.cuda.get_device_properties(0).total_memory
        return cls(torch.cuda.get_device_name(0), torch.cuda.device_count(), memory, torch.cuda.is_bf16_supported(), 0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the examples of a data set are, in tokens with the model's template.

    Attributes:
        is_text: plain text, which is cut into pieces instead of being shortened.
        answer: what 95 % of the answers do not exceed.
    """

    values: tuple[int, ...]
    answer: int
    is_text: bool

    @property
    def mean(self) -> float:
        """The mean length."""
        return float(np.mean(self.values))

    @property
    def longest(self) -> int:
        """The greatest length."""
        return max(self.values)

    def quantile(self, share: float) -> int:
        """The length that this share of the examples does not exceed."""
        return int(np.quantile(self.values, share, method="inverted_cdf"))

    def beyond(self, length: int) -> int:
        """How many examples are longer."""
        return sum(value > length for value in self.values)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The figures of a starting config.

    Attributes:
        batch_size: the one that is not searched then; None leaves it to the family's space.
        min_budget: the lowest rung; None for two reductions below the budget.
        limits: at most so many held-out rows, by split.
        seconds: what the study may take on a CPU, very roughly; None with a GPU.
    """

    dtype: Dtype
    mixed_precision: MixedPrecision
    micro_batch_size: int
    trials: int
    budget: int
    batch_size: int | None
    min_budget: int | None
    finalists: int
    repeats: int
    limits: Mapping[str, int]
    max_new_tokens: int
    seconds: float | None

    @property
    def is_small(self) -> bool:
        """Whether it is cut down to what a CPU does in reasonable time."""
        return self.min_budget is not None


def choose_max_length(lengths: Lengths, machine: Machine, context: int | None) -> int:
    """`data.max_length`: of examples the longest, unless it is an outlier; of text a piece of a handy size.

    At most what the model takes, and 4096 on a GPU or 1024 without one (of text 1024 and 256). Lengths beyond what 99 %
    of the examples have cost hardly any time, for neighbours in a batch are of similar length.
    """
    if lengths.is_text:
        most, wanted = 1024 if machine.gpu else 256, lengths.longest
    else:
        usual = lengths.quantile(0.99)
        most = 4096 if machine.gpu else 1024
        wanted = lengths.longest if lengths.longest <= 2 * usual else usual
    return max(8, min(most, context or most, math.ceil(wanted / 8) * 8))


def model_parameters(directory: Path, architecture: Architecture | None) -> int:
    """How many parameters a model has: by its sizes, else by its files; a billion if neither is known."""
    if architecture is not None:
        return parameter_count(architecture)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return size // 2 if size else 10**9


def choose_sizes(
    machine: Machine,
    parameters: int,
    architecture: Architecture | None,
    rows: Mapping[str, int],
    lengths: Lengths,
    max_length: int,
    *,
    largest_batch: int,
    largest_rank: int,
) -> Sizes:
    """The figures of a study: 20 trials of an epoch where that is affordable, else what a CPU does in CPU_SECONDS.

    Args:
        rows: examples by split, of text its pieces.
        largest_batch, largest_rank: the largest ones in the family's space.
    """
    batch = _batch_for(rows["train"], largest_batch)
    least = MIN_BATCHES_PER_RUNG * (batch or largest_batch) * _FACTOR**2
    full = max(min(rows["train"], MAX_AUTO_BUDGET), least)
    answers = min(256, max(16, math.ceil(lengths.answer / 16) * 16))
    if machine.gpu is not None:
        dtype: Dtype = "bfloat16" if machine.bf16 else "float32"
        return Sizes(
            dtype=dtype,
            mixed_precision="bf16" if machine.bf16 else "no",
            micro_batch_size=_micro_batch(machine, architecture, largest_rank, max_length, dtype),
            trials=20,
            budget=full,
            batch_size=batch,
            min_budget=None,
            finalists=3,
            repeats=2,
            limits={"validation": 1000} if rows.get("validation", 0) > 1000 else {},
            max_new_tokens=answers,
            seconds=None,
        )
    tokens = min(lengths.mean, max_length)
    seconds = _OPERATIONS * parameters * tokens / (_CORE_SPEED * machine.cores)
    cost = seconds * _examples_of_whole_study(full, rows)
    if cost <= CPU_SECONDS:
        return Sizes(
            dtype="float32",
            mixed_precision="no",
            micro_batch_size=_tokens_at_once(8, max_length),
            trials=20,
            budget=full,
            batch_size=batch,
            min_budget=None,
            finalists=3,
            repeats=2,
            limits={},
            max_new_tokens=answers,
            seconds=cost,
        )
    return _small(seconds, rows, max_length, min(answers, 32))


def _batch_for(rows: int, largest_batch: int) -> int | None:
    """The batch size to fix where the largest one would want many epochs; None if the family's will do."""
    steps = MIN_BATCHES_PER_RUNG * _FACTOR**2
    if steps * largest_batch <= MAX_EPOCHS * rows:
        return None
    return next((batch for batch in (16, 8) if batch < largest_batch and steps * batch <= MAX_EPOCHS * rows), 4)


def _small(seconds: float, rows: Mapping[str, int], max_length: int, answers: int) -> Sizes:
    """A study of two rungs, one batch size and few held-out rows, of an epoch, or what CPU_SECONDS allow.

    Args:
        seconds: a training example, by estimate.
    """
    batch = 4
    most = {split: limit for split, limit in (("validation", 48), ("test", 64)) if rows.get(split, 0) > limit}
    held_out = {**rows, **most}
    measuring = (15 * held_out.get("validation", 0) + 7 * held_out.get("test", 0)) / 3
    least = MIN_BATCHES_PER_RUNG * batch * _FACTOR
    affordable = int((CPU_SECONDS / seconds - measuring) / _SMALL_SHARE)
    budget = max(least, min(affordable, rows["train"]) // (batch * _FACTOR) * (batch * _FACTOR))
    return Sizes(
        dtype="float32",
        mixed_precision="no",
        micro_batch_size=_tokens_at_once(batch, max_length),
        trials=8,
        budget=budget,
        batch_size=batch,
        min_budget=budget // _FACTOR,
        finalists=2,
        repeats=1,
        limits=most,
        max_new_tokens=answers,
        seconds=seconds * (_SMALL_SHARE * budget + measuring),
    )


_SMALL_SHARE: Final = 8.3
"""Budgets that the small study takes: 8 trials to a third, 4 of them on to the end, 3 repeats."""


def _examples_of_whole_study(budget: int, rows: Mapping[str, int]) -> float:
    """Training examples of a study of 20 trials with three finalists, measurements (a third of training) included.

    20 trials to a ninth, 7 on to a third, 5 to the end (the default among them), 8 repeats; 40 measurements, 13 tests.
    """
    return 14.6 * budget + (40 * rows.get("validation", 0) + 13 * rows.get("test", 0)) / 3


def _tokens_at_once(most: int, max_length: int) -> int:
    """Examples in a forward pass on a CPU: no faster beyond 1,500 tokens, which take memory all the same."""
    return min(most, max(1, 1536 // max_length))


def _micro_batch(machine: Machine, architecture: Architecture | None, rank: int, max_length: int, dtype: Dtype) -> int:
    """The largest micro-batch, up to 16, that needs no more than 70 % of the GPU by the estimate; 4 without one."""
    if architecture is None:
        return 4
    for size in (16, 8, 4, 2):
        training = LoraTraining(
            rank=rank,
            target_modules=tuple(linear_shapes(architecture)),
            micro_batch=size,
            length=max_length,
            base_dtype=dtype,
            compute_dtype=dtype,
        )
        if training_memory_bytes(architecture, training) <= 0.7 * machine.memory:
            return size
    return 1


def pieces(values: Sequence[int], max_length: int) -> int:
    """How many examples texts of these lengths become, if those that are longer are cut into pieces."""
    return sum(math.ceil(value / max_length) for value in values)
