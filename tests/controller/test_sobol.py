from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc

from controller.events import JobCreated, TrialCreated
from controller.history import History
from controller.samplers.sobol import SobolSampler
from controller.strategy import Proposal
from controller.trial import Objective
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal, Weights
from search_spaces.rules import Sum
from search_spaces.space import Params, Space

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(3)})


def add(history: History, proposal: Proposal) -> None:
    number = len(history.trials)
    history.apply(TrialCreated(number, proposal.params, 0, labels=proposal.labels))
    history.apply(JobCreated(number, number, 0, 1))


def searched(sampler: SobolSampler, count: int, seed: int = 0, enqueued: Sequence[Params] = ()) -> History:
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    for params in enqueued:
        add(history, Proposal(params, {"origin": "enqueued"}))
    while len(history.trials) < count:
        add(history, sampler.propose(history, history.generator()))
    return history


def points(history: History) -> Any:
    return np.array([list(trial.params.values()) for trial in history.trials])


def test_the_points_are_those_of_the_scrambled_sequence() -> None:
    history = searched(SobolSampler(CUBE), 600, seed=5)
    key = np.random.SeedSequence(5, spawn_key=(2,))
    theirs = qmc.Sobol(3, rng=np.random.default_rng(key)).random_base2(10)[:600]
    ours = points(history)
    assert (ours >= theirs).all()  # the digits past the 30th are filled up
    assert np.abs(ours - theirs).max() < 2**-30
    assert [trial.labels["point"] for trial in history.trials] == list(range(600))
    assert {trial.labels["origin"] for trial in history.trials} == {"sobol"}


def test_every_cell_of_the_net_holds_one_point() -> None:
    ours = points(searched(SobolSampler(CUBE), 64, seed=1))
    for column in ours.T:
        assert sorted((column * 64).astype(int)) == list(range(64))
    random = np.random.default_rng(0).random((64, 3))
    assert qmc.discrepancy(ours) < 0.3 * qmc.discrepancy(random)


def test_another_seed_scrambles_otherwise() -> None:
    first, again, other = (points(searched(SobolSampler(CUBE), 8, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_it_counts_on_from_the_history_whatever_stands_between() -> None:
    whole = searched(SobolSampler(CUBE), 9)
    given = searched(SobolSampler(CUBE), 10, enqueued=[CUBE.most_likely()])
    assert np.abs(points(given)[1:] - points(whole)).max() < 2**-30
    add(given, Proposal(CUBE.sample(np.random.default_rng(0)), {"origin": "random"}))
    assert SobolSampler(CUBE).propose(given, np.random.default_rng(0)).labels["point"] == 9


def test_priors_place_the_points() -> None:
    space = Space(
        {"rate": Float(1e-6, 1e-1, log=True), "size": Choice((8, 16, 32)), "layers": Int(1, 12)},
        priors={"rate": Normal(1e-3, 0.35), "size": Weights((1, 2, 1))},
    )
    found = searched(SobolSampler(space), 64).trials
    decades = [math.log10(float(trial.params["rate"])) for trial in found]
    assert np.median(decades) == pytest.approx(-3, abs=0.02)
    assert np.std(decades) == pytest.approx(0.35, abs=0.02)
    sizes = [trial.params["size"] for trial in found]
    assert [sizes.count(size) for size in (8, 16, 32)] == [16, 32, 16]


def test_points_where_rules_break_are_left_out() -> None:
    space = Space(CUBE.domains, rules=(Sum(("x0", "x1"), high=1.0),))
    free, ruled = searched(SobolSampler(CUBE), 100), searched(SobolSampler(space), 40)
    allowed = [row for row in points(free) if row[0] + row[1] <= 1.0]
    assert np.abs(points(ruled) - allowed[:40]).max() < 2**-30


def test_a_random_proposal_takes_the_place_of_many_that_break_rules() -> None:
    names = tuple(f"x{i}" for i in range(12))
    space = Space(dict.fromkeys(names, Float(0, 1)), rules=(Sum(names, high=1.0),))
    history = searched(SobolSampler(space), 3)
    assert [trial.labels for trial in history.trials] == [
        {"origin": "random", "point": last} for last in (63, 127, 191)
    ]
    for trial in history.trials:
        space.validate(trial.params)


def test_nothing_is_tried_twice_while_something_is_left() -> None:
    space = Space({"a": Choice((1, 2, 3)), "b": Int(1, 4)})
    history = searched(SobolSampler(space), 14)
    assert len({tuple(trial.params.values()) for trial in history.trials[:12]}) == 12
    assert {trial.labels["origin"] for trial in history.trials[12:]} == {"random"}


def test_too_many_parameters_are_refused() -> None:
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(21_202)})
    with pytest.raises(ValueError, match="expected at most 21201 parameters, got 21202; use random search"):
        SobolSampler(space)
