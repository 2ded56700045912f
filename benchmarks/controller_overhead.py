"""How many jobs a second the search itself can handle, ours beside Optuna's.

A job is one rung's worth of one trial: decide what trains next, record it, take its result, record that. Nothing
is trained: results come at once. Ours runs the real controller on a journal on disk (SQLite, WAL, synchronous
NORMAL), with a commit before and after every job. Optuna asks, reports, asks its pruner and tells; one `report`
counts as a job.

`jobs_per_second` is the rate when the study has that many trials: over the last 1,000 jobs of ours, and of
Optuna's small study in memory. Optuna's other studies would take too long from the beginning. They are filled with
copies of the trials of that small study, and the jobs after that are measured; the column `measured` says how many.
SQLite is measured for Optuna as it comes, and with the settings that ours uses.

Two more measurements are of ours alone: milliseconds a decision of every kind of search with 10,000 finished trials
(overhead/proposals.py), and a simulated study of 1,000 workers (overhead/large_study.py).
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import reporting
import sqlalchemy as sa
from overhead import large_study, proposals
from overhead.proposals import AtOnce

from controller.controller import Controller
from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.store import Store
from controller.strategy import Composed, Sampler
from controller.trial import Objective
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space
from thresher.strategies import SEARCH_KINDS

SMALL, LARGE = 1_000, 10_000
RUNGS = (1, 3, 9, 27)
LAST_JOBS = 1_000
SPACE = Space(
    {
        "optimizer.learning_rate": Float(2e-5, 3e-3, log=True),
        "optimizer.weight_decay": Choice((0.0, 0.01, 0.1)),
        "optimizer.max_grad_norm": Float(0.1, 2.0),
        "optimizer.batch_size": Int(4, 128, log=True),
        "schedule.warmup": Float(0.0, 0.1),
        "schedule.kind": Choice(("linear", "cosine", "constant")),
        "lora.rank": Int(4, 256, log=True),
        "lora.dropout": Choice((0.0, 0.05, 0.1)),
    }
)
SAMPLERS: Mapping[str, Callable[[], Sampler]] = {
    "random": lambda: RandomSampler(SPACE),
    "evolution": lambda: EvolutionSampler(SPACE),
}


def main() -> None:
    """Measure and write the rows."""
    options = reporting.parser(__doc__)
    options.add_argument("--kinds", nargs="*", metavar="KIND", help="decisions of these kinds alone, nothing else")
    args = options.parse_args()
    setting = reporting.machine()
    trials, measured = (2_000, 20) if args.quick else (LARGE, 200)
    rows: list[reporting.Row] = []
    if args.kinds is None:
        repetitions = 1 if args.quick else 5
        rows += thresher_rows(repetitions, args.seed)
        rows += optuna_rows(repetitions, args.seed, quick=args.quick)
        jobs = 10_000 if args.quick else 50_000
        rows.append(large_study.row(SPACE, RUNGS, loss_of, workers=1_000, jobs=jobs, seed=args.seed))
    kinds = SEARCH_KINDS if args.kinds is None else args.kinds
    rows += proposals.rows(SPACE, RUNGS, loss_of, trials=trials, measured=measured, seed=args.seed, kinds=kinds)
    reporting.write(rows, args, setting)


def loss_of(params: Mapping[str, Any], budget: int) -> float:
    """Stands for a training: cheap, smooth, better with more budget."""
    rate = math.log10(params["optimizer.learning_rate"] / 5e-4)
    return rate * rate + float(params["schedule.warmup"]) + float(params["lora.dropout"]) + 1.0 / budget


def thresher_rows(repetitions: int, seed: int) -> list[reporting.Row]:
    """Whole studies with every sampler, of both sizes in turn, so that other load on the machine hits both."""
    studies = [(sampler, trials) for sampler in SAMPLERS for trials in (SMALL, LARGE)]
    runs: dict[tuple[str, int], list[list[float]]] = {study: [] for study in studies}
    for repetition in range(repetitions):
        for sampler, trials in studies:
            runs[sampler, trials].append(_run_thresher(SAMPLERS[sampler](), trials, seed + repetition))
    return [
        _whole_row("thresher", sampler, "sqlite WAL NORMAL", trials, moments)
        for (sampler, trials), moments in runs.items()
    ]


def _run_thresher(sampler: Sampler, trials: int, seed: int) -> list[float]:
    executor = AtOnce(lambda params, budget: {"loss": loss_of(params, budget)})
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory)) as store:
        history = History(seed=seed, objectives=[Objective("loss")], horizon=RUNGS[-1])
        strategy = Composed(sampler, ASHA(RUNGS, max_trials=trials))
        executor.moments.append(time.perf_counter())
        Controller(strategy, executor, store, history).run()
    return executor.moments


def optuna_rows(repetitions: int, seed: int, *, quick: bool) -> list[reporting.Row]:
    """Random search with successive halving in memory and in SQLite. `quick` leaves out SQLite at 10,000 trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    whole = []
    for repetition in range(repetitions):
        small = _optuna_study(None, seed + repetition)
        moments = [time.perf_counter()]
        while len(small.get_trials(deepcopy=False)) < SMALL:
            moments += _optuna_trial(small)
        whole.append(moments)
    rows = [_whole_row("optuna", "random", "memory", SMALL, whole)]
    templates = small.get_trials(deepcopy=False)
    for name, tuned in (("sqlite", False), ("sqlite WAL NORMAL", True)):
        with _optuna_sqlite() as storage:
            rows.append(_filled_row(name, storage, tuned, SMALL, templates, repetitions, 20 if quick else 100, seed))
    rows.append(_filled_row("memory", None, False, LARGE, templates, repetitions, 100 if quick else 500, seed))
    if not quick:
        for name, tuned in (("sqlite", False), ("sqlite WAL NORMAL", True)):
            with _optuna_sqlite() as storage:
                rows.append(_filled_row(name, storage, tuned, LARGE, templates, repetitions, 100, seed))
    return rows


