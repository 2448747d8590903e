"""Output folders: new or empty, and locked by one process at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.loader import FOLDER
from data_collection.episode import EpisodeError
from data_collection.folder_lock import LOCK, IncompleteError, check_new, locked_folder, share_lock

HOLDER = """
import sys
from pathlib import Path
from data_collection.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Lock the folder in another process."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        command, cwd=FOLDER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process


def test_two_processes_do_not_lock_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with another_process(folder) as process:
        with (
            pytest.raises(EpisodeError, match=r"run: locked by another run; wait for its end, stop it, or choose"),
            locked_folder(folder, timeout_s=0.1),
        ):
            pass
        process.kill()
    with locked_folder(folder):  # the lock of a killed process ends with it
        (folder / "result").touch()
    assert {path.name for path in folder.iterdir()} == {"result", LOCK}


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_without_results_is_left_as_before(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), locked_folder(folder):
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == [folder] * exists


@pytest.mark.parametrize("is_used", [False, True])
def test_new_parents_are_removed_unless_another_run_uses_them(tmp_path: Path, is_used: bool) -> None:
    folder = tmp_path / "studies" / "seed_0" / "default"
    with locked_folder(folder):
        if is_used:
            (tmp_path / "studies" / "other").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == (["studies"] if is_used else [])
    assert not folder.parent.exists()


def test_an_error_of_the_system_names_the_folder_that_is_incomplete(tmp_path: Path) -> None:
    with (
        pytest.raises(IncompleteError, match=r"part\.bin: No space left on device; .*run is incomplete$") as caught,
        locked_folder(tmp_path / "run"),
    ):
        (tmp_path / "run" / "whole.bin").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run" / "part.bin"))
    assert caught.value.exit_code == 1 and (tmp_path / "run" / "whole.bin").exists()


def test_an_exclusive_lock_can_be_shared(tmp_path: Path) -> None:
    with locked_folder(tmp_path) as lock:
        share_lock(lock)
        with locked_folder(tmp_path, is_shared=True):
            pass
        with pytest.raises(EpisodeError, match="locked by another run"), locked_folder(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(EpisodeError, match="Not a directory"), locked_folder(folder):
            pass
        with pytest.raises(EpisodeError, match="Not a directory"):
            check_new(folder)


def test_only_a_new_or_empty_folder_is_accepted(tmp_path: Path) -> None:
    check_new(tmp_path / "new")
    check_new(tmp_path)
    (tmp_path / LOCK).touch()
    (tmp_path / "prepared").mkdir()
    check_new(tmp_path, {"prepared"})
    with pytest.raises(EpisodeError, match="new or empty folder, got one with prepared; choose another --out"):
        check_new(tmp_path)
