"""Asking a study that runs elsewhere to stop."""

from __future__ import annotations

from pathlib import Path

from controller.requests import Stop, file_request
from controller.store import JOURNAL_NAME, writer_of
from thresher.config import load_config
from thresher.record import RecordError, StudyRecord


class StopError(ValueError):
    """There is nothing that could be stopped."""


def ask_to_stop(run: Path, *, now: bool) -> str:
    """Ask whoever runs a study, given by its directory or config, to stop; what will happen, as a sentence.

    Args:
        now: save what is running, instead of letting it reach its rungs.

    Raises:
        StopError: there is no study, nobody runs it, or it is one that takes no requests.
        ConfigError: the config cannot be read.
        RequestError: the directory cannot be written.
    """
    is_config = run.suffix in (".yaml", ".yml") and not run.is_dir()
    directory = load_config(run).output.directory if is_config else run
    if not (directory / JOURNAL_NAME).is_file():
        raise StopError(
            f"expected the directory of a study, got {directory} without a {JOURNAL_NAME}; "
            "give the `output.directory` of a study that was started"
        )
    writer = writer_of(directory)
    if writer is None:
        raise StopError(
            f"expected a study that somebody runs, got {directory}, which nobody does; it is stopped already"
        )
    jobs = _running_jobs(directory)
    file_request(directory, Stop(writer, now))
    if now:
        return f"asked {writer} to save what is running and stop"
    if jobs is None:
        return f"asked {writer} to stop, before it starts any job"
    first = f"{jobs} running job{'s'[: jobs != 1]} will reach the next rung first; --now saves them at once"
    return f"asked {writer} to stop: {first}"


def _running_jobs(directory: Path) -> int | None:
    """How many jobs are at work; None for a study that is still being prepared."""
    try:
        record = StudyRecord.open(directory)
    except RecordError:
        return None
    if record.settings is None:
        raise StopError(
            f"expected a study of fine-tuning in {directory}, got one of a Python function; interrupt the process "
            "that runs it"
        )
    return len(record.history.running)
