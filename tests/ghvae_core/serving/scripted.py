"""A process at the other end of the front's line that does as it is told, without a model."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ghvae_core.predictor import DeadlineError, MismatchError, Prediction, PredictionRequest
from ghvae_core.serving.worker_main import Evaluate, Work
from tests.ghvae_core.serving.example import SPEC, prediction

Over = Callable[[], bool]


def _answer(asked: PredictionRequest, is_over: Over) -> Prediction:
    return prediction(asked)


def _until_over(asked: PredictionRequest, is_over: Over) -> Prediction:
    while not is_over():
        time.sleep(0.001)
    raise DeadlineError("over")


def _raise(asked: PredictionRequest, is_over: Over) -> Prediction:
    raise RuntimeError("CUDA error at /secret/path.cu:7")


def _die(asked: PredictionRequest, is_over: Over) -> Prediction:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")


def _hang(asked: PredictionRequest, is_over: Over) -> Prediction:
    while True:
        time.sleep(1)


def _nan(asked: PredictionRequest, is_over: Over) -> Prediction:
    return replace(prediction(asked), costs=np.full(len(asked.candidates), np.nan, np.float32))


def _half_nan(asked: PredictionRequest, is_over: Over) -> Prediction:
    """Of the first half of five candidates, where two processes share them, no cost is finite."""
    answered = prediction(asked)
    return replace(answered, costs=np.full_like(answered.costs, np.nan)) if len(answered.costs) == 3 else answered


def _final_frames(asked: PredictionRequest, is_over: Over) -> Prediction:
    return replace(prediction(asked), costs=np.full(len(asked.candidates), asked.cost.final_frames, np.float32))


class _Gate:
    """Tells by files that it works, and waits for one that lets it go on."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._n = folder, 0

    def __call__(self, asked: PredictionRequest, is_over: Over) -> Prediction:
        (self._folder / f"entered_{self._n}").touch()
        self._n += 1
        while not (self._folder / "open").exists():
            if is_over():
                raise DeadlineError("over")
            time.sleep(0.002)
        return prediction(asked)


class _Once:
    """Does something the first time that any process of the crew is asked, and answers later."""

    def __init__(self, folder: Path, what: Evaluate) -> None:
        self._mark, self._what = folder / "done once", what

    def __call__(self, asked: PredictionRequest, is_over: Over) -> Prediction:
        if self._mark.exists():
            return prediction(asked)
        self._mark.touch()
        return self._what(asked, is_over)


def _proves() -> None:
    if "broken" in sys.argv:
        raise RuntimeError("nothing works any more")


def main() -> None:
    script, folder, address = sys.argv[1], Path(sys.argv[2]), sys.argv[-1]
    if script == "dead at start":
        sys.exit(3)
    scripts: dict[str, Evaluate] = {
        "answer": _answer, "until over": _until_over, "raise": _raise, "die": _die, "hang": _hang, "nan": _nan,
        "half nan": _half_nan, "gate": _Gate(folder), "die once": _Once(folder, _die),
        "hang once": _Once(folder, _hang), "raise once": _Once(folder, _raise), "final frames": _final_frames,
    }  # fmt: skip
    work = Work(address, sys.stdin.fileno())
    try:
        if not work.begins():
            return
        if script == "refuse":
            work.fail(MismatchError("nowhere: expected a checkpoint"))
            return
        work.tell("loading")
        while script == "slow start" and not (folder / "open").exists():
            time.sleep(0.01)
        work.tell("warming")
        name = "another" if script == "changes" and (folder / "done once").exists() else SPEC.name
        evaluate = scripts.get(script, _Once(folder, _die) if script == "changes" else _answer)
        work.serve(replace(SPEC, name=name), 0.125, evaluate, _proves)
    finally:
        work.close()


if __name__ == "__main__":
    main()
