"""Which examples make up an optimizer step, and the arrays that they become.

Everything is a function of a seed and a position in the stream of training examples, so that an
interrupted run goes on with the very batch it would have seen next, without any saved random state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from llm_tuning.tokenized_split import TokenizedSplit

Indices = NDArray[np.int64]


class Stream(IntEnum):
    """The independent uses of randomness in a run. The numbers are part of what makes runs repeatable."""

    INITIALISATION = 1
    DATA_ORDER = 2
    DROPOUT = 3


def derived_seed(seed: int, stream: Stream, *counters: int) -> int:
    """A 64-bit seed for one use of randomness, independent of the seeds of all other uses.

    Args:
        seed: the seed of the trial, >= 0.
        counters: which use of the stream it is, such as (step, micro-batch, rank).
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(stream, *counters))
    return int(sequence.generate_state(1, np.uint64)[0])


def example_indices(seed: int, position: int, count: int, examples: int) -> Indices:
    """The examples at places `position` to `position + count` of a trial's endless stream, int64 [count].

    The stream is one permutation of all examples after the other, a new one for each epoch; a batch
    may reach across the end of an epoch, so that it always has exactly `count` examples.

    Args:
        position: training examples seen before.
        examples: size of the training set, >= 1.
    """
    parts = []
    while count > 0:
        epoch, start = divmod(position, examples)
        parts.append(_permutation(seed, epoch, examples)[start : start + count])
        position += len(parts[-1])
        count -= len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, examples: int) -> Indices:
    # Sorting raw bits instead of Generator.permutation: numpy promises that the bits of a generator
    # stay the same from version to version, but not what is made of them.
    generator = np.random.Philox(np.random.SeedSequence(derived_seed(seed, Stream.DATA_ORDER, epoch)))
    order = np.argsort(generator.random_raw(examples), kind="stable")
    order.setflags(write=False)
    return order


def micro_batches(
    split: TokenizedSplit, indices: Indices, micro_batch_size: int, rank: int = 0, world_size: int = 1
) -> list[Indices]:
    """One rank's share of an effective batch, in pieces that are computed one after the other.

    The batch is sorted by length, longest first (equal lengths keep their order), and dealt out to
    the ranks in turn; each share is cut into as few pieces of at most `micro_batch_size` as possible,
    as equal in size as possible. So neighbours have similar lengths, which keeps padding small, and
    a batch that does not fit into memory fails on its first piece.

    Returns an empty list for a rank that gets none of a batch smaller than the world.
    """
    lengths = split.offsets[indices + 1] - split.offsets[indices]
    share = indices[np.argsort(-lengths, kind="stable")][rank::world_size]
    pieces = math.ceil(len(share) / micro_batch_size)
    return np.array_split(share, pieces) if pieces else []


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A few examples side by side, padded on the right, with the places of what is learnt.

    Learnt token i of all examples, row by row, is `targets[i]`; it is predicted at `input_ids[rows[i],
    columns[i]]`, the token before it.

    Attributes:
        input_ids: int64 [batch, length]; padding is 0 and needs no mask: it comes after all tokens
            that count, and a causal model does not look ahead.
        rows: int64 [learnt_tokens], ascending.
        columns: int64 [learnt_tokens].
        targets: int64 [learnt_tokens].
    """

    input_ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    targets: NDArray[np.int64]


def collate(split: TokenizedSplit, indices: Indices) -> Batch:
    """The batch of some examples of a split, in the given order."""
    lengths = split.offsets[indices + 1] - split.offsets[indices]
    input_ids = np.zeros((len(indices), int(lengths.max())), dtype=np.int64)
    rows, columns = [], []
    for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        input_ids[row, :length] = split.tokens(index)
        columns.append(split.learnt_places(index) - 1)
        rows.append(np.full(len(columns[-1]), row, dtype=np.int64))
    all_rows, all_columns = np.concatenate(rows), np.concatenate(columns)
    return Batch(input_ids, all_rows, all_columns, input_ids[all_rows, all_columns + 1])
