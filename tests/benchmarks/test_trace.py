"""What is seen when: the axis on which all systems are compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed


def full(problem: Any, workers: int) -> Composed:
    return Composed(RandomSampler(problem.space), FullBudget(1000))


def asha(problem: Any, workers: int) -> Composed:
    return Composed(RandomSampler(problem.space), ASHA((1, 3, 9, 27), max_trials=10_000))


@pytest.fixture
def problem(table: Path) -> Any:
    import tables

    return tables.load(table)


def test_ours_are_seen_where_a_job_ends(problem: Any) -> None:
    from quality.trace import Setting, regrets, run_strategy

    trace = run_strategy(full, problem, Setting(seed=3))
    assert (trace.trials, trace.jobs, trace.busy) == (20, 20, 1.0)
    assert all(spent % 27 == 0 for spent, _, _ in trace.points)
    assert trace.at(26.9) is None
    assert trace.at(27) == trace.points[0][1:]
    losses = [point[1] for point in trace.points]
    assert losses == sorted(losses, reverse=True)
    found = regrets(trace, problem, (0.5, 1, 20))
    assert math.isnan(found[0][0])
    assert found[2] == (problem.val_scale.regret(losses[-1]), problem.test_scale.regret(losses[-1] + 0.01))


def test_workers_share_the_budget(problem: Any) -> None:
    from quality.trace import Setting, run_strategy

    one = run_strategy(full, problem, Setting(seed=3))
    four = run_strategy(full, problem, Setting(seed=3, workers=4))
    assert four.trials == 20
    assert all(spent % (4 * 27) == 0 for spent, _, _ in four.points)
    assert four.points[-1][1:] == one.points[-1][1:]  # the same random trials in the end
    assert run_strategy(asha, problem, Setting(seed=3, workers=8)).busy > 0.98


def test_resuming_pays_the_switch_cost(problem: Any) -> None:
    from quality.trace import Setting, run_strategy

    free, dear = (run_strategy(asha, problem, Setting(seed=0, switch_cost=cost)) for cost in (0.0, 5.0))
    assert all(float(spent).is_integer() for spent, _, _ in free.points)
    assert dear.trials < free.trials
    assert run_strategy(full, problem, Setting(seed=3, switch_cost=5.0)).trials == 20  # nothing is resumed


def test_a_strategy_that_ends_early_leaves_its_workers_idle(problem: Any) -> None:
    from quality.trace import Setting, run_strategy

    def short(problem: Any, workers: int) -> Composed:
        return Composed(RandomSampler(problem.space), FullBudget(5))

    assert run_strategy(short, problem, Setting(seed=0)).busy == pytest.approx(5 / 20)


class Script:
    """A peer that starts what it was told, and ends a stretch after an epoch if told so."""

    def __init__(self, problem: Any, stretches: list[tuple[int, int]], stops: dict[int, int] | None = None) -> None:
        self.params = problem.space.sample(np.random.default_rng(0))
        self.stretches = stretches
        self.stops = stops or {}
        self.log: list[tuple[Any, ...]] = []
        self.count = 0

    def start(self) -> Any:
        from peers import Stretch

        from_epoch, to_epoch = self.stretches[self.count] if self.count < len(self.stretches) else (0, 27)
        self.count += 1
        return Stretch(self.count - 1, self.params, from_epoch, to_epoch)

    def goes_on(self, stretch: Any, epoch: int, loss: float) -> bool:
        self.log.append(("epoch", stretch.handle, epoch))
        return bool(epoch != self.stops.get(stretch.handle))

    def end(self, stretch: Any, epoch: int, loss: float) -> None:
        self.log.append(("end", stretch.handle, epoch, loss))


def test_a_peer_is_seen_at_every_epoch_and_may_stop(problem: Any) -> None:
    from quality.trace import Setting, run_peer

    peer = Script(problem, [(0, 27), (0, 4)], stops={0: 3})
    trace = run_peer(lambda: peer, problem, Setting(seed=0))
    row = problem.row(peer.params)
    assert peer.log[:9] == [
        ("epoch", 0, 1),
        ("epoch", 0, 2),
        ("epoch", 0, 3),
        ("end", 0, 3, problem.val[row, 2]),
        ("epoch", 1, 1),
        ("epoch", 1, 2),
        ("epoch", 1, 3),
        ("epoch", 1, 4),
        ("end", 1, 4, problem.val[row, 3]),
    ]
    assert trace.points[:3] == [(float(e), problem.val[row, e - 1], problem.test[row, e - 1]) for e in (1, 2, 3)]
    assert sum(entry[0] == "epoch" for entry in peer.log) == 20 * 27


def test_a_peer_that_resumes_pays_and_what_was_trained_before_is_free(problem: Any) -> None:
    from quality.trace import Setting, run_peer

    peer = Script(problem, [(0, 2), (2, 2), (2, 5)])
    trace = run_peer(lambda: peer, problem, Setting(seed=0, switch_cost=10.0))
    row = problem.row(peer.params)
    assert peer.log[3] == ("end", 1, 2, problem.val[row, 1])
    assert [spent for spent, _, _ in trace.points[:5]] == [1.0, 2.0, 13.0, 14.0, 15.0]
    assert trace.jobs > trace.trials


def test_a_peer_that_never_wants_anything_new_comes_to_an_end(problem: Any) -> None:
    from quality.trace import Setting, run_peer

    peer = Script(problem, [(5, 5)] * 10_000)
    assert run_peer(lambda: peer, problem, Setting(seed=0)).points[0][0] == 1.0


def test_workers_of_a_peer_train_side_by_side(problem: Any) -> None:
    from quality.trace import Setting, run_peer

    peer = Script(problem, [])
    trace = run_peer(lambda: peer, problem, Setting(seed=0, workers=3))
    assert peer.log[:4] == [("epoch", 0, 1), ("epoch", 1, 1), ("epoch", 2, 1), ("epoch", 0, 2)]
    assert trace.points[0][0] == 3.0
