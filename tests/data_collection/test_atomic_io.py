"""Atomic writes: after a crash at any moment, on disks that keep only flushed data, committed files are complete."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from data_collection import atomic_io
from data_collection.atomic_io import (
    ExportError,
    make_folder,
    move,
    new_folder,
    replacing_file,
    write_file,
    write_folder,
)
from data_collection.episode import EpisodeError
from tests.data_collection.export.conftest import names

WHOLE = b"a whole episode"


@dataclass
class Recorder:
    """Replaces `os` within `write_new`: executes the calls and records them."""

    skipped: str = ""  # which kind of flush is left out
    calls: list[tuple[str, ...]] = field(default_factory=list)
    paths: dict[int, Path] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self.calls.append(("create", str(path)))
        descriptor = os.open(path, flags, mode)
        self.paths[descriptor] = Path(path)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        n = os.write(descriptor, data[:7])  # in pieces, as a disk may
        self.calls.append(("write", str(self.paths[descriptor]), bytes(data[:n]).decode()))
        return n

    def fsync(self, descriptor: int) -> None:
        path = self.paths[descriptor]
        kind = "folder" if path.is_dir() else "file"
        if kind != self.skipped:
            self.calls.append((f"flush {kind}", str(path)))

    def rename(self, path: Path, to: Path) -> None:
        self.calls.append(("rename", str(path), str(to)))
        Path(path).rename(to)


def crashes(calls: list[tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Yield the possible contents of a disk, by file name, after a power failure right after these calls.

    Bytes of a file that were not flushed may be missing; each change of a name that was not flushed may be missing,
    independently of the others.
    """
    files: list[list[str]] = []  # the parts written to each file; `flushed` counts those on disk
    flushed: list[int] = []
    names: dict[str, int] = {}  # in the running system
    durable: dict[str, int] = {}
    pending: list[tuple[str, int | None]] = []  # changes of names that were not flushed
    for call, *arguments in calls:
        if call == "create":
            files.append([])
            flushed.append(0)
            names[arguments[0]] = len(files) - 1
            pending.append((arguments[0], len(files) - 1))
        elif call == "write":
            files[names[arguments[0]]].append(arguments[1])
        elif call == "flush file":
            flushed[names[arguments[0]]] = len(files[names[arguments[0]]])
        elif call == "rename":
            names[arguments[1]] = names.pop(arguments[0])
            pending += [(arguments[0], None), (arguments[1], names[arguments[1]])]
        elif call == "flush folder":
            for name, file in pending:
                durable.pop(name, None) if file is None else durable.update({name: file})
            pending.clear()
    for chosen in itertools.product([False, True], repeat=len(pending)):
        kept = dict(durable)
        for (name, file), is_there in zip(pending, chosen, strict=True):
            if is_there:
                kept.pop(name, None) if file is None else kept.update({name: file})
        for whole in (False, True):
            yield {name: "".join(files[file] if whole else files[file][: flushed[file]]) for name, file in kept.items()}


def commit_with(skipped: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, ...]], int]:
    """Commit two files in turn; return all calls, and the number of calls before the first commit returned."""
    recorder = Recorder(skipped)
    monkeypatch.setattr(atomic_io, "os", recorder)
    atomic_io.write_new(folder / "one.hdf5", WHOLE, lambda part: None)
    n_before = len(recorder.calls)
    atomic_io.write_new(folder / "two.hdf5", WHOLE, lambda part: None)
    return recorder.calls, n_before


def violations(calls: list[tuple[str, ...]], n_before: int, folder: Path) -> int:
    """Count the crashes that leave an incomplete file, or none of the first although its commit returned."""
    count = 0
    for n in range(len(calls) + 1):
        for held in crashes(calls[:n]):
            torn = any(not name.endswith(".part") and text != WHOLE.decode() for name, text in held.items())
            lost = n >= n_before and str(folder / "one.hdf5") not in held
            count += torn or lost
    return count


def test_no_crash_loses_or_truncates_committed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, n_before = commit_with("", tmp_path, monkeypatch)
    assert [call for call, *_ in calls].count("write") >= 4 and 0 < n_before < len(calls)
    assert violations(calls, n_before, tmp_path) == 0


@pytest.mark.parametrize("skipped", ["file", "folder"])
def test_a_missing_flush_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str) -> None:
    calls, n_before = commit_with(skipped, tmp_path, monkeypatch)
    assert violations(calls, n_before, tmp_path) > 0


