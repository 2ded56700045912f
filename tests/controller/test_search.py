"""The search for the best of a space: in it, and where the score is highest."""

from __future__ import annotations

import numpy as np
import pytest

from controller.surrogates.search import ScoreSearch, perturbed, settled
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal
from search_spaces.rules import Divides
from search_spaces.space import Space

PLAIN = Space({"x": Float(0, 1), "y": Float(0, 1), "rank": Int(1, 64, log=True), "kind": Choice(("a", "b", "c"))})
CONDITIONAL = Space(
    {"x": Float(0, 1), "kind": Choice(("a", "b", "c")), "y": Float(0, 1), "heads": Int(1, 12), "kv": Int(1, 12)},
    (OneOf("y", "kind", ("b", "c")),),
    (Divides("kv", "heads"),),
    {"x": Normal(0.2, 0.1)},
)
NONE = np.empty((0, 4))


def hill(units: np.ndarray) -> np.ndarray:
    top = np.array([0.31, 0.77, 0.4, 5 / 6])
    return -(((units - top) / [0.05, 0.05, 0.3, 0.3]) ** 2).sum(axis=1)


def test_it_finds_the_top() -> None:
    for seed in range(3):
        found = ScoreSearch(PLAIN).best(hill, NONE, np.random.default_rng(seed))
        assert (np.diff(found.scores) <= 0).all()
        assert found.units[0, :2] == pytest.approx([0.31, 0.77], abs=0.005)
        assert PLAIN.decode(found.units[0])["kind"] == "c"
        assert found.scores == pytest.approx(hill(found.units))


def test_steps_alone_come_close_and_gradients_come_closer() -> None:
    scores = []
    for climbs in (0, 2):
        search = ScoreSearch(PLAIN, draws=100, steps=60, climbs=climbs)
        scores.append(np.mean([search.best(hill, NONE, np.random.default_rng(seed)).scores[0] for seed in range(5)]))
    assert -1.0 < scores[0] < scores[1]


def test_it_looks_around_the_centres() -> None:
    def needle(units: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(units[:, :2] - 0.123, axis=1) * (np.linalg.norm(units[:, :2] - 0.123, axis=1) < 0.05) - (
            np.linalg.norm(units[:, :2] - 0.123, axis=1) >= 0.05
        )

    centre = PLAIN.encode({"x": 0.1, "y": 0.1, "rank": 8, "kind": "a"})[None]
    search = ScoreSearch(PLAIN, draws=1, climbs=0)
    assert search.best(needle, centre, np.random.default_rng(0)).scores[0] > -0.02


def test_all_candidates_are_where_assignments_stand() -> None:
    for space in (PLAIN, CONDITIONAL):
        seen: list[np.ndarray] = []

        def score(units: np.ndarray, seen: list[np.ndarray] = seen) -> np.ndarray:
            seen.append(units)
            return -np.abs(units[:, 0] - 0.9)

        centre = space.encode(space.sample(np.random.default_rng(1)))[None]
        found = ScoreSearch(space, climbs=0).best(score, centre, np.random.default_rng(0))
        every = np.concatenate(seen)
        assert settled(space, every) == pytest.approx(every, abs=1e-12)
        assert space.encode_many(space.decode_many(every)) == pytest.approx(every, abs=1e-12)
        assert found.scores[0] > -0.01  # far from the prior, too


def test_settling_rounds_as_decoding_and_encoding_do() -> None:
    units = np.random.default_rng(0).random((200, 4))
    assert settled(PLAIN, units) == pytest.approx(PLAIN.encode_many(PLAIN.decode_many(units)), abs=1e-12)
    assert settled(PLAIN, units)[:, :2].tolist() == units[:, :2].tolist()


def test_steps_move_some_coordinates_and_reach_other_values() -> None:
    centre = PLAIN.encode({"x": 0.5, "y": 0.5, "rank": 8, "kind": "a"})
    points = perturbed(PLAIN, centre[None], 400, 0.01, np.random.default_rng(0))
    assert ((points >= 0) & (points <= 1)).all()
    moved = points != centre
    assert moved.any(axis=1).all()
    assert 0.5 < moved.mean() < 0.95
    assert np.abs(points[:, :2] - 0.5).max() < 0.05
    kinds = {params["kind"] for params in PLAIN.decode_many(points)}
    assert kinds == {"a", "b", "c"}
    assert len({params["rank"] for params in PLAIN.decode_many(points)}) > 2


def test_it_depends_on_its_generator_alone() -> None:
    first, again, other = (ScoreSearch(PLAIN).best(hill, NONE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.units, again.units)
    assert not np.array_equal(first.units, other.units)
