"""How a file comes to be: under its name it is whole, on the disk and read back, or it is not there at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from data_collection.episode import EpisodeError

PART = ".part"  # behind the name of a file that is being written


def commit(path: Path, data: bytes, check: Callable[[Path], None]) -> None:
    """Write a file that survives whatever happens next, once this has returned.

    The bytes are written beside, flushed to the disk, dropped from memory, read back from the disk and checked; then
    the file gets its name, and the name is flushed, too. A crash on the way leaves at most a `.part`.

    Args:
        path: A name that is not taken; its folder exists.
        data: The whole file.
        check: Refuses what it reads at a path by an `EpisodeError`.

    Raises:
        EpisodeError: The name is taken, the disk is full or at fault, or the check refused what was read back. No file
            of that name is left behind.
    """
    if path.exists():
        raise EpisodeError(f"{path}: exists already; an episode is never overwritten")
    part = path.with_name(path.name + PART)
    try:
        _write(part, data)
        check(part)
        os.rename(part, path)  # noqa: PTH104 - one system call a line, as the test of crashes counts them
        flush(path.parent)
    except OSError as error:
        raise EpisodeError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder that survives a crash, with those above it.

    Raises:
        OSError: It cannot be made.
    """
    if not path.is_dir():
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def move(path: Path, to: Path) -> None:
    """Give a file another name, for good; what has that name is replaced.

    Raises:
        OSError: It cannot be moved.
    """
    make_folder(to.parent)
    os.rename(path, to)  # noqa: PTH104 - as above
    flush(to.parent)
    flush(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file in place of the one that has its name: a crash leaves the one or the other, and both whole.

    Raises:
        OSError: The disk is full or at fault; the file that was there still is.
    """
    part = path.with_name(path.name + PART)
    try:
        _write(part, data)
        os.rename(part, path)  # noqa: PTH104 - as above
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make durable what a file holds, or which names a folder has: they live in the folder, not in the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read back comes from the disk
    finally:
        os.close(descriptor)


class ExportError(EpisodeError):
    """Writing failed on the way. Nothing is left of it."""

    exit_code: ClassVar[int] = 1


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Give a folder `<out>.part` to write into, which becomes `out`, flushed to disk, when the block ends well.

    Ends the block otherwise, the folder is removed. Only a process that is killed leaves it, and then under its name.

    Raises:
        EpisodeError: `out` exists, or `<out>.part` does. Nothing was changed.
        ExportError: The disk is full, or does not allow it.
    """
    part = out.parent / f"{out.name}.part"
    if os.path.lexists(out):
        raise EpisodeError(f"{out}: exists already; an export goes into a new folder")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise EpisodeError(
            f"{part}: expected none, got what a killed export left, or one that is still running; remove it"
        ) from None
    except OSError as error:
        raise EpisodeError(f"{part}: could not be made: {error.strerror or error}") from error
    try:
        yield part
        _sync(part)
        part.rename(out)
        flush(out.parent)
    except OSError as error:
        raise ExportError(f"{out}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        flush(path)
