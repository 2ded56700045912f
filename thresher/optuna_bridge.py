"""Studies to and from Optuna (Akiba et al. 2019, arXiv:1907.10902); needs the extra `optuna`.

What the two have in common goes over, so that optuna-dashboard, Optuna's plots and its samplers take a study of ours.
What Optuna has no word for becomes user attributes: seeds, labels, rungs' other metrics, tests, kinds of failures. Two
differences stay: a trial of ours that is paused below the full budget is *pruned* there, though it may still go on
here; and repeats of finalists, which are the same configuration once more, are listed with the trial that they repeat.

A *storage* is a URL of SQLAlchemy (`sqlite:///study.db`), a file (`.db`, `.sqlite`, `.sqlite3` are SQLite, any other is
a journal of Optuna), or a storage object of Optuna.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from controller.events import Event, Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.trial import Report, Status, Trial
from search_spaces.domains import Choice, Domain, Float, Int, Params, ParamValue, SpaceError, same
from search_spaces.space import Space
from thresher import __version__
from thresher.record import StudyRecord
from thresher.results import searched_space
from thresher.section import counted

if TYPE_CHECKING:
    from controller.samplers.warm_start import EarlierTrial

MARK: Final = "thresher"
"""The user attribute of a study of Optuna that tells that it is an export of ours."""

_DATABASES: Final = (".db", ".sqlite", ".sqlite3")


class ExchangeError(ValueError):
    """A study cannot be written to Optuna, or read from it."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What a study of Optuna tells about a space of ours.

    Attributes:
        name: of the study.
        trials: what was measured there inside the space, in the order of their numbers.
        skipped: how many trials are of no use, by the reason.
        ignored: parameters of Optuna's study that the space does not have.
        filled: parameters of the space that Optuna's study does not have: they are at their defaults.
    """

    name: str
    trials: tuple[EarlierTrial, ...]
    skipped: Mapping[str, int]
    ignored: tuple[str, ...]
    filled: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """What was read, and what was not."""
        rows = [f"{counted(len(self.trials), 'trial')} of {self.name} tell about this space"]
        rows += [f"{counted(count, 'trial')} left out: {reason}" for reason, count in self.skipped.items()]
        if self.ignored:
            rows.append(f"not in this space, and ignored: {', '.join(self.ignored)}")
        if self.filled:
            rows.append(f"not in that study, and filled in: {', '.join(self.filled)}")
        return rows

    def best(self, count: int) -> list[Params]:
        """The best configurations, each once: those of the highest budget first, there by their loss.

        Raises ExchangeError if there is none.
        """
        if not self.trials:
            raise ExchangeError(
                f"expected a trial of use in {self.name}, got none ({'; '.join(self.sentences)}); widen the space, or "
                "say which parameter is which by renaming"
            )
        ranked = sorted(self.trials, key=lambda trial: (-trial.budget, trial.loss))
        distinct = {tuple(trial.params.items()): trial.params for trial in ranked}
        return list(distinct.values())[:count]


def to_optuna(record: StudyRecord, storage: Any, *, name: str | None = None, replace: bool = False) -> str:
    """Write a study to a storage of Optuna, all of it or nothing; the name that it has there.

    Trials at the full budget are complete, those below it pruned, with what they measured at the rungs as intermediate
    values of the first objective. A study that still runs may be written too: its open trials are running there.

    Args:
        name: default: that of the study's directory.
        replace: write anew what was exported under this name before. What Optuna has of a trial that ended cannot be
            changed, so an earlier export is not brought up to date otherwise.

    Raises ExchangeError if there is a study of this name already, the storage refuses, or Optuna is not installed.
    """
    optuna = _optuna()
    space = searched_space(record)
    name = name or record.directory.absolute().name
    with _quietly(optuna), _refusals(storage):
        opened = _opened(optuna, storage)
        if name in optuna.get_all_study_names(opened):
            _check_replaceable(optuna, opened, name, replace)
            optuna.delete_study(study_name=name, storage=opened)
        directions = [objective.direction for objective in record.history.objectives]
        study = optuna.create_study(storage=opened, study_name=name, directions=directions)
        try:
            study.set_metric_names([objective.metric for objective in record.history.objectives])
            study.set_user_attr(MARK, _study_attributes(record, space))
            times = _times(record.entries)
            for trial in record.history.trials:
                if trial.repeat_of is None:
                    study.add_trial(_frozen(optuna, record.history, space, trial, times[trial.trial_id]))
        except BaseException:
            optuna.delete_study(study_name=name, storage=opened)
            raise
    return name


def from_optuna(
    storage: Any,
    space: Space,
    *,
    name: str | None = None,
    rename: Mapping[str, str] | None = None,
    defaults: Params | None = None,
) -> Imported:
    """What a study of Optuna measured, in terms of a space of ours.

    Complete trials count with their value, pruned ones with their last intermediate value; of several objectives the
    first. The budget of a trial is its last step; of one without steps that of the longest, or 1. Values outside the
    space make a trial useless, as it says nothing about any configuration inside.

    Args:
        name: of the study; not needed if the storage holds one only.
        rename: Optuna's name of a parameter to ours, where they differ.
        defaults: what a parameter has that Optuna's study does not; by default its likeliest value.

    Raises ExchangeError if there is no such study, no parameter that both have, or Optuna is not installed.
    """
    from controller.samplers.warm_start import EarlierTrial

    optuna = _optuna()
    rename = dict(rename or {})
    for ours in rename.values():
        if ours not in space.domains:
            raise ExchangeError(f"expected a name of the space ({', '.join(space.names)}), got {ours!r}; correct it")
    with _quietly(optuna), _refusals(storage):
        _check_exists(storage)
        opened = _opened(optuna, storage)
        name = _chosen(optuna.get_all_study_names(opened), name)
        study = optuna.load_study(study_name=name, storage=opened)
        found = study.get_trials(deepcopy=False)
        maximized = study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    theirs = dict.fromkeys(rename.get(key, key) for trial in found for key in trial.params)
    if found and not set(theirs) & set(space.names):
        raise ExchangeError(
            f"expected parameters of the space ({', '.join(space.names)}) in {name!r}, got "
            f"{', '.join(theirs) or 'none'}; say which is which by renaming"
        )
    longest = max((step for trial in found for step in trial.intermediate_values), default=1)
    base = {key: value for key, value in (defaults or {}).items() if key in space.domains}
    trials: list[EarlierTrial] = []
    skipped: Counter[str] = Counter()
    for trial in found:
        named = {rename.get(key, key): value for key, value in trial.params.items()}
        given = {key: _read(space.domains[key], value) for key, value in named.items() if key in space.domains}
        params = _inside(space, given, base)
        value, budget = _result(trial, longest)
        if not math.isfinite(value):
            skipped["without a result"] += 1
        elif params is None:
            skipped["outside the space"] += 1
        else:
            trials.append(EarlierTrial(params, -value if maximized else value, budget))
    return Imported(
        name=name,
        trials=tuple(trials),
        skipped=dict(skipped),
        ignored=tuple(key for key in theirs if key not in space.domains),
        filled=tuple(key for key in space.names if key not in theirs),
    )


def read_renames(texts: Sequence[str]) -> dict[str, str]:
    """`THEIRS=OURS` texts as a mapping. Raises ExchangeError."""
    pairs = [text.partition("=") for text in texts]
    for (theirs, _, ours), text in zip(pairs, texts, strict=True):
        if not theirs.strip() or not ours.strip():
            raise ExchangeError(f"expected THEIRS=OURS such as lr=optimizer.learning_rate, got {text!r}; correct it")
    return {theirs.strip(): ours.strip() for theirs, _, ours in pairs}


def shown_storage(storage: Any) -> str:
    """A storage by its URL, without the password in it."""
    if not isinstance(storage, str) or "://" not in storage or "@" not in storage:
        return str(storage) if isinstance(storage, str | Path) else type(storage).__name__
    scheme, _, rest = storage.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2]}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ExchangeError(
            'expected Optuna to be installed, got none; install the extra: pip install "thresher[optuna]"'
        ) from error
    return optuna


@contextmanager
def _quietly(optuna: Any) -> Iterator[None]:
    """Without Optuna's log of what it creates, and its warnings about parts of it that are experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _refusals(storage: Any) -> Iterator[None]:
    """Raise what a storage refuses as an ExchangeError."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ExchangeError(
            f"expected a storage of Optuna that can be used, got {shown_storage(storage)} ({reason}); give a file, or "
            "a URL such as sqlite:///optuna.db"
        ) from error


def _opened(optuna: Any, storage: Any) -> Any:
    """The storage as Optuna takes it."""
    if not isinstance(storage, str | Path) or "://" in str(storage):
        return optuna.storages.get_storage(storage)
    path = Path(storage).absolute()
    if path.suffix in _DATABASES:
        return optuna.storages.get_storage(f"sqlite:///{path}")
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _check_exists(storage: Any) -> None:
    """Raises ExchangeError for a file that is not there, which Optuna would make."""
    if not isinstance(storage, str | Path):
        return
    text = str(storage)
    path = text.removeprefix("sqlite:///") if text.startswith("sqlite:///") else text
    if "://" not in path and not Path(path).is_file():
        raise ExchangeError(f"expected a storage of Optuna in {path}, got no such file; correct the path")


def _check_replaceable(optuna: Any, storage: Any, name: str, replace: bool) -> None:
    """Raises ExchangeError unless the study of this name is an export of ours that is to be written anew."""
    ours = MARK in optuna.load_study(study_name=name, storage=storage).user_attrs
    if ours and replace:
        return
    remedy = "ask to replace it, or give another name" if ours else "give another name"
    raise ExchangeError(
        f"expected a storage without a study {name!r}, got one that holds "
        f"{'an earlier export' if ours else 'a study of somebody else'} under this name; {remedy}"
    )


def _chosen(names: Sequence[str], name: str | None) -> str:
    """The study that is meant."""
    if name is not None and name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    there = ", ".join(map(repr, names)) or "none"
    wanted = "one study, or its name" if name is None else f"a study {name!r}"
    raise ExchangeError(f"expected {wanted} in the storage, got {there}; name one of them")


def _study_attributes(record: StudyRecord, space: Space) -> dict[str, Any]:
    fixed = {name: value for name, value in record.defaults.items() if name not in space.domains}
    return {"version": __version__, "seed": record.history.seed, "budgets": list(record.budgets), "fixed": fixed}


def _times(entries: Sequence[tuple[int, float, Event]]) -> dict[int, tuple[float, float]]:
    """When each trial began and had its last word, in seconds since the epoch."""
    times: dict[int, tuple[float, float]] = {}
    trial_of: dict[int, int] = {}
    for _, moment, event in entries:
        match event:
            case TrialCreated(trial_id):
                times[trial_id] = (moment, moment)
            case JobCreated(job_id, trial_id) if event.split == "validation":
                trial_of[job_id] = trial_id
            case Reported(report) if report.job_id in trial_of:
                began, before = times[trial_of[report.job_id]]
                times[trial_of[report.job_id]] = (began, max(before, moment))
            case Failed(failure) if failure.job_id in trial_of:
                began, before = times[trial_of[failure.job_id]]
                times[trial_of[failure.job_id]] = (began, max(before, moment))
    return times


def _frozen(optuna: Any, history: History, space: Space, trial: Trial, times: tuple[float, float]) -> Any:
    """A trial as Optuna holds it."""
    states = optuna.trial.TrialState
    state = {
        Status.COMPLETE: states.COMPLETE,
        Status.PAUSED: states.PRUNED if trial.reports else states.RUNNING,
        Status.RUNNING: states.RUNNING,
        Status.FAILED: states.FAIL,
    }[trial.status(history.horizon)]
    values = None
    if state == states.COMPLETE:
        measured = trial.reports[history.horizon].metrics
        values = [measured[objective.metric] for objective in history.objectives]
        if any(map(math.isnan, values)):
            state, values = states.FAIL, None
    domains = {name: space.domains[name] for name in trial.params}
    frozen = optuna.trial.create_trial(
        state=state,
        values=values,
        params={name: _written(domain, trial.params[name]) for name, domain in domains.items()},
        distributions={name: _distribution(optuna, domain) for name, domain in domains.items()},
        user_attrs=_attributes(history, trial),
        intermediate_values={
            rung: report.metrics[history.objectives[0].metric] for rung, report in trial.reports.items()
        },
    )
    frozen.datetime_start = datetime.fromtimestamp(times[0])
    frozen.datetime_complete = datetime.fromtimestamp(times[1]) if state.is_finished() else None
    return frozen


def _attributes(history: History, trial: Trial) -> dict[str, Any]:
    """What Optuna has no word for, in terms of JSON."""
    found: dict[str, Any] = {"trial": trial.trial_id, "seed": trial.seed, "budget": trial.budget}
    found |= {f"labels.{name}": value for name, value in trial.labels.items()}
    if trial.reports:
        found |= {f"metrics.{name}": value for name, value in trial.reports[trial.budget].metrics.items()}
        found["seconds"] = trial.seconds
    for report in trial.tests.values():
        found |= {f"test.{name}": value for name, value in report.metrics.items()}
    if trial.source is not None:
        kind = type(trial.source).__name__.lower()
        found["source"] = {"kind": kind, "trial": trial.source.trial_id, "budget": trial.source.budget}
    if trial.failure is not None:
        found |= {"failure": trial.failure.kind.value, "message": trial.failure.message}
    repeats = [one for one in history.repeats if one.repeat_of == trial.trial_id and history.horizon in one.reports]
    if repeats:
        found["repeats"] = [_repeat(one, one.reports[history.horizon]) for one in repeats]
    return found


def _repeat(trial: Trial, report: Report) -> dict[str, Any]:
    return {"trial": trial.trial_id, "seed": trial.seed, **report.metrics}


def _distribution(optuna: Any, domain: Domain) -> Any:
    match domain:
        case Float():
            return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)
        case Int():
            return optuna.distributions.IntDistribution(domain.low, domain.high, log=domain.log)
        case Choice():
            return optuna.distributions.CategoricalDistribution([_written(domain, value) for value in domain.values])


def _written(domain: Domain, value: ParamValue) -> ParamValue:
    """A value for Optuna, for which 1 and True are one: in a choice that has both they are written as words."""
    if isinstance(domain, Choice) and len(set(domain.values)) < len(domain.values):
        return repr(value)
    return value


def _read(domain: Domain, value: Any) -> ParamValue:
    """The value that `_written` wrote; what it did not write as it is."""
    if isinstance(domain, Choice):
        return next((one for one in domain.values if same(_written(domain, one), value)), value)
    return value  # type: ignore[no-any-return]


def _inside(space: Space, given: Params, base: Params) -> dict[str, ParamValue] | None:
    """The assignment with these values, the rest filled in; None if there is none."""
    try:
        params = space.repair({**base, **given})
    except SpaceError:
        return None
    return params if all(params[name] == value for name, value in given.items() if name in params) else None


def _result(trial: Any, longest: int) -> tuple[float, int]:
    """The value that a trial ended with, NaN for none, and the budget that it was measured at."""
    steps = trial.intermediate_values
    last = max(steps, default=None)
    if trial.values is not None and trial.state.name == "COMPLETE":
        return float(trial.values[0]), max(1, longest if last is None else last)
    if trial.state.name == "PRUNED" and last is not None:
        return float(steps[last]), max(1, last)
    return math.nan, 0
