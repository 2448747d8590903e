"""A worker process without a model that follows a script."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ghvae_core.predictor import DeadlineError, MismatchError, Prediction, PredictionRequest
from ghvae_core.serving.worker_main import Evaluate, WorkerLoop
from tests.ghvae_core.serving.example import SPEC, prediction

MustStop = Callable[[], bool]


def _predict(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    return prediction(request)


def _until_stopped(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    while not must_stop():
        time.sleep(0.001)
    raise DeadlineError("stopped")


def _raise(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    raise RuntimeError("CUDA error at /secret/path.cu:7")


def _die(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def _hang(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    while True:
        time.sleep(1)


def _nan(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    return replace(prediction(request), costs=np.full(len(request.candidates), np.nan, np.float32))


def _half_nan(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    """Return no finite cost for the first part of five candidates that two processes share."""
    predicted = prediction(request)
    return replace(predicted, costs=np.full_like(predicted.costs, np.nan)) if len(predicted.costs) == 3 else predicted


def _final_frames(request: PredictionRequest, must_stop: MustStop) -> Prediction:
    return replace(prediction(request), costs=np.full(len(request.candidates), request.cost.final_frames, np.float32))


class _Gate:
    """Creates a file for each request, and waits for the file `open` before it returns."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._n = folder, 0

    def __call__(self, request: PredictionRequest, must_stop: MustStop) -> Prediction:
        (self._folder / f"entered_{self._n}").touch()
        self._n += 1
        while not (self._folder / "open").exists():
            if must_stop():
                raise DeadlineError("stopped")
            time.sleep(0.002)
        return prediction(request)


class _Once:
    """Calls `what` for the first request to any process, and computes the later ones."""

    def __init__(self, folder: Path, what: Evaluate) -> None:
        self._mark, self._what = folder / "done once", what

    def __call__(self, request: PredictionRequest, must_stop: MustStop) -> Prediction:
        if self._mark.exists():
            return prediction(request)
        self._mark.touch()
        return self._what(request, must_stop)


def _self_test() -> None:
    if "broken" in sys.argv:
        raise RuntimeError("the device is broken")


def main() -> None:
    script, folder, address = sys.argv[1], Path(sys.argv[2]), sys.argv[-1]
    if script == "dead at start":
        sys.exit(3)
    scripts: dict[str, Evaluate] = {
        "predict": _predict, "until stopped": _until_stopped, "raise": _raise, "die": _die, "hang": _hang, "nan": _nan,
        "half nan": _half_nan, "gate": _Gate(folder), "die once": _Once(folder, _die),
        "hang once": _Once(folder, _hang), "raise once": _Once(folder, _raise), "final frames": _final_frames,
    }  # fmt: skip
    loop = WorkerLoop(address, sys.stdin.fileno())
    try:
        if not loop.wait_for_start():
            return
        if script == "refuse":
            loop.report_failure(MismatchError("nowhere: expected a checkpoint"))
            return
        loop.report_state("loading")
        while script == "slow start" and not (folder / "open").exists():
            time.sleep(0.01)
        loop.report_state("warming")
        name = "another" if script == "changes" and (folder / "done once").exists() else SPEC.name
        evaluate = scripts.get(script, _Once(folder, _die) if script == "changes" else _predict)
        loop.serve(replace(SPEC, name=name), 0.125, evaluate, _self_test)
    finally:
        loop.close()


if __name__ == "__main__":
    main()
