"""Selection of the recordings of a folder by file name and robot."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from data_collection.episode import EpisodeError
from data_collection.formats.reader import KINDS, Recording, find, read_names, robot
from ghvae_core.data.parallel import DatasetError, map_in_processes

_PIECE_BYTES = 2**24  # read at once
_ROBOTS_AT_ONCE = 64  # files that one process reads at a time; ours


class Selection(NamedTuple):
    """Conditions on recordings."""

    robots: tuple[str, ...]  # of RoboNet files, the only kind that names its robot; empty: all
    only_names: str | None  # text file of file names; None: all
    exclude_names: str | None


Refusals: TypeAlias = dict[str, list[str]]  # reason to the names of the recordings that cannot be used


class SelectedRecordings(NamedTuple):
    """The selected recordings of one folder."""

    recordings: list[Recording]
    refused: Refusals


def merged(parts: Iterable[Refusals]) -> Refusals:
    """Return all refusals of several parts."""
    together: Refusals = {}
    for part in parts:
        for reason, names in part.items():
            together.setdefault(reason, []).extend(names)
    return together


def select(folders: Sequence[Path], selection: Selection) -> list[SelectedRecordings]:
    """Return the selected recordings of each folder; duplicate files are refused.

    Raises:
        DatasetError: A folder has none, or no file names a requested robot.
        EpisodeError: A list of names cannot be read.
    """
    chosen = [SelectedRecordings(_listed(folder, selection), {}) for folder in folders]
    if selection.robots:
        chosen = _of_robots(chosen, selection.robots)
    for folder, each in zip(folders, chosen, strict=True):
        if not each.recordings:
            raise DatasetError(f"{folder}: data.only_names, data.exclude_names and data.robots leave no recording")
    chosen = _without_duplicates(chosen)
    for folder, each in zip(folders, chosen, strict=True):
        if not each.recordings:
            raise DatasetError(f"{folder}: all its recordings are also in the folders before it; give each folder once")
    return chosen


def _without_duplicates(chosen: Sequence[SelectedRecordings]) -> list[SelectedRecordings]:
    """Refuse duplicate files: one copy could be used for training and the other for validation."""
    paths = [list(dict.fromkeys(recording.path for recording in each.recordings)) for each in chosen]
    counts = Counter(_identity(path) for each in paths for path in each)
    seen: set[bytes] = set()
    once = []
    for each, files in zip(chosen, paths, strict=True):
        twice: set[Path] = set()
        for path in files:
            content = _content_sha256(path) if counts[_identity(path)] > 1 else b""
            if content in seen:
                twice.add(path)
            elif content:
                seen.add(content)
        fresh = [recording for recording in each.recordings if recording.path not in twice]
        copies = [recording.name for recording in each.recordings if recording.path in twice]
        refused = {"duplicate of another file": copies} if copies else {}
        once.append(SelectedRecordings(fresh, merged([each.refused, refused])))
    return once


def _identity(path: Path) -> tuple[str, int]:
    return path.name, path.stat().st_size


def _content_sha256(path: Path) -> bytes:
    """Return the sha256 of a file; empty if it cannot be read, which is reported later."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError:
        return b""
    return digest.digest()


def _listed(folder: Path, selection: Selection) -> list[Recording]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of recordings, found none; check --data")
    recordings = find(folder)
    if not recordings:
        raise DatasetError(f"{folder}: expected {KINDS}, found none; record some with run_collection")
    if selection.only_names is not None:
        names = read_names(Path(selection.only_names))
        recordings = [each for each in recordings if each.is_in(names)]
    if selection.exclude_names is not None:
        names = read_names(Path(selection.exclude_names))
        recordings = [each for each in recordings if not each.is_in(names)]
    return recordings


def _of_robots(chosen: Sequence[SelectedRecordings], robots: tuple[str, ...]) -> list[SelectedRecordings]:
    found = [list(map_in_processes(_robot, each.recordings, _ROBOTS_AT_ONCE)) for each in chosen]
    present = sorted({named.robot for each in found for named in each if named.robot})
    for name in robots:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(present) or "none is named"
            raise DatasetError(f"data.robots: expected robots of the data ({known}), got '{name}'{hint}")
    return [
        SelectedRecordings(
            [item for item, named in zip(each.recordings, names, strict=True) if named.robot in {None, *robots}],
            merged(
                {named.refusal: [item.name]}
                for item, named in zip(each.recordings, names, strict=True)
                if named.refusal
            ),
        )
        for each, names in zip(chosen, found, strict=True)
    ]


class _Named(NamedTuple):
    robot: str | None  # None: a kind of file without robot names
    refusal: str


def _robot(recording: Recording) -> _Named:
    try:
        name = robot(recording)
    except EpisodeError as error:
        return _Named("", str(error).removeprefix(f"{recording.path}: "))
    return _Named(name, "the file does not name its robot, and data.robots is set" if name == "" else "")
