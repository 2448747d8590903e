"""Many clients at one server, with some among them that flood it and one that never reads."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple, NoReturn
from uuid import uuid4

import numpy as np
import typer
import zmq

from configs.command import ReportedError, run
from ghvae_core.predictor import PredictorError
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.protocol import Hello, encode_request
from tests.benchmarks.served import Costs, Question, connect, served
from tests.benchmarks.server_siege import small_predict

_N, _HORIZON = 2, 2  # candidates and steps of a request: many small ones
_LEAD_S = 5.0  # in which the crowd's processes start, beside the server; not counted
_QUESTIONS = 8  # different ones; each client has its own in its turn, so that another's answer is told from its own


class CrowdError(ReportedError):
    """Somebody was served wrongly, or not at all."""

    exit_code = 1


class Told(NamedTuple):
    """What one client saw."""

    spans_s: list[tuple[float, float]]  # of each answer, when it was asked for and when it came; monotonic
    work_s: list[float]  # of each answer, by the server's own clock
    failed: list[str]
    n_wrong: int  # answers to somebody else's question


def server_crowd(
    clients: Annotated[int, typer.Option(min=1, help="well-behaved ones, in two processes")] = 50,
    seconds: Annotated[float, typer.Option(min=1, help="how long")] = 60.0,
    flooders: Annotated[int, typer.Option(min=0, help="that send without waiting")] = 1,
    mutes: Annotated[int, typer.Option(min=0, help="that ask and never read")] = 1,
) -> None:
    """Let a crowd ask at once; print how many were served, how soon, and whether anybody got another's answer.

    Every client asks one question of its own, whose costs were noted before, so each answer shows whose it is. The
    bound is that of the line: between a question and its answer each of the others is answered once at most. (What
    that takes is told beside what the server's work would take alone; the crowd shares the machine with it.)
    """
    options = ("--threads", "1", "--set", f"serving.max_waiting={clients + flooders + mutes}")
    with tempfile.TemporaryDirectory() as name, served(Path(name), *options) as server:
        with closing(connect(server.address)) as first:
            right = [Question(_N, _HORIZON, seed).costs(first) for seed in range(_QUESTIONS)]
            one_s = median(_time(first) for _ in range(20))
            checkpoint = first.spec.checkpoint
        told = _crowd(Crowd(server.address, checkpoint, seconds, right), clients, flooders, mutes)
        alive = server.process.poll() is None
    result = {**_figures(told, clients + flooders + mutes), "alone_ms": round(1000 * one_s, 1), "alive": alive}
    print(json.dumps({"clients": clients, "seconds": seconds, **result}))
    is_right = alive and not result["misdelivered"] and not result["failed"] and result["fewest_by_one"] > 0
    if not is_right or result["p99_answered_between"] > result["bound"]:
        raise CrowdError("not everybody was served rightly; see above")


class Crowd(NamedTuple):
    """What everybody in it knows."""

    address: str
    checkpoint: str
    seconds: float
    right: list[Costs]  # of each question


def _time(client: ServerClient) -> float:
    began_s = time.monotonic()
    Question(_N, _HORIZON, 0).costs(client)
    return time.monotonic() - began_s


def _crowd(crowd: Crowd, clients: int, flooders: int, mutes: int) -> list[Told]:
    """Let them all ask, and return what the well-behaved ones saw."""
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    halves = np.array_split(np.arange(clients), 2)
    people = [context.Process(target=_people, args=(crowd, half.tolist(), results)) for half in halves]
    pests = [context.Process(target=_flood, args=(crowd, stop, True)) for _ in range(flooders)]
    pests += [context.Process(target=_flood, args=(crowd, stop, False)) for _ in range(mutes)]
    for process in [*pests, *people]:
        process.start()
    told = [told for _ in people for told in results.get(timeout=crowd.seconds + 120)]
    stop.set()
    for process in [*pests, *people]:
        process.join()
    return told


def _figures(told: list[Told], n: int) -> dict[str, Any]:
    """Return the figures of a crowd of n."""
    spans_s = np.array([span for each in told for span in each.spans_s]).reshape(-1, 2)
    if not len(spans_s):
        raise CrowdError("no request was answered")
    asked_s, came_s = spans_s.T
    all_s = np.sort(came_s)
    between = np.searchsorted(all_s, came_s, "left") - np.searchsorted(all_s, asked_s, "right")
    median_s, p99_s = np.quantile(came_s - asked_s, (0.5, 0.99))
    work_s = float(np.mean([one for each in told for one in each.work_s]))
    return {
        "answered": len(came_s),
        "fewest_by_one": min(len(each.spans_s) for each in told),
        "failed": dict(Counter(one for each in told for one in each.failed)),
        "misdelivered": sum(each.n_wrong for each in told),
        "p99_answered_between": float(np.quantile(between, 0.99)),
        "most_answered_between": int(between.max()),
        "bound": n - 1,
        "work_ms": round(1000 * work_s, 1),
        "median_ms": round(1000 * float(median_s), 1),
        "p99_ms": round(1000 * float(p99_s), 1),
        "work_of_all_ms": round(1000 * n * work_s, 1),
    }


def _people(crowd: Crowd, numbers: list[int], results: Queue[list[Told]]) -> None:
    """Ask from many threads of one process."""
    with ThreadPoolExecutor(len(numbers)) as pool:
        results.put(list(pool.map(partial(_person, crowd), numbers)))


def _person(crowd: Crowd, number: int) -> Told:
    """Ask again and again."""
    question, right = Question(_N, _HORIZON, number % _QUESTIONS), crowd.right[number % _QUESTIONS]
    spans_s: list[tuple[float, float]] = []
    work_s: list[float] = []
    failed: list[str] = []
    n_wrong, first_s = 0, time.monotonic() + _LEAD_S
    with closing(connect(crowd.address, 30.0)) as client:
        while (began_s := time.monotonic()) < first_s + crowd.seconds:
            try:
                answer = question.ask(client)
                if began_s > first_s:
                    spans_s.append((began_s, time.monotonic()))
                    work_s.append(answer.timing_s["work"])
                n_wrong += not np.allclose(answer.costs, right, rtol=1e-3)
            except PredictorError as error:
                failed.append(type(error).__name__)
    return Told(spans_s, work_s, failed, n_wrong)


def _flood(crowd: Crowd, stop: Event, reads: bool) -> None:
    """Send hellos and requests as fast as the wire takes them."""
    context = zmq.Context()
    pest = context.socket(zmq.DEALER)
    pest.setsockopt(zmq.LINGER, 0)
    pest.setsockopt(zmq.SNDTIMEO, 100)
    pest.connect(crowd.address)
    while not stop.is_set():
        try:
            pest.send_multipart(small_predict(crowd.checkpoint))
            pest.send_multipart(encode_request(Hello(uuid4().bytes)))
        except zmq.Again:
            continue
        while reads and pest.poll(0):
            pest.recv_multipart()
    pest.close()
    context.term()


def main() -> NoReturn:
    """Run the command."""
    run(server_crowd)


if __name__ == "__main__":
    main()
