from __future__ import annotations

from typing import Any

import pytest

from llm_tuning.recipe import RECIPE_DEFAULTS
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space, SpaceError
from thresher.space_section import check_domains, merge_space, nearest, normal_form, wrong_space

WRITTEN: dict[str, Any] = {
    "optimizer.learning_rate": {
        "kind": "float",
        "low": 2e-5,
        "high": 3e-3,
        "log": True,
        "prior": {
            "kind": "normal",
            "centre": 5e-4,
            "deviation": 0.35,
            "scaled_by": {"name": "optimizer.batch_size", "reference": 16, "exponent": 0.5},
        },
    },
    "optimizer.batch_size": {"kind": "choice", "values": [8, 16, 32]},
    "lora.rank": {
        "kind": "choice",
        "values": [4, 8, 16, 32, 64],
        "prior": {"kind": "weights", "weights": [1, 1, 2, 3, 1]},
    },
    "schedule.kind": {"kind": "choice", "values": ["linear", "wsd"]},
    "schedule.decay": {"kind": "float", "low": 0.1, "high": 0.5, "when": {"schedule.kind": ["wsd"]}},
    "rules": [{"kind": "product", "names": ["optimizer.batch_size", "lora.rank"], "high": 1024}],
}
FAMILY = Space.from_dict(WRITTEN)


def merged(section: dict[str, Any], **values: Any) -> tuple[Space, dict[str, Any]]:
    return merge_space(section, FAMILY, {**RECIPE_DEFAULTS, **values})


def entry(space: Space, name: str) -> Any:
    return space.to_dict()[name]


