from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tuning.batches import Stream, collate, derived_seed, example_indices, micro_batches
from llm_tuning.tokenized_split import TokenizedSplit

MakeSplit = Callable[..., TokenizedSplit]


def test_seeds_differ_in_every_coordinate_and_stay_the_same() -> None:
    uses = [
        (seed, stream, *counters) for seed in (0, 1) for stream in Stream for counters in ((), (0,), (0, 0), (1, 0))
    ]
    assert len({derived_seed(*use) for use in uses}) == len(uses)
    # Runs of an earlier version go on with the same dropout and the same data.
    assert derived_seed(7, Stream.DROPOUT, 3, 1, 0) == 2135747434429310634
    assert example_indices(seed=7, position=0, count=6, examples=6).tolist() == [5, 2, 4, 3, 1, 0]


@given(st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 2**64 - 1))
def test_the_stream_does_not_depend_on_how_it_is_cut(examples: int, counts: list[int], seed: int) -> None:
    position, parts = 0, []
    for count in counts:
        part = example_indices(seed, position, count, examples)
        assert len(part) == count
        parts.append(part)
        position += count
    whole = example_indices(seed, 0, position, examples)
    assert np.concatenate(parts).tolist() == whole.tolist()
    for start in range(0, position - examples + 1, examples):
        assert sorted(whole[start : start + examples]) == list(range(examples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = np.split(example_indices(seed=0, position=0, count=100, examples=50), 2)
    other = example_indices(seed=1, position=0, count=50, examples=50)
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("count", "world", "size"), [(12, 1, 4), (13, 1, 4), (9, 1, 8), (5, 2, 2), (1, 4, 8), (7, 3, 1)]
)
def test_ranks_and_micro_batches_share_a_batch(make_split: MakeSplit, count: int, world: int, size: int) -> None:
    split = make_split(20)
    indices = example_indices(seed=0, position=15, count=count, examples=len(split))
    shares = [micro_batches(split, indices, size, rank, world) for rank in range(world)]
    assert Counter(np.concatenate([piece for share in shares for piece in share])) == Counter(indices)
    for share in shares:
        examples = sum(map(len, share))
        assert examples in (count // world, count // world + 1)
        assert len(share) == -(-examples // size)  # as few as possible
        if share:
            sizes = [len(piece) for piece in share]
            assert max(sizes) <= size
            assert max(sizes) - min(sizes) <= 1
            lengths = [len(split.tokens(index)) for piece in share for index in piece]
            assert lengths == sorted(lengths, reverse=True)


def test_a_rank_may_get_nothing(make_split: MakeSplit) -> None:
    assert micro_batches(make_split(5), np.array([3]), micro_batch_size=4, rank=1, world_size=2) == []


def test_a_batch_holds_the_examples_and_points_at_what_is_learnt(make_split: MakeSplit) -> None:
    split = make_split(8)
    indices = np.array([5, 2, 7])
    batch = collate(split, indices)
    assert batch.input_ids.shape == (3, max(len(split.tokens(index)) for index in indices))
    predicted: list[list[int]] = [[], [], []]
    for row, column, target in zip(batch.rows, batch.columns, batch.targets, strict=True):
        assert batch.input_ids[row, column + 1] == target
        predicted[row].append(target)
    for row, index in enumerate(indices):
        tokens = split.tokens(index)
        assert batch.input_ids[row, : len(tokens)].tolist() == tokens.tolist()
        assert not batch.input_ids[row, len(tokens) :].any()
        assert predicted[row] == split.answer(index).tolist()