def _filled_row(
    store: str,
    storage: optuna.storages.RDBStorage | None,
    tuned: bool,
    trials: int,
    templates: Sequence[optuna.trial.FrozenTrial],
    repetitions: int,
    jobs: int,
    seed: int,
) -> reporting.Row:
    study = _optuna_study(storage, seed)
    filled = trials - jobs // 2
    if storage is not None:
        _set_pragmas(storage, synchronous="OFF", journal_mode="MEMORY")  # for the filling alone
    study.add_trials([templates[index % len(templates)] for index in range(filled)])
    if storage is not None:
        synchronous, journal_mode = ("NORMAL", "WAL") if tuned else ("FULL", "DELETE")
        _set_pragmas(storage, synchronous=synchronous, journal_mode=journal_mode)
    _optuna_trial(study)  # reads the filled trials once
    rates = []
    for _ in range(repetitions):
        moments = [time.perf_counter()]
        while len(moments) <= jobs:
            moments += _optuna_trial(study)
        rates.append(_rate(moments))
    return _row("optuna", "random", store, trials, rates, f"{jobs} jobs after filling in {filled} trials")


def _optuna_study(storage: optuna.storages.RDBStorage | None, seed: int) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3),
    )


def _optuna_trial(study: optuna.Study) -> list[float]:
    """Run one trial until it is pruned or at its end. The moments at which its jobs were over."""
    moments = []
    trial = study.ask()
    params = {name: _suggest(trial, name, domain) for name, domain in SPACE.domains.items()}
    for budget in RUNGS:
        loss = loss_of(params, budget)
        trial.report(loss, budget)
        if budget == RUNGS[-1]:
            study.tell(trial, loss)
        elif trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            moments.append(time.perf_counter())
            break
        moments.append(time.perf_counter())
    return moments


def _suggest(trial: optuna.Trial, name: str, domain: Float | Int | Choice) -> Any:
    match domain:
        case Float(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Int(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(name, values)


@contextmanager
def _optuna_sqlite() -> Iterator[optuna.storages.RDBStorage]:
    with tempfile.TemporaryDirectory() as directory:
        storage = optuna.storages.RDBStorage(f"sqlite:///{directory}/optuna.sqlite")
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _set_pragmas(storage: optuna.storages.RDBStorage, **pragmas: str) -> None:
    """Settings for the connections that the storage opens from now on."""

    def configure(connection: Any, _: Any) -> None:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")

    storage.remove_session()
    storage.engine.dispose()
    sa.event.listen(storage.engine, "connect", configure)


def _rate(moments: Sequence[float]) -> float:
    return (len(moments) - 1) / (moments[-1] - moments[0])


def _whole_row(system: str, sampler: str, store: str, trials: int, runs: Sequence[Sequence[float]]) -> reporting.Row:
    """The row of studies that were run from the beginning, given the moments at which their jobs were over."""
    measured = f"last {LAST_JOBS} of {len(runs[0]) - 1} jobs"
    whole = round(statistics.median(_rate(moments) for moments in runs), 1)
    row = _row(system, sampler, store, trials, [_rate(moments[-LAST_JOBS - 1 :]) for moments in runs], measured)
    return {**row, "jobs_per_second_whole": whole}


def _row(system: str, sampler: str, store: str, trials: int, rates: Sequence[float], measured: str) -> reporting.Row:
    return {
        "system": system,
        "sampler": sampler,
        "store": store,
        "trials": trials,
        "jobs_per_second": round(statistics.median(rates), 1),
        "slowest": round(min(rates), 1),
        "fastest": round(max(rates), 1),
        "repetitions": len(rates),
        "measured": measured,
    }


if __name__ == "__main__":
    main()
