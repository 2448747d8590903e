from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_collection.episode import Episode
from data_collection.formats import reader
from data_collection.formats.robonet import read_episode
from ghvae_core.data.dataset import DataConfig, Dataset, DatasetError, digest_files, held_out_mask, load_dataset
from robot_bridge.camera import Crop, model_image
from tests.data_collection.formats.test_npz import METAWORLD, write_bair
from tests.data_collection.formats.test_robonet_file import write_foreign
from tests.data_collection.formats.test_video import video_frames, write_video
from tests.ghvae_core.episodes import STEP_LIMIT_M, STEP_S, record, spec

CONFIG = DataConfig(n_context=2, horizon=2, validation_fraction=0.3)
SHORT = DataConfig(n_context=1, horizon=2)


def _load(folders: Path | list[Path], cache: Path, config: DataConfig = CONFIG, image_px: int = 64) -> Dataset:
    several = folders if isinstance(folders, list) else [folders]
    return load_dataset(several, config, image_px, cache, lambda done, total: None)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for index in range(5):
        record(folder / "deeper" if index == 4 else folder, index, n_frames=3 if index == 3 else 6)
    whole = (folder / "lab_franka_test_traj0.hdf5").read_bytes()
    (folder / "cut.hdf5").write_bytes(whole[:1000])
    return folder


def test_episodes_are_read_split_and_counted(episodes: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    dataset = load_dataset([episodes], CONFIG, 64, tmp_path, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (6, 6)
    assert dataset.n_episodes == 4
    assert (dataset.step_limit_m, dataset.step_s) == (STEP_LIMIT_M, STEP_S)
    assert dataset.action_scale == (STEP_LIMIT_M, STEP_LIMIT_M, STEP_LIMIT_M, 1.0)
    assert dataset.camera == spec().camera and dataset.workspace_m == ((0.3, -0.2, 0.0), (0.7, 0.2, 0.3))
    assert len(dataset.refused) == 2 and [*map(len, dataset.refused.values())] == [1, 1] and not dataset.warnings
    assert dataset.folder_sha256 == (dataset.sha256,)
    first = read_episode(episodes / "deeper" / "lab_franka_test_traj4.hdf5")  # sorted before its siblings
    assert np.array_equal(dataset.train.frames[5:6][0], model_image(first.frames[5]))
    assert np.array_equal(dataset.train.actions[:5], first.actions)
    assert not dataset.train.actions[5].any()
    of_train, of_validation = ({*part.starts.tolist()} for part in (dataset.train, dataset.validation))
    assert of_train | of_validation == {6 * episode + start for episode in range(4) for start in range(3)}
    assert not {start // 6 for start in of_train} & {start // 6 for start in of_validation}


def test_other_windows_use_the_same_prepared_frames(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _load(episodes, tmp_path)
    monkeypatch.setattr("ghvae_core.data.cache._make", None)
    other = _load(episodes, tmp_path, DataConfig(n_context=2, horizon=1, validation_fraction=0.3))
    assert other.n_episodes == 5 and other.sha256 != whole.sha256
    assert np.array_equal(other.train.frames[:], whole.train.frames[:])


def test_runs_share_a_prepared_folder(episodes: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"prepared": str(tmp_path / "shared")})
    dataset = _load(episodes, tmp_path / "run", config)
    assert (tmp_path / "shared").is_dir() and not (tmp_path / "run").exists()
    assert dataset.sha256 == _load(episodes, tmp_path / "run").sha256


def test_other_sides_are_prepared(episodes: Path, tmp_path: Path) -> None:
    assert _load(episodes, tmp_path, image_px=32).train.frames.shape[1:] == (32, 32, 3)


CALIBRATION = spec(crop=Crop(top_px=40, left_px=0, height_px=120, width_px=120)).camera.model_dump_json()


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"camera_calibration": "from the wall"}, "camera_calibration: expected a camera as run_collection writes it"),
        (
            {"camera_calibration": CALIBRATION.replace('"height_px":240', '"height_px":480')},
            "crop is for frames of 480x",
        ),
        ({"step_limit_m": "a hand"}, "step_limit_m: expected a number above 0, got 'a hand'"),
        ({"step_s": float("nan")}, "step_s: expected a number above 0, got nan"),
    ],
)
def test_files_with_invalid_attributes_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, object], reason: str
) -> None:
    for index in range(3):
        record(tmp_path / "data", index)

    def read(path: Path, camera: int, action_free: bool) -> Episode:
        episode = read_episode(path, camera, action_free)
        return replace(episode, info={**episode.info, **info}) if "traj1" in path.name else episode  # type: ignore[dict-item]

    monkeypatch.setattr(reader, "read_episode", read)
    dataset = _load(tmp_path / "data", tmp_path / "cache")
    assert dataset.n_episodes == 2
    assert [reason in refused for refused in dataset.refused] == [True]


