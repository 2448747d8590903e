"""Where a file of a LeRobot dataset stands: `chunk-000/file-000`, `chunk-000/file-001` and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

FILES_PER_CHUNK: Final = 1000  # LeRobot's default, which info.json repeats


class Place(NamedTuple):
    """The numbers of one file."""

    chunk: int = 0
    file: int = 0

    def path(self, folder: Path, suffix: str) -> Path:
        """Return the file's path; its folder is made."""
        path = folder / f"chunk-{self.chunk:03d}" / f"file-{self.file:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def next(self) -> Place:
        """Return the place of the file after it."""
        is_last = self.file == FILES_PER_CHUNK - 1
        return Place(self.chunk + 1, 0) if is_last else Place(self.chunk, self.file + 1)
