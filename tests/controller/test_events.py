from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.events import (
    AttemptFailed,
    AttemptStarted,
    Enqueued,
    Event,
    Failed,
    JobCreated,
    JournalError,
    Noted,
    Reported,
    SessionStarted,
    TrialCreated,
    from_json,
    to_json,
)
from controller.trial import Continue, Failure, FailureKind, Inherit, Report

FAILURE = Failure(3, FailureKind.TIMEOUT, "said nothing for 30 s", budget=120, seconds=31.5)
EVENTS: list[Event] = [
    Enqueued({"optimizer.learning_rate": 5e-4, "lora.rank": 8, "use": True, "schedule.kind": "wsd"}),
    TrialCreated(0, {"x": 0.1}, seed=7),
    TrialCreated(1, {"x": 0.1}, 7, Inherit(0, 9), {"origin": "repeat", "bracket": 2}, repeat_of=0, enqueued=True),
    JobCreated(0, 0, 0, 3),
    JobCreated(1, 0, 9, 9, Continue(0, 9), "test"),
    AttemptStarted(0, 2),
    AttemptFailed(FAILURE),
    Failed(FAILURE),
    Reported(Report(0, 101, {"loss": 1 / 3, "tokens": 7.0}, seconds=0.1)),
    Reported(Report(0, 9, {"loss": 1e-300}, 2.0, per_example=((0.5, 2.0), (0.25, 1.0)), generations=("ä\n", "b"))),
    Noted(0, "the checkpoint was damaged: trained again"),
    SessionStarted(),
]


def test_the_list_above_has_every_kind() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_journal(event: Event) -> None:
    kind, payload = to_json(event)
    assert from_json(kind, payload) == event
    assert kind == type(event).__name__


@given(st.floats(allow_nan=False), st.dictionaries(st.text(), st.floats(allow_nan=False)), st.integers(0, 2**62))
def test_numbers_come_back_exactly(seconds: float, metrics: dict[str, float], budget: int) -> None:
    event = Reported(Report(0, budget, metrics, seconds))
    assert from_json(*to_json(event)) == event


def test_types_of_parameters_come_back() -> None:
    event = TrialCreated(0, {"flag": True, "one": 1, "real": 1.0, "text": "1"}, seed=0)
    back = from_json(*to_json(event))
    assert isinstance(back, TrialCreated)
    assert [type(value) for value in back.params.values()] == [bool, int, float, str]


def test_what_is_not_set_is_not_written() -> None:
    assert json.loads(to_json(JobCreated(0, 0, 0, 3))[1]).keys() == {"job_id", "trial_id", "from_budget", "to_budget"}
    assert json.loads(to_json(TrialCreated(0, {}, 1))[1]).keys() == {"trial_id", "params", "seed"}


def test_an_unknown_kind_is_from_a_newer_version() -> None:
    with pytest.raises(JournalError, match="expected a kind of entry that this version knows, got 'Frozen'"):
        from_json("Frozen", "{}")


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("Reported", "{"),
        ("Reported", "{}"),
        ("Reported", "7"),
        ("Reported", '"text"'),
        ("Reported", '{"job_id":0,"budget":1,"metrics":{},"seconds":1.0,"surprise":1}'),
        ("Failed", '{"job_id":0,"kind":"sulked","message":""}'),
        ("AttemptFailed", '{"job_id":0}'),
        ("TrialCreated", '{"trial_id":0,"params":{},"seed":0,"source":["Borrow",0,1]}'),
        ("TrialCreated", '{"trial_id":0,"params":{},"seed":0,"source":["Inherit",0]}'),
        ("JobCreated", "[]"),
        ("AttemptStarted", "null"),
        ("Enqueued", '{"parameters":{}}'),
        ("Noted", '{"job_id":0}'),
    ],
)
def test_a_damaged_entry_is_named(kind: str, payload: str) -> None:
    with pytest.raises(JournalError, match=f"expected a {kind} entry"):
        from_json(kind, payload)
