"""Recordings of folders with files of any kind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats import reader
from data_collection.formats.robonet import write_episode
from data_collection.formats.video import VideoReading
from tests.data_collection.episodes import REAL_FILES, SPEC, make_episode
from tests.data_collection.formats.test_npz import write_bair
from tests.data_collection.formats.test_robonet_file import needs_real_files, write_foreign
from tests.data_collection.formats.test_video import video_frames, write_video
from tests.data_collection.records import bridge_features, example, write_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "deeper").mkdir()
    (folder / ".hidden").mkdir()
    write_episode(make_episode(), folder / "lab_franka_traj0.hdf5", SPEC)
    shutil.copy(folder / "lab_franka_traj0.hdf5", folder / ".hidden")
    write_bair(folder / "deeper/bair.npz")
    write_records(folder / "x-train.tfrecord-00000-of-00001", [example(bridge_features(seed=s)) for s in (0, 1)])
    write_video(folder / "view.mp4", video_frames(4))
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_names_of_recordings_are_unique(folder: Path) -> None:
    assert [recording.name for recording in reader.find(folder)] == [
        "deeper/bair.npz",
        "lab_franka_traj0.hdf5",
        "x-train.tfrecord-00000-of-00001#0",
        "x-train.tfrecord-00000-of-00001#1",
    ]


def test_every_recording_is_an_episode(folder: Path) -> None:
    episodes = [reader.read(recording) for recording in reader.find(folder)]
    assert [episode.actions.shape for episode in episodes] == [(4, 4), (6, 4), (5, 7), (5, 7)]
    assert len({episode.action_space for episode in episodes}) == 3
    assert not np.array_equal(episodes[2].actions, episodes[3].actions)
    for recording, whole in zip(reader.find(folder), episodes, strict=True):
        episode = reader.read(recording, action_free=True)
        np.testing.assert_array_equal(episode.frames, whole.frames)
        assert episode.actions.shape == (len(whole.actions), 0) and not episode.action_space


def test_videos_are_recordings_only_without_other_files(folder: Path, tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mp4"):
        shutil.copy(folder / "view.mp4", tmp_path / name)
    recordings = reader.find(tmp_path)
    assert [recording.name for recording in recordings] == ["a.mp4", "b.MP4"]
    assert reader.read(recordings[1], video=VideoReading(2, 16)).frames.shape == (2, 16, 16, 3)
    with pytest.raises(EpisodeError, match="expected camera 0 of a video file, got 1"):
        reader.read(recordings[0], 1)


def test_an_empty_folder_has_no_recordings(tmp_path: Path) -> None:
    assert reader.find(tmp_path) == [] == reader.find(tmp_path / "none")


def test_records_after_damage_are_one_refused_recording(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.tfrecord", [example(bridge_features(seed=s)) for s in range(3)])
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1  # the length of the second, as all three are of one size
    path.write_bytes(data)
    first, second = reader.find(tmp_path)
    assert len(reader.read(first).frames) == 6
    with pytest.raises(EpisodeError, match="record 1: expected a TFRecord length"):
        reader.read(second)


def test_recordings_are_selected_by_a_list_of_names(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("lab_franka_traj0.hdf5\n\nelsewhere.hdf5 \n")
    names = reader.read_names(path)
    assert names == {"lab_franka_traj0.hdf5", "elsewhere.hdf5"}
    assert [each.name for each in reader.find(folder) if each.is_in(names)] == ["lab_franka_traj0.hdf5"]
    path.write_text("\n")
    with pytest.raises(EpisodeError, match="expected a file name a line, got none"):
        reader.read_names(path)
    with pytest.raises(EpisodeError, match=r"none\.txt: expected a text file"):
        reader.read_names(tmp_path / "none.txt")


@pytest.mark.parametrize("line", ["lab_franka_traj0", "./hdf5/lab_franka_traj0.hdf5", "test\\lab_franka_traj0.hdf5"])
def test_a_list_may_leave_out_suffixes_and_name_folders(folder: Path, tmp_path: Path, line: str) -> None:
    """Otherwise a test set listed in this form would be trained on without a warning."""
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    names = reader.read_names(path)
    assert [each.name for each in reader.find(folder) if each.is_in(names)] == ["lab_franka_traj0.hdf5"]


def test_a_name_that_is_not_text_is_converted(tmp_path: Path) -> None:
    write_bair(tmp_path / "a.npz").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npz"))
    (recording,) = reader.find(tmp_path)
    assert recording.name.encode() == b"\\xff.npz"
    assert len(reader.read(recording).frames) == 5


def test_robots_are_named_by_robonet_files(folder: Path) -> None:
    assert [reader.robot(recording) for recording in reader.find(folder)] == [None, "franka", None, None]


@needs_real_files
def test_the_published_test_set_is_read() -> None:
    names = reader.read_names(REAL_FILES / "robonet_testset_filenames.txt")
    assert len(names) == 256
    assert not [each for each in reader.find(REAL_FILES / "hdf5") if each.is_in(names)]


@needs_real_files
def test_a_real_file_without_units_is_used_for_its_frames() -> None:
    (fetch,) = [each for each in reader.find(REAL_FILES / "hdf5") if reader.robot(each) == "fetch"]
    with pytest.raises(EpisodeError, match="got 2-D and 3-D"):
        reader.read(fetch)
    episode = reader.read(fetch, action_free=True)
    assert episode.frames.shape == (15, 112, 112, 3) and episode.actions.shape == (14, 0)
    assert episode.info["robot"] == "fetch"


def test_frames_of_a_file_without_bounds_are_used(tmp_path: Path) -> None:
    """An autograsp file needs bounds for its gripper, but its videos do not."""
    import h5py

    write_foreign(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file["metadata"].attrs["low_bound"]
    (recording,) = reader.find(tmp_path)
    with pytest.raises(EpisodeError, match="low_bound"):
        reader.read(recording)
    assert len(reader.read(recording, action_free=True).frames) == 5
