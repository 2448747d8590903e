"""Many clients of one server, with further ones that flood it or never read replies."""

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
from tests.benchmarks.served import Costs, RandomRequest, connect, served
from tests.benchmarks.server_siege import small_predict

_N, _HORIZON = 2, 2  # candidates and steps of a request; small, so that many are processed
_LEAD_S = 5.0  # start of the client processes; not counted
_N_REQUESTS = 8  # different requests; clients use them in rotation, so that a reply to another client is detected


class CrowdError(ReportedError):
    """A client received a mismatched reply or none."""

    exit_code = 1


class ClientRecord(NamedTuple):
    """The replies that one client received."""

    spans_s: list[tuple[float, float]]  # start and end of each request; monotonic
    work_s: list[float]  # work of each reply, by the clock of the server
    failed: list[str]
    n_mismatched: int  # replies to another request


def server_crowd(
    clients: Annotated[int, typer.Option(min=1, help="Regular clients, in two processes.")] = 50,
    seconds: Annotated[float, typer.Option(min=1, help="Duration in seconds.")] = 60.0,
    flooders: Annotated[int, typer.Option(min=0, help="Clients that send without waiting.")] = 1,
    mutes: Annotated[int, typer.Option(min=0, help="Clients that send and never read.")] = 1,
) -> None:
    """Run all clients at once; print the number of replies, their times, and the mismatched replies.

    Every client repeats one request whose costs were computed before, so a reply to another client is detected. The
    bound is that of the queue: between a request and its reply each other client is served at most once. (The times
    are printed with those of the server's work alone; the clients share the machine with the server.)
    """
    options = ("--threads", "1", "--set", f"serving.max_waiting={clients + flooders + mutes}")
    with tempfile.TemporaryDirectory() as name, served(Path(name), *options) as server:
        with closing(connect(server.address)) as first:
            expected = [RandomRequest(_N, _HORIZON, seed).costs(first) for seed in range(_N_REQUESTS)]
            one_s = median(_time(first) for _ in range(20))
            checkpoint = first.spec.checkpoint
        records = _run_clients(Load(server.address, checkpoint, seconds, expected), clients, flooders, mutes)
        alive = server.process.poll() is None
    result = {**_statistics(records, clients + flooders + mutes), "alone_ms": round(1000 * one_s, 1), "alive": alive}
    print(json.dumps({"clients": clients, "seconds": seconds, **result}))
    is_correct = alive and not result["misdelivered"] and not result["failed"] and result["fewest_by_one"] > 0
    if not is_correct or result["p99_answered_between"] > result["bound"]:
        raise CrowdError("a client received a mismatched reply, an error or none, or waited too long; see above")


class Load(NamedTuple):
    """Settings of all clients."""

    address: str
    checkpoint: str
    seconds: float
    expected: list[Costs]  # of each request


def _time(client: ServerClient) -> float:
    began_s = time.monotonic()
    RandomRequest(_N, _HORIZON, 0).costs(client)
    return time.monotonic() - began_s


def _run_clients(load: Load, clients: int, flooders: int, mutes: int) -> list[ClientRecord]:
    """Run all clients, and return the records of the regular ones."""
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    halves = np.array_split(np.arange(clients), 2)
    regular = [context.Process(target=_regular_clients, args=(load, half.tolist(), results)) for half in halves]
    abusive = [context.Process(target=_flood, args=(load, stop, True)) for _ in range(flooders)]
    abusive += [context.Process(target=_flood, args=(load, stop, False)) for _ in range(mutes)]
    for process in [*abusive, *regular]:
        process.start()
    records = [record for _ in regular for record in results.get(timeout=load.seconds + 120)]
    stop.set()
    for process in [*abusive, *regular]:
        process.join()
    return records


def _statistics(records: list[ClientRecord], n: int) -> dict[str, Any]:
    """Return the statistics of the records with n clients in all."""
    spans_s = np.array([span for each in records for span in each.spans_s]).reshape(-1, 2)
    if not len(spans_s):
        raise CrowdError("no request was answered")
    sent_s, received_s = spans_s.T
    all_s = np.sort(received_s)
    between = np.searchsorted(all_s, received_s, "left") - np.searchsorted(all_s, sent_s, "right")
    median_s, p99_s = np.quantile(received_s - sent_s, (0.5, 0.99))
    work_s = float(np.mean([one for each in records for one in each.work_s]))
    return {
        "answered": len(received_s),
        "fewest_by_one": min(len(each.spans_s) for each in records),
        "failed": dict(Counter(one for each in records for one in each.failed)),
        "misdelivered": sum(each.n_mismatched for each in records),
        "p99_answered_between": float(np.quantile(between, 0.99)),
        "most_answered_between": int(between.max()),
        "bound": n - 1,
        "work_ms": round(1000 * work_s, 1),
        "median_ms": round(1000 * float(median_s), 1),
        "p99_ms": round(1000 * float(p99_s), 1),
        "work_of_all_ms": round(1000 * n * work_s, 1),
    }


def _regular_clients(load: Load, numbers: list[int], results: Queue[list[ClientRecord]]) -> None:
    """Run regular clients in threads of one process."""
    with ThreadPoolExecutor(len(numbers)) as pool:
        results.put(list(pool.map(partial(_regular_client, load), numbers)))


def _regular_client(load: Load, number: int) -> ClientRecord:
    """Repeat one request until the end."""
    repeated, expected = RandomRequest(_N, _HORIZON, number % _N_REQUESTS), load.expected[number % _N_REQUESTS]
    spans_s: list[tuple[float, float]] = []
    work_s: list[float] = []
    failed: list[str] = []
    n_mismatched, first_s = 0, time.monotonic() + _LEAD_S
    with closing(connect(load.address, 30.0)) as client:
        while (began_s := time.monotonic()) < first_s + load.seconds:
            try:
                reply = repeated.predict(client)
                if began_s > first_s:
                    spans_s.append((began_s, time.monotonic()))
                    work_s.append(reply.timing_s["work"])
                n_mismatched += not np.allclose(reply.costs, expected, rtol=1e-3)
            except PredictorError as error:
                failed.append(type(error).__name__)
    return ClientRecord(spans_s, work_s, failed, n_mismatched)


def _flood(load: Load, stop: Event, reads: bool) -> None:
    """Send hellos and requests as fast as the connection accepts them."""
    context = zmq.Context()
    sender = context.socket(zmq.DEALER)
    sender.setsockopt(zmq.LINGER, 0)
    sender.setsockopt(zmq.SNDTIMEO, 100)
    sender.connect(load.address)
    while not stop.is_set():
        try:
            sender.send_multipart(small_predict(load.checkpoint))
            sender.send_multipart(encode_request(Hello(uuid4().bytes)))
        except zmq.Again:
            continue
        while reads and sender.poll(0):
            sender.recv_multipart()
    sender.close()
    context.term()


def main() -> NoReturn:
    """Run the command."""
    run(server_crowd)


if __name__ == "__main__":
    main()
