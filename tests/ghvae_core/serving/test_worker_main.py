import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from ghvae_core.predictor import DeadlineError, Prediction, PredictionRequest
from ghvae_core.serving.protocol import Predict, encode_request
from ghvae_core.serving.worker import READY, START, STATE, WORK, WorkEnvelope, open_channel
from ghvae_core.serving.worker_main import WorkerLoop
from tests.ghvae_core.serving.example import SPEC, request
from tests.ghvae_core.serving.live import PATIENCE_S
from tests.patience import patience


def test_the_exit_of_the_server_ends_waiting_and_computing_workers(tmp_path: Path) -> None:
    begun = threading.Event()

    def until_stopped(_request: PredictionRequest, must_stop: Callable[[], bool]) -> Prediction:
        begun.set()
        while not must_stop():
            time.sleep(0.001)
        raise DeadlineError("stopped")

    def process(address: str, parent: int, ended: list[bool]) -> None:
        loop = WorkerLoop(address, parent)
        if loop.wait_for_start():
            loop.serve(SPEC, 0.1, until_stopped, lambda: None)
        loop.close()
        ended.append(True)

    for is_busy in (False, True):
        context, address, ended = zmq.Context(), f"ipc://{tmp_path}/{is_busy}", list[bool]()
        server = open_channel(context, address, binds=True)
        read_end, write_end = os.pipe()
        thread = threading.Thread(target=process, args=(address, read_end, ended))
        thread.start()
        assert server.poll(round(1000 * patience(PATIENCE_S))) and server.recv_multipart() == [STATE, b"starting"]
        if is_busy:
            server.send_multipart([START])
            assert server.poll(round(1000 * patience(PATIENCE_S))) and server.recv_multipart()[0] == READY
            message = Predict(b"id", request(), SPEC.checkpoint, 60.0)
            server.send_multipart([WORK, b"work", WorkEnvelope(60.0, 0.0, 0, 5).pack(), *encode_request(message)])
            assert begun.wait(patience(PATIENCE_S))
        os.close(write_end)
        thread.join(patience(PATIENCE_S))
        assert ended == [True]
        server.close()
        context.term()
        os.close(read_end)
