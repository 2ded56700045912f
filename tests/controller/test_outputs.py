"""Losses as targets: increasing, standardised, with outliers pulled in."""

from __future__ import annotations

import numpy as np
import pytest

from controller.surrogates.outputs import FENCE, Outputs

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "losses", [RNG.normal(3, 0.1, 40), RNG.lognormal(0, 2, 40), np.array([1.0, 2.0]), np.arange(5.0)]
)
def test_targets_have_mean_zero_and_variance_one_and_keep_the_order(losses: np.ndarray) -> None:
    outputs = Outputs.of(losses)
    targets = outputs.targets(losses)
    assert targets.mean() == pytest.approx(0.0, abs=1e-12)
    assert targets.std() == pytest.approx(1.0)
    below = np.sort(losses[losses <= outputs.cap])
    assert (np.diff(outputs.targets(below)) > 0).all()


@pytest.mark.parametrize("diverged", [1, 3, 8])
def test_diverged_runs_do_not_flatten_the_others(diverged: int) -> None:
    losses = np.array([1.0, 1.1, 1.2, 1.3, 1.4] + [1e6] * diverged)
    outputs = Outputs.of(losses)
    quartile = np.quantile(losses, 0.25)
    assert outputs.cap == pytest.approx(quartile + FENCE * (quartile - 1.0))
    targets = outputs.targets(losses)
    assert np.ptp(targets[:5]) > 0.2
    assert outputs.targets(np.array([1e9])) == pytest.approx(targets[-1:])


def test_ordinary_losses_are_left_as_they_are() -> None:
    for losses in (RNG.normal(3, 0.1, 40), RNG.random(8)):
        assert Outputs.of(losses).targets(losses) == pytest.approx((losses - losses.mean()) / losses.std())


def test_where_the_good_quarter_is_all_the_same_the_median_counts() -> None:
    assert Outputs.of(np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 1e6])).cap == pytest.approx(1.5 + FENCE * 0.5)
    assert Outputs.of(np.array([1.0, 1.0, 1.0, 1e6])).cap == 1e6


@pytest.mark.parametrize("value", [0.0, 2.5, 1e9])
def test_equal_losses_are_all_zero(value: float) -> None:
    outputs = Outputs.of(np.full(4, value))
    assert outputs.targets(np.full(4, value)).tolist() == [0.0] * 4
    assert outputs.scale == 1.0


def test_up_to_the_least_cap_losses_are_told_apart() -> None:
    losses = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1e6])
    outputs = Outputs.of(losses, least_cap=8.0)
    assert outputs.cap == 8.0
    assert (np.diff(outputs.targets(np.array([1.4, 5.0, 8.0]))) > 0).all()


def test_the_scale_of_the_loss_does_not_matter() -> None:
    losses = RNG.lognormal(0, 1, 30)
    expected = Outputs.of(losses).targets(losses)
    assert Outputs.of(1e-9 * losses).targets(1e-9 * losses) == pytest.approx(expected)
    assert Outputs.of(1e3 + losses).targets(1e3 + losses) == pytest.approx(expected)
