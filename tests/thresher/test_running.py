from __future__ import annotations

from controller.trial import Job, Progress
from thresher.running import RATE_WINDOW, RunningJob


def job() -> RunningJob:
    return RunningJob(Job(0, 0, {}, 0, 0, 1000, 1000), 1, 0.0, 0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    running = job()
    for second in range(100):
        running.hear(Progress(0, 2 * second, "train", 3.0), second)
    assert running.rate == 2.0
    for second in range(100, 200):
        running.hear(Progress(0, 200 + 4 * (second - 100), "train", None), second)
    assert running.rate == 4.0
    assert running.loss == 3.0
    assert running.points[0][0] >= 199 - RATE_WINDOW
    assert running.seconds_left == (1000 - 596) / 4


def test_nothing_is_known_of_a_job_that_does_not_train() -> None:
    running = job()
    running.hear(Progress(0, 0, "load"), 1.0)
    assert (running.rate, running.seconds_left, running.phase) == (None, None, "load")
