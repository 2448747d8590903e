"""What the front and a process with the model say to each other, on a socket of theirs alone.

A message is a verb and its parts. Their own folder, which nobody else may enter, is all that guards it; what a planner
sent travels on it only after it was checked.

    front -> process   begin     the answer to "starting": load the model; one in reserve has to wait for it
                       work      the parts of a predict message
                       give up   the id of a work that is not wanted any more
    process -> front   state     starting (torch is imported), loading, warming
                       ready     the seconds that the warm-up took, and the parts of a welcome
                       done      the parts of a prediction or a refusal
                       failed    an exit code and why: it cannot start, and another one could not either
"""

from __future__ import annotations

from typing import Literal

import zmq

BEGIN, WORK, GIVE_UP = b"begin", b"work", b"give up"
STATE, READY, DONE, FAILED = b"state", b"ready", b"done", b"failed"

State = Literal["starting", "loading", "warming", "ready", "draining", "stopped"]
STATES: tuple[State, ...] = ("starting", "loading", "warming", "ready", "draining", "stopped")


def end(context: zmq.Context[zmq.Socket[bytes]], address: str, binds: bool) -> zmq.Socket[bytes]:
    """Return one end of a line: the front binds, the process connects."""
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 0)
    (socket.bind if binds else socket.connect)(address)
    return socket
