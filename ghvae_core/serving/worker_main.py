"""The worker process: it loads the model, then computes one request after the other until the server exits."""

from __future__ import annotations

import logging
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer
import zmq

from configs.command import ReportedError, run
from ghvae_core.predictor import DeadlineError, Prediction, PredictionRequest, PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.config import load_run_server
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal, Welcome
from ghvae_core.serving.wire import ServerLimits
from ghvae_core.serving.worker import (
    CANCEL,
    DONE,
    FAILED,
    READY,
    STATE,
    ReplyEnvelope,
    ServerState,
    WorkEnvelope,
    open_channel,
)

Evaluate = Callable[[PredictionRequest, Callable[[], bool]], Prediction]  # the request; whether to stop

_log = logging.getLogger(__name__)


def model_process(
    channel: Annotated[str, typer.Option(help="Address of the server's end of the worker channel.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all cores).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="predictor.KEY=VALUE")] = None,
) -> None:
    """Wait for the start signal of the server, load the model, run its self-test, warm up, and compute requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when to stop
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with closing(WorkerLoop(channel, sys.stdin.fileno())) as loop:
        from ghvae_core.serving.local import open_predictor  # noqa: PLC0415 - takes seconds, spent on standby

        if not loop.wait_for_start():
            return
        try:
            loop.report_state("loading")
            predictor = open_predictor(checkpoint, device, threads, load_run_server(set_ or []).predictor)
            loop.report_state("warming")
            predictor.self_test()
            warm_up_s = predictor.warm_up()
        except ReportedError as error:
            loop.report_failure(error)
            return
        loop.serve(predictor.spec, warm_up_s, predictor.evaluate, predictor.self_test)


def main() -> NoReturn:
    """Run the process."""
    run(model_process)


class WorkerLoop:
    """The worker's end of the channel. One thread computes, and checks between steps whether to stop.

    Args:
        address: Address of the server's end of the channel.
        parent: File descriptor that reaches its end when the server exits.
    """

    def __init__(self, address: str, parent: int) -> None:
        self._context = zmq.Context()
        self._socket = open_channel(self._context, address, binds=False)
        self._parent = parent

    def wait_for_start(self) -> bool:
        """Block until the server sends START; return False when the server has exited."""
        self.report_state("starting")
        return self._receive() is not None

    def report_state(self, state: ServerState) -> None:
        """Send the state of the start."""
        self._socket.send_multipart([STATE, state.encode()])

    def report_failure(self, error: ReportedError) -> None:
        """Send the reason why this process, and any other with the same input, cannot start."""
        self._socket.send_multipart([FAILED, str(error.exit_code).encode(), str(error).encode()])

    def serve(self, spec: PredictorSpec, warm_up_s: float, evaluate: Evaluate, self_test: Callable[[], object]) -> None:
        """Compute requests until the server exits.

        Args:
            spec: Capabilities of `evaluate`.
            warm_up_s: Reported to the server.
            evaluate: Computes a prediction; calls its second argument between steps and stops when it returns True.
            self_test: Called after an error in `evaluate`; raises if the device no longer computes correctly, which
                ends this process, and the server replaces it.
        """
        welcome = Welcome(b"ready", spec, ServerLimits(max_waiting=1))
        self._socket.send_multipart([READY, repr(warm_up_s).encode(), *protocol.encode_reply(welcome)])
        while (received := self._next()) is not None:
            work_id, packed, *parts = received
            envelope, reply = self._compute(work_id, WorkEnvelope.unpack(packed), parts, evaluate)
            if envelope.status == "failed":
                self_test()
            self._socket.send_multipart([DONE, work_id, envelope.pack(), *protocol.encode_reply(reply)])

    def close(self) -> None:
        """Close the channel; up to one second is spent on messages that are not yet sent."""
        self._socket.close(linger=1000)
        self._context.term()

    def _next(self) -> list[bytes] | None:
        """Return the next work message without its kind; None when the server has exited."""
        while (received := self._receive()) is not None:
            kind, *parts = received
            if kind != CANCEL:  # it arrived after its work was done
                return parts
        return None

    def _receive(self) -> list[bytes] | None:
        """Return the next message; None when the server has exited."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._parent, zmq.POLLIN)
        has_exited = self._parent in dict(poller.poll())
        return None if has_exited else self._socket.recv_multipart()

    def _compute(
        self, work_id: bytes, envelope: WorkEnvelope, parts: Sequence[bytes], evaluate: Evaluate
    ) -> tuple[ReplyEnvelope, PredictionReply | Refusal]:
        """Return the reply to a request, and its envelope."""
        started_s = time.monotonic()
        message = protocol.decode_request(parts)
        assert isinstance(message, Predict)  # noqa: S101 - the server sends no other message
        candidates = message.request.candidates[envelope.first : envelope.end]
        n_videos = min(message.request.n_videos, len(candidates))
        request = replace(message.request, candidates=candidates, n_videos=n_videos)
        try:
            prediction = evaluate(request, lambda: self._must_stop(work_id, started_s + envelope.deadline_s))
        except DeadlineError as error:
            return ReplyEnvelope("expired"), Refusal(message.id, "expired", str(error))
        except (PredictorError, RuntimeError):  # torch raises RuntimeError
            _log.exception("an internal error")
            return ReplyEnvelope("failed"), Refusal(message.id, "failed", "an internal error; see the server's log")
        timing_s = {**prediction.timing_s, "queue": envelope.queue_s, "work": time.monotonic() - started_s}
        n_nonfinite = int(np.count_nonzero(~np.isfinite(prediction.costs)))
        reply = PredictionReply(message.id, replace(prediction, timing_s=timing_s))
        return ReplyEnvelope("ok", len(candidates), n_nonfinite, timing_s), reply

    def _must_stop(self, work_id: bytes, end_s: float) -> bool:
        """Return whether the deadline has passed, the server cancelled the work, or the server has exited."""
        if time.monotonic() >= end_s or select.select([self._parent], [], [], 0)[0]:
            return True
        while self._socket.poll(0):
            if self._socket.recv_multipart() == [CANCEL, work_id]:
                return True
        return False


if __name__ == "__main__":
    main()