def test_missing_attributes_are_unknown_unless_configured(tmp_path: Path) -> None:
    for index in range(3):
        write_foreign(tmp_path / f"data/lab_sawyer_traj{index}.hdf5") if index else (tmp_path / "data").mkdir()
    unknown = _load(tmp_path / "data", tmp_path / "cache")
    assert (unknown.step_limit_m, unknown.step_s, unknown.camera, unknown.workspace_m) == (None,) * 4
    assert unknown.action_scale == pytest.approx((0.01, 0.01, 0.01, 1))  # measured from the data
    given = _load(tmp_path / "data", tmp_path / "cache", CONFIG.model_copy(update={"step_limit_m": 0.2, "step_s": 0.6}))
    assert (given.step_limit_m, given.step_s, given.action_scale) == (0.2, 0.6, (0.2, 0.2, 0.2, 1.0))


def test_robots_with_other_step_limits_are_refused_by_name_and_new_files_removed(tmp_path: Path) -> None:
    record(tmp_path / "data", 0)
    record(tmp_path / "data", 1, robot=spec(step_limit_m=0.1))
    with pytest.raises(DatasetError, match=r"traj1.*expected step_limit_m 0.2 as in .*traj0.*got 0.1; train on one"):
        _load(tmp_path / "data", tmp_path / "run/prepared")
    assert not (tmp_path / "run").exists()


def test_existing_files_are_kept_after_a_refusal(tmp_path: Path) -> None:
    record(tmp_path / "data", 0)
    (tmp_path / "run/prepared").mkdir(parents=True)
    (tmp_path / "run/prepared/other").touch()
    with pytest.raises(DatasetError):
        _load(tmp_path / "data", tmp_path / "run/prepared")
    assert (tmp_path / "run/prepared/other").exists()


