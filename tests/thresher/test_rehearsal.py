"""Studies played through with the real strategies: the counts must be those of a real controller."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.finalists import Finalists
from controller.limits import Limited, Limits
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, InTurn, Scheduler, Strategy
from controller.trial import Job, Objective
from search_spaces.domains import Float
from search_spaces.space import Space
from thresher.rehearsal import REHEARSALS, Costs, Range, Rehearsal, rehearse

SPACE = Space({"optimizer.learning_rate": Float(1e-4, 1e-2, log=True)})
LOSS = Objective("validation_loss")


def play(scheduler: Scheduler, horizon: int, *, limits: Limits | None = None, **options: object) -> list[Rehearsal]:
    """Rehearse a random search with 2 finalists and 1 repeat."""
    search = Composed(RandomSampler(SPACE), scheduler)

    def make(elapsed: Callable[[], float]) -> Strategy:
        return InTurn((search if limits is None else Limited(search, limits, elapsed), Finalists(2, 1)))

    default = {"optimizer.learning_rate": 1e-3}
    return rehearse(make, [LOSS], horizon, enqueued=[default], **options)  # type: ignore[arg-type]


def test_without_rungs_the_counts_are_certain() -> None:
    rehearsals = play(FullBudget(6), 100)
    assert len(rehearsals) == REHEARSALS
    for rehearsal in rehearsals:
        assert rehearsal.jobs == {100: 6}
        assert rehearsal.examples == 600
        assert rehearsal.repeats in (2, 3)  # the default is repeated too, unless it is a finalist itself
        assert rehearsal.repeat_examples == 100 * rehearsal.repeats
        assert rehearsal.tests == 2 * rehearsal.repeats + 1  # each with its repeat, and the base model
    assert {rehearsal.repeats for rehearsal in rehearsals} == {2, 3}


def test_promotion_by_rank_varies_from_study_to_study() -> None:
    rehearsals = play(ASHA((10, 30, 90), max_trials=18), 90)
    assert {rehearsal.jobs[10] for rehearsal in rehearsals} == {18}
    middle = Range.of([rehearsal.jobs[30] for rehearsal in rehearsals])
    assert 6 <= middle.low < middle.high <= 12
    assert all(rehearsal.examples < 18 * 90 for rehearsal in rehearsals)
    assert len({rehearsal.examples for rehearsal in rehearsals}) > 3


def test_the_same_seed_gives_the_same_rehearsals() -> None:
    first, second = (play(ASHA((10, 30), max_trials=9), 30, seed=4) for _ in range(2))
    assert first == second
    assert first != play(ASHA((10, 30), max_trials=9), 30, seed=5)


def test_the_clock_counts_what_jobs_cost() -> None:
    costs = Costs(job=1.0, training_example=0.5, validation=3.0, test=10.0)
    job = Job(0, 0, {}, 0, 10, 30, 90)
    assert costs.of(job) == 1.0 + 20 * 0.5 + 3.0
    assert costs.of(Job(0, 0, {}, 0, 30, 30, 90, split="test")) == 11.0
    for rehearsal in play(FullBudget(4), 10, costs=costs):
        assert rehearsal.seconds == (4 + rehearsal.repeats) * 9.0 + rehearsal.tests * 11.0


def test_workers_share_the_time_but_not_the_work() -> None:
    alone, together = (play(FullBudget(12), 100, workers=workers) for workers in (1, 4))
    assert {rehearsal.examples for rehearsal in together} == {1200}
    for rehearsal in alone:
        assert rehearsal.seconds == 1200 + rehearsal.repeat_examples
    for rehearsal in together:
        assert rehearsal.seconds == 300 + 100


def test_limits_end_the_search() -> None:
    for rehearsal in play(FullBudget(50), 100, limits=Limits(max_examples=500)):
        assert rehearsal.jobs == {100: 5}
    for rehearsal in play(FullBudget(50), 100, limits=Limits(max_seconds=250.0)):  # a second for each example
        assert rehearsal.jobs == {100: 3}


def test_metrics_to_maximise_are_maximised() -> None:
    search = Composed(RandomSampler(SPACE), ASHA((10, 30), max_trials=9))
    objectives = [Objective("exact_match", "maximize"), LOSS]
    found = rehearse(lambda elapsed: InTurn((search, Finalists(1, 0))), objectives, 30, enqueued=[])
    assert all(rehearsal.jobs[30] >= 3 for rehearsal in found)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    play(FullBudget(2), 10)
    assert not list(tmp_path.iterdir())


def test_a_range_is_its_middle_and_its_ends() -> None:
    assert Range.of([3, 1, 10]) == Range(3, 1, 10)
    assert Range.of([3, 1, 10]).plus(2) == Range(5, 3, 12)
