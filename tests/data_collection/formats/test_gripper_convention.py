"""The sign of commanded grippers: a property of the robot, not of one file."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.robonet import read_episode
from robot_bridge.robot import CLOSE, OPEN
from tests.data_collection.formats.test_robonet_file import write_foreign

UNDECIDED = [0.0, 0, 100, 100]  # states: open, closed, closed, open


def _file(path: Path, commands: list[float] | None = None, robot: str = "sawyer") -> Path:
    write_foreign(path, 5, "none")
    with h5py.File(path, "r+") as file:
        file["metadata"].attrs["robot"] = robot
        if commands is not None:
            file["policy/actions"][:, 4] = commands
    return path


def test_an_undecided_file_follows_the_other_files_of_the_robot(tmp_path: Path) -> None:
    """Native commands close when high; the file in question shows no correlation of its own."""
    path = _file(tmp_path / "lab_sawyer_traj0.hdf5", UNDECIDED)
    for number in range(1, 4):
        _file(tmp_path / f"lab_sawyer_traj{number}.hdf5")
    (tmp_path / "lab_sawyer_traj9.hdf5").write_bytes(b"damaged")
    assert read_episode(path).actions[:, 3].tolist() == [OPEN, OPEN, CLOSE, CLOSE]


def test_the_majority_of_a_robot_overrules_a_file(tmp_path: Path) -> None:
    """The sign of the majority also applies to a file whose gripper moved the other way."""
    path = _file(tmp_path / "lab_sawyer_traj0.hdf5", [100.0, 0, 0, 100])  # high where it was open next
    for number in range(1, 4):
        _file(tmp_path / f"lab_sawyer_traj{number}.hdf5")
    assert read_episode(path).actions[:, 3].tolist() == [CLOSE, OPEN, OPEN, CLOSE]


def test_other_robots_do_not_decide(tmp_path: Path) -> None:
    path = _file(tmp_path / "lab_sawyer_traj0.hdf5", UNDECIDED)
    _file(tmp_path / "lab_sawyer_traj1.hdf5", robot="other")
    _file(tmp_path / "lab_kuka_traj1.hdf5")
    write_foreign(tmp_path / "lab_sawyer_traj2.hdf5", 4, "autograsp")  # imputed: no information about commands
    with pytest.raises(EpisodeError, match="next states of robot 'sawyer' follow, got a correlation of"):
        read_episode(path)


def test_files_with_other_names_are_pooled_too(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.hdf5", UNDECIDED)
    for name in "bcd":
        _file(tmp_path / f"{name}.hdf5")
    assert read_episode(path).actions[:, 3].tolist() == [OPEN, OPEN, CLOSE, CLOSE]


def test_each_file_has_its_own_units(tmp_path: Path) -> None:
    for number, high in enumerate((1.57, 0.1, 100.0)):
        path = tmp_path / f"lab_sawyer_traj{number}.hdf5"
        write_foreign(path, 5, "none")
        with h5py.File(path, "r+") as file:
            file["metadata"].attrs["low_bound"] = [0.0, 0, 0, 0, -high]
            file["metadata"].attrs["high_bound"] = [1.0, 1, 1, 3, high]
            file["env/state"][:, 4] = [high, high, -high, -high, high]
            file["policy/actions"][:, 4] = [-high, high, high, -high]
    for number in range(3):
        episode = read_episode(tmp_path / f"lab_sawyer_traj{number}.hdf5")
        assert episode.actions[:, 3].tolist() == [OPEN, CLOSE, CLOSE, OPEN]
        assert episode.states[:, 4].tolist() == [1, 1, 0, 0, 1]
