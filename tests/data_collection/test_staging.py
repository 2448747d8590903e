"""A folder that appears whole, or not at all."""

import errno
import os
from pathlib import Path

import pytest

from data_collection.episode import EpisodeError
from data_collection.staging import ExportError, beside
from tests.data_collection.export.conftest import names


def test_a_folder_appears_when_its_block_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with beside(out) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        assert not out.exists() and folder.name == "out.part"
    assert (out / "a" / "b").read_text() == "x" and names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [EpisodeError("damaged"), KeyboardInterrupt(), ValueError("a bug")])
def test_whatever_ends_the_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), beside(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    message = r"out: could not be written: No space left on device$"
    with pytest.raises(ExportError, match=message) as caught, beside(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        assert (tmp_path / "out").exists() == (synced[-1] == tmp_path.name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with beside(tmp_path / "out") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
    assert sorted(synced[:-1]) == ["a", "b", "out.part"] and synced[-1] == tmp_path.name


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("x")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(EpisodeError, match="out: exists already") as caught, beside(out):
        raise AssertionError("the block must not begin")
    assert caught.value.exit_code == 2 and names(tmp_path) == ["out"]


def test_what_a_killed_export_left_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "a").write_text("x")
    with pytest.raises(EpisodeError, match=r"out\.part: expected none, .*; remove it"), beside(tmp_path / "out"):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "out.part" / "a").read_text() == "x"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(EpisodeError, match=r"out\.part: could not be made: Not a directory"),
        beside(tmp_path / "file" / "out"),
    ):
        raise AssertionError("the block must not begin")
