from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from search_spaces.conditions import AtLeast, Condition, OneOf
from search_spaces.configspace import from_configspace, to_configspace
from search_spaces.domains import Choice, Domain, Float, Int, SpaceError
from search_spaces.priors import Normal, Prior, ScaledBy, Weights
from search_spaces.rules import Sum
from search_spaces.space import Space

ConfigSpace = pytest.importorskip("ConfigSpace")

# In the order of ConfigSpace, which sorts: what can exist first by name, children after.
DOMAINS: dict[str, Domain] = {
    "constant": Choice(("only",)),
    "flag": Choice((True, False)),
    "kind": Choice(("linear", "wsd")),
    "layers": Int(2, 8),
    "lr": Float(1e-5, 1.0, log=True),
    "rank": Choice((4, 8, 16)),
    "shift": Float(-1.0, 1.0),
    "units": Int(1, 1000, log=True),
    "width.0": Choice((64, "auto", 0.5)),
    "decay": Float(0.0, 0.5),
    "deep": Int(1, 3),
}
CONDITIONS: tuple[Condition, ...] = (
    OneOf("decay", "kind", ("wsd",)),
    AtLeast("deep", "layers", 4),
    OneOf("deep", "rank", (8, 16)),
)
PRIORS: dict[str, Prior] = {
    "kind": Weights((1.0, 3.0)),
    "layers": Normal(4, 2.0),
    "lr": Normal(1e-3, 0.5),
    "shift": Normal(0.25, 0.5),
}
SPACE = Space(DOMAINS, CONDITIONS, (), PRIORS)


def parts(space: Space) -> tuple[object, ...]:
    """Without the order of the names."""
    priors = {}
    for name, prior in space.priors.items():
        priors[name] = (prior.centre, round(prior.deviation, 9)) if isinstance(prior, Normal) else prior
    return dict(space.domains), set(space.conditions), priors


def test_there_and_back() -> None:
    again = from_configspace(to_configspace(SPACE))
    assert parts(again) == parts(SPACE)


def test_samples_of_one_lie_in_the_other() -> None:
    source = to_configspace(SPACE, seed=1)
    decays = 0
    for configuration in source.sample_configuration(60):
        native = {
            name: value.item() if isinstance(value, np.generic) else value for name, value in configuration.items()
        }
        SPACE.validate({name: native[name] for name in SPACE.names if name in native})
        decays += "decay" in native
    assert 30 <= decays < 60  # three of four
    rng = np.random.default_rng(0)
    for _ in range(30):
        source_values = SPACE.sample(rng)
        ConfigSpace.Configuration(source, values=source_values).check_valid_configuration()


def test_normal_priors_mean_the_same() -> None:
    source = to_configspace(SPACE, seed=0)
    rng = np.random.default_rng(0)
    theirs = source.sample_configuration(3000)
    ours = [SPACE.sample(rng) for _ in range(3000)]
    for name, scale in (("lr", math.log10), ("shift", float), ("layers", float)):
        there = [scale(one[name]) for one in theirs]
        here = [scale(one[name]) for one in ours]  # type: ignore[arg-type]
        assert np.mean(there) == pytest.approx(np.mean(here), abs=0.15)
        assert np.std(there) == pytest.approx(np.std(here), rel=0.1)


def test_what_configspace_writes_in_its_own_ways() -> None:
    source = ConfigSpace.ConfigurationSpace({"n": (1, 9), "x": (0.5, 1.5), "w": ["a", "b"], "c": 3, "one": ["z"]})
    source.add(ConfigSpace.OrdinalHyperparameter("o", ["small", "medium", "large"]))
    source.add(ConfigSpace.EqualsCondition(source["x"], source["w"], "b"))
    source.add(ConfigSpace.GreaterThanCondition(source["one"], source["n"], 3))
    source.add(ConfigSpace.GreaterThanCondition(source["c"], source["o"], "small"))
    space = from_configspace(source)
    assert dict(space.domains) == {
        "n": Int(1, 9),
        "x": Float(0.5, 1.5),
        "w": Choice(("a", "b")),
        "c": Choice((3,)),
        "one": Choice(("z",)),
        "o": Choice(("small", "medium", "large")),
    }
    assert set(space.conditions) == {
        OneOf("x", "w", ("b",)),
        AtLeast("one", "n", 4),
        OneOf("c", "o", ("medium", "large")),
    }
    assert not space.priors


def test_thresholds_that_always_hold() -> None:
    domains: dict[str, Domain] = {
        "n": Int(1, 9),
        "rank": Choice((4, 8)),
        "x": Float(0, 1),
        "y": Float(0, 1),
        "z": Int(0, 5),
    }
    conditions = (AtLeast("x", "n", 1), AtLeast("y", "rank", 8), AtLeast("z", "x", 0))
    with pytest.raises(SpaceError, match="z: expected values of x, got 'x is at least 0'; ConfigSpace has no"):
        to_configspace(Space(domains, conditions))
    again = from_configspace(to_configspace(Space(domains, conditions[:2])))
    assert set(again.conditions) == {OneOf("x", "n", tuple(range(1, 10))), OneOf("y", "rank", (8,))}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Space({"a": Float(0, 1), "b": Float(0, 1)}, (), (Sum(("a", "b"), high=1),)), "expected a space without rules"),
        (
            Space({"a": Int(1, 2)}, (), (), {"a": Weights((1, 2))}),
            "a: expected a plain normal prior, got weights on an",
        ),
        (
            Space({"a": Float(1, 2), "b": Int(1, 2)}, (), (), {"a": Normal(1, 1, ScaledBy("b", 1, 1))}),
            "got a centre scaled by b",
        ),
        (Space({"a": Float(0, 1), "b": Int(0, 1)}, (AtLeast("b", "a", 0.5),)), "got 'a is at least 0.5'"),
        (Space({"a": Choice((True, 1))}), "expected a space that ConfigSpace can hold, got: "),
        (Space({"a": Float(1e3, 1e5, True)}, (), (), {"a": Normal(1e4, 1.0)}), "deviation of more than 3 decades"),
    ],
)
def test_what_has_no_counterpart_there_is_an_error(space: Space, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        to_configspace(space)


def test_what_has_no_counterpart_here_is_an_error() -> None:
    source = ConfigSpace.ConfigurationSpace({"a": (1, 9), "b": (1, 9)})
    source.add(ConfigSpace.LessThanCondition(source["a"], source["b"], 3))
    with pytest.raises(SpaceError, match="expected equals, in and greater-than conditions, got LessThanCondition"):
        from_configspace(source)
    source = ConfigSpace.ConfigurationSpace({"a": (1, 9), "b": (1, 9)})
    source.add(ConfigSpace.ForbiddenEqualsClause(source["a"], 3))
    with pytest.raises(SpaceError, match=r"expected no forbidden clauses, got .*a == 3"):
        from_configspace(source)
    source = ConfigSpace.ConfigurationSpace()
    source.add(ConfigSpace.BetaFloatHyperparameter("a", alpha=2, beta=3, lower=0, upper=1))
    with pytest.raises(SpaceError, match=r"a: expected a uniform, normal, .*got BetaFloat"):
        from_configspace(source)
    with pytest.raises(SpaceError, match=r"expected a dotted name .*got 'a-b'"):
        from_configspace(ConfigSpace.ConfigurationSpace({"a-b": (1, 9)}))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ConfigSpace", None)
    with pytest.raises(ImportError, match=r'install the extra: pip install "thresher\[configspace\]"'):
        to_configspace(SPACE)
