"""The process's end of the line: takes one work after the other from the front, until the front is gone."""

from __future__ import annotations

import logging
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import zmq

from configs.command import ReportedError, run
from ghvae_core.predictor import DeadlineError, Prediction, PredictionRequest, PredictorError, PredictorSpec
from ghvae_core.serving import protocol
from ghvae_core.serving.config import load_run_server
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal, Welcome
from ghvae_core.serving.wire import ServerLimits
from ghvae_core.serving.worker import DONE, FAILED, GIVE_UP, READY, STATE, ServerState, end


def model_process(
    line: Annotated[str, typer.Option(help="Address of the front's end of the line.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="predictor.KEY=VALUE")] = None,
) -> None:
    """Wait for the word of the front, load, prove itself, warm up, and compute, until the front is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with closing(Work(line, sys.stdin.fileno())) as work:
        from ghvae_core.serving.local import open_predictor  # noqa: PLC0415 - seconds, spent in reserve

        if not work.begins():
            return
        try:
            work.tell("loading")
            predictor = open_predictor(checkpoint, device, threads, load_run_server(set_ or []).predictor)
            work.tell("warming")
            predictor.self_test()
            warm_up_s = predictor.warm_up()
        except ReportedError as error:
            work.fail(error)
            return
        work.serve(predictor.spec, warm_up_s, predictor.evaluate, predictor.self_test)


def main() -> NoReturn:
    """Run the process."""
    run(model_process)


Evaluate = Callable[[PredictionRequest, Callable[[], bool]], Prediction]  # the request, and whether it is over

_log = logging.getLogger(__name__)


class Work:
    """One thread that computes, and between its steps looks whether it still should.

    Args:
        address: Of the front's end.
        parent: File descriptor that reaches its end when the front has died.
    """

    def __init__(self, address: str, parent: int) -> None:
        self._context = zmq.Context()
        self._socket = end(self._context, address, binds=False)
        self._parent = parent

    def begins(self) -> bool:
        """Wait until the front wants this process to load its model; say no when the front is gone."""
        self.tell("starting")
        return self._receive() is not None

    def tell(self, state: ServerState) -> None:
        """Tell the front how far the start is."""
        self._socket.send_multipart([STATE, state.encode()])

    def fail(self, error: ReportedError) -> None:
        """Tell the front why there is no start, and that another process could not start either."""
        self._socket.send_multipart([FAILED, str(error.exit_code).encode(), str(error).encode()])

    def serve(self, spec: PredictorSpec, warm_up_s: float, evaluate: Evaluate, proves: Callable[[], object]) -> None:
        """Answer until the front is gone.

        Args:
            spec: What `evaluate` can do.
            warm_up_s: For the front to tell.
            evaluate: Computes; asks between its steps whether to give up.
            proves: Called after an error in `evaluate`; raises where nothing can be computed any more, which ends this
                process, and the front starts another.
        """
        welcome = Welcome(b"ready", spec, ServerLimits(max_waiting=1))
        self._socket.send_multipart([READY, repr(warm_up_s).encode(), *protocol.encode_reply(welcome)])
        while (message := self._next()) is not None:
            reply = self._answer(message, evaluate, proves)
            self._socket.send_multipart([DONE, *protocol.encode_reply(reply)])

    def close(self) -> None:
        """Let the last word leave, and let go of the line."""
        self._socket.close(linger=1000)
        self._context.term()

    def _next(self) -> Predict | None:
        """Return the next work; None when the front is gone."""
        while (received := self._receive()) is not None:
            verb, *parts = received
            if verb != GIVE_UP:  # which comes too late for a work that is done
                message = protocol.decode_request(parts)
                assert isinstance(message, Predict)  # noqa: S101 - the front sends nothing else
                return message
        return None

    def _receive(self) -> list[bytes] | None:
        """Return the next message; None when the front is gone."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._parent, zmq.POLLIN)
        is_gone = self._parent in dict(poller.poll())
        return None if is_gone else self._socket.recv_multipart()

    def _answer(self, message: Predict, evaluate: Evaluate, proves: Callable[[], object]) -> PredictionReply | Refusal:
        end_s = time.monotonic() + message.deadline_s
        try:
            return PredictionReply(message.id, evaluate(message.request, lambda: self._is_over(message.id, end_s)))
        except DeadlineError as error:
            return Refusal(message.id, "expired", str(error))
        except (PredictorError, RuntimeError):  # RuntimeError: what torch raises
            _log.exception("an internal error")
            proves()
            return Refusal(message.id, "failed", "an internal error; the server's log tells more")

    def _is_over(self, id_: bytes, end_s: float) -> bool:
        """Tell whether a work is not wanted any more: its time is up, the front gave it up, or is gone."""
        if time.monotonic() >= end_s or select.select([self._parent], [], [], 0)[0]:
            return True
        while self._socket.poll(0):
            if self._socket.recv_multipart() == [GIVE_UP, id_]:
                return True
        return False


if __name__ == "__main__":
    main()
