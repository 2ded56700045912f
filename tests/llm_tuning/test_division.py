from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tuning.division import divide, divide_in_order
from llm_tuning.rows import DataError

SHARES = {"validation": 0.1, "test": 0.2}
KEYS = st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 10)), min_size=3, max_size=120)


def bunches(keys: list[tuple[int, int | None]]) -> list[set[int]]:
    """The rows that hang together, found the slow way."""
    found: list[set[int]] = []
    for row, (content, group) in enumerate(keys):
        linked = [
            bunch
            for bunch in found
            if any(keys[other][0] == content or (group is not None and keys[other][1] == group) for other in bunch)
        ]
        found = [bunch for bunch in found if bunch not in linked] + [{row}.union(*linked)]
    return found


@given(KEYS, st.integers(0, 5))
def test_rows_with_a_key_in_common_stay_together_and_no_split_is_empty(
    keys: list[tuple[int, int | None]], seed: int
) -> None:
    if len(bunches(keys)) < 3:
        with pytest.raises(DataError, match="expected at least 3 rows of different content or group"):
            divide(keys, SHARES, seed)
        return
    splits = divide(keys, SHARES, seed)
    assert set(splits) == {"train", "validation", "test"}
    for bunch in bunches(keys):
        assert len({splits[row] for row in bunch}) == 1
    assert divide(keys, SHARES, seed) == splits


@given(st.integers(3, 300), st.integers(0, 5))
def test_the_shares_are_exact_where_all_rows_differ(rows: int, seed: int) -> None:
    sizes = Counter(divide([(row,) for row in range(rows)], SHARES, seed))
    assert sizes["validation"] == max(1, round(0.1 * rows))
    assert sizes["test"] == max(1, round(0.2 * rows))
    assert sum(sizes.values()) == rows


@given(KEYS, st.integers(0, 5))
def test_a_split_exceeds_its_share_only_by_one_bunch(keys: list[tuple[int, int | None]], seed: int) -> None:
    together = bunches(keys)
    if len(together) < 3:
        return
    splits = divide(keys, SHARES, seed)
    for name, share in SHARES.items():
        own = [bunch for bunch in together if splits[min(bunch)] == name]
        assert sum(map(len, own)) <= max(1, round(share * len(keys))) or len(own) == 1


def test_another_seed_divides_differently() -> None:
    keys = [(row,) for row in range(50)]
    assert divide(keys, SHARES, 0) != divide(keys, SHARES, 1)


def test_a_chain_of_keys_holds_rows_together() -> None:
    keys = [("a", 1), ("b", 1), ("b", 2), ("c", 2), ("x", None), ("y", None), ("z", None)]
    splits = divide(keys, SHARES, 0)
    assert len(set(splits[:4])) == 1


@given(st.lists(st.integers(0, 40), min_size=3, max_size=100))
def test_an_order_is_cut_into_contiguous_splits(contents: list[int]) -> None:
    if len(set(contents)) < 3:
        with pytest.raises(DataError):
            divide_in_order(contents, SHARES)
        return
    splits = divide_in_order(contents, SHARES)
    first = [split for place, split in enumerate(splits) if contents[place] not in contents[:place]]
    assert first == sorted(first, key=["train", "validation", "test"].index)
    assert set(first) == {"train", "validation", "test"}
    assert all(len({s for c, s in zip(contents, splits, strict=True) if c == content}) == 1 for content in contents)


def test_a_million_rows_take_seconds() -> None:
    keys = [(row % 700_000, row // 10) for row in range(1_000_000)]
    assert len(divide(keys, {"validation": 0.1}, 0)) == 1_000_000
