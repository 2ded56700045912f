from __future__ import annotations

import pytest

from search_spaces.domains import Choice, Domain, DomainError, Float, Int, ParamValue
from search_spaces.neighbours import steps_from


@pytest.mark.parametrize(
    ("domain", "value", "steps"),
    [
        (Int(1, 5), 3, (2, 4)),
        (Int(1, 5), 1, (2,)),
        (Int(1, 1), 1, ()),
        (Choice((4, 8, 16)), 8, (4, 16)),
        (Choice((4, 8, 16)), 16, (8,)),
        (Choice(("a", "b", "c")), "b", ("a", "c")),
        (Choice((8, 4, 16)), 4, (8, 16)),
        (Choice((True, 1)), 1, (True,)),
        (Float(0, 1), 0.5, (0.3, 0.7)),
        (Float(0, 1), 0.0, (0.2,)),
        (Float(0, 1), 0.9, (0.7, 1.0)),
        (Float(1e-5, 1.0, log=True), 1e-3, (1e-4, 1e-2)),
        (Float(2, 2), 2.0, ()),
    ],
)
def test_one_step_away(domain: Domain, value: ParamValue, steps: tuple[ParamValue, ...]) -> None:
    found = steps_from(domain, value)
    assert found == (pytest.approx(steps) if isinstance(domain, Float) else steps)
    assert [type(step) for step in found] == [type(step) for step in steps]


def test_a_value_outside_has_no_neighbours() -> None:
    with pytest.raises(DomainError, match="got 9"):
        steps_from(Int(1, 5), 9)
