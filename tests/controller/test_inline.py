from __future__ import annotations

from typing import Any

import pytest

from controller.executors.inline import InlineExecutor
from controller.task import Emit, Inbox
from controller.trial import Job, Message, Progress, Report


def job(number: int, budget: int = 2) -> Job:
    return Job(number, number, {}, 0, 0, budget, 9)


def reports(messages: Any) -> list[int]:
    return [message.job_id for message in messages if isinstance(message, Report)]


def test_it_has_room_up_to_its_capacity(fake_task: Any) -> None:
    executor = InlineExecutor(fake_task(slots=2), capacity=2)
    assert executor.has_room()
    executor.submit(job(0))
    assert executor.has_room()
    executor.submit(job(1))
    assert not executor.has_room()
    assert sorted(reports(executor.poll())) == [0, 1]
    assert executor.has_room()
    assert executor.poll() == []


def test_messages_come_in_the_order_in_which_the_task_sent_them(fake_task: Any) -> None:
    executor = InlineExecutor(fake_task())
    executor.submit(job(0))
    first, second, last = executor.poll()
    assert (first, second) == (Progress(0, 1, "train"), Progress(0, 2, "train"))
    assert isinstance(last, Report)


def test_a_queue_that_is_longer_than_the_capacity_is_worked_off_poll_by_poll(fake_task: Any) -> None:
    executor = InlineExecutor(fake_task(slots=2), capacity=2)
    for number in range(3):  # a resumed study submits all open jobs at once
        executor.submit(job(number))
    assert sorted(reports(executor.poll())) == [0, 1]
    assert not executor.has_room() or executor.submit(job(3)) is None
    assert 2 in reports(executor.poll())


def test_a_stop_is_seen_between_two_jobs_that_were_submitted_together(fake_task: Any) -> None:
    executor = InlineExecutor(fake_task())
    for number in range(3):
        executor.submit(job(number))
    assert reports(executor.poll()) == [0]  # now the controller has its turn, and may stop
    executor.stop()
    assert executor.poll() == []


def test_what_the_task_raises_is_raised_and_what_it_said_before_is_kept() -> None:
    class Clumsy:
        def run(self, inbox: Inbox, emit: Emit) -> None:
            first, second = inbox.get(), inbox.get()
            assert first is not None
            assert second is not None
            emit(Report(first.job_id, 2, {"loss": 0.5}, 1.0))
            raise ZeroDivisionError("a mistake in somebody's function")

    executor = InlineExecutor(Clumsy(), capacity=2)
    executor.submit(job(0))
    executor.submit(job(1))
    with pytest.raises(ZeroDivisionError):
        executor.poll()
    assert reports(executor.stop()) == [0]
    assert executor.stop() == []


def test_after_stop_the_inbox_is_closed() -> None:
    seen: list[Message | Job | bool | None] = []

    class Curious:
        def run(self, inbox: Inbox, emit: Emit) -> None:
            seen.extend([inbox.stopping, inbox.get(), inbox.poll()])

    executor = InlineExecutor(Curious())
    executor.submit(job(0))
    executor.stop()
    executor.poll()
    assert seen == [True, None, None]


def test_it_needs_room_for_a_job(fake_task: Any) -> None:
    with pytest.raises(ValueError, match="expected capacity >= 1, got 0"):
        InlineExecutor(fake_task(), capacity=0)