class TestMerge:
    def test_nothing_leaves_the_family_s_space(self) -> None:
        assert merged({}) == (FAMILY, {})

    def test_an_entry_with_a_kind_takes_the_place_of_the_family_s(self) -> None:
        space, _ = merged({"lora.rank": {"kind": "int", "low": 2, "high": 9}})
        assert space.domains["lora.rank"] == Int(2, 9)
        assert "prior" not in entry(space, "lora.rank")
        assert space.names == FAMILY.names

    def test_one_without_changes_single_keys(self) -> None:
        space, _ = merged({"optimizer.learning_rate": {"high": 1e-3}})
        assert space.domains["optimizer.learning_rate"] == Float(2e-5, 1e-3, log=True)
        assert entry(space, "optimizer.learning_rate")["prior"] == entry(FAMILY, "optimizer.learning_rate")["prior"]

    def test_bounds_on_a_choice_leave_the_values_between_them(self) -> None:
        space, _ = merged({"lora.rank": {"low": 8, "high": 40}})
        assert space.domains["lora.rank"] == Choice((8, 16, 32))
        with pytest.raises(SpaceError, match=r"space.lora.rank: expected bounds with some of the family's values"):
            merged({"lora.rank": {"low": 100}})
        with pytest.raises(SpaceError, match=r"space.lora.rank.low: expected a number, got 'x'"):
            merged({"lora.rank": {"low": "x"}})

    def test_values_that_are_left_keep_their_weights(self) -> None:
        family = Space.from_dict(
            {"lora.rank": {"kind": "choice", "values": [4, 8, 16], "prior": {"kind": "weights", "weights": [1, 2, 3]}}}
        )
        space, _ = merge_space({"lora.rank": {"low": 8}}, family, {})
        assert entry(space, "lora.rank")["prior"] == {"kind": "weights", "weights": [2, 3]}
        space, _ = merge_space({"lora.rank": {"values": [8, 16]}}, family, {})
        assert "prior" not in entry(space, "lora.rank")

    def test_bounds_and_values_are_two_answers(self) -> None:
        with pytest.raises(SpaceError, match=r"space.lora.rank: expected values or bounds of the family's values, got"):
            merged({"lora.rank": {"high": 8, "values": [4, 16]}})

    def test_a_choice_has_no_scale(self) -> None:
        with pytest.raises(SpaceError, match=r"space.lora.rank.log: expected kind, values, prior, when, got 'log'"):
            merged({"lora.rank": {"log": True}})

    def test_another_scale_drops_the_prior(self) -> None:
        """Its deviation is in decades, which make no sense on the other scale."""
        space, _ = merged({"optimizer.learning_rate": {"log": False}})
        assert "prior" not in entry(space, "optimizer.learning_rate")

    @pytest.mark.parametrize("given", [[16, 32], {"kind": "choice", "values": [16, 32]}])
    def test_integers_for_a_float_are_floats(self, given: object) -> None:
        space, _ = merged({"lora.alpha": given})
        assert space.domains["lora.alpha"] == Choice((16.0, 32.0))

    def test_a_list_is_a_choice_and_keeps_the_condition(self) -> None:
        space, _ = merged({"lora.rank": [8, 16], "schedule.decay": [0.1, 0.2]})
        assert space.domains["lora.rank"] == Choice((8, 16))
        assert entry(space, "schedule.decay")["when"] == {"schedule.kind": ["wsd"]}

    def test_a_single_value_fixes(self) -> None:
        space, fixed = merged({"lora.rank": 8})
        assert fixed == {"lora.rank": 8}
        assert "lora.rank" not in space.names
        assert "rules" not in space.to_dict()  # the family's rule was about it

    def test_a_name_that_the_family_does_not_search(self) -> None:
        space, _ = merged({"lora.dropout": {"kind": "float", "low": 0.0, "high": 0.2}})
        assert space.names == (*FAMILY.names, "lora.dropout")
        with pytest.raises(
            SpaceError, match=r"space.lora.dropout.kind: expected float, int or choice, since the family"
        ):
            merged({"lora.dropout": {"high": 0.2}})

    def test_only_a_list(self) -> None:
        space, _ = merged({"only": ["lora.rank"], "lora.rank": [4, 8]})
        assert space.names == ("lora.rank",)
        with pytest.raises(
            SpaceError, match=r"space.only: expected hyperparameters that are searched .*got 'lora.alpha'"
        ):
            merged({"only": ["lora.alpha"]})

    def test_only_what_is_named(self) -> None:
        space, _ = merged({"only": True, "lora.rank": [4, 8], "lora.alpha": 3.0})
        assert space.names == ("lora.rank",)

    def test_nothing_left_to_search(self) -> None:
        with pytest.raises(SpaceError, match="expected something to search, got only fixed values"):
            merged({"only": True, "lora.rank": 8})

    def test_rules_are_added(self) -> None:
        rule = {"kind": "product", "names": ["lora.rank", "optimizer.batch_size"], "high": 128}
        space, _ = merged({"rules": [rule]})
        assert len(space.to_dict()["rules"]) == 2

    def test_a_rule_about_what_is_not_searched(self) -> None:
        rule = {"kind": "product", "names": ["lora.rank", "optimizer.batch_size"], "high": 128}
        expected = (
            r"^space\.rules\[0\]: expected hyperparameters that are searched, got 'optimizer.batch_size', which is "
            r"fixed at 16; give its domain under space.optimizer.batch_size"
        )
        with pytest.raises(SpaceError, match=expected):
            merged({"only": ["lora.rank"], "rules": [rule]})
        with pytest.raises(SpaceError, match=r"fixed at 8;"):
            merged({"optimizer.batch_size": 8, "rules": [rule]})
        with pytest.raises(SpaceError, match=r"space.rules\[0\].names: expected names of the space, got 5"):
            merged({"rules": [{**rule, "names": 5}]})

    def test_warmup_and_decay_never_overlap(self) -> None:
        space, _ = merged({"schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.9}})
        assert {"kind": "sum", "names": ["schedule.warmup", "schedule.decay"], "high": 1.0} in space.to_dict()["rules"]


class TestWhatIsNotSearchedIsSettled:
    def test_a_prior_is_computed_for_the_fixed_value(self) -> None:
        space, _ = merged({"optimizer.batch_size": 64})
        prior = entry(space, "optimizer.learning_rate")["prior"]
        assert prior["centre"] == pytest.approx(1e-3)
        assert not prior.get("scaled_by")

    def test_by_the_default_if_it_is_not_searched(self) -> None:
        space, _ = merged({"only": ["optimizer.learning_rate"]}, **{"optimizer.batch_size": 4})
        assert entry(space, "optimizer.learning_rate")["prior"]["centre"] == pytest.approx(2.5e-4)

    @pytest.mark.parametrize(("kind", "searched"), [("wsd", True), ("linear", False)])
    def test_a_condition_holds_or_does_not(self, kind: str, searched: bool) -> None:
        space, _ = merged({"schedule.kind": kind})
        assert ("schedule.decay" in space.names) == searched
        if searched:
            assert not entry(space, "schedule.decay").get("when")

    def test_what_a_narrowed_parent_no_longer_allows_goes_with_it(self) -> None:
        space, _ = merged({"schedule.kind": ["linear", "cosine"]})
        assert "schedule.decay" not in space.names
        space, _ = merged({"schedule.kind": ["linear", "wsd", "cosine"]})
        assert entry(space, "schedule.decay")["when"] == {"schedule.kind": ["wsd"]}


class TestNearest:
    @pytest.mark.parametrize(
        ("domain", "value", "expected"),
        [
            (Choice((4, 8)), 32, 8),
            (Choice((4, 64)), 32, 64),
            (Choice((0.0, 0.1)), 0.05, 0.1),
            (Choice(("a", "b")), "c", "a"),
            (Choice(("a", "b")), 3, "a"),
            (Float(0.1, 0.5), 0.7, 0.5),
            (Float(0.1, 0.5), 0, 0.1),
            (Int(3, 5), 2.5, 3),
            (Int(3, 5), "x", 3),
        ],
    )
    def test_is_in_the_domain(self, domain: Any, value: Any, expected: Any) -> None:
        found = nearest(domain, value)
        assert found == expected
        assert domain.contains(found)


def test_numbers_that_yaml_reads_as_text_become_numbers() -> None:
    assert normal_form({"a": {"low": "1e-4", "values": ["2E3", "wsd"]}}) == {"a": {"low": 1e-4, "values": [2e3, "wsd"]}}


def test_what_is_wrong_is_told_line_by_line() -> None:
    lines = list(wrong_space({"lora.rank": 0, "lora.rnk": [1], "only": 3, "rules": 4, "lora.alpha": {"lwo": 1}}))
    assert [line.partition(": ")[0] for line in lines] == [
        "space.lora.rank",
        "space.lora.rnk",
        "space.only",
        "space.rules",
        "space.lora.alpha.lwo",
    ]
    assert all(";" in line for line in lines)
    assert list(wrong_space({"lora.rank": [4, 8], "lora.dropout": 0, "only": ["lora.rank"]})) == []
    assert list(wrong_space(None)) == []


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"lora.rank": [1, float("nan")]}, "space.lora.rank.1: expected a finite number, got nan"),
        ({"lora.rank": {"low": float("inf")}}, "space.lora.rank.low: expected a finite number, got inf"),
        ({3: [1]}, "space: expected a text as the key, got 3"),
        ({"lora.rank": {"when": b"x"}}, "space.lora.rank.when: expected a number, a word"),
    ],
)
def test_what_cannot_be_written_down_again(section: dict[Any, Any], expected: str) -> None:
    (line,) = wrong_space(section)
    assert line.startswith(expected)


def test_ends_that_no_recipe_can_have() -> None:
    with pytest.raises(SpaceError, match=r"space.lora.dropout: expected a number in \[0, 1\), got 1.05"):
        check_domains(Space({"lora.dropout": Choice((0.0, 1.05))}))
