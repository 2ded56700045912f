from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cmaes import CMAwM

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.cma_es import CMAESSampler, standings
from controller.samplers.random import RandomSampler
from controller.strategy import Proposal, Sampler
from controller.trial import Failure, FailureKind, Objective, Report
from search_spaces.domains import Choice, Float, Int
from search_spaces.priors import Normal, Weights
from search_spaces.space import Params, Space

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(4)})
MIXED = Space({"a": Float(0.0, 1.0), "b": Int(1, 5), "c": Choice(("x", "y")), "d": Float(0.5, 0.5)})


def empty(seed: int = 0) -> History:
    return History(seed=seed, objectives=[Objective("loss")], horizon=9)


def add(history: History, proposal: Proposal, budget: int = 1) -> int:
    number = len(history.trials)
    history.apply(TrialCreated(number, proposal.params, 0, labels=proposal.labels))
    history.apply(JobCreated(len(history.jobs), number, 0, budget))
    return number


def end(history: History, trial_id: int, loss: float | None) -> None:
    job = history.trials[trial_id].running
    assert job is not None
    if loss is None:
        history.apply(Failed(Failure(job.job_id, FailureKind.OOM, "")))
    else:
        history.apply(Reported(Report(job.job_id, job.to_budget, {"loss": loss}, 1.0)))


def played(
    sampler: Sampler, loss: Callable[[Params], float | None], count: int, workers: int = 1, seed: int = 0
) -> History:
    """Trials on workers, of random lengths."""
    history = empty(seed)
    lengths = np.random.default_rng(seed)
    busy: list[tuple[float, int]] = []
    clock = 0.0
    while len(history.trials) < count or busy:
        while len(history.trials) < count and len(busy) < workers:
            trial_id = add(history, sampler.propose(history, history.generator()))
            heapq.heappush(busy, (clock + float(lengths.uniform(0.5, 2.0)), trial_id))
        clock, trial_id = heapq.heappop(busy)
        end(history, trial_id, loss(history.trials[trial_id].params))
    return history


def valley(params: Params) -> float:
    """A narrow valley across the axes."""
    x = np.array([float(params[f"x{i}"]) for i in range(4)])
    return float(((x - 0.4) ** 2).sum() + 30 * (x[0] - x[1]) ** 2 + 30 * (x[2] + x[3] - 0.8) ** 2)


def test_one_at_a_time_it_is_the_library() -> None:
    history = played(CMAESSampler(CUBE), valley, 48)
    steps, bounds = np.zeros(4), np.tile([0.0, 1.0], (4, 1))
    reference = CMAwM(np.full(4, 0.5), 0.2, bounds, steps)
    for generation in range(6):
        told = []
        for trial in history.trials[8 * generation : 8 * (generation + 1)]:
            assert trial.labels["generation"] == generation
            reference.reseed_rng(int(trial.labels["draw"]))
            place, point = reference.ask()
            assert list(trial.params.values()) == pytest.approx(place.tolist(), abs=1e-9)
            told.append((point, valley(trial.params)))
        reference.tell(told)


def test_integers_and_choices_have_steps_with_a_margin() -> None:
    def loss(params: Params) -> float:
        return float(params["a"]) + (params["b"] != 4) + (params["c"] != "x")

    history = played(CMAESSampler(MIXED, population_size=6), loss, 30)
    reference = CMAwM(
        np.full(3, 0.5),
        0.2,
        np.array([[0.0, 1.0], [0.1, 0.9], [0.25, 0.75]]),
        np.array([0.0, 0.2, 0.5]),
        population_size=6,
        cov=np.diag([1.0, 1.0, (0.29 / 0.2) ** 2]),
    )
    for generation in range(5):
        told = []
        for trial in history.trials[6 * generation : 6 * (generation + 1)]:
            reference.reseed_rng(int(trial.labels["draw"]))
            place, point = reference.ask()
            assert MIXED.encode(trial.params)[:3] == pytest.approx(place, abs=1e-9)
            told.append((point, loss(trial.params)))
        reference.tell(told)
    assert all(trial.params["d"] == 0.5 for trial in history.trials)


