"""The worker processes, one for each device: they share the candidates of one request at a time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import zmq
from pydantic import Field

from configs.loader import Config
from ghvae_core.predictor import MismatchError, PredictorError, PredictorSpec, merge
from ghvae_core.serving import protocol
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal
from ghvae_core.serving.worker import (
    SERVER_STATES,
    ModelProcessError,
    ReplyEnvelope,
    ServerState,
    WorkEnvelope,
    Worker,
    WorkerReply,
)

_WINDOW_S = 600.0  # of `WorkerPoolConfig.restarts`
_SEVERITY = ("expired", "failed", "unavailable")  # when one worker fails, the work of the others is cancelled

_log = logging.getLogger(__name__)


class WorkerPoolConfig(Config):
    """When worker processes are replaced."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"reserve_after_s": "standby_after_s"}

    hang_s: float = Field(default=5.0, gt=0, le=600)  # from a deadline to the kill of a hanging process; ours
    restarts: int = Field(default=5, ge=0)  # within 10 minutes; after more the server exits; ours
    # From ready to the start of a standby process, which has imported torch and replaces a lost one (300 MB a device).
    standby_after_s: float | None = Field(default=3.0, ge=0)  # None: no standby process; ours


class WorkerPool:
    """Starts the workers, splits requests among those that are ready, and replaces those that are lost.

    Args:
        context: The context of the server's sockets.
        commands: Command line of each worker.
        folder: Private folder for the sockets of the workers.
        config: When workers are replaced.

    Raises:
        ModelProcessError: From the constructor: a process could not be started; the others have been stopped.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        commands: Sequence[Sequence[str]],
        folder: Path,
        config: WorkerPoolConfig,
    ) -> None:
        self._config = config
        self._workers: list[Worker] = []
        try:
            for command in commands:
                self._workers.append(Worker(context, command, folder, config.hang_s, config.standby_after_s))
        except ModelProcessError:
            self.stop()
            raise
        self._busy: list[Worker] = []  # those that compute the current request, in the order of its candidates
        self._replies: dict[Worker, WorkerReply] = {}
        self._current: Predict | None = None
        self._restarts: deque[float] = deque()  # monotonic times
        self.n_restarts = 0

    @property
    def state(self) -> ServerState:
        """Ready as soon as one worker is; before that, the state of the worker that has come least far."""
        if any(worker.is_ready for worker in self._workers):
            return "ready"
        return min((worker.state for worker in self._workers), key=SERVER_STATES.index)

    @property
    def is_complete(self) -> bool:
        """Whether all workers are ready."""
        return all(worker.is_ready for worker in self._workers)

    @property
    def is_free(self) -> bool:
        """Whether `begin` may be called."""
        return self._current is None and self.state == "ready"

    @property
    def spec(self) -> PredictorSpec | None:
        """Capabilities of the model; None until one worker has been ready."""
        return next((worker.spec for worker in self._workers if worker.spec is not None), None)

    @property
    def warm_up_s(self) -> float:
        """Longest time of a warm-up."""
        return max(worker.warm_up_s for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def register(self, poller: zmq.Poller) -> None:
        """Register the channels of all workers with a poller."""
        for worker in self._workers:
            poller.register(worker.socket, zmq.POLLIN)

    def begin(self, message: Predict, parts: Sequence[bytes], queue_s: float) -> None:
        """Send a request to the workers; each computes a part of the candidates.

        Args:
            message: The checked request; its deadline counts from now.
            parts: The request as the client sent it.
            queue_s: How long it waited.
        """
        ready = [worker for worker in self._workers if worker.is_ready]
        ranges = split(len(message.request.candidates), len(ready))
        self._current, self._replies, self._busy = message, {}, ready[: len(ranges)]
        for worker, (first, end) in zip(self._busy, ranges, strict=True):
            worker.send(WorkEnvelope(message.deadline_s, queue_s, first, end), parts)

    def cancel(self) -> None:
        """Cancel the current request; `poll` still returns a reply."""
        for worker in self._busy:
            worker.cancel()

    def poll(self) -> WorkerReply | None:
        """Read messages and replace lost workers; return the reply to the current request when it is complete.

        Raises:
            MismatchError: No worker can start with its input, or they hold different models.
            PredictorError: Workers are lost more often than `WorkerPoolConfig.restarts`.
        """
        for worker in self._workers:
            reply = worker.receive()
            if reply is not None:
                self._replies[worker] = reply
            if worker.is_lost():
                self._replace(worker)
            worker.poll_standby()
        if len({worker.spec for worker in self._workers} - {None}) > 1:
            raise MismatchError("the workers hold different models; the checkpoint was changed while they started")
        if self._current is None or not all(worker in self._replies for worker in self._busy):
            return None
        message, self._current = self._current, None
        return combine(message, [self._replies[worker] for worker in self._busy])

    def stop(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.stop()

    def _replace(self, worker: Worker) -> None:
        """Start another process in place of a lost one, which fails the current request."""
        pid, state, fate = worker.pid, worker.state, worker.kill()
        _log.error("worker process %d was lost while %s: %s", pid, state, fate)
        if self._current is not None and worker in self._busy and worker not in self._replies:
            why = f"the model's process was lost: {fate}; another one is starting"
            self._replies[worker] = refusal(Refusal(self._current.id, "unavailable", why))
            self.cancel()
        now_s = time.monotonic()
        self._restarts.append(now_s)
        while self._restarts[0] < now_s - _WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) > self._config.restarts:
            raise PredictorError(
                f"the model's process was lost {len(self._restarts)} times within {_WINDOW_S / 60:g} minutes, the last "
                f"time while {state}: {fate}; see the log above, then restart the server"
            )
        self.n_restarts += 1
        worker.start()


def refusal(message: Refusal) -> WorkerReply:
    """Return a refusal as a reply."""
    return WorkerReply(ReplyEnvelope(message.status), protocol.encode_reply(message))


def split(n_candidates: int, n: int) -> list[tuple[int, int]]:
    """Return at most n ranges (first, end) of almost the same length that cover all candidates in order."""
    n = min(n, n_candidates)
    size, n_larger = divmod(n_candidates, n)
    firsts = [i * size + min(i, n_larger) for i in range(n + 1)]
    return list(pairwise(firsts))


def combine(message: Predict, replies: Sequence[WorkerReply]) -> WorkerReply:
    """Return the reply to a request; the reply of a single worker is forwarded as it came.

    Args:
        message: The request.
        replies: The reply of each worker, in the order of the candidates.
    """
    refused = [reply for reply in replies if reply.envelope.status != "ok"]
    if refused:
        return max(refused, key=lambda reply: _SEVERITY.index(reply.envelope.status))
    n_candidates, n_nonfinite = (
        sum(getattr(reply.envelope, name) for reply in replies) for name in ("n_candidates", "n_nonfinite")
    )
    if n_nonfinite == n_candidates:
        why = f"none of {n_candidates} candidates has a finite cost; the checkpoint is not usable"
        return refusal(Refusal(message.id, "nonfinite", why))
    if len(replies) == 1:
        return replies[0]
    decoded = [protocol.decode_reply(reply.parts) for reply in replies]
    merged = merge([each.prediction for each in decoded if isinstance(each, PredictionReply)], message.request.n_videos)
    envelope = ReplyEnvelope("ok", n_candidates, n_nonfinite, merged.timing_s)
    return WorkerReply(envelope, protocol.encode_reply(PredictionReply(message.id, merged)))