@pytest.mark.parametrize("skipped", ["", "file", "folder"])
def test_a_replaced_file_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str
) -> None:
    recorder = Recorder(skipped)
    monkeypatch.setattr(atomic_io, "os", recorder)
    write_file(tmp_path / "index", b"the old one")
    n_before = len(recorder.calls)
    write_file(tmp_path / "index", b"the new one")
    found = [
        held.get(str(tmp_path / "index"))
        for n in range(n_before, len(recorder.calls) + 1)
        for held in crashes(recorder.calls[:n])
    ]
    is_right = set(found) <= {"the old one", "the new one"} and "the old one" not in found[-1:]
    assert is_right == (skipped == "")


def test_both_folders_of_a_move_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    (tmp_path / "a").write_bytes(WHOLE)
    monkeypatch.setattr(atomic_io, "os", recorder)
    move(tmp_path / "a", tmp_path / "deep/er/b")
    assert (tmp_path / "deep/er/b").read_bytes() == WHOLE
    flushed = [arguments[0] for call, *arguments in recorder.calls if call == "flush folder"]
    assert flushed == [str(tmp_path), str(tmp_path / "deep"), str(tmp_path / "deep/er"), str(tmp_path)]


def test_parents_of_a_new_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(atomic_io, "os", recorder)
    make_folder(tmp_path / "a/b")
    assert [arguments[0] for _, *arguments in recorder.calls] == [str(tmp_path), str(tmp_path / "a")]
    make_folder(tmp_path / "a/b")
    assert len(recorder.calls) == 2
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file/c")


def refuse(_: Path) -> None:
    raise EpisodeError("read back something else")


def fail(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_refused_check_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="something else"):
        atomic_io.write_new(tmp_path / "one.hdf5", WHOLE, refuse)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_write_error_is_reported_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(recorder, call, fail(errno.ENOSPC), raising=False)
    monkeypatch.setattr(atomic_io, "os", recorder)
    with pytest.raises(EpisodeError, match=r"one\.hdf5: could not be written: No space left"):
        atomic_io.write_new(tmp_path / "one.hdf5", WHOLE, lambda part: None)
    assert not list(tmp_path.iterdir())


def test_an_existing_name_is_refused(tmp_path: Path) -> None:
    atomic_io.write_new(tmp_path / "one.hdf5", WHOLE, lambda part: None)
    with pytest.raises(EpisodeError, match="exists already"):
        atomic_io.write_new(tmp_path / "one.hdf5", b"other", lambda part: None)
    assert (tmp_path / "one.hdf5").read_bytes() == WHOLE


def test_a_folder_appears_at_the_end_of_its_block(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        assert not out.exists() and folder.name == "out.part"
    assert (out / "a" / "b").read_text() == "x" and names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [EpisodeError("damaged"), KeyboardInterrupt(), ValueError("a bug")])
def test_an_exception_in_the_block_leaves_no_files(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    message = r"out: could not be written: No space left on device; nothing is left of it$"
    with pytest.raises(ExportError, match=message) as caught, new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())


def test_files_are_flushed_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        assert (tmp_path / "out").exists() == (synced[-1] == tmp_path.name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
    assert sorted(synced[:-1]) == ["a", "b", "out.part"] and synced[-1] == tmp_path.name


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_existing_paths_are_refused_and_unchanged(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("x")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(EpisodeError, match="out: exists already") as caught, new_folder(out):
        raise AssertionError("the block must not begin")
    assert caught.value.exit_code == 2 and names(tmp_path) == ["out"]


def test_remains_of_a_killed_export_are_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "a").write_text("x")
    with (
        pytest.raises(EpisodeError, match=r"out\.part: expected no such folder, .*; remove it"),
        new_folder(tmp_path / "out"),
    ):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "out.part" / "a").read_text() == "x"


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(EpisodeError, match=r"out\.part: could not be created: Not a directory"),
        new_folder(tmp_path / "file" / "out"),
    ):
        raise AssertionError("the block must not begin")


def test_a_stream_has_its_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing_file(path) as file:
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]
    with pytest.raises(ValueError, match="a bug"), replacing_file(path) as file:
        file.write(b"half")
        raise ValueError("a bug")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "45°")
    assert (tmp_path / "a").read_bytes() == b"45\xc2\xb0"


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_write_error_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exists: bool
) -> None:
    if exists:
        write_folder(tmp_path / "out", {"a": b"old"})
    recorder = Recorder()
    monkeypatch.setattr(recorder, call, fail(errno.ENOSPC), raising=False)
    monkeypatch.setattr(atomic_io, "os", recorder)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "out", {"a": b"new", "b": b""})
    assert names(tmp_path) == (["out"] if exists else [])
    assert not exists or (tmp_path / "out" / "a").read_bytes() == b"old"
