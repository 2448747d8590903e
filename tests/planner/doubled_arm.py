"""`run_task` and `run_trials` with a doubled robot in place of a Franka over ROS; trials run in the same process."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

from planner import episode, run_task, run_trials
from planner.trials import attended
from planner.trials.trial import TrialJob, TrialOutcome
from tests.planner.doubles import FakeRobot

COMMANDS = {"run_task": run_task.main, "run_trials": run_trials.main}


def _in_this_process(_: object, queue: deque[TrialJob], _n: int) -> Iterator[tuple[TrialJob, TrialOutcome]]:
    job = queue.popleft()
    episode.run_episode(job.request, job.overrides)
    yield job, TrialOutcome("counted")


if __name__ == "__main__":
    setattr(episode, "open_robot", lambda _: FakeRobot())  # noqa: B010 - the module does not export it
    setattr(attended, "run_in_processes", _in_this_process)  # noqa: B010
    name = sys.argv.pop(1)
    sys.argv[0] = name
    COMMANDS[name]()
