"""What other processes ask of a study that runs: files in its directory, taken by the controller.

The controller alone writes the journal, so whoever wants something leaves a file under `requests/`. It appears whole
or not at all, and is removed when what it asks for is in the journal. One that makes no sense is moved to
`requests/refused/`, with the reason beside it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from controller.store import writer_of
from search_spaces.space import Params

DIRECTORY_NAME = "requests"
REFUSED_NAME = "refused"
POLL_SECONDS = 0.5


class RequestError(ValueError):
    """A request that cannot be read, or that the disk refuses."""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Try this configuration next."""

    params: Params


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run: after the jobs at work, or `now`, with what they have saved.

    `writer` is the process that is meant, as `writer_of` names it: the next run of the study must not heed it.
    """

    writer: str
    now: bool = False


Request = Enqueue | Stop


@dataclass(frozen=True, slots=True)
class Filed:
    """A request that waits. `name` is unique among all requests of a study; later ones have greater names."""

    name: str
    request: Request


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was set aside, and why."""

    name: str
    reason: str


@final
class Requests:
    """The requests to a study, for the process that runs it.

    Args:
        directory: of the study, whose journal this process holds open for writing.
        check: raises ValueError for parameters that the study cannot try.
        poll_seconds: between two looks at the disk, at least.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        check: Callable[[Params], object],
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory / DIRECTORY_NAME
        self._writer = writer_of(directory)
        self._check = check
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._next_look = -math.inf
        self._stuck: set[str] = set()

    def poll(self) -> list[Filed | Refused]:
        """What is to be done or told, oldest first; nothing if the last look was a moment ago.

        A request comes again with every look until it is removed. Stops that are meant for an earlier process of
        the study are removed here.
        """
        now = self._clock()
        if now < self._next_look:
            return []
        self._next_look = now + self._poll_seconds
        found: list[Filed | Refused] = []
        for path in _files(self._directory):
            if path.name in self._stuck:
                continue
            try:
                request = _read(path)
                if isinstance(request, Enqueue):
                    self._check(request.params)
            except ValueError as error:
                found.append(self._set_aside(path, str(error)))
                continue
            if isinstance(request, Stop) and request.writer != self._writer:
                self.remove(path.stem)
            else:
                found.append(Filed(path.stem, request))
        return found

    def remove(self, name: str) -> None:
        """Forget a request, because it was served."""
        path = self._directory / f"{name}.json"
        self._stuck.add(path.name)  # should the disk refuse to remove it
        with contextlib.suppress(OSError):
            path.unlink()
            self._stuck.discard(path.name)

    def _set_aside(self, path: Path, reason: str) -> Refused:
        aside = self._directory / REFUSED_NAME
        self._stuck.add(path.name)
        with contextlib.suppress(OSError):
            aside.mkdir(exist_ok=True)
            (aside / f"{path.stem}.txt").write_text(f"{reason}\n", encoding="utf-8")
            path.replace(aside / path.name)
            self._stuck.discard(path.name)
        return Refused(path.stem, reason)


def file_request(directory: Path, request: Request) -> str:
    """Leave a request to the study in a directory; its name.

    Raises RequestError if the directory cannot be written.
    """
    place = directory / DIRECTORY_NAME
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    unfinished = place / f".{name}.unfinished"
    try:
        place.mkdir(exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(_to_json(request), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place / f"{name}.json")
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise RequestError(
            f"expected to write a request to {place}, got: {error.strerror}; free some space, or mend permissions"
        ) from error
    return name


def pending_requests(directory: Path) -> list[Filed]:
    """The requests to the study in a directory that nobody has taken yet, oldest first."""
    found = []
    for path in _files(directory / DIRECTORY_NAME):
        with contextlib.suppress(RequestError):  # whoever runs the study will say so
            found.append(Filed(path.stem, _read(path)))
    return found


def refused_requests(directory: Path) -> list[Refused]:
    """The requests to the study in a directory that were set aside, oldest first."""
    aside = directory / DIRECTORY_NAME / REFUSED_NAME
    found = []
    for path in _files(aside):
        reason = "no reason was written"
        with contextlib.suppress(OSError, ValueError):
            reason = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        found.append(Refused(path.stem, reason))
    return found


def _files(directory: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".json") and not name.startswith("."))
    except OSError:  # nobody has asked for anything, or we may not look
        return []
    return [directory / name for name in names]


def _to_json(request: Request) -> dict[str, Any]:
    match request:
        case Enqueue(params):
            return {"kind": "enqueue", "params": dict(params)}
        case Stop(writer, now):
            return {"kind": "stop", "writer": writer, "now": now}


def _read(path: Path) -> Request:
    """The request in a file. Raises RequestError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"expected a request in JSON, got: {error}; ask again with `thresher`") from error
    match data:
        case {"kind": "enqueue", "params": dict() as params, **rest} if not rest and _are_plain(params):
            return Enqueue(params)
        case {"kind": "stop", "writer": str() as writer, "now": bool() as now, **rest} if not rest:
            return Stop(writer, now)
    shown = json.dumps(data)
    raise RequestError(
        f"expected a request to enqueue or to stop, got {shown if len(shown) <= 200 else f'{shown[:200]}...'}; "
        "ask again with `thresher enqueue` or `thresher stop`"
    )


def _are_plain(params: Params) -> bool:
    finite = (not isinstance(value, float) or math.isfinite(value) for value in params.values())
    return all(isinstance(value, str | int | float) for value in params.values()) and all(finite)
