"""The results that a surrogate holds, and when it is fitted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from controller.surrogates import training_set
from controller.surrogates.features import Features
from controller.surrogates.training_set import Refits, scheduled, selected
from search_spaces.domains import Float
from search_spaces.space import Space

RNG = np.random.default_rng(0)


def test_few_are_all_held() -> None:
    assert selected(RNG.random(10), 10).tolist() == list(range(10))


@pytest.mark.parametrize("shape", [(1000,), (1000, 1)])
def test_of_many_the_best_half_and_others_evenly_over_time_are_held(shape: tuple[int, ...]) -> None:
    losses = RNG.random(shape)
    rows = selected(losses, 100)
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()
    best = np.argsort(losses.reshape(-1))[:50]
    assert np.isin(best, rows).all()
    rest = np.setdiff1d(rows, best)
    assert np.diff(rest).max() < 40
    assert rest[0] < 5
    assert rest[-1] > 994


def test_the_best_of_several_objectives_are_the_first_fronts() -> None:
    places = RNG.permutation(400)
    losses = np.stack([places, 399.0 - places], axis=1)
    losses[200:] += 400.0
    assert (selected(losses, 50) < 200).sum() >= 25 + 12


def test_a_fit_follows_at_once_at_first_and_then_by_tenths() -> None:
    counts = [scheduled(count) for count in range(1, 2001)]
    assert counts[:30] == list(range(1, 31))
    assert all(before <= after for before, after in itertools.pairwise(counts))
    assert all(0.88 * count <= fitted <= count for count, fitted in enumerate(counts, 1))
    assert len(set(counts)) < 90


def test_what_was_fitted_is_kept_and_equals_a_new_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features(Space({"x": Float(0, 1), "y": Float(0, 1)}))
    units = RNG.random((200, 2))
    losses = np.sin(4 * units[:, 0]) + 0.1 * RNG.normal(size=200)
    fits: list[int] = []
    original = training_set.fit

    def counted(points: Any, *arguments: Any) -> Any:
        fits.append(len(points))
        return original(points, *arguments)

    monkeypatch.setattr(training_set, "fit", counted)
    warm = Refits()
    for count in (5, 5, 20, 20, 200):
        found, cold = (
            warm.of(features, units[:count], losses[:count]),
            Refits().of(features, units[:count], losses[:count]),
        )
        assert np.array_equal(found.lengthscales, cold.lengthscales)
        assert (found.signal, found.noise) == (cold.signal, cold.noise)
    assert fits == [5, 5, 5, 20, 20, 20, 120, 120]
    assert not np.array_equal(warm.of(features, units, -losses).lengthscales, found.lengthscales)
