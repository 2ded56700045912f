from __future__ import annotations

import numpy as np
import pytest

from controller.surrogates.candidates import around, on_space, spread
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal
from search_spaces.rules import Sum
from search_spaces.space import Space

PLAIN = Space({"rate": Float(1e-3, 1e-1, log=True), "rank": Int(4, 64, log=True), "kind": Choice(("a", "b", "c"))})
SPACES = {
    "plain": PLAIN,
    "conditional": Space(
        {"kind": Choice(("linear", "wsd")), "decay": Float(0.1, 0.9), "layers": Int(1, 4)},
        conditions=(OneOf("decay", "kind", ("wsd",)),),
    ),
    "ruled": Space({"x": Float(0.0, 0.9), "y": Float(0.1, 0.9)}, rules=(Sum(("x", "y"), high=1.0),)),
    "priors": Space(dict(PLAIN.domains), priors={"rate": Normal(1e-2, 0.1)}),
    "one-point": Space({"only": Choice(("a",)), "same": Float(0.5, 0.5)}),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_all_candidates_lie_in_the_space_as_it_takes_them(space: Space) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        everywhere = spread(space, rng)
        near = around(space, everywhere[: 1 + seed], rng)
        for units in (everywhere, near):
            assert units.shape == (len(units), len(space.domains))
            params = space.decode_many(units)
            for one in params:
                space.validate(one)
            assert space.encode_many(params) == pytest.approx(units, abs=1e-9)
        if space is not SPACES["one-point"]:
            assert len(np.unique(everywhere, axis=0)) > len(everywhere) // 20


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_candidates_depend_on_the_generator_alone(space: Space) -> None:
    def drawn(seed: int) -> list[list[float]]:
        rng = np.random.default_rng(seed)
        everywhere = spread(space, rng)
        return np.concatenate([everywhere, around(space, everywhere[:3], rng)]).tolist()

    assert drawn(1) == drawn(1)
    if space is not SPACES["one-point"]:
        assert drawn(1) != drawn(2)


def test_half_of_what_is_spread_follows_the_priors() -> None:
    def close(space: Space) -> int:
        units = spread(space, np.random.default_rng(0))
        return int(np.sum(np.abs(units[:, 0] - 0.5) < 0.12))  # a decade is half of the range

    assert close(SPACES["priors"]) > close(PLAIN) + 50


def test_what_is_around_a_centre_is_near_it_and_shares_coordinates_with_it() -> None:
    space = Space({f"x{place}": Float(0.0, 1.0) for place in range(6)})
    centre = np.full((1, 6), 0.3)
    distances = np.abs(around(space, centre, np.random.default_rng(0)) - centre)
    anywhere = np.abs(spread(space, np.random.default_rng(0)) - centre)
    assert np.median(distances) < 0.4 * np.median(anywhere)
    assert np.mean(distances < 1e-9) > 0.25
    assert (np.max(distances, axis=1) > 0.3).any()  # some move far along a few coordinates


def test_points_are_rounded_and_repaired() -> None:
    units = on_space(SPACES["conditional"], np.array([[0.1, 0.9, 0.4], [0.9, 0.9, 0.4]]))
    assert units[0, 1] == 0.5  # absent where the schedule is linear
    assert units[1, 1] == pytest.approx(0.9)
    assert units[:, 2].tolist() == [0.375, 0.375]
