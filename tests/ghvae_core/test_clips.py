"""Which windows of which held-out episodes are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.loader import ConfigError
from data_collection.episode import Episode, EpisodeError
from ghvae_core import clips as module
from ghvae_core.checkpoint import CheckpointInfo
from ghvae_core.clips import Clips, EvaluationConfig, collect, draw, load_evaluation
from ghvae_core.dataset import is_validation
from ghvae_core.ghvae import GhvaeConfig, ModuleConfig
from ghvae_core.metrics import MetricError

MODULE = ModuleConfig(channels=4, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1)
INFO = CheckpointInfo(
    model=GhvaeConfig(modules=(MODULE,), pixel_channels=4), step_limit_m=0.05, step_s=0.5, modules_trained=1
)
LENGTHS = {"a": 51, "b": 30, "c": 11, "damaged": 51}  # frames


def config(n_windows: int = 256, validation_share: float = 1.0) -> EvaluationConfig:
    return EvaluationConfig(n_windows=n_windows, n_predicted=10, batch_windows=16, validation_share=validation_share)


def episode(name: str, n_frames: int, **info: float) -> Episode:
    """Frame t of episode `name` is grey t, and action t is t metres along x and the name's number along y."""
    t = np.arange(n_frames)
    frames = np.broadcast_to(t.astype(np.uint8)[:, None, None, None], (n_frames, 64, 64, 3)).copy()
    actions = np.zeros((n_frames - 1, 4), np.float32)
    actions[:, 0], actions[:, 1] = t[:-1], ord(name[0])
    states = np.zeros((n_frames, 5))
    return Episode(frames, states, actions, actions, t.astype(np.float64), info)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of episodes of `LENGTHS`, one of them in a subfolder, one damaged."""

    def read(path: Path, camera: int) -> Episode:
        if path.stem == "damaged":
            raise EpisodeError(f"{path}: damaged")
        return episode(path.stem, LENGTHS[path.stem])

    for name in LENGTHS:
        file = tmp_path / ("sub" if name == "b" else "") / f"{name}.hdf5"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.setattr(module, "read_episode", read)
    return tmp_path


def all_windows(folder: Path, seed: int = 0, n_windows: int = 256) -> Clips:
    rng = np.random.default_rng(seed)
    return collect(list(draw(folder, INFO, config(n_windows), rng)), rng)


def test_every_window_is_consecutive_and_lies_in_one_episode(folder: Path) -> None:
    clips = all_windows(folder)
    assert clips.frames.shape[1:] == (12, 64, 64, 3)
    assert clips.actions.shape[1:] == (11, 4)
    for frames, actions, name in zip(clips.frames, clips.actions, clips.names, strict=True):
        file, first = name.split(" ")
        expected = int(first) + np.arange(12)
        np.testing.assert_array_equal(frames[:, 0, 0, 0], expected)
        np.testing.assert_array_equal(actions[:, 0], expected[:-1], "action t leads from frame t to t + 1")
        assert (actions[:, 1] == ord(Path(file).stem)).all()


def test_all_windows_that_fit_are_used_when_they_are_few_and_none_overlap(folder: Path) -> None:
    clips = all_windows(folder)
    assert len(clips) == 51 // 12 + 30 // 12
    firsts: dict[str, list[int]] = {}
    for name in clips.names:
        firsts.setdefault(name.split(" ")[0], []).append(int(name.split(" ")[1]))
    assert set(firsts) == {"a.hdf5", "sub/b.hdf5"}, "the short and the damaged episode are passed over"
    assert all((np.diff(sorted(found)) >= 12).all() for found in firsts.values())


def test_few_windows_come_from_as_many_episodes_as_possible(folder: Path) -> None:
    (folder / "damaged.hdf5").unlink()
    (folder / "c.hdf5").unlink()
    assert {name.split(" ")[0] for name in all_windows(folder, n_windows=2).names} == {"a.hdf5", "sub/b.hdf5"}


def test_the_seed_decides(folder: Path) -> None:
    first, again, other = all_windows(folder, 1), all_windows(folder, 1), all_windows(folder, 2)
    assert first.names == again.names
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.names != other.names


def test_of_a_training_folder_only_what_training_left_out_is_drawn(folder: Path) -> None:
    shares = np.linspace(0.01, 0.99, 99).tolist()
    share = next(s for s in shares if is_validation("a.hdf5", s) != is_validation("b.hdf5", s))
    expected = "a.hdf5" if is_validation("a.hdf5", share) else "sub/b.hdf5"
    parts = draw(folder, INFO, config(validation_share=share), np.random.default_rng(0))
    assert {name.split(" ")[0] for part in parts for name in part.names} == {expected}


def test_what_is_passed_over_is_told(folder: Path) -> None:
    parts = list(draw(folder, INFO, config(), np.random.default_rng(0)))
    assert sorted(len(part) for part in parts) == [0, 0, 2, 4]


def test_the_camera_is_the_one_that_training_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras: list[int] = []

    def read(path: Path, camera: int) -> Episode:
        cameras.append(camera)
        return episode("a", 30)

    monkeypatch.setattr(module, "read_episode", read)
    for info in (INFO, INFO.model_copy(update={"provenance": {"camera": 2}})):
        next(draw(folder, info, config(), np.random.default_rng(0)))
    assert cameras == [0, 2]


def test_an_episode_of_a_camera_that_is_none_of_ours_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Episode(**{**vars(episode("a", 30)), "info": {"camera_calibration": "{}"}})
    monkeypatch.setattr(module, "read_episode", lambda path, camera: theirs)
    assert [len(part) for part in draw(folder, INFO, config(), np.random.default_rng(0))] == [0] * len(LENGTHS)


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"found none in the evaluation\.validation_share of 0\.05"):
        next(draw(tmp_path, INFO, config(validation_share=0.05), np.random.default_rng(0)))


def test_fewer_than_two_windows_are_refused(folder: Path) -> None:
    (folder / "a.hdf5").unlink()
    (folder / "sub/b.hdf5").unlink()
    with pytest.raises(
        MetricError, match="at least 2 windows of held-out episodes, found 0; 2 of 2 episodes are unreadable"
    ):
        all_windows(folder)


@pytest.mark.parametrize(("name", "value"), [("step_limit_m", 0.04), ("step_s", 0.25)])
def test_an_episode_of_another_robot_is_refused(
    name: str, value: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_episode", lambda path, camera: episode("a", 30, **{name: value}))
    with pytest.raises(MetricError, match=f"hdf5: expected {name} {getattr(INFO, name):g} as in the checkpoint"):
        all_windows(folder)


def test_an_episode_that_says_the_same_robot_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_episode", lambda path, camera: episode("a", 30, step_limit_m=0.05, step_s=0.5))
    assert len(all_windows(folder)) == 2 * len(LENGTHS)


def test_a_model_of_other_actions_is_refused(folder: Path) -> None:
    model = GhvaeConfig(modules=(MODULE,), pixel_channels=4, action_dim=2, action_scale=(1.0, 1.0))
    info = INFO.model_copy(update={"model": model})
    with pytest.raises(MetricError, match="2-D actions as in the checkpoint, got 64 px and 4-D"):
        list(draw(folder, info, config(), np.random.default_rng(0)))


def test_shuffling_changes_every_windows_future_actions_and_nothing_else(folder: Path) -> None:
    clips = all_windows(folder)
    wrong = clips.shuffled()
    np.testing.assert_array_equal(wrong.frames, clips.frames)
    np.testing.assert_array_equal(wrong.actions[:, :1], clips.actions[:, :1], "between the context frames")
    for own, given in zip(clips.actions[:, 1:], wrong.actions[:, 1:], strict=True):
        assert not np.array_equal(own, given)
        assert any(np.array_equal(given, other) for other in clips.actions[:, 1:])


def test_context_and_future_are_scaled_and_split(folder: Path) -> None:
    clips = all_windows(folder)
    assert clips.context().shape == (len(clips), 2, 3, 64, 64)
    assert clips.real().shape == (len(clips), 10, 3, 64, 64)
    np.testing.assert_allclose(clips.real()[:, 0, 0, 0, 0] * 255, clips.frames[:, 2, 0, 0, 0], rtol=1e-6)


def test_the_shipped_protocol_and_its_overrides() -> None:
    assert load_evaluation([]) == config()
    assert load_evaluation(["evaluation.n_windows=8"]).n_windows == 8
    with pytest.raises(ConfigError, match="n_windows"):
        load_evaluation(["evaluation.n_windows=1"])
