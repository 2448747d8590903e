"""Verification of a collection: hash every file and decode every frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_collection.episode import EpisodeError
from data_collection.formats.robonet import read_episode
from data_collection.storage import index
from data_collection.storage.index import Row, describe


@dataclass
class VerificationResult:
    """Result of a verification."""

    n_sound: int = 0
    n_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)  # file to reason
    twice: list[int] = field(default_factory=list)  # numbers of more than one file
    not_indexed: int = 0  # intact files with a missing or different row in the index

    @property
    def is_clean(self) -> bool:
        """Whether no file is damaged and all numbers are unique."""
        return not self.damaged and not self.twice


def verify(folder: Path, reads: bool, result: VerificationResult) -> Iterator[Path]:
    """Check the episodes of a folder and yield the path of each.

    Args:
        folder: Of one collection. It is not changed.
        reads: Also decode every frame and check the values; False: check the hash of every file only.
        result: Receives the result.

    Raises:
        EpisodeError: The folder holds no episodes.
        OSError: The folder or a file cannot be read.
    """
    paths = index.episodes(folder)
    if not paths:
        raise EpisodeError(f"{folder}: expected a folder of episodes, got none")
    known = {row.file: row for row in index.listed(folder)}
    numbers = set[int]()
    for path in paths:
        try:
            row = describe(path)
            if reads:
                _read(path, row)
        except EpisodeError as error:
            result.damaged[path.name] = str(error)
        else:
            result.n_sound += 1
            result.n_bytes += row.n_bytes
            result.not_indexed += known.get(row.file) != row
            result.twice += [row.number] if row.number in numbers else []
            numbers.add(row.number)
        yield path


def _read(path: Path, row: Row) -> None:
    """Read a file as in training.

    Raises:
        EpisodeError: It cannot be read, its length differs from its row, or its times do not rise.
    """
    episode = read_episode(path)
    if len(episode.actions) != row.n_steps:
        raise EpisodeError(f"{path}: expected {row.n_steps} steps, got {len(episode.actions)}")
    if not (np.diff(episode.times_s) > 0).all():
        raise EpisodeError(f"{path}: expected rising times, got falling or equal ones")
