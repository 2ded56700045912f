"""The density of points in a space against scipy, its mass against 1, and what is drawn against both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import truncnorm

from controller.surrogates.parzen import ParzenEstimator, Points, presence
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.priors import Normal, ScaledBy, Weights
from search_spaces.rules import Ordered
from search_spaces.space import Params, Space

MIXED = Space(
    {
        "rate": Float(1e-4, 1e-1, log=True),
        "rank": Int(1, 9, log=True),
        "layers": Int(2, 6),
        "batch": Choice((8, 16, 32)),
        "kind": Choice(("a", "b", "c", "d")),
        "fixed": Float(0.5, 0.5),
    }
)
CONDITIONAL = Space(
    {"kind": Choice(("plain", "decay")), "decay": Float(0.0, 1.0), "steps": Int(1, 3)},
    conditions=(OneOf("decay", "kind", ("decay",)), OneOf("steps", "kind", ("decay",))),
    priors={"decay": Normal(0.8, 0.1), "kind": Weights((1, 3))},
)


def estimator(space: Space, points: list[Params], bandwidth: float = 0.2, stay: float = 0.7) -> ParzenEstimator:
    count, width = len(points), len(space.domains)
    return ParzenEstimator(
        space,
        space.encode_many(points).reshape(count, width),
        presence(space, points),
        np.arange(1.0, count + 1.0),
        0.5,
        np.full(width, bandwidth),
        np.full(width, stay),
    )


def kernel(domain: Domain, centre: float, place: float, bandwidth: float, stay: float) -> float:
    """The density of one kernel in one parameter, from scipy's distribution."""
    if isinstance(domain, Choice) and not domain.is_ordered:
        count = len(domain.values)
        return count * (stay if abs(centre - place) < 1e-9 else (1 - stay) / (count - 1))
    normal = truncnorm(-centre / bandwidth, (1 - centre) / bandwidth, centre, bandwidth)
    if isinstance(domain, Float):
        return float(normal.pdf(place))
    low, high = cell(domain, domain.decode(place))
    return float((normal.cdf(high) - normal.cdf(low)) / (high - low))


def cell(domain: Int | Choice, value: Any) -> tuple[float, float]:
    if isinstance(domain, Choice):
        index = domain.values.index(value)
        return index / len(domain.values), (index + 1) / len(domain.values)
    if not domain.log:
        count = domain.high - domain.low + 1
        return (value - domain.low) / count, (value - domain.low + 1) / count
    low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
    return (math.log(value - 0.5) - low) / (high - low), (math.log(value + 0.5) - low) / (high - low)


@pytest.mark.parametrize("bandwidth", [0.03, 0.2, 1.0])
def test_it_is_the_mixture_of_product_kernels_that_scipy_gives(bandwidth: float) -> None:
    rng = np.random.default_rng(0)
    points = [MIXED.sample(rng) for _ in range(5)]
    asked = [MIXED.sample(rng) for _ in range(40)] + points
    found = estimator(MIXED, points, bandwidth).log_density(Points.of(MIXED, asked))
    shares = np.array([1, 2, 3, 4, 5, 0.5]) / 15.5
    for params, log_density in zip(asked, found, strict=True):
        places = MIXED.encode(params)
        products = [
            math.prod(
                kernel(domain, centre, place, bandwidth, 0.7) if domain.size > 1 else 1.0
                for domain, centre, place in zip(MIXED.domains.values(), MIXED.encode(point), places, strict=True)
            )
            for point in points
        ]
        assert math.exp(log_density) == pytest.approx(shares @ np.array([*products, 1.0]), rel=1e-6)


def mass(space: Space, density: ParzenEstimator, grid: int = 200) -> float:
    """The density summed over all values, each times the width of its cell, floats on a grid."""
    axes = []
    for domain in space.domains.values():
        if isinstance(domain, Float):
            places = [((i + 0.5) / grid, 1 / grid) for i in range(grid)]
            axes.append([(domain.decode(place), width) for place, width in places])
        else:
            values = domain.values if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
            axes.append([(value, cell(domain, value)[1] - cell(domain, value)[0]) for value in values])
    weights: dict[tuple[Any, ...], float] = {}
    assignments: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for index in np.ndindex(*(len(axis) for axis in axes)):
        picked = [axis[i] for axis, i in zip(axes, index, strict=True)]
        values = dict(zip(space.domains, (value for value, _ in picked), strict=True))
        params = {name: value for name, value in values.items() if exists(space, name, values)}
        key = tuple(params.items())
        assignments[key] = params
        weights[key] = weights.get(key, 0.0) + math.prod(width for _, width in picked)
    logs = density.log_density(Points.of(space, list(assignments.values())))
    return float(np.exp(logs) @ np.array(list(weights.values())))


def exists(space: Space, name: str, values: Mapping[str, Any]) -> bool:
    return all(one.holds(values[one.parent]) for one in space.conditions if one.name == name)


