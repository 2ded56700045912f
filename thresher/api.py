"""The study as an object: `thresher.Study`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from controller.history import History
from controller.schedulers.rungs import geometric_rungs
from controller.standings import standings
from controller.strategy import Strategy
from controller.trial import Direction, Objective
from search_spaces.domains import Choice
from search_spaces.space import Space
from thresher.asking import OpenTrial, Told
from thresher.frames import (
    hypervolume_frame,
    importance_frame,
    pareto_frame,
    reports_frame,
    standings_frame,
    trials_frame,
)
from thresher.functions import FunctionObjective, ObjectiveError
from thresher.notebook import study_html
from thresher.results import Best, Snapshot, StudyError, read_study, searched_space
from thresher.session import Session, Settings
from thresher.strategies import ladder, resolve, uses_rungs

if TYPE_CHECKING:
    import pandas as pd

    from controller.importance import Failures
    from thresher.pareto_view import TradeOffs
    from thresher.record import StudyRecord

SpaceLike = Space | Mapping[str, Any]
"""A Space, a mapping of names to domains (or lists, for choices), or the written form that Space.from_dict reads."""


@final
class Study:
    """The search for the best parameters of a function.

        def objective(params, budget, checkpoint_dir):
            ...                      # train to `budget`, going on from what is in `checkpoint_dir`
            return validation_loss

        study = Study({"lr": Float(1e-4, 1.0, log=True)}, objective, budget=27, trials=40)
        study.run(workers=4)
        study.best, study.trials

    **The function.** Its first argument receives the parameters, a dict. If it has arguments `budget`,
    `checkpoint_dir` or `seed`, these are passed by name. It returns a number or a mapping with the metric and others.
    `budget` is counted from the start of a trial: called again with 9 after 3, it trains for 6 more.
    `checkpoint_dir`, a pathlib.Path, then holds what it left there at 3; it is empty at first, and if the files are
    gone, when all is to be trained again. Its path changes from call to call. What is left by a call that was killed
    in the middle is never seen again. Without `budget`, every trial is trained to the end.

    **Failures.** A function that raises has failed its trial, and the study goes on; so has one that runs out of
    memory, or returns NaN or an infinity. As long as no trial was measured at all, an exception is taken for a
    mistake in the function, and `run` raises ObjectiveError (see `fail_fast`). A result without the metric raises
    MetricError.

    **Directory.** All that happens is committed to a journal there before it is acted on. The same arguments with
    the same directory go on where a study stopped or was killed; with one worker to the same result as if it had
    never been interrupted. `trials`, `finalists` and `repeats` may be others then. Without a directory a temporary
    one is used, which is deleted when this object is.

    A study object holds the lock of its directory until `close`, the end of its `with` block, or its own end.

    Args:
        space: what may vary.
        objective: the function; None for a loop of one's own with `ask` and `tell`.
        metric: the name of the number that is optimised.
        direction: "minimize" or "maximize".
        trials: how many are started in all.
        budget: the full budget of a trial, in whole units of one's own (epochs, steps). Needed if the function
            takes it; without a function the default is 1.
        min_budget: the lowest rung, at which trials are compared first; by default a ninth of `budget`.
        reduction_factor: from rung to rung the best of this many go on.
        strategy: "auto", "tpe", "hyperband", ... (a word of make_strategy), or a Strategy, such as Composed makes of a
            sampler and a scheduler.
        default: a configuration to try first, as the yardstick.
        finalists: how many of the best are trained again with other seeds after the search, and trial 0 with them.
            The best is then the one with the best mean over its repeats.
        repeats: how often each.
        seed: of all random numbers of the search, and of the seeds that the function is given.
        directory: where the study is kept.
        budget_unit: what budgets count, for people.

    Raises:
        StudyError: the directory holds another study, or the arguments do not fit each other.
        ObjectiveError: the function cannot be called as it is written.
        SpaceError, StoreError: the space is none, the directory cannot be used.
    """

    def __init__(
        self,
        space: SpaceLike,
        objective: Callable[..., Any] | None = None,
        *,
        metric: str = "objective",
        direction: Direction = "minimize",
        trials: int = 20,
        budget: int | None = None,
        min_budget: int | None = None,
        reduction_factor: int = 3,
        strategy: str | Strategy = "auto",
        default: Mapping[str, Any] | None = None,
        finalists: int = 0,
        repeats: int = 2,
        seed: int = 0,
        directory: str | Path | None = None,
        budget_unit: str = "units",
    ) -> None:
        if direction not in ("minimize", "maximize"):
            raise StudyError(f"expected direction 'minimize' or 'maximize', got {direction!r}")
        function = None if objective is None else FunctionObjective.of(objective, metric)
        whole = space_of(space)
        if default is not None:
            default = plain_params(default)
            whole.validate(default)
        settings = Settings(
            space=whole,
            objective=Objective(metric, direction),
            budgets=_ladder(whole, strategy, trials, _rungs(function, strategy, budget, min_budget, reduction_factor)),
            strategy=strategy,
            max_trials=trials,
            seed=seed,
            reduction_factor=reduction_factor,
            finalists=finalists,
            repeats=repeats,
            default=default,
        )
        self._function = function
        self._budget_unit = budget_unit
        self._session: Session | None = Session(settings, None if directory is None else Path(directory))
        self._directory = self._session.directory
        weakref.finalize(self, self._session.close).atexit = False  # at the end of the process all locks are free

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Read the study in a directory, also while another process runs it.

        What it shows is read anew each time. It can be neither run nor asked.

        Raises StoreError if there is none, ValueError if it has only just begun.
        """
        read_study(Path(directory))
        study = cls.__new__(cls)
        study._function = None
        study._session = None
        study._directory = Path(directory).absolute()
        return study

    @property
    def directory(self) -> Path:
        """Where journal and checkpoints lie."""
        return self._directory

    @property
    def space(self) -> Space:
        """What may vary. Raises StudyError if the study is only read."""
        return self._writer.settings.space

    @property
    def history(self) -> History:
        """The study as the search sees it. Not to be changed."""
        return self._snapshot.history

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._snapshot.finished

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial: number, status, parameters, the metrics at its highest budget; see `trials_frame`."""
        return trials_frame(self.history)

    @property
    def reports(self) -> pd.DataFrame:
        """One row a result, so that each trial is a learning curve; see `reports_frame`."""
        return reports_frame(self.history)

    @property
    def best(self) -> Best:
        """The best configuration so far, at the highest budget with a result. Raises StudyError if there is none."""
        return self._snapshot.best()

    @property
    def finalists(self) -> pd.DataFrame:
        """One row a finalist, best first, with the mean over its repeats; see `standings_frame`. Empty for none."""
        snapshot = self._snapshot
        rows = [] if snapshot.finalists is None else standings(snapshot.history, snapshot.finalists)
        return standings_frame(snapshot.history, rows)

    def importance(
        self,
        metric: str | None = None,
        *,
        budget: int | None = None,
        failures: Failures = "omit",
        best_share: float = 1.0,
        interactions: bool = True,
        min_trials: int = 10,
        seed: int = 0,
    ) -> pd.DataFrame:
        """How much each parameter, and each pair of them, matters; see `importance_frame`.

        The variance of the metric over the space, divided by functional ANOVA over a random forest (Hutter et al.
        2014) that is fitted to the results at one budget.

        Args:
            metric: any that the trials report; default: what is optimised.
            budget: the rung; default: the highest with at least `min_trials` results.
            failures: "omit", or "worst": trials that failed count as the worst result.
            best_share: results beyond this quantile count as if they were at it; 0.5: all of the worse half is alike.
            interactions: whether pairs are computed too.
            min_trials: fewer results are refused; at least 4.
            seed: of the forest.

        Raises ImportanceError if there are too few results, StudyError if the study did not keep its space.
        """
        from controller.importance import importances

        space = self._session.settings.space if self._session is not None else searched_space(self._record)
        found = importances(
            self.history,
            space,
            metric=metric,
            budget=budget,
            failures=failures,
            best_share=best_share,
            interactions=interactions,
            min_trials=min_trials,
            seed=seed,
        )
        return importance_frame(found)

    def pareto(self, reference: Mapping[str, float] | None = None) -> pd.DataFrame:
        """One row a trial at the full budget that no other beats in all objectives; see `pareto_frame`.

        Args:
            reference: of the hypervolume: a value for each objective by name, by default the worst measured.
        """
        return pareto_frame(self._trade_offs(reference))

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> pd.DataFrame:
        """How the volume that the front covers grew, one row a trial at the full budget; see `hypervolume_frame`."""
        return hypervolume_frame(self._trade_offs(reference))

    def to_optuna(self, storage: Any, *, name: str | None = None, replace: bool = False) -> str:
        """Write the study to a storage of Optuna (a file, a URL, or an object); the name that it has there.

        See `thresher.optuna_bridge`. Needs the extra `optuna`. Raises ExchangeError.

        Args:
            name: default: that of the directory.
            replace: write anew what was exported under this name before.
        """
        from thresher.optuna_bridge import to_optuna

        return to_optuna(self._record, storage, name=name, replace=replace)

    def enqueue_from_optuna(
        self, storage: Any, *, name: str | None = None, best: int = 1, rename: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Have the best configurations of a study of Optuna tried next; returns them.

        Args:
            name: of the study; not needed if the storage holds one only.
            best: how many.
            rename: Optuna's name of a parameter to ours, where they differ.

        Raises ExchangeError; see `thresher.optuna_bridge.from_optuna`.
        """
        from thresher.optuna_bridge import from_optuna

        settings = self._writer.settings
        found = from_optuna(storage, settings.space, name=name, rename=rename, defaults=settings.default)
        chosen = [dict(params) for params in found.best(best)]
        for params in chosen:
            self.enqueue(params)
        return chosen

    @property
    def report(self) -> str:
        """The report of a finished fine-tuning study, in Markdown. Raises StudyError if there is none."""
        path = self._directory / "report.md"
        if not path.is_file():
            raise StudyError(f"expected the report of a finished fine-tuning study, got no {path}")
        return path.read_text(encoding="utf-8")

    def run(
        self,
        workers: int = 1,
        *,
        trials: int | None = None,
        timeout: float | None = None,
        progress: bool = True,
        retries: int = 0,
        fail_fast: bool = True,
        devices: Sequence[str] | None = None,
    ) -> Self:
        """Run the study until it is finished; call it again to go on after it was interrupted or the time was up.

        Args:
            workers: 1 calls the function in this process. More are processes of their own, each a new interpreter
                to which the function is sent with all that it refers to; what they print goes to `logs` in the
                directory. If one dies, its trial has failed and another takes its place. If this process ends, they
                end.
            trials: from now on, how many are started in all.
            timeout: seconds after which nothing more is started; what runs is waited for.
            progress: whether to show what happens: a live view on a terminal and in a notebook, else lines.
            retries: how often a call is repeated that raised (but for lack of memory), or whose worker died.
            fail_fast: whether a failure before anything was ever measured is raised. The trial stays open and is
                done again by the next `run`.
            devices: values of CUDA_VISIBLE_DEVICES for worker processes, taken in turn; by default one GPU each.

        Raises:
            ObjectiveError: see `fail_fast`.
            MetricError: the function returned a mapping without the metric.
            StudyError: there is no function, or the study is only read, closed, or running.
            StudyHalted: no worker can work, or the disk is full. The same call goes on once that is mended.
            KeyboardInterrupt: workers are ended at once; what they were at is done again by the next `run`.
        """
        writer = self._writer
        if self._function is None:
            raise StudyError("expected a study with an objective, got one without; use ask and tell, or give it one")
        if workers < 1:
            raise StudyError(f"expected workers >= 1, got {workers}")
        if trials is not None and trials != writer.settings.max_trials:
            if not isinstance(writer.settings.strategy, str):
                raise StudyError("expected `trials` only with a strategy that goes by a word; make the study anew")
            writer.extend(replace(writer.settings, max_trials=trials))
        writer.run(
            self._function,
            workers=workers,
            timeout=timeout,
            progress=progress,
            budget_unit=self._budget_unit,
            retries=retries,
            fail_fast=fail_fast,
            devices=devices,
        )
        return self

    def ask(self) -> OpenTrial | None:
        """The next trial for a loop of one's own, to be trained and told; None when the study is finished.

        Several may be open. After a restart those that were open come again, with a fresh `checkpoint_dir`.

        Raises:
            MustWait: what trains next depends on a trial that is open.
            StudyError: the study is only read, closed, or running.
        """
        return self._writer.ask()

    def tell(self, trial: OpenTrial, outcome: Told) -> None:
        """Write down what became of a trial: the metric, several by name, a FailureKind, or an exception.

        Raises:
            StudyError: the trial is not open.
            TypeError, MetricError: the outcome is no number, or lacks the metric. The trial stays open.
        """
        self._writer.tell(trial, outcome)

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Have a configuration tried next. Raises SpaceError if it is not in the space."""
        self._writer.enqueue(plain_params(params))

    def export(self, destination: str | Path) -> int:
        """Write the winner's adapter of a fine-tuning study to a new or empty directory; the trial that it is of.

        Raises ExportError, or RecordError if no trial was measured.
        """
        from thresher.record import StudyRecord

        if self._session is not None:
            raise StudyError("expected a fine-tuning study, got that of a function, whose files are in checkpoints/")
        return StudyRecord.open(self._directory).export(Path(destination)).trial_id

    def close(self) -> None:
        """Give the directory back. A temporary one is deleted. Raises StudyError while the study runs."""
        if self._session is not None:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Study({self._snapshot.summary()}, in {self._directory})"

    def _repr_html_(self) -> str:
        return study_html(self._snapshot)

    @property
    def _writer(self) -> Session:
        if self._session is None:
            raise StudyError(f"expected a study open for writing, got {self._directory} open for reading")
        return self._session

    @property
    def _record(self) -> StudyRecord:
        from thresher.record import StudyRecord

        return StudyRecord.open(self._directory)

    def _trade_offs(self, reference: Mapping[str, float] | None) -> TradeOffs:
        from thresher.pareto_view import trade_offs

        record = self._record
        return trade_offs(record.history, record.entries, reference)

    @property
    def _snapshot(self) -> Snapshot:
        return read_study(self._directory) if self._session is None else self._session.snapshot()


def space_of(space: SpaceLike) -> Space:
    """The space that was meant. Raises SpaceError."""
    if isinstance(space, Space):
        return space
    if not isinstance(space, Mapping) or any(isinstance(entry, Mapping) for entry in space.values()):
        return Space.from_dict(space)
    return Space({name: Choice(tuple(entry)) if isinstance(entry, list) else entry for name, entry in space.items()})


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the scalars of numpy, as a row of `trials` has them, made plain numbers."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}


def _ladder(space: Space, strategy: str | Strategy, trials: int, budgets: tuple[int, ...]) -> tuple[int, ...]:
    """The rungs that a strategy works on: those of a word may be finer than what it is given."""
    if not isinstance(strategy, str):
        return budgets
    return ladder(resolve(strategy, space, budgets, trials), budgets)


def _rungs(
    function: FunctionObjective | None,
    strategy: str | Strategy,
    budget: int | None,
    min_budget: int | None,
    reduction_factor: int,
) -> tuple[int, ...]:
    if function is not None and function.takes_budget and budget is None:
        raise ObjectiveError(
            "expected the full budget of a trial, since the function takes `budget`, got none; give budget=27, say, "
            "in units of your own such as epochs"
        )
    if function is not None and not function.takes_budget and (budget is not None or min_budget is not None):
        raise ObjectiveError(
            "expected no budget, since the function does not take one, got one; give it an argument `budget`, and "
            "train no further than that"
        )
    full = 1 if budget is None else budget
    if isinstance(full, bool) or not isinstance(full, int) or full < 1:
        raise StudyError(f"expected a budget that is a whole number from 1, got {full!r}; choose a smaller unit")
    if isinstance(strategy, str) and not uses_rungs(strategy):
        if min_budget is not None:
            raise StudyError(f"expected no min_budget with strategy {strategy!r}, which trains all to the full budget")
        return (full,)
    lowest = min_budget if min_budget is not None else max(1, full // reduction_factor**2)
    return geometric_rungs(lowest, full, reduction_factor)
