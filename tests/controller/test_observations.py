"""Arrays of a history: they grow with it, equal a fresh reading, and leave out what is outside the space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controller.observations import Observations, RungData
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.strategy import Composed
from controller.trial import FailureKind, Job
from search_spaces.domains import Float
from search_spaces.space import Space


def some_fail(job: Job) -> FailureKind | None:
    return FailureKind.OOM if job.trial_id % 5 == 2 and job.from_budget else None


@pytest.fixture
def history(study: Any, fake_task: Any, quality: Any, space: Space) -> Any:
    return study(
        Composed(RandomSampler(space), ASHA((1, 3, 9), max_trials=90)), fake_task(quality, fails=some_fail)
    ).run(3)


def equal(one: RungData | None, other: RungData | None) -> bool:
    assert one is not None
    assert other is not None
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in RungData.__slots__)


def test_rows_are_the_measured_trials_in_the_order_of_their_reports(history: Any, space: Space) -> None:
    data = Observations(space).at(history, 3)
    assert data.trial_ids.tolist() == history.rung(3).arrivals
    assert data.losses[:, 0].tolist() == [history.loss(trial_id, 3) for trial_id in data.trial_ids]
    for trial_id, row in zip(data.trial_ids, data.units, strict=True):
        assert np.array_equal(row, space.encode(history.trials[trial_id].params))
    failed = [history.jobs[failure.job_id].trial_id for failure in history.failures]
    assert failed
    assert data.failed_ids.tolist() == failed
    assert data.pending_ids.size == 0


def test_the_highest_rung_with_enough_results_counts(history: Any, space: Space) -> None:
    sizes = {budget: len(history.rung(budget).arrivals) for budget in (1, 3, 9)}
    assert sizes[1] > sizes[3] > sizes[9] > 0
    for budget, size in sizes.items():
        data = Observations(space).highest(history, size)
        assert data is not None
        assert data.budget == budget
    assert Observations(space).highest(history, sizes[1] + 1) is None


def test_growing_equals_reading_at_once(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    warm = Observations(space)
    seen: list[int] = []

    class Watching:
        def propose(self, history: Any, rng: np.random.Generator) -> Any:
            found = warm.highest(history, 3)
            cold = Observations(space).highest(history, 3)
            assert (found is None) == (cold is None)
            if found is not None:
                assert equal(found, cold)
                seen.append(len(found.pending_ids))
            return RandomSampler(space).propose(history, rng)

    strategy = Composed(Watching(), ASHA((1, 3, 9), max_trials=40))
    first = study(strategy, fake_task(quality, fails=some_fail)).run(4)
    assert max(seen) > 0
    study(strategy, fake_task(quality), seed=7).run(2)  # another history: read anew
    assert equal(warm.at(first, 1), Observations(space).at(first, 1))


def test_rows_cannot_be_written(history: Any, space: Space) -> None:
    data = Observations(space).at(history, 1)
    with pytest.raises(ValueError, match="read-only"):
        data.losses[0] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        Observations(space).units(history)[0] = 0.0


def test_trials_outside_a_narrowed_space_are_left_out(history: Any, space: Space) -> None:
    domains = dict(space.domains)
    name = next(name for name, domain in domains.items() if isinstance(domain, Float))
    domain = domains[name]
    middle = domain.decode(0.5)
    domains[name] = Float(domain.low, middle, log=domain.log)
    narrowed = Observations(Space(domains)).at(history, 1)
    inside = [one for one in history.rung(1).arrivals if history.trials[one].params[name] <= middle]
    assert 0 < len(inside) < len(history.rung(1).arrivals)
    assert narrowed.trial_ids.tolist() == inside
    assert narrowed.losses[:, 0].tolist() == [history.loss(one, 1) for one in inside]
    assert set(narrowed.failed_ids.tolist()) < set(Observations(space).at(history, 1).failed_ids.tolist())
    assert np.isnan(Observations(Space(domains)).units(history)).any()
