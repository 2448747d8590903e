"""A number and how far it may be off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from configs.loader import Config


class Estimate(Config):
    """A value and its standard error, over windows unless said otherwise."""

    value: float
    standard_error: float


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Return the mean of independent values (N,), N at least 2, and its standard error."""
    return Estimate(value=float(values.mean()), standard_error=float(values.std(ddof=1) / len(values) ** 0.5))
