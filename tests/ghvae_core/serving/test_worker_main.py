import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from ghvae_core.predictor import DeadlineError, Prediction, PredictionRequest
from ghvae_core.serving.protocol import Predict, encode_request
from ghvae_core.serving.worker import BEGIN, READY, STATE, WORK, end
from ghvae_core.serving.worker_main import Work
from tests.ghvae_core.serving.example import SPEC, request
from tests.ghvae_core.serving.live import PATIENCE_S
from tests.patience import patience


def test_a_front_that_dies_ends_the_wait_and_the_work(tmp_path: Path) -> None:
    begun = threading.Event()

    def until_over(_asked: PredictionRequest, is_over: Callable[[], bool]) -> Prediction:
        begun.set()
        while not is_over():
            time.sleep(0.001)
        raise DeadlineError("over")

    def process(address: str, parent: int, ended: list[bool]) -> None:
        work = Work(address, parent)
        if work.begins():
            work.serve(SPEC, 0.1, until_over, lambda: None)
        work.close()
        ended.append(True)

    for is_at_work in (False, True):
        context, address, ended = zmq.Context(), f"ipc://{tmp_path}/{is_at_work}", list[bool]()
        server = end(context, address, binds=True)
        ours, fronts = os.pipe()
        thread = threading.Thread(target=process, args=(address, ours, ended))
        thread.start()
        assert server.poll(round(1000 * patience(PATIENCE_S))) and server.recv_multipart() == [STATE, b"starting"]
        if is_at_work:
            server.send_multipart([BEGIN])
            assert server.poll(round(1000 * patience(PATIENCE_S))) and server.recv_multipart()[0] == READY
            message = Predict(b"id", request(), SPEC.checkpoint, 60.0)
            server.send_multipart([WORK, *encode_request(message)])
            assert begun.wait(patience(PATIENCE_S))
        os.close(fronts)
        thread.join(patience(PATIENCE_S))
        assert ended == [True]
        server.close()
        context.term()
        os.close(ours)
