"""What the trials of a function leave on disk: one directory a rung, published when the rung is reached.

    checkpoints/trial-0007/rung-000000009/    what the function left there at a rung
    checkpoints/trial-0007/.attempt-*/        where an attempt at the next rung works

An attempt starts with a copy of the rung below. If it is killed, its copy is thrown away and the next attempt
starts with a fresh one, so nothing that was half written is ever seen again.
"""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path
from typing import Final, final

from controller.trial import Continue, Job

_TRIAL: Final = re.compile(r"trial-(\d+)")
_ATTEMPT: Final = ".attempt-"
_DISCARDED: Final = ".discarded-"


@final
class TrialDirectories:
    """The directories of a study's trials, below one root. Also the Checkpoints of its controller.

    A trial is written by one process at a time. Methods raise OSError if the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def path(self, trial_id: int, budget: int) -> Path:
        """Where the files of a rung lie, whether they exist or not."""
        return self._trial(trial_id) / f"rung-{budget:09d}"

    def stage(self, job: Job) -> tuple[Path, bool]:
        """A directory for an attempt at a job, and whether all that the job builds on is in it.

        False means that the rung it should start from is gone: the directory is empty.
        """
        trial = self._trial(job.trial_id)
        trial.mkdir(parents=True, exist_ok=True)
        for leftover in trial.glob(f"{_ATTEMPT}*"):
            shutil.rmtree(leftover)
        staged = trial / f"{_ATTEMPT}{uuid.uuid4().hex}"
        if job.source is None:
            staged.mkdir()
            return staged, True
        origin = self.path(job.source.trial_id, job.source.budget)
        if origin.is_dir():
            shutil.copytree(origin, staged, symlinks=True)
            return staged, True
        staged.mkdir()
        return staged, False

    def publish(self, job: Job, staged: Path) -> Path:
        """Make what an attempt left the files of the job's rung; where they lie now.

        The rung that the job started from stays, in case the report is lost; those below it are deleted.
        """
        target = self.path(job.trial_id, job.to_budget)
        if target.exists():  # of an earlier attempt, which was killed before its report was written down
            self._remove(target)
        staged.mkdir(exist_ok=True)  # should the function have removed it
        staged.rename(target)
        kept = {target.name}
        if isinstance(job.source, Continue) and job.source.trial_id == job.trial_id:
            kept.add(self.path(job.trial_id, job.from_budget).name)
        for rung in self._trial(job.trial_id).glob("rung-*"):
            if rung.name not in kept:
                self._remove(rung)
        return target

    def tidy(self) -> None:
        """Delete what an earlier process was killed while deleting. Nobody else may be at work."""
        for doomed in self._root.glob(f"{_DISCARDED}*"):
            shutil.rmtree(doomed)

    def trials(self) -> set[int]:
        """See Checkpoints."""
        names = (_TRIAL.fullmatch(path.name) for path in self._root.glob("trial-*"))
        return {int(name.group(1)) for name in names if name is not None}

    def discard(self, trial_id: int) -> None:
        """See Checkpoints."""
        self._remove(self._trial(trial_id))

    def _trial(self, trial_id: int) -> Path:
        return self._root / f"trial-{trial_id:04d}"

    def _remove(self, path: Path) -> None:
        """Delete a directory that no reader may find half deleted."""
        doomed = self._root / f"{_DISCARDED}{uuid.uuid4().hex}"
        path.rename(doomed)
        shutil.rmtree(doomed)
