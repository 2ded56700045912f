from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search_spaces.conditions import AtLeast
from search_spaces.domains import Choice, Domain, Float, Int, SpaceError
from search_spaces.per_layer import MOST_LAYERS, layer_names, layer_values, longest, per_layer
from search_spaces.space import Space


def test_a_list_of_fixed_length_needs_no_condition() -> None:
    domains, conditions = per_layer("ffn", Choice((64, 128)), 3)
    assert domains == dict.fromkeys(["ffn.0", "ffn.1", "ffn.2"], Choice((64, 128)))
    assert conditions == ()


@pytest.mark.parametrize("length", [Int(1, 3), Choice((1, 2, 3)), Choice((3, 1))])
def test_a_layer_exists_while_there_are_enough_of_them(length: Int | Choice) -> None:
    domains, conditions = per_layer("architecture.ffn", Int(1, 9), length, "architecture.num_layers")
    assert conditions[2] == AtLeast("architecture.ffn.2", "architecture.num_layers", 3)
    every: dict[str, Domain] = {"architecture.num_layers": length, **domains}
    space = Space(every, conditions)
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(30):
        params = space.sample(rng)
        values = layer_values(params, "architecture.ffn")
        assert len(values) == params["architecture.num_layers"]
        counts.add(len(values))
    assert len(counts) == length.size


def test_values_are_read_from_the_first_layer_on() -> None:
    params = {"ffn.0": 8, "ffn.1": 4, "ffn.10": 2, "ffn": 1, "other.0": 7}
    assert layer_values(params, "ffn") == (8, 4)
    assert layer_values(params, "heads") == ()
    assert layer_names("ffn", 2) == ("ffn.0", "ffn.1")


@pytest.mark.parametrize(
    "length", [0, MOST_LAYERS + 1, True, Int(1, 10**6), Choice(("a",)), Choice((1.0, 2.0)), Int(0, 0)]
)
def test_lengths_that_make_no_sense_are_refused(length: Any) -> None:
    with pytest.raises(SpaceError, match="ffn: expected a length from 1 to 1024"):
        longest(length, "ffn")
    with pytest.raises(SpaceError, match="ffn: expected a length from 1 to 1024"):
        longest(Float(1, 3), "ffn")


def test_a_varying_length_needs_a_name() -> None:
    with pytest.raises(SpaceError, match="ffn: expected a parent"):
        per_layer("ffn", Int(1, 2), Int(1, 3))
    with pytest.raises(SpaceError, match="ffn: expected a parent"):
        per_layer("ffn", Int(1, 2), 3, "layers")
