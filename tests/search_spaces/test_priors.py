from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.domains import Choice, Domain, Float, Int, SpaceError
from search_spaces.priors import Normal, ScaledBy, Weights, check_priors, scaling_name

LEARNING_RATE = Float(2e-5, 3e-3, log=True)
DOMAINS: dict[str, Domain] = {
    "lr": LEARNING_RATE,
    "batch": Choice((8, 16, 32)),
    "layers": Int(2, 24),
    "kind": Choice(("x", "y")),
    "shift": Float(-1, 1),
    "many": Int(1, 10**6),
}


@pytest.mark.parametrize(
    ("domain", "prior"),
    [
        (LEARNING_RATE, Normal(5e-4, 0.35)),
        (LEARNING_RATE, Normal(1e-7, 0.5)),
        (Float(-3, 5), Normal(4.5, 2)),
        (Float(0, 1), Normal(0.5, 100)),
        (Float(0, 1), Normal(0.25, 0.01)),
    ],
)
def test_a_density_integrates_to_one_and_quantiles_agree_with_it(domain: Float, prior: Normal) -> None:
    count = 20_000
    units = (np.arange(count) + 0.5) / count
    density = np.exp([prior.log_density(domain, domain.decode(unit)) for unit in units.tolist()])
    assert density.mean() == pytest.approx(1.0, abs=1e-4)
    below = np.cumsum(density) / count
    for share in (0.1, 0.5, 0.9):
        place = prior.place(domain, share)
        assert below[min(int(place * count), count - 1)] == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(
    ("domain", "prior"),
    [
        (Int(2, 24), Normal(8, 3)),
        (Int(1, 64, log=True), Normal(8, 0.2)),
        (Int(1, 3), Normal(1, 1e-6)),
        (Int(2, 4), Weights((1, 2, 1))),
        (Int(1, 4, log=True), Weights((1, 1, 1, 5))),
        (Choice((8, 16)), Weights((1, 3))),
        (Choice(("x", True, 3.5)), Weights((0.2, 0.5, 0.3))),
    ],
)
def test_probabilities_of_values_sum_to_one_and_samples_follow_them(domain: Int | Choice, prior: Any) -> None:
    units = (np.arange(20_000) + 0.5) / 20_000
    cells: dict[object, float] = {}
    drawn: dict[object, float] = {}
    for unit in units.tolist():
        cells[domain.decode(unit)] = cells.get(domain.decode(unit), 0.0) + 1 / len(units)
        value = domain.decode(prior.place(domain, unit))
        drawn[value] = drawn.get(value, 0.0) + 1 / len(units)
    probabilities = {value: width * math.exp(prior.log_density(domain, value)) for value, width in cells.items()}
    assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-3)
    for value, probability in probabilities.items():
        assert drawn.get(value, 0.0) == pytest.approx(probability, abs=1e-3)


@given(st.floats(0.0, 1.0), st.floats(1e-6, 1e6), st.floats(1e-9, 1e9), st.floats(-3.0, 3.0))
def test_places_stay_in_the_unit_interval(unit: float, centre: float, deviation: float, exponent: float) -> None:
    prior = Normal(centre, deviation, ScaledBy("batch", 16, exponent))
    factor = ScaledBy("batch", 16, exponent).factor(8)
    for domain in (LEARNING_RATE, Int(2, 9), Float(-3, 5), Float(4, 4), Int(7, 7)):
        assert 0.0 <= prior.place(domain, unit, factor) <= 1.0
        assert 0.0 <= prior.likeliest(domain, factor) <= 1.0
        assert math.isfinite(prior.log_density(domain, domain.decode(unit), factor))


def test_deviations_are_decades_on_a_log_scale() -> None:
    wide = Float(1e-9, 1e1, log=True)
    places = [Normal(1e-4, 0.5).place(wide, unit) for unit in np.random.default_rng(0).random(4000).tolist()]
    decades = [math.log10(wide.decode(place)) for place in places]
    assert np.mean(decades) == pytest.approx(-4, abs=0.03)
    assert np.std(decades) == pytest.approx(0.5, abs=0.03)


