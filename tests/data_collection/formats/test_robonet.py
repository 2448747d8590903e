"""Episodes from and to RoboNet files: units, signs, the schema, and atomic writes."""

import dataclasses
import errno
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_collection.episode import Episode, EpisodeError
from data_collection.formats.robonet import read_episode, write_episode
from data_collection.formats.robonet_file import read_trajectory
from robot_bridge.robot import CLOSE, OPEN
from tests.data_collection.episodes import REAL_FILES, RED, SPEC, make_episode, make_frames
from tests.data_collection.formats.test_robonet_file import needs_real_files, write_foreign

ARRAYS = ("states", "actions", "commanded", "times_s")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "lab_franka_play_traj0.hdf5"
    write_episode(make_episode(), path, SPEC)
    return path


def test_a_written_episode_is_read_unchanged(written: Path) -> None:
    expected, found = make_episode(), read_episode(written)
    for name in ARRAYS:
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert {name: found.info[name] for name in expected.info} == expected.info
    assert [type(found.info[name]) for name in expected.info] == [type(value) for value in expected.info.values()]
    assert np.abs(found.frames[2, 120, 40].astype(int) - RED).max() < 8
    assert not list(written.parent.glob("*.part"))


def test_a_read_episode_can_be_written_again(written: Path, tmp_path: Path) -> None:
    found = read_episode(written)
    write_episode(found, tmp_path / "b_traj0.hdf5", SPEC)
    again = read_episode(tmp_path / "b_traj0.hdf5")
    assert again.info == found.info
    np.testing.assert_array_equal(again.states, found.states)


def test_equal_episodes_give_equal_files(written: Path, tmp_path: Path) -> None:
    write_episode(make_episode(), tmp_path / "x.hdf5", SPEC)
    assert (tmp_path / "x.hdf5").read_bytes() == written.read_bytes()


def test_the_file_has_robonets_schema(written: Path) -> None:
    """RoboNet 0.1.0; see its writer's assertions and its reader's keys."""
    data = written.read_bytes()
    assert data[8] == 0  # the earliest superblock
    expected = make_episode()
    with h5py.File(io.BytesIO(data)) as file:
        assert file["file_version"][()] == b"0.1.0"
        env, metadata = file["env"], file["metadata"].attrs
        assert env.attrs["n_cams"] == 1 and env.attrs["cam_encoding"] == "mp4"
        video = env["cam0_video/frames"]
        assert video.dtype == np.uint8 and video.attrs["T"] == 7 and video.attrs["image_format"] == "RGB"
        assert video.attrs["shape"].tolist() == [240, 320, 3] and video.attrs["shape"].dtype == np.int64
        low, high = SPEC.state_bounds()
        for name, bound in {"low_bound": low, "high_bound": high}.items():
            np.testing.assert_array_equal(env[name], np.tile(bound, (7, 1)))
            np.testing.assert_array_equal(metadata[name], bound)
        state, actions = env["state"], file["policy/actions"]
        assert state.dtype == actions.dtype == np.float64 and state.shape == (7, 5) and actions.shape == (6, 5)
        np.testing.assert_allclose(low[:3] + state[:, :3] * (high - low)[:3], expected.states[:, :3], atol=1e-12)
        np.testing.assert_array_equal(state[:, 3:], expected.states[:, 3:])
        np.testing.assert_array_equal(actions[:, :3], expected.actions[:, :3])
        assert not actions[:, 3].any()
        np.testing.assert_array_equal(actions[:, 4], np.where(expected.actions[:, 3] == OPEN, 1.0, 0.0))
        demanded = {"camera_configuration", "camera_type", "policy_desc", "bin_type", "bin_insert", "gripper", "robot"}
        demanded |= {"contains_annotation", "background", "action_space", "object_classes", "primitives"}
        assert demanded <= set(metadata)
        assert metadata["primitives"] == "none" and metadata["action_space"] == "x,y,z,theta,gripper"
        assert metadata["gripper_convention"] == "high_open" and metadata["robot"] == "franka"
        assert metadata["step_limit_m"] == SPEC.limits.step_limit_m and metadata["step_s"] == SPEC.step_s
        assert isinstance(metadata["object_classes"], np.ndarray) and metadata["object_classes"].shape == (1,)
        columns = {"sdim", "state_T", "adim", "action_T", "ncam", "frame_dim", "img_T", "img_encoding", "image_format"}
        names = [*columns, "sha256", "file_version", *file["misc"], *metadata]
        assert len(names) == len(set(names))
        datasets: list[h5py.Dataset] = []
        file.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        assert all(dataset.chunks is None for dataset in datasets) and len(datasets) == 10


