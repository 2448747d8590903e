from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_collection.formats.reader import find, read
from ghvae_core.data import cache as module
from ghvae_core.data.cache import DecodeOptions, PreparedEpisodes, model_frames, prepare
from ghvae_core.data.parallel import DatasetError
from robot_bridge.camera import Crop
from tests.ghvae_core.episodes import STEP_LIMIT_M, STEP_S, record, spec

READING = DecodeOptions(camera=0, image_px=32, action_free=False, video_stride=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for index in range(6):
        record(folder, index, n_frames=4 + index)
    (folder / "cut.hdf5").write_bytes((folder / "lab_franka_test_traj0.hdf5").read_bytes()[:1000])
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare in this process, in three shards."""
    monkeypatch.setattr(module, "_MIN_RECORDINGS", 3)
    monkeypatch.setattr(module, "map_in_processes", map)


def _prepare(folder: Path, cache: Path, progress: list[tuple[int, int]] | None = None) -> PreparedEpisodes:
    return prepare(find(folder), READING, cache, lambda done, total: (progress or []).append((done, total)))


def _same(one: PreparedEpisodes, other: PreparedEpisodes) -> bool:
    return (
        all(np.array_equal(a, b) for a, b in zip(one.parts, other.parts, strict=True))
        and all(np.array_equal(a, b) for a, b in zip(one.actions, other.actions, strict=True))
        and (one.facts, one.refused) == (other.facts, other.refused)
    )


def _count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    before = module._make

    def make(task: module._Task) -> int:
        made.append(task.first)
        return before(task)

    monkeypatch.setattr(module, "_make", make)
    return made


def test_recordings_are_cached_at_model_size(folder: Path, tmp_path: Path) -> None:
    progress = [(0, 0)]
    prepared = _prepare(folder, tmp_path, progress)
    assert progress[1:] == [(3, 7), (6, 7), (7, 7)]
    assert [len(part) for part in prepared.parts] == [4 + 5, 6 + 7 + 8, 9]  # "cut" comes first
    frames = np.concatenate(prepared.parts)
    first = 0
    for facts, actions in zip(prepared.facts, prepared.actions, strict=True):
        episode = read(find(folder)[facts.number])
        np.testing.assert_array_equal(frames[first : first + facts.n_frames], model_frames(episode, 32))
        np.testing.assert_array_equal(actions, episode.actions)
        assert (facts.step_limit_m, facts.step_s) == (STEP_LIMIT_M, STEP_S)
        assert facts.workspace_m == ((0.3, -0.2, 0.0), (0.7, 0.2, 0.3)) and '"fovy_rad":0.8' in facts.camera
        first += facts.n_frames
    ((reason, names),) = prepared.refused.items()
    assert (
        names == ["cut.hdf5"]
        and reason.startswith("expected an intact RoboNet HDF5 file")
        and str(folder) not in reason
    )


def test_a_second_run_decodes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = _prepare(folder, tmp_path)
    made = _count(monkeypatch)
    assert _same(_prepare(folder, tmp_path), once) and not made
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in {".frames", ".index"}]


def test_an_interrupted_preparation_is_resumed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = _prepare(folder, tmp_path / "whole")
    before = module._make

    def stop(task: module._Task) -> int:
        if task.first == 3:
            raise KeyboardInterrupt
        return before(task)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_make", stop)
        with pytest.raises(KeyboardInterrupt):
            _prepare(folder, tmp_path / "broken")
    made = _count(monkeypatch)
    assert _same(_prepare(folder, tmp_path / "broken"), once) and made == [3, 6]


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], object]] = {
    "a frame's bit": lambda shard: _flip(shard.with_suffix(".frames"), 0.5),
    "a frame's end": lambda shard: os.truncate(shard.with_suffix(".frames"), 100),
    "no frames": lambda shard: shard.with_suffix(".frames").unlink(),
    "an action's bit": lambda shard: _flip(shard.with_suffix(".index"), 0.12),
    "the index's end": lambda shard: os.truncate(shard.with_suffix(".index"), 200),
    "no index": lambda shard: shard.with_suffix(".index").unlink(),
    "an empty index": lambda shard: shard.with_suffix(".index").write_bytes(b""),
    "another index": lambda shard: shutil.copy(shard.with_name("shard-0000.index"), shard.with_suffix(".index")),
}


@pytest.mark.parametrize("harm", HARMS)
def test_only_a_damaged_shard_is_rebuilt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    once = _prepare(folder, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "harmed")
    (index,) = (tmp_path / "harmed").rglob("shard-0001.index")
    HARMS[harm](index.with_suffix(""))
    made = _count(monkeypatch)
    assert _same(_prepare(folder, tmp_path / "harmed"), once) and made == [3]


def test_other_files_or_options_are_prepared_separately(folder: Path, tmp_path: Path) -> None:
    recordings = find(folder)
    for reading in (READING, READING._replace(image_px=16), READING._replace(action_free=True)):
        prepare(recordings, reading, tmp_path / "cache", lambda done, total: None)
    prepare(recordings[1:], READING, tmp_path / "cache", lambda done, total: None)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # with equal names, sizes and times
    prepare(find(copy), READING, tmp_path / "cache", lambda done, total: None)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    os.utime(copy / "cut.hdf5")
    prepare(find(copy), READING, tmp_path / "cache", lambda done, total: None)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_progress_is_reported_once_a_recording_is_usable(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    shutil.copy(folder / "cut.hdf5", tmp_path / "bad")

    def refuse(done: int, total: int) -> None:
        raise AssertionError("progress without a usable recording")

    prepared = prepare(find(tmp_path / "bad"), READING, tmp_path / "cache", refuse)
    assert prepared.facts == [] and sum(map(len, prepared.refused.values())) == 1
    assert len(prepared.parts[0]) == 0


def test_a_full_disk_leaves_no_part_of_a_shard(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _prepare(folder, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_old_partial_files_are_removed(folder: Path, tmp_path: Path) -> None:
    _prepare(folder, tmp_path)
    (place,) = tmp_path.iterdir()
    old, new = place / ".shard-0000.frames.1.part", place / ".shard-0001.frames.2.part"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    _prepare(folder, tmp_path)
    assert new.exists() and not old.exists()


def test_a_disk_that_loses_data_is_reported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_open", lambda task: None)
    with pytest.raises(DatasetError, match="differ from what was written"):
        _prepare(folder, tmp_path)


def test_frames_become_tensors_without_a_warning_and_the_file_is_unchanged(folder: Path, tmp_path: Path) -> None:
    import torch

    part = _prepare(folder, tmp_path).parts[0]
    torch.from_numpy(part[:2])[:] = 0
    assert _prepare(folder, tmp_path).parts[0][:2].any()


def test_the_crop_of_the_camera_is_used(tmp_path: Path) -> None:
    from robot_bridge.camera import model_image

    crop = Crop(top_px=40, left_px=0, height_px=120, width_px=120)
    record(tmp_path / "data", 0, robot=spec(crop=crop))
    (recording,) = find(tmp_path / "data")
    frames = read(recording).frames
    found = _prepare(tmp_path / "data", tmp_path / "cache").parts[0]
    np.testing.assert_array_equal(found[0], model_image(frames[0], crop, 32))


def test_processes_prepare_the_same_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _prepare(folder, tmp_path / "here")
    monkeypatch.undo()
    monkeypatch.setattr(module, "_MIN_RECORDINGS", 4)
    there = _prepare(folder, tmp_path / "there")
    np.testing.assert_array_equal(np.concatenate(here.parts), np.concatenate(there.parts))
    assert (here.facts, here.refused) == (there.facts, there.refused)
