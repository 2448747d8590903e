"""Which episodes are still to be made: always the lowest free numbers, so that no number is used twice."""

from __future__ import annotations

import heapq
from collections.abc import Collection


class Numbers:
    """Hands out the numbers of episodes, until there are as many as are wanted."""

    def __init__(self, closed: Collection[int], count: int) -> None:
        """Begin with the numbers of the episodes that exist; `count` more are wanted."""
        self._taken = set(closed)
        self._next = 0
        self._returned: list[int] = []
        self.left = max(0, count)  # how many have not been handed out

    def take(self) -> int | None:
        """Return the next number, or None where enough are taken."""
        if not self.left:
            return None
        self.left -= 1
        if self._returned:
            return heapq.heappop(self._returned)
        while self._next in self._taken:
            self._next += 1
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        """Take back a number whose episode was not made; it is handed out again."""
        heapq.heappush(self._returned, number)
        self.left += 1

    def give_up(self) -> None:
        """Let another number take the place of one whose episode cannot be made."""
        self.left += 1
