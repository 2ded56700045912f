from __future__ import annotations

from typing import Any

import pytest

from search_spaces.conditions import AtLeast, OneOf, check_possible, dependency_order, exists, normalised
from search_spaces.domains import Choice, Domain, Float, Int, SpaceError

DOMAINS: dict[str, Domain] = {
    "kind": Choice(("linear", "wsd", "cosine")),
    "decay": Float(0.05, 0.5),
    "layers": Int(2, 8),
    "width": Choice((64, 128, 256)),
    "flag": Choice((True, False)),
    "deep": Int(0, 1),
}


def test_types_are_told_apart() -> None:
    assert OneOf("a", "b", (1,)).holds(1)
    assert not OneOf("a", "b", (1,)).holds(True)
    assert not OneOf("a", "b", (1,)).holds(1.0)
    assert OneOf("a", "b", (1,)) != OneOf("a", "b", (True,))
    assert OneOf("a", "b", (1, 2)) == OneOf("a", "b", [1, 2])  # type: ignore[arg-type]
    assert hash(OneOf("a", "b", (1, 2))) == hash(OneOf("a", "b", (1, 2)))
    assert AtLeast("a", "b", 2).holds(2)
    assert not AtLeast("a", "b", 2).holds(1.9)
    assert not AtLeast("a", "b", 0).holds("text")
    assert not AtLeast("a", "b", 0).holds(True)


def test_there_is_one_form() -> None:
    found = normalised(
        DOMAINS,
        [
            AtLeast("deep", "layers", 3),
            OneOf("decay", "kind", ("cosine", "wsd")),
            AtLeast("deep", "layers", 5),
            OneOf("decay", "kind", ("wsd", "cosine", "linear")),
            AtLeast("flag", "width", 100),
            OneOf("flag", "width", (256, 64, 128)),
            OneOf("flag", "layers", (3, 3, 2)),
        ],
    )
    assert found == (
        OneOf("decay", "kind", ("wsd", "cosine")),
        OneOf("flag", "layers", (2, 3)),
        OneOf("flag", "width", (128, 256)),
        AtLeast("deep", "layers", 5),
    )
    assert list(map(str, found[:1])) == ["kind is 'wsd' or 'cosine'"]
    assert str(found[-1]) == "layers is at least 5"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            OneOf("dekay", "kind", ("wsd",)),
            "expected a condition between names of the space, got 'dekay'; did you mean",
        ),
        (OneOf("decay", "knid", ("wsd",)), "got 'knid'; did you mean 'kind'?"),
        (OneOf("decay", "kind", ("wds",)), r"decay: expected values that kind can have .*, got 'wds' \(str\)"),
        (OneOf("decay", "kind", (False,)), "got False .*YAML reads an unquoted yes, no, on and off as a bool"),
        (OneOf("deep", "width", (64.0,)), r"got 64.0 \(float\)"),
        (OneOf("deep", "width", ([64],)), r"got \[64\] \(list\)"),
        (OneOf("deep", "decay", (0.1,)), "expected at_least for the number decay, got values"),
        (AtLeast("deep", "layers", 9), "at_least that layers can reach .*, got 9; lower it"),
        (AtLeast("deep", "kind", 1), "expected numbers in kind for at_least"),
        (AtLeast("deep", "flag", 1), "expected numbers in flag for at_least"),
        (AtLeast("deep", "layers", "3"), "expected a number for at_least, got '3'"),
        (AtLeast("deep", "layers", float("nan")), "expected a number for at_least, got nan"),
        (AtLeast(["deep"], "layers", 3), "expected a condition between names"),
        (("deep", "layers"), "expected a condition"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(condition: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        normalised(DOMAINS, [condition])


def test_values_must_be_given() -> None:
    for values in ((), "wsd", None):
        with pytest.raises(SpaceError, match="decay: expected the values of kind it exists for"):
            OneOf("decay", "kind", values)  # type: ignore[arg-type]


def test_conditions_that_never_hold_together_are_refused() -> None:
    with pytest.raises(SpaceError, match="deep: expected conditions that can hold together, got 'kind is 'wsd''"):
        normalised(DOMAINS, [OneOf("deep", "kind", ("wsd",)), OneOf("deep", "kind", ("linear",))])
    apart = [OneOf("decay", "kind", ("wsd",)), OneOf("deep", "kind", ("linear",)), AtLeast("deep", "decay", 0.1)]
    conditions = normalised(DOMAINS, apart)
    with pytest.raises(SpaceError, match="deep: expected conditions that can hold together"):
        check_possible(("kind", "decay", "deep"), conditions)


def test_the_order_follows_the_needs_and_otherwise_the_names() -> None:
    assert dependency_order("abcd", {}) == tuple("abcd")
    assert dependency_order("abcd", {"a": ["d"], "b": ["a"]}) == tuple("cdab")
    with pytest.raises(SpaceError, match="do not depend on themselves, got a -> c -> b -> a; remove one"):
        dependency_order("abcd", {"a": ["c"], "c": ["b"], "b": ["a"], "d": ["a"]})
    with pytest.raises(SpaceError, match="got a -> a"):
        dependency_order("ab", {"a": ["a"]})


def test_a_child_of_what_does_not_exist_does_not_exist() -> None:
    conditions = [OneOf("decay", "kind", ("wsd",))]
    assert exists(conditions, {"kind": "wsd"})
    assert not exists(conditions, {"kind": "linear"})
    assert not exists(conditions, {})
    assert exists([], {})
