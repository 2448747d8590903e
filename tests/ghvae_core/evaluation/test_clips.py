"""Choice of the evaluated windows and episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.loader import ConfigError
from data_collection.episode import Episode, EpisodeError
from data_collection.formats.reader import Recording
from data_collection.formats.video import VideoReading
from ghvae_core.evaluation import clips as module
from ghvae_core.evaluation.clips import Clips, EvaluationConfig, collect, draw, find_episodes, load_evaluation
from ghvae_core.evaluation.metrics import MetricError
from tests.ghvae_core.evaluated import info, model, protocol

INFO = info(model(), horizon=10)
LENGTHS = {"a": 51, "b": 30, "c": 11, "damaged": 51}  # frames


def episode(name: str, n_frames: int, **info: float) -> Episode:
    """Return an episode whose frame t has grey value t and whose action t is (t, code of the name) in metres."""
    t = np.arange(n_frames)
    frames = np.broadcast_to(t.astype(np.uint8)[:, None, None, None], (n_frames, 64, 64, 3)).copy()
    actions = np.zeros((n_frames - 1, 4), np.float32)
    actions[:, 0], actions[:, 1] = t[:-1], ord(name[0])
    states = np.zeros((n_frames, 5))
    return Episode(frames, states, actions, actions, t.astype(np.float64), info)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the episodes of `LENGTHS`, one in a subfolder and one damaged."""

    def read(recording: Recording, camera: int, action_free: bool, video: VideoReading) -> Episode:
        name = recording.path.stem
        if name == "damaged":
            raise EpisodeError(f"{recording.path}: damaged")
        return episode(name, LENGTHS[name])

    for name in LENGTHS:
        file = tmp_path / ("sub" if name == "b" else "") / f"{name}.hdf5"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.setattr(module, "read", read)
    return tmp_path


def all_windows(folder: Path, seed: int = 0, n_windows: int = 256) -> Clips:
    rng = np.random.default_rng(seed)
    return collect(parts(folder, protocol(n_windows=n_windows), seed), rng)


def parts(folder: Path, config: EvaluationConfig, seed: int = 0) -> list[Clips]:
    return list(draw(find_episodes(folder, config.only_names), [INFO], config, np.random.default_rng(seed)))


def test_every_window_has_consecutive_frames_of_one_episode(folder: Path) -> None:
    clips = all_windows(folder)
    assert clips.frames.shape[1:] == (12, 64, 64, 3)
    assert clips.actions.shape[1:] == (11, 4)
    for frames, actions, name in zip(clips.frames, clips.actions, clips.names, strict=True):
        file, first = name.split(" ")
        expected = int(first) + np.arange(12)
        np.testing.assert_array_equal(frames[:, 0, 0, 0], expected)
        np.testing.assert_array_equal(actions[:, 0], expected[:-1], "action t leads from frame t to t + 1")
        assert (actions[:, 1] == ord(Path(file).stem)).all()


@pytest.mark.parametrize(("trained", "requested", "expected"), [(None, None, 1), (3, None, 3), (3, 2, 2)])
def test_videos_are_read_with_the_stride_of_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trained: int | None, requested: int | None, expected: int
) -> None:
    """With another stride, the motions would differ in speed from those of the training."""
    read: list[VideoReading] = []

    def recording_read(recording: Recording, camera: int, action_free: bool, video: VideoReading) -> Episode:
        read.append(video)
        return episode("a", 51)

    monkeypatch.setattr(module, "read", recording_read)
    trained_info = INFO.model_copy(update={"provenance": {} if trained is None else {"video_stride": trained}})
    recordings = find_episodes(folder, None)
    assert list(draw(recordings, [trained_info], protocol(video_stride=requested), np.random.default_rng(0)))
    assert {video.stride for video in read} == {expected}


def test_all_windows_without_overlap_are_used_if_there_are_few(folder: Path) -> None:
    clips = all_windows(folder)
    assert len(clips) == 51 // 12 + 30 // 12
    firsts: dict[str, list[int]] = {}
    for name in clips.names:
        firsts.setdefault(name.split(" ")[0], []).append(int(name.split(" ")[1]))
    assert set(firsts) == {"a.hdf5", "sub/b.hdf5"}, "the short and the damaged episode are skipped"
    assert all((np.diff(sorted(found)) >= 12).all() for found in firsts.values())


def test_few_windows_are_spread_over_episodes(folder: Path) -> None:
    (folder / "damaged.hdf5").unlink()
    (folder / "c.hdf5").unlink()
    assert {name.split(" ")[0] for name in all_windows(folder, n_windows=2).names} == {"a.hdf5", "sub/b.hdf5"}


def test_the_seed_determines_the_windows(folder: Path) -> None:
    first, again, other = all_windows(folder, 1), all_windows(folder, 1), all_windows(folder, 2)
    assert first.names == again.names
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.names != other.names


def test_first_frame_zero_gives_one_window_per_episode(folder: Path) -> None:
    found = parts(folder, protocol(first_frame="zero"))
    assert sorted(name for part in found for name in part.names) == ["a.hdf5 0", "sub/b.hdf5 0"]


def test_lengths_are_those_of_the_checkpoint_unless_configured(folder: Path) -> None:
    assert {part.frames.shape[1] for part in parts(folder, protocol()) if len(part)} == {12}
    configured = [part for part in parts(folder, protocol(n_context=3, n_predicted=4)) if len(part)]
    assert {(part.frames.shape[1], part.n_context) for part in configured} == {(7, 3)}


