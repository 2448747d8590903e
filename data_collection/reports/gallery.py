"""Episodes to look at on a page: some drawn by chance, and the first of those that were set aside for each reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_collection.episode import EpisodeError
from data_collection.formats.robonet import ASIDE
from data_collection.formats.robonet_file import read_footage
from data_collection.policies.scenery import MOVED_M
from data_collection.reports.html import data_uri
from data_collection.reports.images import filmstrip, jpeg_bytes, shrink, spread
from data_collection.storage.folder import QUARANTINE_NAME
from data_collection.storage.index import Row

_N_FRAMES = 8  # of each episode
_TILE_WIDTH_PX = 160  # of a frame
_PER_REASON = 3  # of those that were set aside


class Shown(NamedTuple):
    """One episode on the page."""

    label: str
    words: str
    strip: str  # data URI; empty where its video cannot be read


class Aside(NamedTuple):
    """What was set aside for one reason."""

    reason: str
    n: int
    shown: list[Shown]


def drawn_episodes(folder: Path, rows: Sequence[Row], n: int, rng: np.random.Generator) -> list[Shown]:
    """Return `n` episodes that `rng` draws, or all where there are not so many, by number."""
    return [_shown(folder / rows[i].file, f"episode {rows[i].number}", _words(rows[i])) for i in _draw(rows, n, rng)]


def set_aside(folder: Path, reasons: Mapping[str, str]) -> list[Aside]:
    """Return what lies in quarantine, by kind; without a quarantine, nothing.

    Args:
        folder: Of the collection.
        reasons: File, seen from the folder, to why it was set aside; the words are missing where it is not there.
    """
    found = []
    for kind in sorted(path for path in (folder / QUARANTINE_NAME).glob("*") if path.is_dir()):
        files = sorted(kind.glob(f"*{ASIDE}"))
        shown = [
            _shown(file, file.name.removesuffix(ASIDE), reasons.get(str(file.relative_to(folder)), ""))
            for file in files[:_PER_REASON]
        ]
        if files:
            found.append(Aside(kind.name, len(files), shown))
    return found


def _draw(rows: Sequence[Row], n: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(len(rows))[:n].tolist())


def _words(row: Row) -> str:
    moved = f"an object went {100 * row.objects_moved_m:.0f} cm" if row.objects_moved_m >= MOVED_M else "nothing moved"
    words = [row.families.replace(",", ", "), f"{row.objects_seen} objects seen", moved]
    return " · ".join([word for word in words if word] + ["lifted"] * row.lifted)


def _shown(path: Path, label: str, words: str) -> Shown:
    try:
        frames = read_footage(path).frames(0)
    except EpisodeError as error:
        unread = str(error).removeprefix(f"{path}: ")
        return Shown(label, " · ".join(filter(None, [words, f"cannot be shown: {unread}"])), "")
    strip = filmstrip({"": shrink(frames[spread(len(frames), _N_FRAMES)], _TILE_WIDTH_PX)})
    return Shown(label, words, data_uri("jpeg", jpeg_bytes(strip)))
