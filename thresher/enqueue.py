"""A configuration of one's own as the next trial of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from controller.requests import Enqueue, file_request, pending_requests
from controller.store import writer_of
from llm_tuning.recipe import Recipe
from search_spaces.domains import Choice, Domain, Float, Int, is_scientific
from search_spaces.space import Params, ParamValue, Space, SpaceError
from search_spaces.suggestion import suggest
from thresher.record import StudyRecord
from thresher.yaml_file import read_yaml


class EnqueueError(ValueError):
    """A configuration that the study cannot try."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A configuration that was asked for.

    Attributes:
        params: the whole configuration, what was left open filled in.
        name: of the request.
        sentences: what will become of it.
    """

    params: Params
    name: str
    sentences: tuple[str, ...]


def enqueue(record: StudyRecord, given: Mapping[str, object]) -> Asked:
    """Ask for a configuration to be tried next; what is not given keeps its default.

    Raises:
        EnqueueError: there is no such name or value, the study has started all its trials already, or it has no space
            on record.
        RecipeError: no training can have these values.
        RequestError: the directory cannot be written.
    """
    space = record.space
    if record.settings is None or space is None:
        raise EnqueueError(
            f"expected a study of fine-tuning with its space on record in {record.directory}, got another; "
            "enqueue from Python, or start a study with this version"
        )
    _check_room(record)
    params = complete_params(space, record.defaults, given)
    check_params(space, record.defaults, params)
    name = file_request(record.directory, Enqueue(params))
    return Asked(params, name, tuple(_prospects(record, params)))


def read_assignments(texts: Sequence[str], file: Path | None = None) -> dict[str, object]:
    """`name=value` texts, after what a YAML file of names and values says. Raises EnqueueError or YamlError."""
    given: dict[str, object] = {}
    if file is not None:
        content = read_yaml(file)
        if not isinstance(content, Mapping):
            raise EnqueueError(
                f"{file}: expected names with values, such as lora.rank: 16, got {content!r}; correct it"
            )
        given.update({str(name): value for name, value in content.items()})
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise EnqueueError(f"expected NAME=VALUE such as lora.rank=16, got {text!r}; correct it")
        try:
            given[name.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise EnqueueError(f"{name}: expected a value, got {value!r}; quote it") from error
    if not given:
        raise EnqueueError("expected at least one NAME=VALUE, got none; the default configuration is trial 0 already")
    return given


def complete_params(space: Space, defaults: Params, given: Mapping[str, object]) -> dict[str, ParamValue]:
    """One assignment of a space: what is given, and the defaults for the rest of what exists beside it.

    Raises EnqueueError for a name that is fixed or unknown, a value outside its domain, a rule that does not hold.
    """
    for name in given:
        if name in defaults and name not in space.domains:
            raise EnqueueError(
                f"{name}: expected a name that this study varies ({', '.join(space.names)}), got one that it holds "
                f"fixed at {defaults[name]!r}; leave it out, or start a study that searches it"
            )
        if name not in space.domains:
            raise EnqueueError(f"expected the names of the space, got {name!r}; {suggest(name, space.domains)}")
    wanted = {name: _as_in(space.domains[name], value) for name, value in given.items()}
    for name, value in wanted.items():
        if not space.domains[name].contains(value):
            domain = space.domains[name]
            raise EnqueueError(f"{name}: expected {domain}, got {value!r}; choose such a value, or widen the space")
    base = {name: defaults[name] for name in space.names if name in defaults}
    existing = space.repair({**base, **wanted})  # tells which names there are, and values for those without a default
    values = {**existing, **base, **wanted}
    params = {name: values[name] for name in space.names if name in existing or name in wanted}
    try:
        space.validate(params)
    except SpaceError as error:
        filled = [f"{name} {value!r}" for name, value in params.items() if name not in wanted]
        raise EnqueueError(f"{error} (filled in: {', '.join(filled) or 'nothing'})") from error
    return params


def check_params(space: Space, defaults: Params, params: Params) -> None:
    """Raises SpaceError or RecipeError unless a trial of the study can have these parameters."""
    space.validate(params)
    Recipe.from_params({**defaults, **params})


def _as_in(domain: Domain, value: object) -> ParamValue:
    """The value as the domain writes it: YAML reads 1e-4 as text, and 0 as another number than 0.0."""
    if isinstance(value, str) and is_scientific(value):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(domain, Choice):
        equal = [one for one in domain.values if not isinstance(one, bool | str) and one == value]
        return equal[0] if equal else value  # type: ignore[return-value]
    if is_number and isinstance(domain, Float):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, float) and isinstance(domain, Int) and value.is_integer():
        return int(value)
    return value  # type: ignore[return-value]  # whatever else it is, the space refuses it


def _check_room(record: StudyRecord) -> None:
    """Raises EnqueueError if no trial of the search is left for another configuration."""
    history, most = record.history, record.max_trials
    started, waiting = history.num_started(), _waiting(record)
    if history.repeats or history.tests or (most is not None and started + waiting >= most):
        spoken_for = f", {waiting} are spoken for" if waiting else ""
        over = history.repeats or history.tests
        remedy = (
            "start a study with these values under `hyperparameters` in another output.directory"
            if over
            else f"stop it and run it again with --set search.trials={started + waiting + 1}"
        )
        raise EnqueueError(
            f"expected a study with trials left to start, got {record.directory}: {started} of {most} are started"
            f"{spoken_for}{', and its finalists were repeated or tested' if over else ''}; {remedy}"
        )


def _waiting(record: StudyRecord) -> int:
    """Configurations that wait already."""
    filed = sum(isinstance(entry.request, Enqueue) for entry in pending_requests(record.directory))
    return len(record.history.queue) - record.history.queue_taken + filed


def _prospects(record: StudyRecord, params: Params) -> list[str]:
    """What will become of it."""
    history = record.history
    sentences = []
    same = [trial.trial_id for trial in history.trials if dict(trial.params) == dict(params)]
    if same:
        sentences.append(f"trial {same[0]} has exactly these values: they will be tried once more, with another seed")
    before = _waiting(record) - 1
    turn = f"after {before} other{'s'[: before != 1]} that wait" if before > 0 else "as the next trial that starts"
    writer = writer_of(record.directory)
    if writer is None:
        sentences.append(
            f"nobody runs this study: it is tried {turn} when the study goes on: thresher resume {record.directory}"
        )
    else:
        sentences.append(f"it is tried {turn} ({writer} runs the study)")
    return sentences
