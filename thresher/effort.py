"""What a study cost, what is left of its budget, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from controller.history import History
from controller.trial import Failure
from thresher.section import counted
from thresher.wording import format_duration, one_line

MAX_TRIALS_NAMED = 8


def effort_of(history: History, wall_seconds: float | None, active_seconds: float | None = None) -> dict[str, Any]:
    """What the study cost, as plain data. Training that a lost checkpoint made necessary again is not in here."""
    search = history.num_started()
    spent = history.spent
    return {
        "trials": search,
        "repeats": len(history.repeats),
        "jobs": len(history.jobs),
        "failures": dict(Counter(failure.kind.value for failure in history.failures)),
        "retried": sum(map(len, history.failed_attempts.values())),
        "search_budget": spent["search"].examples,
        "search_budget_without_early_stopping": search * history.horizon,
        "repeats_budget": spent["repeats"].examples,
        "search_worker_seconds": spent["search"].worker_seconds,
        "worker_seconds": sum(stage.worker_seconds for stage in spent.values()),
        "wall_seconds": wall_seconds,
        "active_seconds": active_seconds,
        "sessions": history.sessions,
    }


def effort_sentences(effort: Mapping[str, Any]) -> tuple[str, ...]:
    """The same in words."""
    spent, full = effort["search_budget"], effort["search_budget_without_early_stopping"]
    failed = ", ".join(f"{count} {kind}" for kind, count in effort["failures"].items()) or "none"
    clock = "" if effort["wall_seconds"] is None else f"{format_duration(effort['wall_seconds'])} from first to last, "
    if effort["active_seconds"] is not None:
        sessions = f" in {counted(effort['sessions'], 'session')}" if effort["sessions"] else ""
        clock += f"{format_duration(effort['active_seconds'])} at work{sessions}, "
    return (
        f"{counted(effort['trials'], 'trial')} and {counted(effort['repeats'], 'repeat')} of finalists, in "
        f"{counted(effort['jobs'], 'job')}; failed: {failed}; tried again: {effort['retried']}.",
        f"The search trained on {spent:,} examples, {spent / full if full else 0:.0%} of the {full:,} of "
        f"{counted(effort['trials'], 'full training')}; the repeats on {effort['repeats_budget']:,} more.",
        f"It took {clock}{format_duration(effort['worker_seconds'])} of worker time.",
    )


def failure_sentences(history: History) -> tuple[str, ...]:
    """What failed, by kind: how often, for which trials, and the first reason."""
    groups: dict[tuple[str, bool], list[Failure]] = {}
    for failure, is_final in _failures(history):
        groups.setdefault((failure.kind.value, is_final), []).append(failure)
    sentences = []
    for (kind, is_final), failures in groups.items():
        trials = list(dict.fromkeys(history.jobs[failure.job_id].trial_id for failure in failures))
        named = ", ".join(map(str, trials[:MAX_TRIALS_NAMED])) + (", ..." if len(trials) > MAX_TRIALS_NAMED else "")
        what = f"{len(failures)} {kind}" + ("" if is_final else ", tried again")
        reason = one_line(failures[0].message)
        first = "" if len({failure.message for failure in failures}) == 1 else ", the first"
        sentences.append(f"{what} (trial{'s'[: len(trials) != 1]} {named}){first}: {reason}")
    return tuple(sentences)


def failures_to_json(history: History) -> list[dict[str, Any]]:
    """Every failure as plain data, in the order of their jobs."""
    return [
        {
            "trial": history.jobs[failure.job_id].trial_id,
            "job": failure.job_id,
            "stage": history.stage_of(history.jobs[failure.job_id]),
            "kind": failure.kind.value,
            "message": failure.message,
            "budget": failure.budget,
            "seconds": failure.seconds,
            "tried_again": not is_final,
        }
        for failure, is_final in sorted(_failures(history), key=lambda entry: entry[0].job_id)
    ]


def _failures(history: History) -> Iterator[tuple[Failure, bool]]:
    """Every failure, with whether it ended its job."""
    for failure in history.failures:
        yield failure, True
    for attempts in history.failed_attempts.values():
        for failure in attempts:
            yield failure, False
