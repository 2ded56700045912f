from __future__ import annotations

import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.events import AttemptStarted, Enqueued, Event, JobCreated, JournalError, Reported, TrialCreated
from controller.store import JOURNAL_NAME, LOCK_NAME, Store, StoreError, writer_of
from controller.trial import Report

ROOT = Path(__file__).parents[2]


def entries(store: Store) -> list[Event]:
    return [event for _, _, event in store.events()]


def step(number: int) -> list[Event]:
    """What the controller commits at a time."""
    return [TrialCreated(number, {"x": number}, 0), JobCreated(number, number, 0, 1), AttemptStarted(number, 1)]


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    before = time.time()
    with Store.open(tmp_path / "new" / "study") as store:
        store.append(step(0))
        store.append([Reported(Report(0, 1, {"loss": 0.5}, 1.0))])
        rows = list(store.events())
    assert [sequence for sequence, _, _ in rows] == [1, 2, 3, 4]
    assert all(before <= moment <= time.time() for _, moment, _ in rows)
    assert [event for _, _, event in rows] == [*step(0), Reported(Report(0, 1, {"loss": 0.5}, 1.0))]
    with Store.open(tmp_path / "new" / "study") as store:
        assert list(store.events()) == rows
        assert list(store.events(after=3)) == rows[3:]
        store.append([])
        assert list(store.events()) == rows


