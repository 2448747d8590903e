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
_QUESTIONS = 8  # different ones; each client has its own in its turn, so that another's answer is told from its own


class CrowdError(ReportedError):
    """Somebody was served wrongly, or not at all."""

    exit_code = 1


class Told(NamedTuple):
    """What one client saw."""

    took_s: list[float]
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
    bound is what may stand in front of one, times the time of one: the newest request of every client.
    """
    options = ("--threads", "1", "--set", f"serving.max_waiting={clients + flooders + mutes}")
    with tempfile.TemporaryDirectory() as name, served(Path(name), *options) as server:
        with closing(connect(server.address)) as first:
            right = [Question(_N, _HORIZON, seed).costs(first) for seed in range(_QUESTIONS)]
            one_s = median(_time(first) for _ in range(20))
            checkpoint = first.spec.checkpoint
        told = _crowd(Crowd(server.address, checkpoint, seconds, right), clients, flooders, mutes)
        alive = server.process.poll() is None
    result = {**_figures(told, one_s, (clients + flooders + mutes + 1) * one_s), "alive": alive}
    print(json.dumps({"clients": clients, "seconds": seconds, **result}))
    if not alive or result["misdelivered"] or result["failed"] or not result["fewest_by_one"]:
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


def _figures(told: list[Told], one_s: float, bound_s: float) -> dict[str, Any]:
    took_s = np.array([one for each in told for one in each.took_s] or [np.inf])
    median_s, p99_s = np.quantile(took_s, (0.5, 0.99))
    return {
        "answered": len(took_s),
        "fewest_by_one": min(len(each.took_s) for each in told),
        "failed": dict(Counter(one for each in told for one in each.failed)),
        "misdelivered": sum(each.n_wrong for each in told),
        "alone_ms": round(1000 * one_s, 1),
        "median_ms": round(1000 * float(median_s), 1),
        "p99_ms": round(1000 * float(p99_s), 1),
        "bound_ms": round(1000 * bound_s, 1),
        "p99_share_of_bound": round(float(p99_s) / bound_s, 2),
    }


def _people(crowd: Crowd, numbers: list[int], results: Queue[list[Told]]) -> None:
    """Ask from many threads of one process."""
    with ThreadPoolExecutor(len(numbers)) as pool:
        results.put(list(pool.map(partial(_person, crowd), numbers)))


def _person(crowd: Crowd, number: int) -> Told:
    """Ask again and again."""
    question, right = Question(_N, _HORIZON, number % _QUESTIONS), crowd.right[number % _QUESTIONS]
    took_s: list[float] = []
    failed: list[str] = []
    n_wrong, end_s = 0, time.monotonic() + crowd.seconds
    with closing(connect(crowd.address, 30.0)) as client:
        while (began_s := time.monotonic()) < end_s:
            try:
                n_wrong += not np.allclose(question.costs(client), right, rtol=1e-3)
                took_s.append(time.monotonic() - began_s)
            except PredictorError as error:  # noqa: PERF203 - each is one client's misfortune
                failed.append(type(error).__name__)
    return Told(took_s, failed, n_wrong)


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
