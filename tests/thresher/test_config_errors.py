from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thresher.config_errors import describe_errors, printable


class Circle(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["circle"]
    radius: float = Field(default=1.0, gt=0, description="in metres")


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["square"]
    side: float


class Paint(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "green"] = "red"
    layers: int = Field(default=1, ge=1, le=9)


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    shape: Annotated[Circle | Square, Field(discriminator="kind")] = Circle(kind="circle")
    paint: Paint = Paint()
    sizes: dict[Literal["width", "height"], int] = Field(default_factory=dict)


def describe(data: dict[Any, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(data)
    return describe_errors(caught.value, Drawing)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"nmae": 1, "name": "x"}, "nmae: expected a known key, got 'nmae'; did you mean 'name'?"),
        ({}, "name: expected a value, got none; add it"),
        (
            {"name": "x", "paint": {"color": 1}},
            "paint.color: expected a known key, got 'color'; did you mean 'colour'?",
        ),
        (
            {"name": "x", "shape": {"kind": "circle", "raduis": 1}},
            "shape.raduis: expected a known key, got 'raduis'; did you mean 'radius'?",
        ),
        (
            {"name": "x", "shape": {"kind": "square", "side": 1, "radius": 1}},
            "shape.radius: expected a known key, got 'radius'; use one of 'kind', 'side'",
        ),
        (
            {"name": "x", "shape": {"kind": "circle", "radius": -1}},
            "shape.radius: expected a number above 0, got -1; correct it (in metres; default 1.0)",
        ),
        ({"name": "x", "shape": {"kind": "square"}}, "shape.side: expected a value, got none; add it"),
        (
            {"name": "x", "shape": {"kind": "sqare"}},
            "shape.kind: expected a known kind, got 'sqare'; did you mean 'square'?",
        ),
        ({"name": "x", "shape": {}}, "shape.kind: expected a kind, got none; use one of 'circle', 'square'"),
        (
            {"name": "x", "paint": 3},
            "paint: expected a mapping with colour, layers, got 3; write it as indented 'key: value' lines",
        ),
        (
            {"name": "x", "paint": {"colour": "rde"}},
            "paint.colour: expected a known word, got 'rde'; did you mean 'red'?",
        ),
        ({"name": "x", "paint": {"layers": 10}}, "paint.layers: expected at most 9, got 10; correct it (default 1)"),
        (
            {"name": "x", "paint": {"layers": "2.5"}},
            "paint.layers: expected an integer, got '2.5'; correct it (default 1)",
        ),
        ({"name": "x", "sizes": {"widht": 1}}, "sizes.widht: expected a known key, got 'widht'; did you mean 'width'?"),
        ({"name": "x", "sizes": {"width": "a"}}, "sizes.width: expected an integer, got 'a'; correct it"),
        (
            {"name": "x", "a\nb": 1},
            "'a\\nb': expected a known key, got 'a\\nb'; use one of 'name', 'shape', 'paint', 'sizes'",
        ),
    ],
    ids=str,
)
def test_one_mistake(data: dict[Any, Any], expected: str) -> None:
    assert describe(data) == [expected]


def test_each_mistake_has_a_line() -> None:
    lines = describe({"nmae": 1, "paint": {"layers": 0, "colour": 3}})
    assert sorted(line.partition(":")[0] for line in lines) == ["name", "nmae", "paint.colour", "paint.layers"]


def test_a_key_that_is_called_like_a_kind_is_told_in_full() -> None:
    assert describe({"name": "x", "circle": {}})[0].startswith("circle: expected a known key")


def test_printable() -> None:
    assert (printable("lora.rank"), printable("a\nb"), printable("")) == ("lora.rank", "'a\\nb'", "''")
