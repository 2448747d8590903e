"""What a count of successes tells: a rate with its interval, and two rates of the same scenes compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class Proportion:
    """So many of so many."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share, 0 to 1; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of Wilson (1927), low and high, each 0 to 1; None of nothing."""
        if not self.of:
            return None
        low, high = binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Two ways of doing the same trials: in how many of them which one succeeded."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool, bool]]) -> Paired:
        """Count pairs of A's and B's success in one trial."""
        return cls(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def p_value(self) -> float:
        """The exact two-sided McNemar test: how likely the trials that differ would be as uneven by chance alone."""
        differing = self.only_a + self.only_b
        return float(binomtest(self.only_a, differing).pvalue) if differing else 1.0
