import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from controller.executors.channel import CHUNK_BYTES, Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = (Channel(end) for end in socket.socketpair())
    with contextlib.closing(left), contextlib.closing(right):
        yield left, right


def receive_all(channel: Channel, count: int) -> list[dict[str, object]]:
    received: list[dict[str, object]] = []
    while len(received) < count and not channel.closed:
        received.extend(channel.receive())
    return received


def test_objects_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    for number in range(100):
        assert left.send({"number": number, "text": "line\nbreak and ünicode"})
    assert [message["number"] for message in receive_all(right, 100)] == list(range(100))


def test_an_object_larger_than_a_read(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    text = "x" * (CHUNK_BYTES + 17)
    sender = threading.Thread(target=left.send, args=({"text": text},))
    sender.start()
    assert receive_all(right, 1) == [{"text": text}]
    sender.join()


def test_the_other_end_closes_after_its_last_word(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send({"last": "word"})
    left.close()
    assert receive_all(right, 2) == [{"last": "word"}]
    assert right.closed
    assert not right.send({"too": "late"})


def test_a_torn_object_is_not_delivered() -> None:
    raw, end = socket.socketpair()
    channel = Channel(end)
    raw.sendall(b'{"whole": 1}\n{"torn": ')
    raw.close()
    assert receive_all(channel, 2) == [{"whole": 1}]
    assert channel.closed
    channel.close()
