"""Which recordings of a folder are used: by file name, and by robot."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_collection.episode import EpisodeError
from data_collection.formats.reader import KINDS, Recording, find, read_names, robot
from ghvae_core.data.parallel import DatasetError, map_in_processes

_PIECE_BYTES = 2**24  # read at once
_ROBOTS_AT_ONCE = 64  # files whose robot one process looks up at a time; ours


class Selection(NamedTuple):
    """Which recordings are wanted."""

    robots: tuple[str, ...]  # of RoboNet files, the only ones that name theirs; empty: all
    only_names: str | None  # text file of file names; None: all
    exclude_names: str | None


class Chosen(NamedTuple):
    """The wanted recordings of one folder."""

    recordings: list[Recording]
    refused: Counter[str]  # reason to number of recordings that may have been wanted but cannot be used


def choose(folders: Sequence[Path], wanted: Selection) -> list[Chosen]:
    """Return the wanted recordings of each folder.

    Raises:
        DatasetError: A folder has none, or a robot is asked for that no file in any of them names.
        EpisodeError: A list of names cannot be read.
    """
    chosen = [Chosen(_listed(folder, wanted), Counter()) for folder in folders]
    if wanted.robots:
        chosen = _of_robots(chosen, wanted.robots)
    for folder, each in zip(folders, chosen, strict=True):
        if not each.recordings:
            raise DatasetError(f"{folder}: data.only_names, data.exclude_names and data.robots leave no recording")
    chosen = _once(chosen)
    for folder, each in zip(folders, chosen, strict=True):
        if not each.recordings:
            raise DatasetError(f"{folder}: all its recordings stand in the folders before it, too; name each once")
    return chosen


def _once(chosen: Sequence[Chosen]) -> list[Chosen]:
    """Leave out files that stand there a second time: one copy could be trained on, and the other validate."""
    paths = [list(dict.fromkeys(recording.path for recording in each.recordings)) for each in chosen]
    counts = Counter(_outside(path) for each in paths for path in each)
    seen: set[bytes] = set()
    once = []
    for each, files in zip(chosen, paths, strict=True):
        twice: set[Path] = set()
        for path in files:
            content = _inside(path) if counts[_outside(path)] > 1 else b""
            if content in seen:
                twice.add(path)
            elif content:
                seen.add(content)
        fresh = [recording for recording in each.recordings if recording.path not in twice]
        n_twice = len(each.recordings) - len(fresh)
        once.append(Chosen(fresh, each.refused + Counter({"the same file stands in the data twice": n_twice})))
    return once


def _outside(path: Path) -> tuple[str, int]:
    return path.name, path.stat().st_size


def _inside(path: Path) -> bytes:
    """Return a file's sha256; nothing of one that cannot be read, for which it is refused later."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError:
        return b""
    return digest.digest()


def _listed(folder: Path, wanted: Selection) -> list[Recording]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of recordings, got none of that name; check --data")
    recordings = find(folder)
    if not recordings:
        raise DatasetError(f"{folder}: expected {KINDS}, found none; record some with run_collection")
    if wanted.only_names is not None:
        names = read_names(Path(wanted.only_names))
        recordings = [each for each in recordings if each.is_in(names)]
    if wanted.exclude_names is not None:
        names = read_names(Path(wanted.exclude_names))
        recordings = [each for each in recordings if not each.is_in(names)]
    return recordings


def _of_robots(chosen: Sequence[Chosen], robots: tuple[str, ...]) -> list[Chosen]:
    found = [list(map_in_processes(_robot, each.recordings, _ROBOTS_AT_ONCE)) for each in chosen]
    present = sorted({named.robot for each in found for named in each if named.robot})
    for name in robots:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(present) or "none is named"
            raise DatasetError(f"data.robots: expected robots of the data ({known}), got '{name}'{hint}")
    return [
        Chosen(
            [item for item, named in zip(each.recordings, names, strict=True) if named.robot in {None, *robots}],
            Counter(named.refusal for named in names if named.refusal),
        )
        for each, names in zip(chosen, found, strict=True)
    ]


class _Named(NamedTuple):
    robot: str | None  # None: of a kind that names none
    refusal: str


def _robot(recording: Recording) -> _Named:
    try:
        name = robot(recording)
    except EpisodeError as error:
        return _Named("", str(error).removeprefix(f"{recording.path}: "))
    return _Named(name, "the file does not name its robot, but data.robots asks for some" if name == "" else "")
