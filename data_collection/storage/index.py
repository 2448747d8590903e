"""What a folder of episodes holds, one line an episode: a copy of what the files say, made anew whenever it is lost."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data_collection.atomic_io import write_file
from data_collection.episode import EpisodeError
from data_collection.formats.robonet_file import read_trajectory

INDEX_NAME = "index.jsonl"
EPISODE_NAME = re.compile(r".+_traj(0|[1-9][0-9]*)\.hdf5")


class DamagedError(EpisodeError):
    """An episode that is no longer what was written."""


@dataclass(frozen=True)
class Row:
    """One closed episode. All of it can be read from the file again."""

    number: int
    file: str  # its name in the folder
    n_bytes: int
    sha256: str  # of the whole file, as sha256sum prints it
    closed_s: float  # when it was written: Unix time, from the file's date
    n_steps: int
    recorded_s: float
    families: str  # of its sequences, with commas
    attempt: int  # how many were dropped before it
    objects_seen: int  # at its beginning
    objects_moved_m: float  # the furthest that one was seen to go
    lifted: bool  # something was held in the air

    def line(self) -> str:
        """Return the row as a line of the index."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def describe(path: Path) -> Row:
    """Return the row of an episode file, after its seal was checked.

    Raises:
        DamagedError: Not what was written.
        EpisodeError: A sound file, but not of this collection.
        OSError: The disk does not give it back.
    """
    match = EPISODE_NAME.fullmatch(path.name)
    if match is None:
        raise EpisodeError(f"{path}: expected a name that ends in _traj<number>.hdf5")
    data, date_s = path.read_bytes(), path.stat().st_mtime  # a disk that fails here says nothing of the file
    try:
        trajectory = read_trajectory(path)
    except EpisodeError as error:
        raise DamagedError(str(error)) from error
    if trajectory.own is None:
        raise EpisodeError(f"{path}: expected an episode of this collection, got a file of others; move it away")
    times_s, told = trajectory.own["env/timestamps"], trajectory.metadata
    return Row(
        number=int(match[1]),
        file=path.name,
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        closed_s=round(date_s, 3),
        n_steps=len(trajectory.actions),
        recorded_s=round(float(times_s[-1] - times_s[0]), 6),
        families=str(told.get("families", "")),
        attempt=int(told.get("attempt", 0)),
        objects_seen=int(told.get("objects_seen", 0)),
        objects_moved_m=float(told.get("objects_moved_m", 0.0)),
        lifted=bool(told.get("lifted", False)),
    )


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write the index anew.

    Raises:
        OSError: The disk is full or at fault; the index that was there still is.
    """
    lines = [row.line() for row in sorted(rows, key=lambda row: row.number)]
    write_file(folder / INDEX_NAME, "".join(lines).encode())


def append(folder: Path, row: Row) -> None:
    """Add an episode that was closed. What a crash takes of this is found again in the folder.

    Raises:
        OSError: The disk is full or at fault.
    """
    with (folder / INDEX_NAME).open("a", encoding="utf-8") as file:
        file.write(row.line())


def read(folder: Path) -> list[Row]:
    """Return the rows of the episodes that are in a folder, by number; what the index lacks is read from its file.

    Raises:
        EpisodeError: A file that the index lacks is damaged or of others.
        OSError: The folder or a file cannot be read.
    """
    known = {row.file: row for row in listed(folder)}
    rows = []
    for path in episodes(folder):
        row, now = known.get(path.name), path.stat()
        same = row is not None and (row.n_bytes, row.closed_s) == (now.st_size, round(now.st_mtime, 3))
        rows.append(row if row is not None and same else describe(path))
    return sorted(rows, key=lambda row: row.number)


def episodes(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as closed episodes are.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if EPISODE_NAME.fullmatch(path.name))


def listed(folder: Path) -> list[Row]:
    """Return what the index itself says; a line that a crash has torn, or another version wrote, is not there.

    Raises:
        OSError: It cannot be read.
    """
    path = folder / INDEX_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> Row | None:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        return None
