"""Verification: an intact folder has no damage; a changed byte or a duplicate number is reported by file name."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.hdf5 import seal
from data_collection.storage import index
from data_collection.storage.verify import VerificationResult, verify
from tests.data_collection.folders import episode_path, make_collection

N_SEAL_BYTES = 73  # of the line at the end of a file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_collection(tmp_path_factory.mktemp("made") / "play", 3)
    index.write(folder, [index.describe(path) for path in index.episodes(folder)])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to damage, with the times of its files."""
    return Path(shutil.copytree(made, tmp_path / "play"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def verdict_of(folder: Path, reads: bool = True) -> VerificationResult:
    """Return the result for a folder, which stays unchanged."""
    verdict, before = VerificationResult(), contents(folder)
    assert list(verify(folder, reads, verdict)) == index.episodes(folder)
    assert contents(folder) == before
    return verdict


@pytest.mark.parametrize("reads", [True, False])
def test_an_intact_folder_has_no_damage(made: Path, reads: bool) -> None:
    n_bytes = sum(path.stat().st_size for path in made.glob("*.hdf5"))
    verdict = verdict_of(made, reads)
    assert verdict == VerificationResult(n_sound=3, n_bytes=n_bytes) and verdict.is_clean


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_one_changed_bit_is_reported_by_file_name(folder: Path, share: float, reads: bool) -> None:
    path = episode_path(folder, 1)
    data = bytearray(path.read_bytes())
    data[round(share * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    verdict = verdict_of(folder, reads)
    assert list(verdict.damaged) == [path.name] and path.name in verdict.damaged[path.name]
    assert verdict.n_sound == 2 and not verdict.is_clean


@pytest.mark.parametrize("corrupt", [lambda data: b"", lambda data: data[:-1], lambda data: data[:1000]])
def test_a_truncated_file_is_reported(folder: Path, corrupt: Callable[[bytes], bytes]) -> None:
    path = episode_path(folder, 0)
    path.write_bytes(corrupt(path.read_bytes()))
    assert list(verdict_of(folder, reads=False).damaged) == [path.name]


def _scratch_video(data: bytes) -> bytes:
    start = data.index(b"mdat") + 4
    return data[:start] + bytes(len(data[start : start + 2000])) + data[start + 2000 :]


def _turn_back_time(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        times_s = file["env/timestamps"]
        times_s[1] = times_s[2] = np.float64(times_s[0])
    return buffer.getvalue()


@pytest.mark.parametrize(("corrupt", "words"), [(_scratch_video, "video"), (_turn_back_time, "expected rising times")])
def test_a_file_with_a_matching_seal_but_damaged_content_is_reported(
    folder: Path, corrupt: Callable[[bytes], bytes], words: str
) -> None:
    path = episode_path(folder, 2)
    body = path.read_bytes()[:-N_SEAL_BYTES]
    assert corrupt(body) != body
    path.write_bytes(seal(corrupt(body)))
    assert verdict_of(folder, reads=False).is_clean
    verdict = verdict_of(folder, reads=True)
    assert list(verdict.damaged) == [path.name] and path.name in verdict.damaged[path.name]
    assert words in verdict.damaged[path.name]


def test_a_duplicate_number_is_reported(folder: Path) -> None:
    shutil.copy2(episode_path(folder, 1), folder / "home_franka_play_traj1.hdf5")
    verdict = verdict_of(folder, reads=False)
    assert verdict.twice == [1] and not verdict.is_clean and verdict.n_sound == 4 and not verdict.damaged


def test_files_missing_from_the_index_are_counted_without_damage(folder: Path) -> None:
    rows = index.listed(folder)
    index.write(folder, rows[:2])
    verdict = verdict_of(folder, reads=False)
    assert verdict.not_indexed == 1 and verdict.is_clean
    episode_path(folder, 0).touch()  # another time than in the index
    assert verdict_of(folder, reads=False).not_indexed == 2
    (folder / index.INDEX_NAME).unlink()
    assert verdict_of(folder, reads=False).not_indexed == 3


def test_a_file_of_another_format_is_damaged(folder: Path) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["something"] = 1
    path = folder / "penn_sawyer_traj9.hdf5"
    path.write_bytes(buffer.getvalue())
    verdict = verdict_of(folder, reads=False)
    assert list(verdict.damaged) == [path.name] and verdict.n_sound == 3


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lab_franka_play_traj0.hdf5.part").touch()
    with pytest.raises(EpisodeError, match="expected a folder of episodes, got none"):
        next(verify(tmp_path, True, VerificationResult()))
    with pytest.raises(FileNotFoundError, match="gone"):
        next(verify(tmp_path / "gone", True, VerificationResult()))
