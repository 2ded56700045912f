from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from controller.leaf_boxes import Boxes, SpaceColumns
from search_spaces.conditions import AtLeast, OneOf, exists
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space

CONDITIONAL = Space(
    {
        "momentum": Choice((0.0, 0.5, 0.9)),
        "layers": Int(1, 5),
        "kind": Choice(("adam", "sgd", "lion")),
        "nesterov": Choice((True, False)),
        "width": Int(1, 8, log=True),
        "ffn": Choice(("a", "b", "c")),
    },
    (
        OneOf("momentum", "kind", ("sgd", "lion")),
        OneOf("nesterov", "momentum", (0.5, 0.9)),
        AtLeast("ffn", "layers", 3),
        OneOf("ffn", "width", (1, 2, 5)),
    ),
)


def grown(space: Space, count: int = 120, seed: int = 0) -> tuple[DecisionTreeRegressor, SpaceColumns]:
    """A tree on noise, which splits everything."""
    rng = np.random.default_rng(seed)
    columns = SpaceColumns(space)
    rows = columns.rows([space.sample(rng) for _ in range(count)])
    return DecisionTreeRegressor(random_state=0).fit(rows, rng.standard_normal(count)), columns


def value_at(boxes: Boxes, cells: tuple[int, ...]) -> float:
    """What the boxes say of a cell of the cube; exactly one of them has it."""
    there = np.prod([axis[:, cell] for axis, cell in zip(boxes.cells, cells, strict=True)], axis=0)
    assert there.sum() == 1
    return float(there @ boxes.values)


def existing(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """The assignment at a point of the cube: without what does not exist there."""
    kept = dict(values)
    for _ in space.domains:
        for name in list(kept):
            if not exists([one for one in space.conditions if one.name == name], kept):
                del kept[name]
    return kept


def test_a_tree_says_the_same_of_every_point() -> None:
    tree, columns = grown(CONDITIONAL)
    boxes = columns.boxes(tree.tree_)
    domains = CONDITIONAL.domains
    all_values = [
        list(domain.values) if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
        for domain in domains.values()
    ]
    for cells in itertools.product(*(range(len(values)) for values in all_values)):
        point = {name: values[cell] for name, values, cell in zip(domains, all_values, cells, strict=True)}
        (predicted,) = tree.predict(columns.rows([existing(CONDITIONAL, point)]))
        assert value_at(boxes, cells) == predicted


def test_boxes_tile_the_cube() -> None:
    tree, columns = grown(CONDITIONAL, 30)
    boxes = columns.boxes(tree.tree_)
    volumes = np.prod([cells @ widths for cells, widths in zip(boxes.cells, boxes.widths, strict=True)], axis=0)
    assert (volumes > 0).all()
    assert volumes.sum() == pytest.approx(1)
    assert [len(widths) for widths in boxes.widths] == [3, 5, 3, 2, 8, 3]
    assert all(widths.sum() == pytest.approx(1) for widths in boxes.widths)
    log_scale = np.diff(np.log(np.arange(0.5, 9)))
    assert boxes.widths[4] == pytest.approx(log_scale / log_scale.sum())


def test_numbers_are_cut_at_thresholds_and_where_conditions_begin() -> None:
    space = Space(
        {
            "rate": Float(1e-4, 1.0, log=True),
            "steps": Int(1, 100_000, log=True),
            "warmup": Float(0.0, 1.0),
            "decay": Float(0.0, 1.0),
            "extra": Float(0.0, 1.0),
        },
        (AtLeast("warmup", "rate", 1e-2), AtLeast("decay", "steps", 1000), OneOf("extra", "steps", (7, 12))),
    )
    tree, columns = grown(space, 60)
    boxes = columns.boxes(tree.tree_)
    rng, steps = np.random.default_rng(1), space.domains["steps"]
    for _ in range(300):
        units = rng.random(5)
        units[1] = steps.encode(7 if rng.random() < 0.3 else steps.decode(units[1]))
        values = (domain.decode(unit) for domain, unit in zip(space.domains.values(), units, strict=True))
        params = existing(space, dict(zip(space.names, values, strict=True)))
        cells = tuple(
            int(np.searchsorted(np.cumsum(widths), unit)) for widths, unit in zip(boxes.widths, units, strict=True)
        )
        (predicted,) = tree.predict(columns.rows([params]))
        assert value_at(boxes, cells) == predicted
    edges = np.cumsum(boxes.widths[0])
    assert np.isclose(edges, 0.5).any()
    begin = (math.log(999.5) - math.log(0.5)) / (math.log(100_000.5) - math.log(0.5))
    assert np.isclose(np.cumsum(boxes.widths[1]), begin).any()


def test_words_have_a_column_each_and_orders_have_one() -> None:
    space = Space(
        {
            "kind": Choice(("x", "y", "z")),
            "rank": Choice((4, 8, 16)),
            "bias": Choice((True, False)),
            "rate": Float(0.0, 2.0),
            "more": Float(0.0, 1.0),
        },
        (OneOf("more", "bias", (True,)),),
    )
    rows = SpaceColumns(space).rows(
        [
            {"kind": "y", "rank": 4, "bias": True, "rate": 0.5, "more": 0.25},
            {"kind": "z", "rank": 16, "bias": False, "rate": 2.0},
        ]
    )
    assert rows == pytest.approx(np.array([[0, 1, 0, 1 / 6, 0.25, 0.25, 0.25], [0, 0, 1, 5 / 6, 0.75, 1.0, -1.0]]))
