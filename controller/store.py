"""The durable journal of a study: one SQLite file, one writer, any number of readers.

WAL mode with `synchronous=NORMAL`: a committed entry survives `kill -9` of the writer; after a power cut
the last few commits may be missing, never torn. WAL needs a local disk: it does not work on NFS.
The writer holds an `flock` for as long as it lives, so a killed study can be taken up at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controller.events import Event, from_json, to_json

JOURNAL_NAME = "journal.sqlite"
LOCK_NAME = "lock"
LOCK_PATIENCE_SECONDS = 0.5

_TABLES = """
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER NOT NULL PRIMARY KEY, time FLOAT NOT NULL, kind VARCHAR NOT NULL, payload TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS manifest ("key" VARCHAR NOT NULL PRIMARY KEY, value TEXT NOT NULL);
"""
_APPEND = "INSERT INTO journal (time, kind, payload) VALUES (?, ?, ?)"
_READ = "SELECT sequence, time, kind, payload FROM journal WHERE sequence > ? ORDER BY sequence"
_DESCRIBE = "INSERT OR REPLACE INTO manifest (key, value) VALUES (?, ?)"


class StoreError(ValueError):
    """The study's directory or journal cannot be used as asked."""


class Store:
    """The journal, open for writing (`Store.open`) or for reading (`Store.read_only`)."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, directory: Path, *, patience_seconds: float = LOCK_PATIENCE_SECONDS) -> Self:
        """Open or create the journal in `directory` as its only writer.

        Waits up to `patience_seconds` for another writer to let go.

        Raises StoreError if another process writes to it, or if the directory or disk refuses.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(directory / LOCK_NAME, patience_seconds)
        except OSError as error:
            raise StoreError(
                f"expected a study directory that can be written, got {directory} ({error.strerror}); "
                "choose another `output.directory` or change its permissions"
            ) from error
        path = directory / JOURNAL_NAME
        try:
            connection = _connect(path)
        except sqlite3.Error as error:
            os.close(lock)
            raise _store_error(path, error) from error
        return cls(path, connection, lock)

    @classmethod
    def read_only(cls, directory: Path) -> Self:
        """Open the journal for reading, also while its writer runs.

        Raises StoreError if there is no study in `directory`.
        """
        path = directory / JOURNAL_NAME
        if not path.is_file():
            raise StoreError(
                f"expected the directory of a study, got {directory} without a {JOURNAL_NAME}; "
                "give the `output.directory` of a study that was started"
            )
        try:
            connection = _connect(path, read_only=True)
        except sqlite3.Error as error:
            raise _store_error(path, error) from error
        return cls(path, connection, None)

    def append(self, events: Sequence[Event]) -> None:
        """Commit events in one transaction: all of them are in the journal on return, or none.

        Raises StoreError if the disk refuses.
        """
        if not events:
            return
        now = time.time()
        rows = [(now, *to_json(event)) for event in events]
        with self._transaction():
            self._connection.executemany(_APPEND, rows)

    def events(self, after: int = 0) -> Iterator[tuple[int, float, Event]]:
        """(sequence number, time in seconds since the epoch, event) of all entries after a sequence number.

        Raises:
            StoreError: the file cannot be read.
            JournalError: an entry makes no sense to this version.
        """
        with self._transaction():
            rows = self._connection.execute(_READ, (after,)).fetchall()
        for sequence, moment, kind, payload in rows:
            yield sequence, moment, from_json(kind, payload)

    def write_manifest(self, values: Mapping[str, Any]) -> None:
        """Set JSON values that describe the whole study. Raises StoreError if the disk refuses."""
        with self._transaction():
            self._connection.executemany(_DESCRIBE, [(key, json.dumps(value)) for key, value in values.items()])

    def manifest(self) -> dict[str, Any]:
        """What `write_manifest` set. Raises StoreError if the file cannot be read."""
        with self._transaction():
            rows = self._connection.execute("SELECT key, value FROM manifest").fetchall()
        return {key: json.loads(value) for key, value in rows}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, which for a reader means that the next call sees what is new; undo on an error."""
        try:
            yield
            self._connection.commit()
        except sqlite3.Error as error:
            self._connection.rollback()
            raise _store_error(self.path, error) from error

    def close(self) -> None:
        """Close the journal and give the lock back."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def writer_of(directory: Path) -> str | None:
    """Who writes to a study now ("process 4711 on host-3"), or None if nobody does."""
    path = directory / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace").strip()
    finally:
        os.close(descriptor)
    return None


def _take_lock(path: Path, patience_seconds: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, path, patience_seconds)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path, patience_seconds: float) -> None:
    """Lock the file, with a little patience, since `writer_of` may be looking just now."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise StoreError(
                f"expected to be the only controller of the study in {path.parent}, but {holder or 'another process'} "
                "runs it; wait for it, stop it, or choose another `output.directory`"
            ) from None
        return


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "rwc"
    if read_only:
        # Readers of a WAL share memory in a file beside it, which a read-only disk forbids; then nobody writes either.
        archived = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
        mode = "ro&immutable=1" if archived else "ro"
    address = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, timeout=30, uri=True, check_same_thread=False)
    try:
        if read_only:
            connection.execute("SELECT key FROM manifest LIMIT 1").fetchone()
        else:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_TABLES)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    cause = str(error)
    if "full" in cause:
        remedy = "free some space and run the same command again; nothing that was committed is lost"
    elif any(symptom in cause for symptom in ("malformed", "not a database", "no such table")):
        remedy = "the file is damaged or not a journal: restore it, or choose another `output.directory`"
    else:
        remedy = "check that the directory is on a local disk and can be written"
    return StoreError(f"expected to use the journal {path}, got {cause!r} from SQLite; {remedy}")