def test_an_entry_that_cannot_be_written_leaves_none_of_its_transaction(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        with pytest.raises(TypeError):
            store.append([*step(0), Enqueued({"x": object()})])  # type: ignore[dict-item]
        assert entries(store) == []
        store.append(step(0))
        assert entries(store) == step(0)


def test_the_manifest_is_set_key_by_key(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        assert store.manifest() == {}
        store.write_manifest({"seed": 3, "config": {"a": [1, None, "ü"]}})
        store.write_manifest({"seed": 4})
    with Store.read_only(tmp_path) as store:
        assert store.manifest() == {"seed": 4, "config": {"a": [1, None, "ü"]}}


@pytest.mark.parametrize("name", ["with space", "100%25 done?", "study#2", "a&mode=memory", "größe"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / name) as store:
        store.append(step(0))
    assert sorted(os.listdir(tmp_path / name)) == [JOURNAL_NAME, LOCK_NAME]
    with Store.read_only(tmp_path / name) as store:
        assert entries(store) == step(0)


def test_the_mode_is_the_one_that_is_promised(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        pragmas = [
            store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    assert pragmas == ["wal", 1]  # 1 is NORMAL


def test_a_second_writer_is_told_who_holds_the_study(tmp_path: Path) -> None:
    with Store.open(tmp_path):
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert writer_of(tmp_path) == me
        with pytest.raises(StoreError, match=f"expected to be the only controller .* but {me} runs it; wait for it"):
            Store.open(tmp_path)
        with pytest.raises(StoreError, match="expected to be the only controller"):
            Store.open(tmp_path)  # the refused one did not take the lock away
    assert writer_of(tmp_path) is None
    with Store.open(tmp_path):
        pass


def test_nobody_writes_where_there_is_no_study(tmp_path: Path) -> None:
    assert writer_of(tmp_path / "none") is None


def test_a_look_at_the_lock_does_not_refuse_a_writer(tmp_path: Path) -> None:
    """`thresher status` may look at the very moment at which a study is started."""
    Store.open(tmp_path).close()
    command = (
        "import fcntl,sys,time\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_SH)\nprint(1, flush=True)\n"
    )
    process = _spawn(command + "time.sleep(0.1); file.close()", str(tmp_path / LOCK_NAME))
    assert _line(process) == "1"
    with Store.open(tmp_path) as store:
        store.append(step(0))
    process.wait()
    _close(process)


def test_a_reader_sees_what_is_committed_while_the_writer_writes(tmp_path: Path) -> None:
    with Store.open(tmp_path) as writer, Store.read_only(tmp_path) as reader:
        assert entries(reader) == []
        for number in range(20):
            writer.append(step(number))
            assert [sequence for sequence, _, _ in reader.events(after=3 * number)] == [
                3 * number + 1,
                3 * number + 2,
                3 * number + 3,
            ]
        writer.write_manifest({"seed": 1})
        assert reader.manifest() == {"seed": 1}


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with Store.read_only(tmp_path) as reader:
        with pytest.raises(StoreError, match="readonly"):
            reader.append(step(0))
        assert entries(reader) == []


def test_there_must_be_a_study_to_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected the directory of a study, got .* without a journal.sqlite; give"):
        Store.read_only(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    before = path.read_bytes()
    for how in (Store.open, Store.read_only):
        with pytest.raises(StoreError, match=r"file is not a database.*restore it, or choose another"):
            how(tmp_path)
    assert path.read_bytes() == before
    assert writer_of(tmp_path) is None


def test_another_database_is_no_journal(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / JOURNAL_NAME)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(StoreError, match=r"no such table: manifest' from SQLite; the file is .* not a journal"):
        Store.read_only(tmp_path)


def test_a_damaged_page_is_reported(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number in range(200):
            store.append(step(number))
    path = tmp_path / JOURNAL_NAME
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    with Store.read_only(tmp_path) as store, pytest.raises(StoreError, match="damaged or not a journal"):
        entries(store)


def test_an_entry_of_a_newer_version_is_reported(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.append(step(0))
    with sqlite3.connect(tmp_path / JOURNAL_NAME) as connection:
        connection.execute("UPDATE journal SET kind = 'Frozen' WHERE sequence = 2")
    connection.close()
    with Store.open(tmp_path) as store, pytest.raises(JournalError, match="newer version"):
        entries(store)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        StoreError, match=r"expected a study directory that can be written, got .*file/study .*; choose"
    ):
        Store.open(tmp_path / "file" / "study")
    with pytest.raises(StoreError, match="expected a study directory"):
        Store.open(tmp_path / "file")


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(StoreError, match="expected a study directory that can be written"):
        Store.open(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, which takes the right to mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_read_only_disk_is_named_and_can_be_read(small_disk: Path) -> None:
    with Store.open(small_disk / "study") as store:
        store.append(step(0))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=r"can be written, got .* \(Read-only file system\); choose another"):
        Store.open(small_disk / "study")
    with Store.read_only(small_disk / "study") as store:
        assert entries(store) == step(0)


def test_a_full_disk_loses_nothing_that_was_committed(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    committed = 0
    with Store.open(small_disk / "study") as store:
        with pytest.raises(StoreError, match=r"expected to use the journal .*; free some space and run the same"):  # noqa: PT012
            for number in range(10_000):
                store.append(step(number))
                committed = number + 1
        assert committed > 0
        assert len(entries(store)) == 3 * committed
    ballast.unlink()
    with Store.open(small_disk / "study") as store:
        found = entries(store)
        assert len(found) >= 3 * committed
        assert len(found) % 3 == 0
        store.append(step(committed))


def test_no_room_even_for_the_lock(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(256 * 1024))
    with pytest.raises(StoreError, match="expected"):
        Store.open(small_disk / "study")
    (small_disk / "ballast").unlink()
    with Store.open(small_disk / "study") as store:
        store.append(step(0))


WRITER = """
import sys
from pathlib import Path
from controller.events import AttemptStarted, JobCreated, TrialCreated
from controller.store import Store

with Store.open(Path(sys.argv[1])) as store:
    print("open", flush=True)
    for number in range(10**9):
        store.append([TrialCreated(number, {"x": number}, 0), JobCreated(number, number, 0, 1),
                      AttemptStarted(number, 1)])
        print(number, flush=True)
"""


@pytest.mark.parametrize("moment", [0.0, 0.003, 0.05, 0.11])
def test_a_killed_writer_loses_no_committed_entry_and_frees_the_lock(tmp_path: Path, moment: float) -> None:
    process = _spawn(WRITER, str(tmp_path))
    assert _line(process) == "open"
    said = [_line(process)]
    assert writer_of(tmp_path) == f"process {process.pid} on {socket.gethostname()}"
    with Store.read_only(tmp_path) as reader:
        assert entries(reader)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        said += process.stdout.read().split("\n")
        complete = [int(line) for line in said[:-1]]
        seen = len(entries(reader))
    _close(process)
    with Store.read_only(tmp_path) as reader:  # a reader alone can also make sense of what the killed one left
        recovered = len(entries(reader))
    started = time.monotonic()
    with Store.open(tmp_path) as store:
        assert time.monotonic() - started < 2  # no lease that has to run out
        found = entries(store)
        assert found == [event for number in range(len(found) // 3) for event in step(number)]
        # What it had told us was committed before. One more may have been, which it could not tell any more.
        assert complete[-1] + 1 <= len(found) // 3 <= complete[-1] + 2
        assert recovered == len(found)
        assert 0 <= len(found) - seen <= 3  # nor put into the index that older readers look at
        store.append(step(len(found) // 3))


def _spawn(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "the process says nothing"
    return process.stdout.readline().strip()


def _close(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
