"""Robustness of the server against malformed messages, bytes that are not ZeroMQ, and half-open connections."""

from __future__ import annotations

import json
import random
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import msgpack  # type: ignore[import-untyped]
import numpy as np
import typer
import zmq

from configs.command import ReportedError, run
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, PredictionRequest
from ghvae_core.serving.protocol import Hello, Predict, Refusal, decode_reply, decode_request, encode_request
from ghvae_core.serving.wire import ProtocolError
from tests.benchmarks.served import RandomRequest, Served, connect, served

# Messages between two reads. The server queues 16 replies per client, and ZeroMQ reports read messages in groups of
# eight, so eight replies always fit: to these messages, to the hello, and a late one to the previous batch.
_BATCH = 4
_SETTLE_S = 3.0  # the server closes a silent connection after 2 s
_GROWTH_MIB = 8.0
_OBJECTS = {"name": "candidates", "dtype": "|O8", "shape": [2**40]}
_INVALID_VALUES: list[Any] = [
    None, True, -1, 2**63, float("nan"), float("inf"), "__import__('os')", "x" * 3000, b"\x80\x04c",
    [], {}, [[[[]]]] * 50, [_OBJECTS], _OBJECTS,
]  # fmt: skip

_OPTIONS = ("--threads", "1", "--set", "serving.standby_after_s=null")  # a standby worker takes no requests


class SiegeError(ReportedError):
    """A check failed."""

    exit_code = 1


def server_siege(
    messages: Annotated[int, typer.Option(min=1, help="Number of malformed messages.")] = 100_000,
    garbage: Annotated[int, typer.Option(min=0, help="Connections with bytes that are not ZeroMQ.")] = 2000,
    half_open: Annotated[int, typer.Option(min=0, help="Connections without a complete greeting.")] = 400,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Send malformed input to a server of the shipped model; print its replies, its growth, and whether it still plans.

    An audit hook in the server process logs every import, exec, compile, unpickling, process start and file opened for
    writing. A mutated message may still be valid; the server must refuse all that the parser of this
    process refuses.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        served(Path(name), *_OPTIONS, audited=True) as server,
        closing(connect(server.address)) as client,
    ):
        before = RandomRequest().costs(client)
        result = _measure(server, client.spec.checkpoint, random.Random(seed), (messages, garbage, half_open))
        result["next_plan_correct"] = bool(np.allclose(before, RandomRequest().costs(client), rtol=1e-4))
        result["alive"] = server.process.poll() is None
    print(json.dumps(result))
    grown = result["grown_mib"] > _GROWTH_MIB
    if grown or result["audit_events"] or not result["alive"] or not result["next_plan_correct"]:
        raise SiegeError("a check failed; see above")


def _measure(server: Served, checkpoint: str, rng: random.Random, n: tuple[int, int, int]) -> dict[str, Any]:
    """Send all input, and return the measurements."""
    messages, garbage, half_open = n
    _flood(server.address, checkpoint, rng, min(messages, 2000))  # warm-up
    rss_mib, n_files = server.rss_mib(), server.n_files()
    server.arm()
    began_s = time.monotonic()
    counts = _flood(server.address, checkpoint, rng, messages)
    flood_s = time.monotonic() - began_s
    _garbage(server.address, rng, garbage)
    n_peak = _half_open(server, rng, half_open, n_files + half_open)
    time.sleep(_SETTLE_S)
    return {
        "messages": messages,
        "messages_per_s": round(messages / flood_s),
        "answered": dict(counts),
        "garbage_connections": garbage,
        "half_open_connections": half_open,
        "descriptors": [n_files, n_peak, server.n_files()],
        "grown_mib": round(server.rss_mib() - rss_mib, 1),
        "audit_events": server.audit_events(),
    }