def test_the_oldest_that_have_ended_are_told_and_none_twice() -> None:
    history = played(CMAESSampler(CUBE, population_size=5), valley, 80, workers=7)
    told: list[int] = []
    generation = 0
    for trial in history.trials:
        if "told" in trial.labels:
            generation += 1
            now = [int(one) for one in str(trial.labels["told"]).split()]
            assert len(now) == 5
            assert max(now) < trial.trial_id
            told += now
        assert trial.labels["generation"] == generation
    assert len(told) == len(set(told)) == 5 * generation
    assert len(history.trials) - len(told) < 5 + 2 * 7  # next to nothing is lost


@pytest.mark.parametrize("workers", [1, 7])
def test_a_new_sampler_goes_on_where_the_old_one_was(workers: int) -> None:
    history = played(CMAESSampler(MIXED), lambda params: float(params["a"]), 40, workers)
    warm = CMAESSampler(MIXED)
    grown = empty()
    for trial in history.trials:
        number = add(grown, Proposal(trial.params, trial.labels))
        end(grown, number, float(trial.params["a"]))
        proposals = [sampler.propose(grown, np.random.default_rng(1)) for sampler in (warm, CMAESSampler(MIXED))]
        assert proposals[0] == proposals[1]


def test_a_proposal_that_nobody_took_up_changes_nothing() -> None:
    sampler = CMAESSampler(CUBE, population_size=4)
    history = empty()
    for _ in range(6):
        add(history, sampler.propose(history, history.generator()))
    for trial_id in (1, 2, 4, 5):
        end(history, trial_id, valley(history.trials[trial_id].params))
    assert sampler.propose(history, np.random.default_rng(0)).labels["told"] == "1 2 4 5"
    end(history, 0, 0.1)
    taken = sampler.propose(history, np.random.default_rng(0))
    assert taken.labels["told"] == "0 1 2 4"
    assert taken == CMAESSampler(CUBE, population_size=4).propose(history, np.random.default_rng(0))
    add(history, taken)
    assert "told" not in sampler.propose(history, np.random.default_rng(0)).labels


def test_trials_stand_among_those_of_their_first_rung_and_failures_last() -> None:
    history = empty()
    for budget, loss in ((1, 5.0), (1, 4.0), (3, 1.0), (3, 2.0), (1, None), (1, 4.0)):
        end(history, add(history, Proposal({}, {}), budget), loss)
    history.apply(JobCreated(len(history.jobs), 0, 1, 3))
    end(history, 0, 0.0)  # later results do not count
    history.apply(JobCreated(len(history.jobs), 2, 3, 9))
    end(history, 2, None)
    assert standings(history, history.trials) == [2 / 3, 0.0, 0.0, 0.5, 2.0, 0.0]


def test_a_point_that_cannot_be_drawn_again_stands_where_its_trial_does() -> None:
    ours, theirs = empty(), empty()
    sampler = CMAESSampler(CUBE, population_size=4)
    for number in range(4):
        proposal = sampler.propose(ours, ours.generator())
        loss = valley(proposal.params)
        end(ours, add(ours, proposal), loss)
        drawn_elsewhere = {name: float(value) + 1e-13 for name, value in proposal.params.items()}
        end(theirs, add(theirs, Proposal(drawn_elsewhere, proposal.labels)), loss)
        if number == 0:
            assert ours.trials[0].params != theirs.trials[0].params
    here, there = (CMAESSampler(CUBE, population_size=4).propose(h, np.random.default_rng(0)) for h in (ours, theirs))
    assert here.labels == there.labels
    assert list(here.params.values()) == pytest.approx(list(there.params.values()), abs=1e-9)


