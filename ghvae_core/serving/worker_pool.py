"""All processes with the model, each on a device of its own: they share the candidates of one request at a time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import zmq
from pydantic import Field

from configs.loader import Config
from ghvae_core.predictor import MismatchError, PredictionRequest, PredictorError, PredictorSpec, merge
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal
from ghvae_core.serving.worker import SERVER_STATES, ModelProcessError, ServerState, Worker

_WINDOW_S = 600.0
_GRAVITY = ("expired", "failed", "unavailable")  # where some lost their part, others were told to let go of theirs

_log = logging.getLogger(__name__)


class WorkerPoolConfig(Config):
    """When a worker process is replaced."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"reserve_after_s": "standby_after_s"}

    hang_s: float = Field(default=5.0, gt=0, le=600)  # after a deadline without an answer it is killed; ours
    restarts: int = Field(default=5, ge=0)  # within 10 minutes; more, and the server ends; ours
    # After so long at work, each has another beside it that has torch imported and can take its place; None: never.
    standby_after_s: float | None = Field(default=3.0, ge=0)  # ours


class WorkerPool:
    """Starts processes, shares work out among those that are ready, and starts others in place of those that are lost.

    Args:
        context: Of the front's sockets.
        commands: One for each process.
        folder: Private, for their sockets.
        config: When one is given up.

    Raises:
        ProcessError: From the constructor: the machine does not start that many; those that it did are ended.
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
        self._shares: list[Worker] = []  # who has a part of the work in hand, in the order of its candidates
        self._replies: dict[Worker, PredictionReply | Refusal] = {}
        self._given: Predict | None = None
        self._restarts: deque[float] = deque()
        self.n_restarts = 0

    @property
    def state(self) -> ServerState:
        """Ready as soon as one of them is; before that, the state of the one that is least far."""
        if any(worker.is_ready for worker in self._workers):
            return "ready"
        return min((worker.state for worker in self._workers), key=SERVER_STATES.index)

    @property
    def is_complete(self) -> bool:
        """Whether all of them are ready."""
        return all(worker.is_ready for worker in self._workers)

    @property
    def is_free(self) -> bool:
        """Whether `begin` may be called."""
        return self._given is None and self.state == "ready"

    @property
    def spec(self) -> PredictorSpec | None:
        """What they can do; None until one was ready."""
        return next((worker.spec for worker in self._workers if worker.spec is not None), None)

    @property
    def warm_up_s(self) -> float:
        """How long the slowest took to warm up."""
        return max(worker.warm_up_s for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [worker.pid for worker in self._workers]

    def register(self, poller: zmq.Poller) -> None:
        """Have a poller wait for what they tell."""
        for worker in self._workers:
            poller.register(worker.socket, zmq.POLLIN)

    def begin(self, message: Predict) -> None:
        """Share a request out."""
        ready = [worker for worker in self._workers if worker.is_ready]
        requests = split(message.request, len(ready))
        self._given, self._replies, self._shares = message, {}, ready[: len(requests)]
        for worker, request in zip(self._shares, requests, strict=True):
            worker.give(replace(message, request=request))

    def give_up(self) -> None:
        """Let go of the work in hand; `tend` still tells when it has ended."""
        for worker in self._shares:
            worker.give_up()

    def poll(self) -> PredictionReply | Refusal | None:
        """Listen to all, replace the lost; return the reply to the work in hand when all its parts are there.

        Raises:
            MismatchError: No process can start with what it was given, or they hold different models.
            PredictorError: They are lost more often than a run of bad luck explains.
        """
        for worker in self._workers:
            reply = worker.read()
            if reply is not None:
                self._replies[worker] = reply
            if worker.is_lost():
                self._replace(worker)
            worker.poll_standby()
        if len({worker.spec for worker in self._workers} - {None}) > 1:
            raise MismatchError("the processes hold different models; the checkpoint was changed while they started")
        if self._given is None or not all(worker in self._replies for worker in self._shares):
            return None
        given, self._given = self._given, None
        return self._merge(given, [self._replies[worker] for worker in self._shares])

    def stop(self) -> None:
        """End all processes at once."""
        for worker in self._workers:
            worker.stop()

    def _replace(self, worker: Worker) -> None:
        """Start another process in place of one that is lost; the work in hand is lost with it."""
        pid, state, fate = worker.pid, worker.state, worker.end()
        _log.error("the model's process %d is lost while %s: %s", pid, state, fate)
        if self._given is not None and worker in self._shares and worker not in self._replies:
            why = f"the model's process was lost: {fate}; another one is starting"
            self._replies[worker] = Refusal(self._given.id, "unavailable", why)
            self.give_up()
        now_s = time.monotonic()
        self._restarts.append(now_s)
        while self._restarts[0] < now_s - _WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) > self._config.restarts:
            raise PredictorError(
                f"the model's process was lost {len(self._restarts)} times within {_WINDOW_S / 60:g} minutes, the last "
                f"time while {state}: {fate}; look at this log, then start the server again"
            )
        self.n_restarts += 1
        worker.start()

    @staticmethod
    def _merge(given: Predict, replies: Sequence[PredictionReply | Refusal]) -> PredictionReply | Refusal:
        refusals = [reply for reply in replies if isinstance(reply, Refusal)]
        if refusals:
            return replace(max(refusals, key=lambda it: _GRAVITY.index(it.status)), id=given.id)
        predictions = [reply.prediction for reply in replies if isinstance(reply, PredictionReply)]
        whole = merge(predictions, given.request.n_videos)
        if not np.isfinite(whole.costs).any():
            why = f"not one of {len(whole.costs)} candidates has a finite cost; the checkpoint is not usable"
            return Refusal(given.id, "nonfinite", why)
        return PredictionReply(given.id, whole)


def split(request: PredictionRequest, n: int) -> list[PredictionRequest]:
    """Return at most n requests of almost the same number of candidates, in their order, none of them empty."""
    shards = np.array_split(request.candidates, min(n, len(request.candidates)))
    return [
        replace(request, candidates=candidates, n_videos=min(request.n_videos, len(candidates)))
        for candidates in shards
    ]