@pytest.mark.parametrize(
    "domains",
    [
        {"a": Float(0, 1), "b": Choice(("x", "y", "z"))},
        {"a": Int(1, 12, log=True), "b": Int(0, 4), "c": Choice((1, 2, 4))},
        {"a": Float(1e-3, 1, log=True), "b": Float(-1, 1)},
    ],
    ids=["float-choice", "discrete", "floats"],
)
@pytest.mark.parametrize("bandwidth", [0.05, 0.4])
def test_its_mass_is_one(domains: dict[str, Domain], bandwidth: float) -> None:
    space = Space(domains)
    rng = np.random.default_rng(1)
    density = estimator(space, [space.sample(rng) for _ in range(4)], bandwidth)
    assert mass(space, density) == pytest.approx(1.0, abs=1e-3)
    assert mass(space, estimator(space, []), grid=10) == pytest.approx(1.0)  # the prior alone


def test_its_mass_is_one_where_parameters_may_be_absent_and_have_priors() -> None:
    points: list[Params] = [
        {"kind": "plain"},
        {"kind": "decay", "decay": 0.2, "steps": 3},
        {"kind": "decay", "decay": 0.9, "steps": 1},
    ]
    assert mass(CONDITIONAL, estimator(CONDITIONAL, points)) == pytest.approx(1.0, abs=1e-3)
    assert mass(CONDITIONAL, estimator(CONDITIONAL, points[:1])) == pytest.approx(1.0, abs=1e-3)


def test_a_point_without_a_parameter_leaves_it_to_the_prior() -> None:
    density = estimator(CONDITIONAL, [{"kind": "plain"}], stay=0.9)
    asked: list[Params] = [{"kind": "decay", "decay": place, "steps": 2} for place in (0.5, 0.8)]
    logs = density.log_density(Points.of(CONDITIONAL, asked))
    prior = [CONDITIONAL.log_prior(params) for params in asked]
    assert logs[1] - logs[0] == pytest.approx(prior[1] - prior[0])
    plain = density.log_density(Points.of(CONDITIONAL, [{"kind": "plain"}]))  # nothing is said of what is absent
    assert math.exp(plain[0]) == pytest.approx((1.0 * 2 * 0.9 + 0.5 * 0.25 * 2) / 1.5)


def test_log_priors_add_up_to_that_of_the_space() -> None:
    space = Space(
        {"rate": Float(1e-5, 1e-1, log=True), "batch": Choice((8, 32)), "layers": Int(1, 4)},
        priors={
            "rate": Normal(1e-3, 0.4, ScaledBy("batch", 8, 0.5)),
            "batch": Weights((1, 2)),
            "layers": Normal(3, 1.0),
        },
    )
    rng = np.random.default_rng(2)
    asked = [space.sample(rng) for _ in range(20)]
    assert Points.of(space, asked).log_priors.sum(axis=1) == pytest.approx([space.log_prior(one) for one in asked])


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL], ids=["mixed", "conditional"])
def test_draws_follow_the_density(space: Space) -> None:
    rng = np.random.default_rng(3)
    density = estimator(space, [space.sample(rng) for _ in range(3)], 0.3)
    draws = density.draw(rng, 20_000)
    for params in draws[:200]:
        space.validate(params)
    uniform = [space.without_priors().sample(rng) for _ in range(20_000)]
    weights = np.exp(density.log_density(Points.of(space, uniform)))  # importance weights of uniform draws
    assert weights.mean() == pytest.approx(1.0, abs=0.05)
    for name, domain in space.domains.items():
        if isinstance(domain, Float):
            cuts = [(name, domain.decode(place)) for place in (0.2, 0.5, 0.8)]
            ours = [np.mean([float(one.get(name, math.inf)) <= cut for one in draws]) for _, cut in cuts]
            theirs = [weights @ [float(one.get(name, math.inf)) <= cut for one in uniform] / 20_000 for _, cut in cuts]
        else:
            values = domain.values if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
            ours = [np.mean([one.get(name) == value for one in draws]) for value in values]
            theirs = [weights @ [one.get(name) == value for one in uniform] / 20_000 for value in values]
        assert ours == pytest.approx(theirs, abs=0.03)


def test_draws_obey_the_rules() -> None:
    space = Space({"a": Float(0, 1), "b": Float(0, 1)}, rules=(Ordered(("a", "b")),))
    density = estimator(space, [{"a": 0.5, "b": 0.5}])
    for params in density.draw(np.random.default_rng(0), 200):
        space.validate(params)


def test_far_from_all_points_it_stays_finite() -> None:
    space = Space({"a": Int(1, 10**6), "b": Choice(tuple(range(100)))})
    density = ParzenEstimator(
        space,
        np.zeros((1, 2)),
        np.ones((1, 2), np.bool_),
        np.ones(1),
        1e-9,
        np.full(2, 0.03),
        np.full(2, 0.5),
    )
    logs = density.log_density(Points.of(space, [{"a": 10**6, "b": 99}, {"a": 1, "b": 0}]))
    assert np.isfinite(logs).all()
    assert logs[1] > logs[0]