def test_robonets_loader_reads_the_same_numbers(written: Path) -> None:
    trajectory = read_trajectory(written)
    assert trajectory.actions.shape == (6, 5) and trajectory.states.shape == (7, 5)
    assert trajectory.frames().shape == (7, 240, 320, 3)


def test_any_changed_bit_is_detected(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken.hdf5"
    for place in [*rng.integers(0, 8 * len(data), 400).tolist(), *range(8 * len(data) - 8 * 73, 8 * len(data), 7)]:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        broken.write_bytes(flipped)
        with pytest.raises(EpisodeError, match="SHA-256"):
            read_episode(broken)


def test_any_truncation_is_detected(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    broken = tmp_path / "broken.hdf5"
    for n_bytes in [*np.linspace(0, len(data) - 1, 200).astype(int).tolist(), len(data) - 73]:
        broken.write_bytes(data[:n_bytes])
        with pytest.raises(EpisodeError):
            read_episode(broken)


CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"frames": np.zeros((7, 64, 64, 3), np.uint8)}, r"camera's size \(240, 320\), got \(64, 64\)"),
    "gripper": ({"actions": np.full((6, 4), 0.5, np.float32)}, "gripper commands"),
    "time": ({"times_s": np.zeros(7)}, "rising times_s"),
    "dtype": ({"actions": np.ones((6, 4))}, "expected float32, got float64"),
    "name": ({"info": {"img_T": 3}}, "info 'img_T'"),
    "robot": ({"info": {"robot": "sawyer"}}, "expected 'franka'"),
    "dims": ({"actions": np.ones((6, 3), np.float32), "commanded": np.ones((6, 3), np.float32)}, "got 3-D and 5-D"),
    "no states": ({"states": np.empty((7, 0))}, "got 4-D and 0-D"),
    "noise": ({"frames": np.random.default_rng(0).integers(0, 255, (7, 240, 320, 3), np.uint8)}, "25 dB"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_an_episode_that_cannot_be_stored_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    changes, message = CANNOT[name]
    with pytest.raises(EpisodeError, match=message):
        write_episode(make_episode(**changes), tmp_path / "x.hdf5", SPEC)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_not_overwritten(written: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(EpisodeError, match="exists already"):
        write_episode(make_episode(seed=1), written, SPEC)
    with pytest.raises(EpisodeError, match=r"ends in \.hdf5"):
        write_episode(make_episode(), written.with_suffix(".h5"), SPEC)
    assert written.read_bytes() == before and len(list(written.parent.iterdir())) == 1


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EpisodeError, match="No space left on device"):
        write_episode(make_episode(), tmp_path / "x.hdf5", SPEC)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(place)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_full_disk_keeps_closed_episodes(tiny_disk: Path) -> None:
    closed = []
    with pytest.raises(EpisodeError, match="No space left on device"):
        for number in range(20):
            path = tiny_disk / f"a_traj{number}.hdf5"
            write_episode(make_episode(seed=number), path, SPEC)
            closed.append(path)
    assert closed and sorted(tiny_disk.iterdir()) == closed
    for path in closed:
        read_episode(path)


def test_a_file_that_reads_back_differently_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode that is read back with other values must not count as written."""
    other = make_episode(seed=9)
    monkeypatch.setattr("data_collection.formats.robonet.read_episode", lambda _path: other)
    with pytest.raises(EpisodeError, match="states read back differ"):
        write_episode(make_episode(), tmp_path / "x.hdf5", SPEC)
    monkeypatch.setattr(
        "data_collection.formats.robonet.read_episode", lambda _path: make_episode(frames=np.zeros_like(make_frames(7)))
    )
    with pytest.raises(EpisodeError, match="25 dB"):
        write_episode(make_episode(), tmp_path / "x.hdf5", SPEC)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_dims", [4, 5])
def test_the_sign_of_a_foreign_gripper_follows_the_states(tmp_path: Path, n_dims: int) -> None:
    """Imputed commands are high when open, native ones high when closed; both become +1 to close."""
    write_foreign(tmp_path / "a.hdf5", n_dims, "autograsp" if n_dims == 4 else "none")
    episode = read_episode(tmp_path / "a.hdf5")
    assert episode.actions[:, 3].tolist() == [OPEN, CLOSE, CLOSE, OPEN]
    assert episode.states[:, 4].tolist() == pytest.approx([1, 1, 0.03, 0.03, 1])


def test_a_gripper_of_unknown_sign_is_refused(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.hdf5", 5, "none")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["policy/actions"][:, 4] = 100
    with pytest.raises(EpisodeError, match="constant"):
        read_episode(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["policy/actions"][:, 4] = [0, 0, 100, 100]  # states: open, closed, closed, open
    with pytest.raises(EpisodeError, match="correlation of"):
        read_episode(tmp_path / "a.hdf5")


@needs_real_files
def test_a_real_franka_moves_exactly_by_its_applied_actions() -> None:
    episode = read_episode(REAL_FILES / "hdf5/stanford_franka_corr_noise_traj2239.hdf5", camera=2)
    np.testing.assert_allclose(np.diff(episode.states[:, :3], axis=0), episode.actions[:, :3], atol=1e-6)
    assert np.abs(episode.commanded[:, 2]).max() > 0.3  # in a range of 0.1 m: commanded and applied actions differ
    assert set(np.unique(episode.actions[:, 3])) == {OPEN, CLOSE}
    closing = episode.actions[:, 3] == CLOSE
    assert episode.states[1:, 4][closing].max() < 0.5 < episode.states[1:, 4][~closing].min()


@needs_real_files
@pytest.mark.parametrize(
    "name", ["berkeley_sawyer_cornoise_traj1", "berkeley_widowx_traj169", "penn_baxter_left_traj917"]
)
def test_files_of_other_real_robots_become_episodes(name: str) -> None:
    episode = read_episode(REAL_FILES / f"hdf5/{name}.hdf5")
    assert isinstance(episode, Episode) and episode.frames.shape == (31, 240, 320, 3)
    executed = np.diff(episode.states[:, :3], axis=0)
    applied_error, commanded_error = (
        np.abs(executed - actions[:, :3]).mean() for actions in (episode.actions, episode.commanded)
    )
    assert applied_error < commanded_error / 1.5  # measured: 2 to 10 times nearer to the measured motion
    assert episode.states[:, 4].min() >= 0 and episode.states[:, 4].max() <= 1


@needs_real_files
def test_a_real_file_without_units_is_refused() -> None:
    path = REAL_FILES / "hdf5/stanford_fetch_traj464.hdf5"
    with pytest.raises(EpisodeError, match="got 2-D and 3-D"):
        read_episode(path)
    assert read_trajectory(path).frames().shape == (15, 112, 112, 3)


def test_another_robot_in_the_info_is_refused(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, name="other")
    write_episode(make_episode(info={"robot": "other"}), tmp_path / "x.hdf5", spec)
    assert read_episode(tmp_path / "x.hdf5").info["robot"] == "other"
