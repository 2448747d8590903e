"""Statistics of LeRobot features: minimum, maximum, mean, standard deviation, count and quantiles."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}  # LeRobot 0.4


def summarize(values: NDArray[Any]) -> dict[str, list[Any]]:
    """Return the statistics of N rows (N,) or (N, D); each is a list of D numbers, `count` is [N].

    All values are exact, also for a complete dataset; LeRobot itself averages the quantiles of episodes.
    """
    rows = values.reshape(len(values), -1)
    exact = rows.astype(np.float64)
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "count": [len(rows)],
        **{name: quantile.tolist() for name, quantile in zip(QUANTILES, quantiles, strict=True)},
    }


class PixelHistogram(NamedTuple):
    """Histogram of each channel of some frames, from which image statistics follow."""

    counts: NDArray[np.int64]  # (3, 256)
    n_frames: int

    @classmethod
    def none(cls) -> PixelHistogram:
        """Return an empty histogram."""
        return cls(np.zeros((3, 256), np.int64), 0)

    @classmethod
    def of(cls, frames: NDArray[np.uint8]) -> PixelHistogram:
        """Count the pixels of frames (N, H, W, 3)."""
        counts = [np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)]
        return cls(np.array(counts, np.int64), len(frames))

    def plus(self, other: PixelHistogram) -> PixelHistogram:
        """Return the sum of both."""
        return PixelHistogram(self.counts + other.counts, self.n_frames + other.n_frames)

    def summarize(self) -> dict[str, list[Any]]:
        """Return the statistics over all pixels in [0, 1], each (3, 1, 1) as in LeRobot's images.

        `count` is the number of frames.
        """
        values = np.arange(256) / 255
        total = self.counts.sum(axis=1)
        mean = self.counts @ values / total
        below = self.counts.cumsum(axis=1)
        parts = {
            "min": values[(below > 0).argmax(axis=1)],
            "max": values[(below == total[:, None]).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt((self.counts * (values - mean[:, None]) ** 2).sum(axis=1) / total),
        }
        for name, share in QUANTILES.items():
            parts[name] = values[(below >= share * total[:, None]).argmax(axis=1)]
        return {**{name: part.reshape(3, 1, 1).tolist() for name, part in parts.items()}, "count": [self.n_frames]}
