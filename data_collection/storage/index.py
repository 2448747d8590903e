"""Index of a collection: one JSON line per episode. A copy of facts in the files, from which it can be rebuilt."""

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
    """An episode file whose content has changed since it was written."""


@dataclass(frozen=True)
class Row:
    """One closed episode. Every field can be read from its file."""

    number: int
    file: str  # file name
    n_bytes: int
    sha256: str  # of the whole file, as sha256sum prints it
    closed_s: float  # Unix time of the file's date
    n_steps: int
    recorded_s: float
    families: str  # of its action sequences, separated by commas
    attempt: int  # number of attempts before it
    objects_seen: int  # in its first frame
    objects_moved_m: float  # largest motion of an object in the image
    lifted: bool  # an object was held above the table

    def line(self) -> str:
        """Return the row as a line of the index."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def describe(path: Path) -> Row:
    """Return the row of an episode file, after checking its hash.

    Raises:
        DamagedError: The content has changed.
        EpisodeError: An intact file of another origin.
        OSError: The file cannot be read.
    """
    match = EPISODE_NAME.fullmatch(path.name)
    if match is None:
        raise EpisodeError(f"{path}: expected a name that ends in _traj<number>.hdf5")
    data, date_s = path.read_bytes(), path.stat().st_mtime  # a read error is not damage
    try:
        trajectory = read_trajectory(path)
    except EpisodeError as error:
        raise DamagedError(str(error)) from error
    if trajectory.own is None:
        raise EpisodeError(f"{path}: expected an episode of a collection, got a file of another origin; move it away")
    times_s, info = trajectory.own["env/timestamps"], trajectory.metadata
    return Row(
        number=int(match[1]),
        file=path.name,
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        closed_s=round(date_s, 3),
        n_steps=len(trajectory.actions),
        recorded_s=round(float(times_s[-1] - times_s[0]), 6),
        families=str(info.get("families", "")),
        attempt=int(info.get("attempt", 0)),
        objects_seen=int(info.get("objects_seen", 0)),
        objects_moved_m=float(info.get("objects_moved_m", 0.0)),
        lifted=bool(info.get("lifted", False)),
    )


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write the index.

    Raises:
        OSError: The disk is full or failing; the existing index is unchanged.
    """
    lines = [row.line() for row in sorted(rows, key=lambda row: row.number)]
    write_file(folder / INDEX_NAME, "".join(lines).encode())


def append(folder: Path, row: Row) -> None:
    """Append an episode. If a crash loses the line, `read` restores it from the file.

    Raises:
        OSError: The disk is full or failing.
    """
    with (folder / INDEX_NAME).open("a", encoding="utf-8") as file:
        file.write(row.line())


def read(folder: Path) -> list[Row]:
    """Return the rows of all episodes in a folder, by number; rows missing in the index are read from the files.

    Raises:
        EpisodeError: A file missing in the index is damaged or of another origin.
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
    """Return the paths of a folder with names of closed episodes.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if EPISODE_NAME.fullmatch(path.name))


def listed(folder: Path) -> list[Row]:
    """Return the rows of the index; incomplete lines and those of other versions are left out.

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
