"""What a collection has done so far: progress on stderr, a summary on stdout."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from data_collection.folder import CollectionError
from data_collection.supervisor import Closed

_LINE_INTERVAL_S = 10.0  # between lines of progress where there is no terminal


class Tally:
    """Counts what was closed, shows it on stderr as it goes, and prints the summary at the end."""

    def __init__(self, folder: Path, n_present: int) -> None:
        console = Console(stderr=True)
        columns = (
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("episodes", total=None, completed=n_present)
        self._console = console
        self._folder = folder
        self._n_present = n_present
        self._total = n_present
        self._began_s = self._line_s = time.monotonic()
        self._closed = 0
        self._recorded_s = 0.0
        self._n_bytes = 0
        self._families: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def __enter__(self) -> Tally:
        self._bar.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CollectionError):
            self._dropped.update(error.dropped)
        self._bar.stop()
        summary = {
            "folder": str(self._folder),
            "episodes": self._closed,
            "episodes_in_folder": self._n_present + self._closed,
            "recorded_s": round(self._recorded_s, 3),
            "seconds": round(time.monotonic() - self._began_s, 1),
            "families": dict(sorted(self._families.items())),
            "dropped": dict(sorted(self._dropped.items())),
            "bytes": self._n_bytes,
        }
        print(json.dumps(summary), flush=True)

    def expect(self, total: int) -> None:
        """Set how many episodes the folder will hold at the end."""
        self._total = total
        self._bar.update(self._task, total=total)

    def add(self, closed: Closed) -> None:
        """Count one closed episode."""
        self._closed += 1
        self._recorded_s += closed.recorded_s
        self._n_bytes += closed.n_bytes
        self._families.update(closed.families)
        self._dropped.update(closed.dropped)
        self._bar.update(self._task, advance=1)
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = now_s
            done = self._n_present + self._closed
            left_s = (now_s - self._began_s) / self._closed * (self._total - done)
            self._console.print(f"{done} of {self._total} episodes, about {left_s:.0f} s left", highlight=False)
