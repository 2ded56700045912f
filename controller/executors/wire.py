"""Jobs and messages as plain data, for the way between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from controller.events import (
    failure_from_json,
    failure_to_json,
    report_from_json,
    report_to_json,
    source_from_json,
    source_to_json,
)
from controller.trial import Declined, Failure, Halt, Job, Message, Notice, Progress, Report


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as plain data."""
    data = asdict(job)
    data["params"] = dict(job.params)
    data["source"] = None if job.source is None else source_to_json(job.source)
    return data


def job_from_json(data: Mapping[str, Any]) -> Job:
    """The job that `job_to_json` gave."""
    rest = dict(data)
    return Job(source=source_from_json(rest.pop("source")), **rest)


def message_to_json(message: Message) -> dict[str, Any]:
    """A worker's message as plain data, with its kind."""
    match message:
        case Report():
            data = report_to_json(message)
        case Failure():
            data = failure_to_json(message)
        case Declined() | Progress() | Notice() | Halt():
            data = asdict(message)
    return {"kind": type(message).__name__, "content": data}


def message_from_json(data: Mapping[str, Any]) -> Message:
    """The message that `message_to_json` gave. Raises ValueError for a kind that is unknown."""
    content = data["content"]
    match data["kind"]:
        case "Report":
            return report_from_json(content)
        case "Failure":
            return failure_from_json(content)
        case "Declined":
            return Declined(**content)
        case "Progress":
            return Progress(**content)
        case "Notice":
            return Notice(**content)
        case "Halt":
            return Halt(**content)
        case kind:
            raise ValueError(f"expected a kind of message that this version knows, got {kind!r}")
