"""Output folders of runs: new or empty at the start, and written by one run at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, ClassVar

from configs.interruption import sleep
from data_collection.atomic_io import make_folder
from data_collection.episode import EpisodeError

LOCK = ".lock"  # file in the folder that a run has locked


class IncompleteError(EpisodeError):
    """Writing into a locked folder failed. What is complete in it is kept."""

    exit_code: ClassVar[int] = 1


def check_new(folder: Path, leftovers: Collection[str] = ()) -> None:
    """Refuse an output folder that has content.

    Args:
        folder: It need not exist.
        leftovers: Names of files that a run leaves which was stopped before its first result.

    Raises:
        EpisodeError: It is not a folder, cannot be read, or is not empty.
    """
    try:
        names = {path.name for path in folder.iterdir()} - {LOCK, *leftovers}
    except FileNotFoundError:
        return
    except OSError as error:
        raise EpisodeError(
            f"{folder}: expected a new or empty folder, got: {error.strerror}; choose another --out"
        ) from None
    if names:
        raise EpisodeError(f"{folder}: expected a new or empty folder, got one with {min(names)}; choose another --out")


@contextmanager
def locked_folder(folder: Path, *, is_shared: bool = False, timeout_s: float = 0.0) -> Iterator[IO[str]]:
    """Create a folder and lock it against other runs, as a context manager; the end of the process ends the lock.

    A folder that is still empty at the end of the block, apart from the lock, is left as it was before: a new one is
    removed, with the new parents that are empty.

    Args:
        folder: Its parents are created.
        is_shared: Lock it against exclusive locks only.
        timeout_s: How long to wait for another run.

    Yields:
        The locked file, for `share_lock`.

    Raises:
        EpisodeError: Another run holds the lock, or the folder cannot be created or written.
        IncompleteError: The block raised an error of the operating system, such as of a full disk.
    """
    kind, end_s = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX, time.monotonic() + timeout_s
    new: list[Path] = []
    with ExitStack() as stack:
        try:
            new = [each for each in (folder, *folder.parents) if not each.exists()]
            while (file := _try_lock(folder, kind)) is None:
                if time.monotonic() > end_s:
                    raise EpisodeError(
                        f"{folder}: locked by another run; wait for its end, stop it, or choose another folder"
                    )
                sleep(0.05)
        except OSError as error:
            raise EpisodeError(
                f"{error.filename or folder}: expected a readable and writable folder, got: {error.strerror or error}"
            ) from error
        stack.enter_context(file)
        try:
            yield file
        except OSError as error:
            if is_shared or isinstance(error, ConnectionError | TimeoutError):
                raise
            reason = f"{error.filename or folder}: {error.strerror or error}"
            raise IncompleteError(f"{reason}; {folder} is incomplete") from error
        finally:
            if not is_shared and {path.name for path in folder.glob("*")} == {LOCK}:
                (folder / LOCK).unlink()
                with suppress(OSError):  # another run may use a parent by now
                    for each in new:
                        each.rmdir()


def share_lock(lock: IO[str]) -> None:
    """Change an exclusive lock to a shared one; atomic on Linux, so that no other run gets it."""
    fcntl.flock(lock, fcntl.LOCK_SH)


def _try_lock(folder: Path, kind: int) -> IO[str] | None:
    """Return the locked file; None while another run holds the lock, or has just removed the file."""
    make_folder(folder)
    path = folder / LOCK
    with ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return None
        stack.pop_all()
        return file