def _flood(address: str, checkpoint: str, rng: random.Random, n: int) -> Counter[str]:
    """Send malformed messages; return the number of messages and replies by kind."""
    counts: Counter[str] = Counter()
    valid = [encode_request(Hello(b"h" * 16)), small_predict(checkpoint)]
    context = zmq.Context()
    sender = context.socket(zmq.DEALER)
    sender.setsockopt(zmq.LINGER, 0)
    sender.connect(address)
    for i in range(n):
        parts = _mutate(list(valid[i % 2]), rng)
        counts[f"sent {_kind(parts)}"] += 1
        sender.send_multipart(parts)
        if i % _BATCH == _BATCH - 1 or i == n - 1:
            _drain(sender, counts)
    sender.close()
    context.term()
    if counts["bad"] < counts["sent malformed"]:
        raise SiegeError(f"not every malformed message was refused: {dict(counts)}")
    return counts


def _drain(sender: zmq.Socket[bytes], counts: Counter[str]) -> None:
    """Send a hello, and read all replies up to its reply."""
    hello = Hello(uuid4().bytes)
    sender.send_multipart(encode_request(hello))
    while sender.poll(20_000):
        reply = decode_reply(sender.recv_multipart())
        if reply.id == hello.id:
            return
        counts[reply.status if isinstance(reply, Refusal) else type(reply).__name__.lower()] += 1
    raise SiegeError("expected a reply to a hello within 20 s, got none")


def _kind(parts: list[bytes]) -> str:
    try:
        decode_request(parts)
    except ProtocolError:
        return "malformed"
    return "accepted"


def small_predict(checkpoint: str) -> list[bytes]:
    """Return a valid request of the smallest size."""
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    context = Context(frames, np.zeros((1, 4), np.float32))
    request = PredictionRequest(context, np.zeros((2, 2, 4), np.float32), frames[0], 1, GoalCost())
    return encode_request(Predict(uuid4().bytes, request, checkpoint, 1.0))


def _mutate(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Return a message with one or several mutations."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        parts = rng.choice((_flip, _cut, _grow, _drop, _swap, _noise, _retype))(parts, rng) or [b""]
    return parts


def _flip(parts: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(parts))
    data = bytearray(parts[i][:4096])
    for _ in range(rng.randrange(1, 9)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return [*parts[:i], bytes(data), *parts[i + 1 :]]


def _cut(parts: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(parts))
    return [*parts[:i], parts[i][: rng.randrange(len(parts[i]) + 1)], *parts[i + 1 :]]


def _grow(parts: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(parts))
    return [*parts[:i], parts[i] + rng.randbytes(rng.choice((1, 7, 5000))), *parts[i + 1 :]]


def _drop(parts: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(parts))
    return [*parts[:i], *parts[i + 1 :]]


def _swap(parts: list[bytes], rng: random.Random) -> list[bytes]:
    return rng.sample(parts, len(parts)) + [b"x"] * rng.choice((0, 0, 1, 300))


def _noise(parts: list[bytes], rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 7))]


def _retype(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Replace or add a field of the header."""
    try:
        header = msgpack.unpackb(parts[0])
    except (ValueError, msgpack.UnpackException):
        return parts
    if not isinstance(header, dict) or not header:
        return parts
    header[rng.choice([*header, "extra"])] = rng.choice(_INVALID_VALUES)
    return [msgpack.packb(header), *parts[1:]]


def _connections(address: str, n: int) -> Iterator[socket.socket]:
    host, port = address.removeprefix("tcp://").split(":")
    for _ in range(n):
        yield socket.create_connection((host, int(port)), 10)


def _garbage(address: str, rng: random.Random, n: int) -> None:
    """Open connections one after the other, and send bytes that are not ZeroMQ."""
    for raw in _connections(address, n):
        with raw:
            raw.sendall(rng.choice((b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(rng.randrange(1, 600)), b"\xff" * 10)))


def _half_open(server: Served, rng: random.Random, n: int, n_expected: int) -> int:
    """Hold connections open without a complete greeting; return the peak number of descriptors."""
    held = list(_connections(server.address, n))
    for raw in held:
        raw.sendall((b"\xff" + bytes(8) + b"\x7f\x03")[: rng.randrange(12)])
    n_peak, end_s = 0, time.monotonic() + _SETTLE_S
    while time.monotonic() < end_s:
        if n_peak < n_expected:
            n_peak = max(n_peak, server.n_files())
        time.sleep(0.01)
    for raw in held:
        raw.close()
    return n_peak


def main() -> NoReturn:
    """Run the command."""
    run(server_siege)


if __name__ == "__main__":
    main()