def test_folders_without_usable_episodes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError, match="found none; record some with run_collection"):
        _load(tmp_path / "data", tmp_path / "cache")
    record(tmp_path / "data", 0)
    with pytest.raises(DatasetError, match="at least two usable episodes"):
        _load(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(DatasetError, match="no usable episode among 1: 1 x fewer than 52 frames"):
        _load(tmp_path / "data", tmp_path / "cache", DataConfig(n_context=2, horizon=50))
    assert not (tmp_path / "cache").exists()


def _robot_and_others(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "robot", tmp_path / "others"]
    for index in range(3):
        record(folders[0], index, n_frames=5)
        if not index:
            folders[1].mkdir()
        write_foreign(folders[1] / f"lab_sawyer_traj{index}.hdf5")
    return folders


def test_folders_are_mixed_half_and_half_and_each_validates(tmp_path: Path) -> None:
    folders = _robot_and_others(tmp_path)
    record(folders[0], 4, n_frames=40)
    dataset = _load(folders, tmp_path / "cache", SHORT)
    assert dataset.n_episodes == 7 and len(dataset.folder_sha256) == 2
    assert dataset.step_limit_m == STEP_LIMIT_M  # of the files that have it; all are in metres
    assert dataset.action_scale == (STEP_LIMIT_M, STEP_LIMIT_M, STEP_LIMIT_M, 1.0)
    assert dataset.camera == spec().camera and not dataset.warnings
    for part in (dataset.train, dataset.validation):
        n_first = part.folder_sizes[0]
        assert 0 < n_first < sum(part.folder_sizes) == len(part.starts)
        share = np.mean(part.draw(np.random.default_rng(0), 2000) < n_first)
        assert share == pytest.approx(0.5, abs=0.05)
    drawn = _load(folders, tmp_path / "cache", SHORT.model_copy(update={"folder_fractions": (0.0, 2.0)})).train
    assert (drawn.draw(np.random.default_rng(0), 100) >= drawn.folder_sizes[0]).all()
    frames, _, rows = drawn.batch(drawn.draw(np.random.default_rng(0), 3))
    for i in range(3):
        np.testing.assert_array_equal(frames[:, i], drawn.frames[rows[0, i] : rows[-1, i] + 1])


@pytest.mark.parametrize("fractions", [(1.0,), (-1.0, 1.0), (0.0, 0.0)])
def test_invalid_fractions_are_refused(tmp_path: Path, fractions: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match=r"data\.folder_fractions: expected"):
        _load([tmp_path, tmp_path], tmp_path / "cache", CONFIG.model_copy(update={"folder_fractions": fractions}))


def test_videos_and_robots_are_mixed_without_actions_only(tmp_path: Path) -> None:
    robot, videos = tmp_path / "robot", tmp_path / "videos"
    record(robot, 0, n_frames=5)
    record(robot, 1, n_frames=5)
    videos.mkdir()
    write_video(videos / "a.mp4", video_frames(6))
    with pytest.raises(DatasetError, match=r"a\.mp4: expected action dimensions 4 as in .*data\.action_free=true"):
        _load([robot, videos], tmp_path / "cache", SHORT)
    dataset = _load([robot, videos], tmp_path / "cache", SHORT.model_copy(update={"action_free": True}))
    assert dataset.train.actions.shape == (16, 0) and dataset.action_scale == ()
    assert dataset.step_limit_m is dataset.step_s is None
    _, actions, _ = dataset.train.batch(np.arange(2))
    assert actions.shape == (2, 2, 0)


def test_actions_of_several_kinds_are_warned_of(tmp_path: Path) -> None:
    folders = _robot_and_others(tmp_path)[:1]
    folders.append(tmp_path / "bair")
    folders[1].mkdir()
    write_bair(folders[1] / "a.npz")
    dataset = _load(folders, tmp_path / "cache", SHORT)
    assert dataset.train.folder_sizes[1] == 3 and dataset.validation.folder_sizes[1] == 0
    (warning,) = dataset.warnings
    assert "BAIR" in warning and "metres" in warning
    assert dataset.action_scale != (STEP_LIMIT_M, STEP_LIMIT_M, STEP_LIMIT_M, 1.0)


@pytest.mark.skipif(not METAWORLD, reason="no MetaWorld episodes next to the project")
def test_real_metaworld_episodes_are_scaled_by_their_actions(tmp_path: Path) -> None:
    dataset = _load(METAWORLD[0].parents[1], tmp_path, DataConfig())
    assert dataset.n_episodes == len(METAWORLD) and dataset.step_limit_m is None
    assert dataset.action_scale == pytest.approx((1, 1, 1, 1), abs=1e-5)
    assert dataset.train.frames.shape == (101 * len(METAWORLD), 64, 64, 3)


def test_the_scale_ignores_outliers_but_not_rare_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(2):
        actions = rng.uniform(-1, 1, (500, 4))
        actions[7, 0], actions[:, 1] = 100, 0
        actions[:, 2] = 0
        actions[3, 2] = 3
        images = np.zeros((500, 4, 4, 3), np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        write_bair(tmp_path / f"data/{index}.npz", image=images, aux1_image=None, action=actions)
    scale = _load(tmp_path / "data", tmp_path / "cache").action_scale
    assert 0.9 < scale[0] <= 1 and scale[1:3] == (1.0, 3.0)


def test_the_split_depends_on_names_and_has_its_fraction() -> None:
    names = [f"lab_franka_traj{i}.hdf5" for i in range(4000)]
    kept = held_out_mask(names, 0.05)
    assert 0.035 < np.mean(kept) < 0.065
    np.testing.assert_array_equal(kept, held_out_mask([f"elsewhere/{name}" for name in names], 0.05))
    np.testing.assert_array_equal(kept[:99], held_out_mask(names[:99], 0.05))  # new episodes keep the earlier split
    videos = held_out_mask([f"{i}/left.mp4" for i in range(4000)], 0.05)  # names that differ only in the folder
    assert 0.035 < np.mean(videos) < 0.065


def test_the_last_episode_is_held_out_if_none_or_all_would_be() -> None:
    assert (
        held_out_mask(["a", "b", "c"], 1e-9).tolist()
        == held_out_mask(["a", "b", "c"], 0.999).tolist()
        == [False, False, True]
    )
    assert held_out_mask(["a"], 0.999).tolist() == [False]
    assert held_out_mask(["a", "b"], 1.0).tolist() == [True, True]


def test_data_of_earlier_checkpoints_keep_their_name(tmp_path: Path) -> None:
    """Newer options change the name only if they differ from their defaults."""
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"123")
    named = {
        "n_context": 2,
        "horizon": 10,
        "camera": 0,
        "validation_share": 0.05,
        "step_limit_m": None,
        "step_s": None,
    }
    expected = hashlib.sha256(json.dumps([[("a.hdf5", 3)], named]).encode()).hexdigest()
    assert digest_files([path], tmp_path, DataConfig()) == expected
    assert digest_files([path], tmp_path, DataConfig(folder_fractions=(1.0,), augment=True, prepared="x")) == expected
    assert digest_files([path], tmp_path, DataConfig(action_free=True)) != expected