def test_a_uniform_prior_has_density_one() -> None:
    assert Weights((2, 2, 2)).log_density(Choice((1, 2, 3)), 2) == pytest.approx(0.0)
    assert Normal(0.5, 1e4).log_density(Float(0, 1), 0.2) == pytest.approx(0.0, abs=1e-6)
    assert Normal(3, 1).log_density(Int(3, 3), 3) == 0.0


def test_the_centre_grows_with_another_parameter() -> None:
    scale = ScaledBy("batch", 16, 0.5)
    assert scale.factor(64) == pytest.approx(2.0)
    prior = Normal(5e-4, 0.35, scale)
    assert LEARNING_RATE.decode(prior.likeliest(LEARNING_RATE, scale.factor(64))) == pytest.approx(1e-3)
    assert scaling_name(prior) == "batch"
    assert scaling_name(Normal(1, 1)) is scaling_name(Weights((1,))) is scaling_name(None) is None
    assert ScaledBy("batch", 1e-300, 1e3).factor(2**40) < math.inf
    assert ScaledBy("batch", 1e300, 1e3).factor(1e-300) > 0


def test_a_centre_outside_counts_as_the_bound() -> None:
    assert Normal(1.0, 0.35).likeliest(LEARNING_RATE) == 1.0
    assert Normal(-5, 1).likeliest(Float(0, 1)) == 0.0


def test_the_likeliest_value_has_the_largest_weight() -> None:
    assert Choice((8, 16, 32)).decode(Weights((1, 3, 3)).likeliest(Choice((8, 16, 32)))) == 16
    assert Int(4, 6).decode(Weights((1, 1, 2)).likeliest(Int(4, 6))) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(math.nan, 1), "centre: expected a finite number, got nan"),
        (lambda: Normal("1", 1), "centre: expected a finite number, got '1'"),
        (lambda: Normal(10**400, 1), "centre: expected a finite number"),
        (lambda: Normal(1, 0), "deviation: expected a number above 0, got 0.0"),
        (lambda: Normal(1, 1, "batch"), "scaled_by: expected a ScaledBy"),
        (lambda: ScaledBy("batch", 0, 1), "scaled_by.reference: expected a number above 0"),
        (lambda: ScaledBy("batch", 1, math.inf), "scaled_by.exponent: expected a finite"),
        (lambda: Weights(()), "weights: expected a list of numbers"),
        (lambda: Weights((1, 0)), "weights: expected numbers above 0"),
        (lambda: Weights((1, True)), "weights: expected a finite number, got True"),
    ],
)
def test_priors_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"lrr": Normal(1, 1)}, r"got one for 'lrr'; did you mean 'lr'\?"),
        ({"batch": Normal(16, 1)}, "batch.prior: expected weights for a choice"),
        ({"lr": Weights((1,))}, "lr.prior: expected a normal for a float"),
        ({"batch": Weights((1, 2))}, "batch.prior.weights: expected a weight for each of 3 values .*, got 2 weights"),
        ({"many": Weights((1, 2))}, "many.prior.weights: .* at most 1024"),
        ({"lr": Normal(-1, 1)}, "lr.prior.centre: expected a number above 0 on a log scale"),
        ({"lr": Normal(1, 1, ScaledBy("bacth", 1, 1))}, r"lr.prior.scaled_by.name: .*did you mean 'batch'\?, or drop"),
        ({"lr": Normal(1, 1, ScaledBy("lr", 1, 1))}, "expected another parameter, got 'lr' itself"),
        ({"lr": Normal(1, 1, ScaledBy("kind", 1, 1))}, "expected a parameter of numbers above 0, got kind"),
        ({"lr": Normal(1, 1, ScaledBy("shift", 1, 1))}, "expected a parameter of numbers above 0, got shift"),
        ({"lr": 5e-4}, "lr.prior: expected a Normal or Weights, got 0.0005"),
        ([], "expected a mapping of names to priors"),
    ],
)
def test_priors_must_fit_the_domains(priors: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check_priors(DOMAINS, priors)


def test_priors_come_in_the_order_of_the_names() -> None:
    priors = {"layers": Normal(8, 2), "lr": Normal(5e-4, 0.3)}
    assert list(check_priors(DOMAINS, priors)) == ["lr", "layers"]
