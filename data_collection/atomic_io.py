"""Atomic writes of files and folders: complete and on disk under their name, or not there at all.

Every function writes to a temporary name in the same folder, flushes the data, renames, and flushes the folder. A crash
leaves the old content or the new content, and at most a temporary file or folder. Errors of the system name a path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar

from configs.command import REFUSED_PATHS
from data_collection.episode import EpisodeError

PART = ".part"  # suffix of a file that is being written

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, renameat2(2)


class ExportError(EpisodeError):
    """Writing a file or a folder failed. No part of it remains."""

    exit_code: ClassVar[int] = 1


def write_new(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write a new file; with `check`, drop it from memory and read it back from the disk before it gets its name.

    Args:
        path: An unused name in an existing folder.
        data: The content.
        check: Raises `EpisodeError` if the file at the given path is not intact.

    Raises:
        EpisodeError: The name is in use or cannot be used, or the check failed. No new file of that name is left.
        ExportError: The disk is full or failing. The same.
    """
    if path.exists():
        raise EpisodeError(f"{path}: exists already and is not overwritten; choose another name")
    part = path.with_name(path.name + PART)
    try:
        _write(part, data)
        if check is not None:
            check(part)
        os.rename(part, path)  # noqa: PTH104 - the test of crashes records the calls of `os`
        flush(path.parent)
    except OSError as error:
        kind = EpisodeError if error.errno in REFUSED_PATHS else ExportError
        raise kind(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_file(path: Path, data: bytes | str) -> None:
    """Write a file, replacing an existing one; text as UTF-8. One process at a time.

    Raises:
        OSError: The disk is full or failing; an existing file is unchanged.
    """
    part = path.with_name(path.name + PART)
    try:
        _write(part, data.encode() if isinstance(data, str) else data)
        os.rename(part, path)  # noqa: PTH104 - as above
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write piece by piece, as a context manager; it gets its name at the end of the block.

    Several processes may write the same file: the temporary name `.<name>.<process>.part` is their own.

    Raises:
        OSError: The disk is full or failing; an existing file is unchanged.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with _naming(path), part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)  # noqa: PTH104 - as above
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, replacing an existing one in a single step where the system supports it.

    Temporary folders of killed writers are removed. One process at a time.

    Args:
        folder: Its parents are created.
        files: Name to content.

    Raises:
        OSError: The disk is full or failing; an existing folder is unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)  # mkdtemp creates it private
        for name, data in files.items():
            _write(part / name, data)
        flush(part)
        _replace_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Provide a folder `<out>.part` to write into; it becomes `out`, flushed to disk, at the end of the block.

    If the block raises, the folder is removed. Only a killed process leaves it, under its temporary name.

    Raises:
        EpisodeError: `out` or `<out>.part` exists. Nothing was changed.
        ExportError: The disk is full or failing.
    """
    part = out.parent / f"{out.name}{PART}"
    if os.path.lexists(out):
        raise EpisodeError(f"{out}: exists already; an export needs a new folder")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise EpisodeError(
            f"{part}: expected no such folder, got one that an export left or is still writing; remove it"
        ) from None
    except OSError as error:
        raise EpisodeError(f"{part}: could not be created: {error.strerror or error}") from error
    try:
        yield part
        for path in (*part.rglob("*"), part):
            flush(path)
        os.rename(part, out)  # noqa: PTH104 - as above
        flush(out.parent)
    except OSError as error:
        raise ExportError(f"{out}: could not be written: {error.strerror or error}; nothing is left of it") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, each flushed into the one above.

    Raises:
        OSError: It cannot be created.
    """
    if not path.is_dir():
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def move(path: Path, to: Path) -> None:
    """Rename a file, durably; a file named `to` is replaced.

    Raises:
        OSError: It cannot be moved.
    """
    make_folder(to.parent)
    os.rename(path, to)  # noqa: PTH104 - as above
    flush(to.parent)
    flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file's data, or a folder's names, to the disk. A name belongs to its folder, not to its file."""
    with _naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    with _naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # a later read comes from the disk
        finally:
            os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the path in an error of the system; that of a write to an open file, such as of a full disk, names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of killed writers. Without `folder`, one of them may be the only copy; keep all."""
    abandoned = re.compile(rf"\.{re.escape(folder.name)}\.\w{{8}}(\.old)?")
    for path in folder.parent.iterdir() if folder.exists() else ():
        if abandoned.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _replace_folder(part: Path, folder: Path) -> None:
    """Give `part` the name `folder`; a reader finds the old or the new one at any moment, also after a kill."""
    if folder.exists() and _exchange(part, folder):
        flush(folder.parent)
        return  # the old folder now has the temporary name, and the caller removes it
    old = part.with_name(f"{part.name}.old")
    if folder.exists():  # a folder cannot be renamed over one that has files
        os.rename(folder, old)  # noqa: PTH104 - as above
    try:
        os.rename(part, folder)  # noqa: PTH104 - as above
    except OSError:
        if old.exists():
            os.rename(old, folder)  # noqa: PTH104 - as above
        raise
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in a single step; return False where the system or the disk cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
