"""Many runs, on several processes, each kept on disk as soon as it is done."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import tables
from threadpoolctl import threadpool_limits

from quality.systems import System
from quality.trace import Setting, Trace


@dataclass(frozen=True, slots=True)
class Run:
    """A system on the table of a problem. `version`: of the system, see System; `table`: a digest of the file."""

    system: System
    path: Path
    setting: Setting
    version: str
    table: str

    def place(self, directory: Path) -> Path:
        """The file in which its trace is kept."""
        setting = self.setting
        name = f"{self.path.stem}-seed{setting.seed}-workers{setting.workers}-switch{setting.switch_cost:g}.json"
        return directory / "traces" / self.system.name / name


def kept(run: Run, directory: Path, *, stale: bool) -> Trace | None:
    """The trace of a run that was done before with the same code and table; with `stale`, whatever the code was."""
    try:
        data = json.loads(run.place(directory).read_text())
    except (OSError, json.JSONDecodeError):
        return None
    if data["table"] != run.table or (data["version"] != run.version and not stale):
        return None
    return Trace.from_json(data["trace"])


def play(runs: Sequence[Run], directory: Path, processes: int) -> Iterator[tuple[Run, Trace]]:
    """Do runs and keep them, in the order in which they end."""
    if processes == 1:
        for run in runs:
            yield run, _play(run, directory)
        return
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(_play, run, directory): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _play(run: Run, directory: Path) -> Trace:
    with warnings.catch_warnings(), threadpool_limits(1):  # runs go on beside each other, not inside
        warnings.simplefilter("ignore")  # peers warn about libraries that are newer than they are
        trace = run.system.run(_problem(run.path), run.setting)
    place = run.place(directory)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".part{os.getpid()}")
    part.write_text(json.dumps({"version": run.version, "table": run.table, "trace": trace.to_json()}))
    part.replace(place)
    return trace


@functools.cache
def _problem(path: Path) -> tables.Problem:
    return tables.load(path)


def digest_of(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
