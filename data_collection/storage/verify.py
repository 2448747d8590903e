"""Whether a folder still holds what was written: every file hashed, and every frame decoded."""

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
    """What is sound and what is not."""

    n_sound: int = 0
    n_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)  # file to reason
    twice: list[int] = field(default_factory=list)  # numbers that more than one file has
    not_indexed: int = 0  # sound files of which the index says nothing, or something else

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged and every number is there once."""
        return not self.damaged and not self.twice


def verify(folder: Path, reads: bool, verdict: VerificationResult) -> Iterator[Path]:
    """Check a folder's episodes, and yield each as it is done.

    Args:
        folder: Of one collection; nothing in it is changed.
        reads: Decode every frame and check every number, too; else the seal alone, which covers every byte.
        verdict: An empty one, to which each is added.

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
            verdict.damaged[path.name] = str(error)
        else:
            verdict.n_sound += 1
            verdict.n_bytes += row.n_bytes
            verdict.not_indexed += known.get(row.file) != row
            verdict.twice += [row.number] if row.number in numbers else []
            numbers.add(row.number)
        yield path


def _read(path: Path, row: Row) -> None:
    """Read a file as training does.

    Raises:
        EpisodeError: It cannot be, has another length than its row says, or times that do not rise.
    """
    episode = read_episode(path)
    if len(episode.actions) != row.n_steps:
        raise EpisodeError(f"{path}: expected {row.n_steps} steps, got {len(episode.actions)}")
    if not (np.diff(episode.times_s) > 0).all():
        raise EpisodeError(f"{path}: expected rising times, got a step back or a repetition")