def test_the_first_distribution_follows_the_priors() -> None:
    space = Space(
        {"rate": Float(1e-6, 1e-1, log=True), "size": Choice((8, 16, 32)), "warmup": Float(0.0, 1.0)},
        priors={"rate": Normal(1e-4, 0.25), "size": Weights((6, 1, 1))},
    )
    sampler = CMAESSampler(space, population_size=1000)
    drawn = [sampler.propose(empty(), np.random.default_rng(seed)).params for seed in range(600)]
    decades = np.log10([float(params["rate"]) for params in drawn])
    assert decades.mean() == pytest.approx(-4, abs=0.05)
    assert decades.std() == pytest.approx(0.25, abs=0.03)
    assert np.std([float(params["warmup"]) for params in drawn]) == pytest.approx(0.19, abs=0.02)  # cut off
    assert [params["size"] for params in drawn].count(8) > 300
    even = CMAESSampler(Space({"size": Choice((8, 16, 32))}), population_size=1000)
    sizes = [even.propose(empty(), np.random.default_rng(seed)).params["size"] for seed in range(600)]
    assert [sizes.count(size) for size in (8, 16, 32)] == pytest.approx([200] * 3, abs=70)


def test_enqueued_trials_and_repeats_are_no_members() -> None:
    sampler = CMAESSampler(CUBE, population_size=4)
    history = empty()
    for _ in range(5):
        end(history, add(history, Proposal(CUBE.sample(np.random.default_rng()), {"origin": "enqueued"})), 0.0)
    proposal = sampler.propose(history, np.random.default_rng(0))
    assert proposal.labels["generation"] == 0
    history.apply(TrialCreated(5, proposal.params, 0, labels=proposal.labels, repeat_of=0))
    assert sampler.propose(history, np.random.default_rng(0)).labels["generation"] == 0


def test_a_search_in_a_narrowed_space_begins_anew() -> None:
    history = played(CMAESSampler(CUBE), valley, 30)
    narrow = Space({name: Float(0.3, 0.5) for name in CUBE.names})
    for number in range(30, 60):
        proposal = CMAESSampler(narrow).propose(history, history.generator())
        narrow.validate(proposal.params)
        end(history, add(history, proposal), valley(proposal.params))
        assert proposal.labels["generation"] == (number - 30) // 8


@pytest.mark.parametrize("workers", [1, 6])
def test_it_converges_where_random_search_does_not(workers: int) -> None:
    def best(sampler: Sampler, seed: int) -> float:
        return played(sampler, valley, 160, workers, seed).rung(1).ranking[0][0]

    random = [best(RandomSampler(CUBE), seed) for seed in range(5)]
    ours = [best(CMAESSampler(CUBE), seed) for seed in range(5)]
    assert np.median(ours) < 0.1 * np.median(random)


def test_a_search_without_slope_begins_again_elsewhere() -> None:
    space = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
    history = played(CMAESSampler(space, population_size=4), lambda params: 1.0, 400)
    sizes = [len(str(trial.labels["told"]).split()) for trial in history.trials if "told" in trial.labels]
    assert {4, 8} <= set(sizes) <= {4, 8, 16, 32}
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("loss", [lambda params: None, lambda params: None if params["b"] > 2 else 1.0])
def test_it_goes_on_when_many_fail(loss: Any) -> None:
    history = played(CMAESSampler(MIXED), loss, 60, workers=3)
    assert len({tuple(trial.params.values()) for trial in history.trials}) == 60


def test_failures_teach_it_to_stay_away() -> None:
    space = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
    history = played(CMAESSampler(space), lambda params: None if params["a"] > 0.5 else 1.0 - params["a"], 90)
    failed = [trial.failure is not None for trial in history.trials]
    assert sum(failed[-30:]) < sum(failed[:30])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 3}, "expected population_size >= 4, got 3; None chooses one by dimension"),
        ({"sigma": 0.0}, r"expected sigma in \(0, 1\], got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CMAESSampler(CUBE, **options)
