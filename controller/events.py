"""The entries of the journal. A History is what they add up to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.trial import Continue, Failure, FailureKind, Inherit, Label, Report, Source, Split
from search_spaces.space import Params

_SOURCES: Mapping[str, type[Continue] | type[Inherit]] = {"Continue": Continue, "Inherit": Inherit}
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JournalError(ValueError):
    """An entry of the journal cannot be read or does not follow from those before it."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A configuration that somebody wants tried: the default one, or a user's own.

    `request` names the request that it came with, so that one is never taken twice.
    """

    params: Params
    request: str | None = None


@dataclass(frozen=True, slots=True)
class TrialCreated:
    """See Trial for the fields. Trials are numbered 0, 1, 2, ... in the order of their creation.

    `enqueued` tells that the parameters were taken from the head of the queue.
    """

    trial_id: int
    params: Params
    seed: int
    source: Source | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    repeat_of: int | None = None
    enqueued: bool = False


@dataclass(frozen=True, slots=True)
class JobCreated:
    """See Job for the fields; parameters, seed and horizon follow from the trial and the study."""

    job_id: int
    trial_id: int
    from_budget: int
    to_budget: int
    source: Source | None = None
    split: Split = "validation"


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A job is about to be given to a worker, for the `attempt`-th time (from 1)."""

    job_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt ended by a crash or a timeout, and the job is tried again."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Reported:
    """A job gave a result."""

    report: Report


@dataclass(frozen=True, slots=True)
class Failed:
    """A job ended for good without a result; its trial is over."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth finding later happened to a job, such as a checkpoint that was damaged."""

    job_id: int
    text: str


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A process took the study up. What lies before it and the entry before is a pause, see `active_seconds`."""


Event = (
    Enqueued | TrialCreated | JobCreated | AttemptStarted | AttemptFailed | Reported | Failed | Noted | SessionStarted
)


def to_json(event: Event) -> tuple[str, str]:
    """(kind, payload) of an event."""
    match event:
        case Enqueued(params, request):
            payload: dict[str, Any] = {"params": dict(params)}
            if request is not None:
                payload["request"] = request
        case TrialCreated():
            payload = {"trial_id": event.trial_id, "params": dict(event.params), "seed": event.seed}
            if event.source is not None:
                payload["source"] = source_to_json(event.source)
            if event.labels:
                payload["labels"] = dict(event.labels)
            if event.repeat_of is not None:
                payload["repeat_of"] = event.repeat_of
            if event.enqueued:
                payload["enqueued"] = True
        case JobCreated():
            payload = {
                "job_id": event.job_id,
                "trial_id": event.trial_id,
                "from_budget": event.from_budget,
                "to_budget": event.to_budget,
            }
            if event.source is not None:
                payload["source"] = source_to_json(event.source)
            if event.split != "validation":
                payload["split"] = event.split
        case AttemptStarted(job_id, attempt):
            payload = {"job_id": job_id, "attempt": attempt}
        case AttemptFailed(failure) | Failed(failure):
            payload = failure_to_json(failure)
        case Reported(report):
            payload = report_to_json(report)
        case Noted(job_id, text):
            payload = {"job_id": job_id, "text": text}
        case SessionStarted():
            payload = {}
    return type(event).__name__, _encode(payload)


def from_json(kind: str, payload: str) -> Event:
    """The event that `to_json` wrote.

    Raises JournalError if the kind is unknown or the payload does not have its fields.
    """
    try:
        data = dict(json.loads(payload))
        match kind:
            case "TrialCreated" | "JobCreated":
                source = source_from_json(data.pop("source", None))
                return (TrialCreated if kind == "TrialCreated" else JobCreated)(source=source, **data)
            case "AttemptFailed":
                return AttemptFailed(failure_from_json(data))
            case "Failed":
                return Failed(failure_from_json(data))
            case "Reported":
                return Reported(report_from_json(data))
            case "Enqueued":
                return Enqueued(**data)
            case "AttemptStarted":
                return AttemptStarted(**data)
            case "Noted":
                return Noted(**data)
            case "SessionStarted":
                return SessionStarted(**data)
    except (TypeError, KeyError, ValueError) as error:
        raise JournalError(f"expected a {kind} entry in the journal, got {payload[:200]!r} ({error})") from error
    raise JournalError(
        f"expected a kind of entry that this version knows, got {kind!r}; "
        "the study was written by a newer version: use that one"
    )


def report_to_json(report: Report) -> dict[str, Any]:
    """A report as plain data."""
    payload: dict[str, Any] = {
        "job_id": report.job_id,
        "budget": report.budget,
        "metrics": dict(report.metrics),
        "seconds": report.seconds,
    }
    if report.per_example:
        payload["per_example"] = report.per_example
    if report.generations:
        payload["generations"] = report.generations
    return payload


def report_from_json(data: Mapping[str, Any]) -> Report:
    """The report that `report_to_json` gave."""
    rest = dict(data)
    per_example = tuple((value, weight) for value, weight in rest.pop("per_example", ()))
    generations = tuple(rest.pop("generations", ()))
    return Report(per_example=per_example, generations=generations, **rest)


def failure_to_json(failure: Failure) -> dict[str, Any]:
    """A failure as plain data."""
    return {
        "job_id": failure.job_id,
        "kind": failure.kind.value,
        "message": failure.message,
        "budget": failure.budget,
        "seconds": failure.seconds,
    }


def failure_from_json(data: Mapping[str, Any]) -> Failure:
    """The failure that `failure_to_json` gave."""
    rest = dict(data)
    return Failure(kind=FailureKind(rest.pop("kind")), **rest)


def source_to_json(source: Source) -> list[Any]:
    """Where a job starts from, as plain data."""
    return [type(source).__name__, source.trial_id, source.budget]


def source_from_json(data: list[Any] | None) -> Source | None:
    """What `source_to_json` gave; None stays None."""
    if data is None:
        return None
    kind, trial_id, budget = data
    return _SOURCES[kind](trial_id, budget)
