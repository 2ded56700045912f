from __future__ import annotations

from pathlib import Path

import pytest

from controller.trial import Continue, Inherit, Job, Source
from thresher.trial_directories import TrialDirectories


def job(trial: int = 0, start: int = 0, end: int = 3, source: Source | None = None) -> Job:
    return Job(0, trial, {}, 0, start, end, 27, source)


@pytest.fixture
def directories(tmp_path: Path) -> TrialDirectories:
    return TrialDirectories(tmp_path / "checkpoints")


def reach(directories: TrialDirectories, job: Job, text: str) -> Path:
    staged, complete = directories.stage(job)
    assert complete
    (staged / "state").write_text(text)
    return directories.publish(job, staged)


def test_a_rung_starts_from_a_copy_of_the_one_below(directories: TrialDirectories) -> None:
    first = reach(directories, job(), "at 3")
    assert first == directories.path(0, 3)
    further = job(start=3, end=9, source=Continue(0, 3))
    staged, complete = directories.stage(further)
    assert complete
    assert (staged / "state").read_text() == "at 3"
    (staged / "state").write_text("on the way")
    assert (first / "state").read_text() == "at 3"
    directories.publish(further, staged)
    assert (directories.path(0, 9) / "state").read_text() == "on the way"
    assert first.is_dir()  # the report of 9 may be lost yet


def test_what_a_killed_attempt_left_is_not_seen_again(directories: TrialDirectories) -> None:
    reach(directories, job(), "at 3")
    further = job(start=3, end=9, source=Continue(0, 3))
    killed, _ = directories.stage(further)
    (killed / "state").write_text("torn")
    (killed / "rubbish").touch()
    staged, _ = directories.stage(further)
    assert not killed.exists()
    assert [path.name for path in staged.iterdir()] == ["state"]
    assert (staged / "state").read_text() == "at 3"


def test_a_rung_whose_report_was_lost_is_replaced(directories: TrialDirectories) -> None:
    reach(directories, job(), "first time")
    reach(directories, job(), "second time")
    assert (directories.path(0, 3) / "state").read_text() == "second time"


def test_two_rungs_of_a_trial_are_kept(directories: TrialDirectories) -> None:
    reach(directories, job(end=1), "at 1")
    reach(directories, job(start=1, end=3, source=Continue(0, 1)), "at 3")
    reach(directories, job(start=3, end=9, source=Continue(0, 3)), "at 9")
    assert not directories.path(0, 1).exists()
    assert directories.path(0, 3).is_dir()
    assert directories.path(0, 9).is_dir()


def test_files_that_are_gone_are_told(directories: TrialDirectories) -> None:
    staged, complete = directories.stage(job(start=3, end=9, source=Continue(0, 3)))
    assert not complete
    assert list(staged.iterdir()) == []


@pytest.mark.parametrize("source", [Continue(0, 3), Inherit(0, 3)])
def test_a_trial_can_start_from_another(directories: TrialDirectories, source: Source) -> None:
    reach(directories, job(), "the parent's")
    start = 3 if isinstance(source, Continue) else 0
    staged, complete = directories.stage(job(trial=1, start=start, end=9, source=source))
    assert complete
    assert (staged / "state").read_text() == "the parent's"


def test_trials_are_listed_and_discarded(directories: TrialDirectories, tmp_path: Path) -> None:
    assert directories.trials() == set()
    reach(directories, job(trial=2), "")
    reach(directories, job(trial=12345), "")
    assert directories.trials() == {2, 12345}
    directories.discard(2)
    assert directories.trials() == {12345}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["trial-12345"]


def test_a_function_may_remove_its_directory(directories: TrialDirectories) -> None:
    staged, _ = directories.stage(job())
    staged.rmdir()
    assert list(directories.publish(job(), staged).iterdir()) == []


def test_what_was_being_deleted_when_a_process_was_killed_is_deleted_later(tmp_path: Path) -> None:
    directories = TrialDirectories(tmp_path / "checkpoints")
    directories.tidy()  # nothing is there yet
    (tmp_path / "checkpoints" / ".discarded-0a1b" / "rest").mkdir(parents=True)
    (tmp_path / "checkpoints" / "trial-0001" / "rung-000000003").mkdir(parents=True)
    directories.tidy()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["trial-0001"]
