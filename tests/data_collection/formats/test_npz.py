"""Archives of BAIR and MetaWorld: real ones become episodes, invalid ones are one line of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.npz import read_archive
from tests.reference_data import DATA

BAIR = DATA / "bair/bair_sample.npz"
METAWORLD = sorted(DATA.glob("metaworld/*/*.npz"))


def write_bair(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (5, 16, 16, 3)),
        "aux1_image": rng.integers(0, 256, (5, 16, 16, 3)),
        "action": rng.normal(size=(5, 4)),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


@pytest.mark.skipif(not BAIR.exists(), reason=f"no BAIR episode in {BAIR.parent}")
def test_the_real_bair_episode_has_two_views_and_consistent_actions() -> None:
    with np.load(BAIR) as archive:
        for camera, name in enumerate(("image", "aux1_image")):
            episode = read_archive(BAIR, camera)
            np.testing.assert_array_equal(episode.frames, archive[name])
            np.testing.assert_array_equal(episode.actions, archive["action"][:-1].astype(np.float32))
    assert episode.states.shape == (30, 0)
    with pytest.raises(EpisodeError, match="camera from 0 to 1, got 2"):
        read_archive(BAIR, 2)


@pytest.mark.skipif(not METAWORLD, reason="no MetaWorld episodes next to the project")
def test_real_metaworld_episodes_have_the_newest_frame_and_the_action_after_it() -> None:
    for path in METAWORLD:
        episode = read_archive(path)
        with np.load(path) as archive:
            stacks, actions = archive["observation"], archive["action"]
        np.testing.assert_array_equal(episode.frames[7], stacks[7, 6:].transpose(1, 2, 0))
        np.testing.assert_array_equal(stacks[7, 6:], stacks[8, 3:6])  # the newest of one is the second of the next
        np.testing.assert_array_equal(episode.commanded, actions[1:])
        assert not actions[0].any()
        np.testing.assert_array_equal(episode.actions, np.clip(actions[1:], -1, 1))


def test_states_are_read_if_present(tmp_path: Path) -> None:
    states = np.arange(15.0).reshape(5, 3)
    np.testing.assert_array_equal(read_archive(write_bair(tmp_path / "a.npz", state=states)).states, states)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "expected arrays 'image' and 'action'.*got action, aux1_image"),
        ({"action": np.full((5, 4), np.nan)}, "actions: expected finite numbers"),
        ({"action": np.zeros((4, 4))}, "'action': expected 5 rows, one a frame, got 4"),
        ({"action": np.zeros(5)}, r"'action': expected numbers \(T, N\)"),
        ({"action": np.array([["x"] * 4] * 5)}, "'action': expected numbers"),
        ({"action": np.array([[None] * 4] * 5, dtype=object)}, "intact NumPy archive"),
        ({"image": np.full((5, 16, 16, 3), 300)}, "colours from 0 to 255, got 300"),
        ({"image": np.zeros((5, 16, 16, 3))}, "whole numbers"),
        ({"image": np.zeros((5, 16, 16, 4), int)}, "whole numbers"),
        ({"image": np.zeros((1, 16, 16, 3), int), "action": np.zeros((1, 4))}, "at least one action"),
        ({"image": None, "observation": np.zeros((5, 8, 16, 16), np.uint8)}, "3 x stacked"),
        ({"image": None, "observation": np.zeros((5, 9, 16, 16))}, "uint8"),
        ({"image": None, "observation": np.zeros((5, 9, 0, 16), np.uint8)}, r"frames .*, got uint8 \(5, 0, 16, 3\)"),
        ({"action": np.zeros((5, 257), np.uint8)}, r"'action': expected numbers \(T, N\), got uint8 \(5, 257\)"),
    ],
)
def test_an_invalid_archive_is_one_line_of_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_bair(tmp_path / "a.npz", **changes)
    with pytest.raises(EpisodeError, match=message) as caught:
        read_archive(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_damage_raises_no_other_error(tmp_path: Path) -> None:
    data = write_bair(tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken.npz"
    for n_bytes in np.linspace(0, len(data) - 1, 40).astype(int):
        broken.write_bytes(data[:n_bytes])
        with pytest.raises(EpisodeError):
            read_archive(broken)
    for place in rng.integers(0, len(data), 200):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        broken.write_bytes(flipped)
        try:
            read_archive(broken)  # an unused bit, such as of a date
        except EpisodeError as error:
            assert "\n" not in str(error)


def test_an_archive_with_too_large_a_header_is_refused_before_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_collection.formats.npz.MAX_BYTES", 1000)
    with pytest.raises(EpisodeError, match="at most 1000 bytes"):
        read_archive(write_bair(tmp_path / "a.npz"))
