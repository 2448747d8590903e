"""A new folder that exists either whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from data_collection.atomic_io import flush
from data_collection.episode import EpisodeError


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
