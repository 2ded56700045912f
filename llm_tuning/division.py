"""Rows divided into splits that have no content in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from llm_tuning.rows import DataError


def divide(keys: Sequence[Sequence[Hashable]], shares: Mapping[str, float], seed: int) -> list[str]:
    """Draw splits at random such that rows with a key in common are together, directly or through other rows.

    Bunches of such rows are taken in the order of a shuffle and go to the first split of `shares` that has room for
    all of them, else to train. So a split has at most its share, and exactly that where all rows differ; but at
    least the smallest bunch.

    Args:
        keys: for each row, its keys. The first keys of all rows are compared with each other, then the second ones.
            None has nothing in common with any.
        shares: split -> share of the rows in (0, 1). The others are `train`.

    Returns:
        The split of each row.

    Raises:
        DataError: there are fewer bunches than splits.
    """
    bunches = _bunches(keys)
    _check_count(len(bunches), shares)
    shuffled = [bunches[index] for index in np.random.default_rng(seed).permutation(len(bunches))]
    room = {name: _target(share, len(keys)) for name, share in shares.items()}
    splits = ["train"] * len(keys)
    left: list[list[int]] = []
    filled: set[str] = set()
    for bunch in shuffled:
        name = next((name for name, rows in room.items() if len(bunch) <= rows), None)
        if name is None:
            left.append(bunch)
            continue
        filled.add(name)
        room[name] -= len(bunch)
        for row in bunch:
            splits[row] = name
    left.sort(key=len, reverse=True)  # stable: among equals the shuffle decides
    for name in shares:
        if name not in filled:
            for row in left.pop():
                splits[row] = name
    return splits


def divide_in_order(contents: Sequence[Hashable], shares: Mapping[str, float]) -> list[str]:
    """Cut a sequence into contiguous splits, train first; what repeats goes where it was the first time.

    Args:
        contents: of each row; equal ones are never in different splits.
        shares: split -> share of the rows in (0, 1), in the order of the splits. The first rows are `train`.

    Returns:
        The split of each row.

    Raises:
        DataError: there are fewer different rows than splits.
    """
    # Counted over what differs, so that no split is emptied by repetitions.
    first = dict.fromkeys(contents)
    _check_count(len(first), shares)
    counts = {name: _target(share, len(first)) for name, share in shares.items()}
    train = max(1, len(first) - sum(counts.values()))
    names = ["train"] * train + [name for name, count in counts.items() for _ in range(count)]
    split_of = dict(zip(first, names, strict=False))
    return [split_of[content] for content in contents]


def _target(share: float, rows: int) -> int:
    return max(1, round(share * rows))


def _check_count(count: int, shares: Mapping[str, float]) -> None:
    if count < len(shares) + 1:
        names = " and ".join(shares)
        raise DataError(
            f"expected at least {len(shares) + 1} rows of different content or group to make {names} from train, got "
            f"{count}; add rows, or name a file for {names}"
        )


def _bunches(keys: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """The rows that belong together, in the order of their first rows. Union-find with path halving."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    seen: dict[tuple[int, Hashable], int] = {}
    for row, own in enumerate(keys):
        for place, key in enumerate(own):
            if key is None:
                continue
            earlier, later = sorted((root(seen.setdefault((place, key), row)), root(row)))
            parent[later] = earlier
    bunches: dict[int, list[int]] = {}
    for row in range(len(keys)):
        bunches.setdefault(root(row), []).append(row)
    return list(bunches.values())
