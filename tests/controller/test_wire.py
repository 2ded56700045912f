import json
import math

import pytest

from controller.executors.wire import job_from_json, job_to_json, message_from_json, message_to_json
from controller.trial import (
    Continue,
    Declined,
    Failure,
    FailureKind,
    Halt,
    Inherit,
    Job,
    Message,
    Notice,
    Progress,
    Report,
    Source,
)


@pytest.mark.parametrize("source", [None, Continue(3, 100), Inherit(2, 900)])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_job_round_trip(source: Source | None, split: str) -> None:
    params = {"optimizer.learning_rate": 1.2345678901234567e-4, "lora.rank": 8, "schedule.kind": "wsd", "flag": True}
    job = Job(5, 3, params, 2**31 - 1, 100, 300, 900, source, split)  # type: ignore[arg-type]
    again = job_from_json(json.loads(json.dumps(job_to_json(job))))
    assert again == job
    assert {name: type(value) for name, value in again.params.items()} == {k: type(v) for k, v in params.items()}


@pytest.mark.parametrize(
    "message",
    [
        Report(1, 304, {"validation_loss": 1.0 / 3.0}, 12.5, ((0.1, 3.0), (0.2, 4.0)), ("an answer",)),
        Report(1, 304, {}, 0.0),
        Failure(2, FailureKind.OOM, "no memory", 10, 1.0),
        Declined(3, "another shape"),
        Progress(4, 17, "train", 2.5),
        Progress(4, 17, "load"),
        Notice(5, "a checkpoint was damaged"),
        Halt("disk full", 6),
    ],
)
def test_message_round_trip(message: Message) -> None:
    assert message_from_json(json.loads(json.dumps(message_to_json(message)))) == message


def test_nan_survives() -> None:
    report = Report(1, 304, {"validation_loss": math.nan}, 12.5)
    again = message_from_json(json.loads(json.dumps(message_to_json(report))))
    assert isinstance(again, Report)
    assert math.isnan(again.metrics["validation_loss"])


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="Gossip"):
        message_from_json({"kind": "Gossip", "content": {}})
