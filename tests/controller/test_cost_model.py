from __future__ import annotations

import pytest

from controller.executors.cost_model import CostModel
from controller.trial import Continue, Inherit, Job

FRESH = Job(0, 0, {"a": 3}, 0, 0, 10, 90)
RESUMED = Job(1, 0, {"a": 3}, 0, 10, 30, 90, Continue(0, 10))
INHERITED = Job(2, 1, {"a": 3}, 0, 0, 10, 90, Inherit(0, 10))
TESTED = Job(3, 0, {"a": 3}, 0, 30, 30, 90, Continue(0, 30), "test")


def test_a_job_is_the_sum_of_its_parts() -> None:
    costs = CostModel(unit=0.5, job=1.0, switch=2.0, evaluation=4.0, test=100.0)
    assert costs.of(FRESH) == 5.0 + 1.0 + 4.0
    assert costs.of(RESUMED) == 10.0 + 1.0 + 2.0 + 4.0
    assert costs.of(INHERITED) == 5.0 + 1.0 + 2.0 + 4.0
    assert costs.of(TESTED) == 1.0 + 2.0 + 100.0


def test_a_test_costs_as_much_as_a_validation_unless_it_is_said() -> None:
    assert CostModel(switch=0.0, evaluation=4.0).of(TESTED) == 4.0
    assert CostModel(switch=0.0, evaluation=4.0, test=0.0).of(TESTED) == 0.0


def test_training_may_differ_from_configuration_to_configuration() -> None:
    costs = CostModel(switch=0.0, training=lambda job: job.params["a"] * (job.to_budget - job.from_budget))
    assert (costs.of(FRESH), costs.of(RESUMED)) == (30.0, 60.0)


@pytest.mark.parametrize("name", ["unit", "job", "switch", "evaluation", "test"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_time_does_not_run_backwards(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} >= 0 seconds, got {value}"):
        CostModel(**{name: value})
