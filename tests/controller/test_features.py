"""Features of configurations: their columns, their distances, and what does not exist."""

from __future__ import annotations

import numpy as np
import pytest

from controller.surrogates.features import Features
from search_spaces.conditions import AtLeast, OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.per_layer import per_layer
from search_spaces.rules import Divides
from search_spaces.space import Space


def test_each_parameter_has_the_columns_of_its_kind() -> None:
    space = Space(
        {
            "rate": Float(1e-4, 1e-2, log=True),
            "fixed": Int(3, 3),
            "rank": Choice((4, 8, 16)),
            "kind": Choice(("a", "b", "c")),
            "flag": Choice((False, True)),
            "layers": Int(1, 4),
        }
    )
    features = Features(space)
    assert features.names == ("rate", "rank", "kind", "flag", "layers")
    assert features.groups.tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert features.width == 7
    given = {"rate": 1e-3, "fixed": 3, "rank": 16, "kind": "b", "flag": True, "layers": 1}
    row = features.of(space.encode_many([given]))[0]
    assert row == pytest.approx([0.5, 5 / 6, 0, np.sqrt(0.5), 0, 1, 0.125])


@pytest.mark.parametrize("values", [("a", "b"), ("a", "b", "c"), (True, False), (3, 1, 2), ("a", 1, True, 2.5, "b")])
def test_any_two_values_of_an_unordered_choice_are_at_distance_one(values: tuple[str | int, ...]) -> None:
    space = Space({"kind": Choice(values)})
    rows = Features(space).of(space.encode_many([{"kind": value} for value in values]))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    assert distances == pytest.approx(1.0 - np.eye(len(values)))


def test_presence_is_read_off_the_parents() -> None:
    layers, exists = per_layer("width", Choice((64, 128, 256)), Int(1, 4), "layers")
    space = Space(
        {
            "kind": Choice(("adam", "sgd")),
            "nesterov": Choice((False, True)),
            "momentum": Float(0.0, 1.0),
            "decay": Float(0.0, 1.0),
            "steps": Int(1, 9),
            "late": Choice(("x", "y", "z")),
            "heads": Int(1, 12),
            "kv": Int(1, 12),
            "layers": Int(1, 4),
            **layers,
        },
        conditions=(
            OneOf("nesterov", "kind", ("sgd",)),
            OneOf("momentum", "nesterov", (True,)),
            AtLeast("decay", "momentum", 0.5),
            OneOf("late", "steps", (2, 3, 5)),
            *exists,
        ),
        rules=(Divides("kv", "heads"),),
    )
    features = Features(space)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(300)]
    rows = features.of(space.encode_many(drawn))
    conditional = {condition.name for condition in space.conditions}
    for index, name in enumerate(features.names):
        own = rows[:, features.groups == index]
        if name not in conditional:
            assert own.shape == (300, 1)
            continue
        present = np.array([name in params for params in drawn])
        assert own[:, -1].tolist() == present.tolist(), name
        assert present.any()
        assert name == "width.0" or not present.all()  # there is a first layer always
        assert (own[~present, :-1] == (0.5 if own.shape[1] == 2 else 0.0)).all()


def test_a_threshold_on_a_float_holds_after_the_round_trip() -> None:
    thresholds = np.random.default_rng(1).uniform(0.01, 0.9, 200).tolist()
    for threshold in thresholds:
        space = Space({"x": Float(0.001, 1.0, log=True), "y": Float(0, 1)}, (AtLeast("y", "x", threshold),))
        assert Features(space).of(space.encode_many([{"x": threshold, "y": 0.3}]))[0, -1] == 1.0


def test_a_space_of_one_point_has_no_columns() -> None:
    space = Space({"only": Choice(("this",))})
    assert Features(space).of(space.encode_many([{"only": "this"}] * 3)).shape == (3, 0)


def test_equal_configurations_have_equal_features_and_others_do_not(space: Space) -> None:
    rng = np.random.default_rng(2)
    drawn = [space.sample(rng) for _ in range(60)]
    rows = Features(space).of(space.encode_many(drawn))
    for one in range(60):
        for other in range(60):
            assert (drawn[one] == drawn[other]) == np.array_equal(rows[one], rows[other])
