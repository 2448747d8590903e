"""Who waits for an answer: every client with its newest request, first come, first served."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ghvae_core.serving.protocol import Predict


@dataclass(frozen=True)
class Asked:
    """A request, and who asked."""

    client: bytes
    message: Predict
    received_s: float  # monotonic
    started_s: float = 0.0  # monotonic, of the work; 0 while it waits

    @property
    def waited_s(self) -> float:
        """How long ago it came."""
        return time.monotonic() - self.received_s

    @property
    def left_s(self) -> float:
        """How long until its deadline; negative after it."""
        return self.message.deadline_s - self.waited_s


class Waiting:
    """A bounded line in which a client stands at most once.

    Args:
        size: How many may stand in it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._line: dict[bytes, Asked] = {}  # by client, the oldest first

    def __len__(self) -> int:
        """Return how many stand in it."""
        return len(self._line)

    def leave(self, client: bytes) -> Asked | None:
        """Take a client's request out, if it has one."""
        return self._line.pop(client, None)

    def join(self, asked: Asked) -> bool:
        """Put a request at the end; its client has none in the line. Return whether there was room."""
        if len(self._line) >= self._size:
            return False
        self._line[asked.client] = asked
        return True

    def next(self) -> Asked | None:
        """Take the oldest out."""
        return self._line.pop(next(iter(self._line)), None) if self._line else None
