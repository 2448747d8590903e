"""Log of the simulated driver: its events, and the largest speeds, steps and tracking errors."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

_PERIOD_S = 1.0  # of the lines with the largest values


class DriverLog:
    """JSON lines: one for each event, and one per second with the largest values since the last."""

    def __init__(self, path: Path | None) -> None:
        """Open a new file; None keeps only the totals."""
        self._file: TextIO | None = path.open("w", encoding="utf-8") if path else None
        self._lock = threading.Lock()
        self._written_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.largest = {"speed_fraction": 0.0, "command_rad": 0.0, "tracking_rad": 0.0}
        self._since = dict(self.largest)
        self.hand_low_m, self.hand_high_m = np.full(3, np.inf), np.full(3, -np.inf)

    def event(self, name: str, **details: object) -> None:
        """Record an event; from any thread."""
        with self._lock:
            self.counts[name] += 1
            self._write({"event": name, **details})

    def measure(self, hand_m: NDArray[np.float64], **values: float) -> None:
        """Record the values of one tick; their names are those of `largest`."""
        with self._lock:
            self.hand_low_m, self.hand_high_m = (
                np.minimum(self.hand_low_m, hand_m),
                np.maximum(self.hand_high_m, hand_m),
            )
            for name, value in values.items():
                self.largest[name] = max(self.largest[name], value)
                self._since[name] = max(self._since[name], value)
            if time.monotonic() - self._written_s > _PERIOD_S:
                self._written_s = time.monotonic()
                self._write({"event": "second", **self._since, "hand_m": hand_m.tolist()})
                self._since = dict.fromkeys(self._since, 0.0)

    def summary(self) -> dict[str, object]:
        """Return the totals."""
        with self._lock:
            return {
                "events": dict(self.counts),
                "largest": self.largest,
                "hand_low_m": self.hand_low_m.tolist() if np.isfinite(self.hand_low_m).all() else None,
                "hand_high_m": self.hand_high_m.tolist() if np.isfinite(self.hand_high_m).all() else None,
            }

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file:
                self._file.close()
                self._file = None

    def _write(self, line: dict[str, object]) -> None:
        if self._file:
            self._file.write(json.dumps({"time_s": time.time(), "monotonic_s": time.monotonic(), **line}) + "\n")
            self._file.flush()
