from __future__ import annotations

import pytest

from controller.events import Failed, JobCreated, TrialCreated
from controller.history import History
from controller.trial import Failure, FailureKind, Objective, Trial
from search_spaces.space import ParamValue
from thresher.wording import (
    describe_params,
    failures_in_short,
    format_duration,
    format_value,
    one_line,
    origin_of,
    printable,
    short_names,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-4, "5e-4"),
        (0.00123456, "1.23e-3"),
        (-0.002, "-2e-3"),
        (0.05, "0.05"),
        (0.0, "0"),
        (32.0, "32"),
        (1e-10, "1e-10"),
        (True, "True"),
        (64, "64"),
        ("mlp", "mlp"),
    ],
)
def test_values(value: ParamValue, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.4, "59s"), (59.6, "1m00s"), (242, "4m02s"), (3600, "1h00m"), (90061, "25h01m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_names_are_short_where_that_is_unambiguous() -> None:
    assert short_names(["lora.rank", "a.dropout", "b.dropout"]) == ["rank", "a.dropout", "b.dropout"]
    assert describe_params({"lora.rank": 8, "a.b": "x"}, ["a.b", "lora.rank"]) == "b x, rank 8"


def test_parameters_that_a_trial_does_not_have_are_left_out() -> None:
    assert describe_params({"lora.rank": 8}, ["lora.rank", "schedule.decay"]) == "rank 8"


def test_failures_in_short() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    for number, message in enumerate(["no memory", "no memory", "a\nstory", *["no memory"] * 3]):
        history.apply(TrialCreated(number, {"x": number}, 0))
        history.apply(JobCreated(number, number, 0, 9))
        kind = FailureKind.CRASH if "story" in message else FailureKind.OOM
        history.apply(Failed(Failure(number, kind, message)))
    assert failures_in_short(history) == [
        "trial 2 failed, crash: a … story",
        "trial 0, trial 1, trial 3 and 2 more failed, oom: no memory",
    ]


@pytest.mark.parametrize(
    ("trial", "origin"),
    [
        (Trial(0, {}, 0), "default"),
        (Trial(0, {}, 0, labels={"origin": "enqueued"}), "default"),
        (Trial(0, {}, 0, labels={"origin": "random"}), "random"),
        (Trial(3, {}, 0, labels={"origin": "enqueued"}), "enqueued"),
        (Trial(3, {}, 0, labels={"parent": 1}), "from 1"),
        (Trial(3, {}, 0, labels={"parent": 1, "other_parent": 2}), "1 × 2"),
        (Trial(3, {}, 0, repeat_of=1), "repeats 1"),
        (Trial(3, {}, 0), "–"),
    ],
)
def test_origins(trial: Trial, origin: str) -> None:
    assert origin_of(trial) == origin


def test_text_of_strangers_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\rc\td\x9b\n") == "ab\nc\td\n"
    assert one_line("\n  only  \n") == "only"
    assert len(one_line("word " * 100)) == 200
