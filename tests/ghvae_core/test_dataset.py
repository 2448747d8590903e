from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_collection import robonet
from data_collection.episode import Episode
from data_collection.robonet import read_episode
from ghvae_core import dataset as module
from ghvae_core.dataset import DataConfig, Dataset, DatasetError, is_validation, load_dataset
from robot_bridge.camera import Crop, model_image
from tests.ghvae_core.episodes import STEP_LIMIT_M, STEP_S, record, spec
from tests.ghvae_core.small import EPISODE_FRAMES, N_FRAMES, small_windows

CONFIG = DataConfig(n_context=2, horizon=2, validation_share=0.3)


def _load(folder: Path, config: DataConfig = CONFIG, cache: Path | None = None) -> Dataset:
    return load_dataset(folder, config, cache or folder / "none.npz", lambda done, total: None)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for index in range(5):
        record(folder / "deeper" if index == 4 else folder, index, n_frames=3 if index == 3 else 6)
    whole = (folder / "lab_franka_test_traj0.hdf5").read_bytes()
    (folder / "cut.hdf5").write_bytes(whole[:1000])
    return folder


def test_windows_lie_within_one_episode_and_come_time_first() -> None:
    windows = small_windows()
    frames, actions, rows = windows.batch(np.arange(len(windows.starts)))
    assert frames.shape[:2] == (N_FRAMES, len(windows.starts))
    assert actions.shape == (N_FRAMES - 1, len(windows.starts), 4)
    assert (rows[0] // EPISODE_FRAMES == rows[-1] // EPISODE_FRAMES).all()
    assert np.array_equal(frames[2, 1], windows.frames[windows.starts[1] + 2])
    assert np.array_equal(actions[2, 1], windows.actions[windows.starts[1] + 2])


def test_episodes_are_read_split_and_counted(episodes: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = load_dataset(episodes, CONFIG, episodes / "none.npz", lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6)
    assert dataset.n_episodes == 4
    assert (dataset.step_limit_m, dataset.step_s) == (STEP_LIMIT_M, STEP_S)
    assert len(dataset.refused) == 2
    assert dataset.refused["fewer than 4 frames"] == 1
    first = read_episode(episodes / "deeper" / "lab_franka_test_traj4.hdf5")  # sorted before its siblings
    assert np.array_equal(dataset.train.frames[5], model_image(first.frames[5]))
    assert np.array_equal(dataset.train.actions[:5], first.actions)
    assert not dataset.train.actions[5].any()
    everything = {*dataset.train.starts.tolist()} | {*dataset.validation.starts.tolist()}
    assert everything == {6 * episode + start for episode in range(4) for start in range(3)}
    of_train, of_validation = dataset.train.starts // 6, dataset.validation.starts // 6
    assert not set(of_train.tolist()) & set(of_validation.tolist())


def test_a_kept_dataset_is_read_back_without_the_episodes(episodes: Path, tmp_path: Path) -> None:
    cache = tmp_path / "episodes.npz"
    dataset = _load(episodes)
    dataset.keep(cache)

    def refuse(done: int, total: int) -> None:
        raise AssertionError("an episode was read")

    again = load_dataset(episodes, CONFIG, cache, refuse)
    assert np.array_equal(again.train.frames, dataset.train.frames)
    assert np.array_equal(again.validation.starts, dataset.validation.starts)
    assert again.refused == dataset.refused
    assert again.sha256 == dataset.sha256
    cache.write_bytes(cache.read_bytes()[:-2000])
    assert _load(episodes, cache=cache).n_episodes == 4  # a damaged cache is read anew
    other = DataConfig(n_context=2, horizon=1, validation_share=0.3)
    assert _load(episodes, other, cache).sha256 != dataset.sha256


def test_the_camera_s_own_crop_is_used(tmp_path: Path) -> None:
    crop = Crop(top_px=40, left_px=0, height_px=120, width_px=120)
    for index in range(2):
        record(tmp_path, index, robot=spec(crop=crop))
    frames = read_episode(tmp_path / "lab_franka_test_traj0.hdf5").frames
    assert np.array_equal(_load(tmp_path).train.frames[0], model_image(frames[0], crop))


def test_many_episodes_are_read_by_other_processes_with_the_same_result(
    episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _load(episodes)
    monkeypatch.setattr(module, "_FEW", 0)
    there = _load(episodes)
    assert np.array_equal(here.train.frames, there.train.frames)
    assert here.stored.names == there.stored.names
    assert here.refused == there.refused


def _die(path: Path, config: DataConfig) -> None:
    os._exit(1)


def test_a_reader_that_is_killed_is_reported(episodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_read", _die)
    with pytest.raises(DatasetError, match="was killed, probably for want of memory"):
        _load(episodes)


CALIBRATION = spec(crop=Crop(top_px=40, left_px=0, height_px=120, width_px=120)).camera.model_dump_json()
TALLER = CALIBRATION.replace('"height_px":240', '"height_px":480')


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"camera_calibration": "from the wall"}, "camera_calibration: expected a camera as run_collection writes it"),
        (
            {"camera_calibration": CALIBRATION.replace('"height_px":240', '"height_px":480')},
            "crop is of frames of 480x",
        ),
        ({"step_limit_m": "a hand"}, "step_limit_m: expected a number above 0, got 'a hand'"),
        ({"step_s": float("nan")}, "step_s: expected a number above 0, got nan"),
        ({"step_s": None}, "the file does not say step_s; give it with --set data.step_s"),
    ],
)
def test_files_of_others_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, object], reason: str
) -> None:
    for index in range(3):
        record(tmp_path, index)

    def read(path: Path, camera: int) -> Episode:
        episode = read_episode(path, camera)
        if "traj1" not in path.name:
            return episode
        return replace(episode, info={k: v for k, v in {**episode.info, **info}.items() if v is not None})  # type: ignore[misc]

    monkeypatch.setattr(robonet, "read_episode", read)
    dataset = _load(tmp_path)
    assert dataset.n_episodes == 2
    assert [reason in refused for refused in dataset.refused] == [True]


def test_robots_with_other_step_limits_are_refused(tmp_path: Path) -> None:
    record(tmp_path, 0)
    record(tmp_path, 1, robot=spec(step_limit_m=0.1))
    with pytest.raises(DatasetError, match=r"traj1.*expected a limit of 0.2 m .*got 0.1 m"):
        _load(tmp_path)


def test_folders_without_usable_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found none; record some with run_collection"):
        _load(tmp_path)
    record(tmp_path, 0)
    with pytest.raises(DatasetError, match="at least two usable episodes"):
        _load(tmp_path)
    with pytest.raises(DatasetError, match="no usable episode among 1: 1 x fewer than 52 frames"):
        _load(tmp_path, DataConfig(n_context=2, horizon=50))


def test_the_split_goes_by_name_and_keeps_its_share() -> None:
    names = [f"lab_franka_traj{i}.hdf5" for i in range(4000)]
    kept = [is_validation(name, 0.05) for name in names]
    assert 0.035 < np.mean(kept) < 0.065
    assert kept == [is_validation(f"elsewhere/{name}", 0.05) for name in names]
