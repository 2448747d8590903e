"""The supervisor: whatever ends a run, each attempt is counted and the reason is one line."""

from __future__ import annotations

import json
import multiprocessing
from contextlib import closing
from pathlib import Path

import pytest

from data_collection.folder import CollectionError, EpisodeFolder
from data_collection.supervisor import RunConfig, _ask, _receive, collect
from data_collection.tally import Tally
from robot_bridge.robot import RobotFault
from robot_bridge.robots import open_robot
from robot_bridge.simulation.franka import SimulatedFranka

CONFIG = RunConfig.load(
    0,
    [
        "robot.renderer=ray",
        "collection.n_steps=2",
        "collection.steps_per_draw=[1, 2]",
        "collection.free_disk_floor_gib=0",
        "collection.max_faults_in_row=2",
    ],
)


def fail(*_: object) -> None:
    raise RobotFault("reflex")


@pytest.fixture
def folder(tmp_path: Path) -> EpisodeFolder:
    return EpisodeFolder(tmp_path, "lab_franka_play")


def summary(folder: EpisodeFolder, capsys: pytest.CaptureFixture[str], message: str) -> dict[str, object]:
    """Return the summary of a run of one worker that must end with an error of this message."""
    robot = open_robot(CONFIG.robot)
    with closing(robot), pytest.raises(CollectionError, match=message), Tally(folder.path, 0) as tally:
        for closed in collect(CONFIG, folder, [0, 1], 1, robot):
            tally.add(closed)
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_the_attempts_of_the_last_episode_are_counted_too(
    folder: EpisodeFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SimulatedFranka, "step", fail)
    assert summary(folder, capsys, "2 attempts failed in a row")["dropped"] == {"RobotFault": 2}


def test_an_arm_that_cannot_recover_ends_the_run_with_its_counts(
    folder: EpisodeFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SimulatedFranka, "step", fail)
    monkeypatch.setattr(SimulatedFranka, "recover", fail)
    assert summary(folder, capsys, "reflex")["dropped"] == {"RobotFault": 1}


def test_a_disk_that_is_gone_ends_the_run_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = EpisodeFolder(tmp_path / "unmounted", "lab_franka_play")
    assert summary(gone, capsys, "No such file or directory.*unmounted")["episodes"] == 0


def test_when_a_worker_fails_the_others_end_what_they_have_begun(folder: EpisodeFolder) -> None:
    folder.episode_path(0).touch()  # an episode is never overwritten, so the worker that is asked for it fails
    closed = []
    robot = open_robot(CONFIG.robot)
    with closing(robot), pytest.raises(CollectionError, match=r"traj0\.hdf5: exists already"):
        for episode in collect(CONFIG, folder, [0, 1, *range(2, 1000)], 2, robot):
            closed.append(episode)  # noqa: PERF402 - what came before the error is wanted
    numbers = {episode.number for episode in closed}
    assert 1 in numbers and len(numbers) < 998
    assert set(folder.path.glob("*.hdf5")) == {folder.episode_path(n) for n in {0, *numbers}}


def test_a_worker_that_is_gone_tells_its_reason_or_none() -> None:
    for reason, message in ((CollectionError("disk full", {"RobotFault": 2}), "disk full"), (None, "a worker process")):
        ours, theirs = multiprocessing.Pipe()
        if reason:
            theirs.send(reason)
        theirs.close()
        _ask(ours, 3)
        answer = _receive(ours)
        ours.close()
        assert isinstance(answer, CollectionError) and message in str(answer)
        assert answer.dropped == (reason.dropped if reason else {})