def test_only_named_files_are_evaluated(folder: Path) -> None:
    names = folder / "names.txt"
    names.write_bytes(b"b.hdf5\r\nelsewhere.hdf5\r\n")
    assert [recording.name for recording in find_episodes(folder, str(names))] == ["sub/b.hdf5"]
    names.write_text("elsewhere.hdf5")
    with pytest.raises(MetricError, match=r"expected some of the 1 files named in .*names\.txt, found none"):
        find_episodes(folder, str(names))
    with pytest.raises(EpisodeError, match=r"nowhere\.txt"):
        find_episodes(folder, "nowhere.txt")


def test_skipped_episodes_are_reported(folder: Path) -> None:
    found = parts(folder, protocol())
    assert sorted(len(part) for part in found) == [0, 0, 2, 4]
    reasons = sorted(reason for part in found for reason in part.refused)
    assert reasons[0].endswith("damaged.hdf5: damaged")
    assert reasons[1] == "c.hdf5: expected at least 12 frames, got 11"
    assert len(all_windows(folder).refused) == 2


def test_camera_and_actions_are_those_of_the_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[tuple[int, bool]] = []

    def read(recording: Recording, camera: int, action_free: bool, video: VideoReading) -> Episode:
        arguments.append((camera, action_free))
        return episode("a", 30)

    monkeypatch.setattr(module, "read", read)
    free = info(model(action_dim=0), provenance={"camera": 2})
    for infos in ([INFO], [INFO, free], [free]):
        next(draw(find_episodes(folder, None), infos, protocol(), np.random.default_rng(0)))
    assert arguments == [(0, False), (0, False), (2, True)]


def test_frames_have_the_size_of_the_model(folder: Path) -> None:
    infos = [info(model(image_px=32))]
    clips = next(draw(find_episodes(folder, None)[:1], infos, protocol(), np.random.default_rng(0)))
    assert clips.frames.shape[2:] == (32, 32, 3)


def test_an_episode_with_an_invalid_camera_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = Episode(**{**vars(episode("a", 30)), "info": {"camera_calibration": "{}"}})
    monkeypatch.setattr(module, "read", lambda *_: foreign)
    assert [len(part) for part in parts(folder, protocol())] == [0] * len(LENGTHS)


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"expected a folder of episodes \(.*RoboNet.*\), found none"):
        find_episodes(tmp_path, None)


def test_fewer_than_two_windows_are_refused_with_the_reason(folder: Path) -> None:
    (folder / "a.hdf5").unlink()
    (folder / "sub/b.hdf5").unlink()
    with pytest.raises(MetricError, match=r"found 0; 2 of 2 episodes are unreadable or too short, the first: .*hdf5: "):
        all_windows(folder)


@pytest.mark.parametrize(("name", "value"), [("step_limit_m", 0.04), ("step_s", 0.25)])
def test_an_episode_of_another_robot_is_refused(
    name: str, value: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read", lambda *_: episode("a", 30, **{name: value}))
    with pytest.raises(MetricError, match=f"hdf5: expected {name} {getattr(INFO, name):g} as in the checkpoint"):
        all_windows(folder)


def test_an_episode_of_the_same_robot_or_a_model_without_robot_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read", lambda *_: episode("a", 30, step_limit_m=0.05, step_s=0.5))
    assert len(all_windows(folder)) == 2 * len(LENGTHS)
    without_robot = info(model(), step_limit_m=None, step_s=None)
    assert len(next(draw(find_episodes(folder, None), [without_robot], protocol(), np.random.default_rng(0))))


def test_a_model_with_other_actions_is_refused_and_one_without_actions_is_not(folder: Path) -> None:
    def found(action_dim: int) -> list[Clips]:
        infos = [info(model(action_dim=action_dim))]
        return list(draw(find_episodes(folder, None), infos, protocol(), np.random.default_rng(0)))

    with pytest.raises(MetricError, match="expected 2-D actions as in the checkpoint, got 4-D"):
        found(2)
    assert sum(map(len, found(0))) > 2


def test_shuffling_changes_only_the_future_actions_of_every_window(folder: Path) -> None:
    clips = all_windows(folder)
    shuffled = clips.shuffled()
    np.testing.assert_array_equal(shuffled.frames, clips.frames)
    np.testing.assert_array_equal(shuffled.actions[:, :1], clips.actions[:, :1], "actions between the context frames")
    for original, replaced in zip(clips.actions[:, 1:], shuffled.actions[:, 1:], strict=True):
        assert not np.array_equal(original, replaced)
        assert any(np.array_equal(replaced, other) for other in clips.actions[:, 1:])


def test_context_and_future_are_scaled_and_split(folder: Path) -> None:
    clips = all_windows(folder)
    assert clips.context().shape == (len(clips), 2, 3, 64, 64)
    assert clips.real().shape == (len(clips), 10, 3, 64, 64)
    np.testing.assert_allclose(clips.real()[:, 0, 0, 0, 0] * 255, clips.frames[:, 2, 0, 0, 0], rtol=1e-6)


def test_the_shipped_protocol_and_its_overrides() -> None:
    assert load_evaluation([]) == protocol()
    assert load_evaluation(["evaluation.n_windows=8"]).n_windows == 8
    for invalid in ("n_windows=1", "n_samples=-1", "first_frame=last", "n_context=0"):
        with pytest.raises(ConfigError, match=invalid.partition("=")[0]):
            load_evaluation([f"evaluation.{invalid}"])
