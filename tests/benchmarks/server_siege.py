"""What strangers can do to a server that they reach: malformed messages, bytes below ZeroMQ, connections half open."""

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
from tests.benchmarks.served import Question, Served, connect, served

# Messages in flight. The server keeps 16 answers for who does not read, and ZeroMQ hears of eight at a time that they
# were read, so eight are sure to find room: these, the one to the hello, and a late one to the batch before.
_BATCH = 4
_SETTLE_S = 3.0  # the server lets a silent connection go after 2 s
_GROWTH_MIB = 8.0
_OBJECTS = {"name": "candidates", "dtype": "|O8", "shape": [2**40]}
_ODD: list[Any] = [
    None, True, -1, 2**63, float("nan"), float("inf"), "__import__('os')", "x" * 3000, b"\x80\x04c",
    [], {}, [[[[]]]] * 50, [_OBJECTS], _OBJECTS,
]  # fmt: skip

_OPTIONS = ("--threads", "1", "--set", "serving.standby_after_s=null")  # a standby worker takes no requests


class SiegeError(ReportedError):
    """Something got through."""

    exit_code = 1


def server_siege(
    messages: Annotated[int, typer.Option(min=1, help="malformed ones")] = 100_000,
    garbage: Annotated[int, typer.Option(min=0, help="connections that speak no ZeroMQ")] = 2000,
    half_open: Annotated[int, typer.Option(min=0, help="connections that say nothing, or begin and stop")] = 400,
    seed: Annotated[int, typer.Option(help="of everything")] = 0,
) -> None:
    """Besiege a server of the shipped model, and print what it answered, how it grew, and whether it still plans right.

    An audit hook in the server's process tells of every import, exec, compile, unpickling, process and file opened for
    writing. A message that was mutated may still be a valid one: each that is accepted must pass the parser here too.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        served(Path(name), *_OPTIONS, audited=True) as server,
        closing(connect(server.address)) as client,
    ):
        before = Question().costs(client)
        result = _besiege(server, client.spec.checkpoint, random.Random(seed), (messages, garbage, half_open))
        result["next_plan_right"] = bool(np.allclose(before, Question().costs(client), rtol=1e-4))
        result["alive"] = server.process.poll() is None
    print(json.dumps(result))
    grown = result["grown_mib"] > _GROWTH_MIB
    if grown or result["audit_events"] or not result["alive"] or not result["next_plan_right"]:
        raise SiegeError("the server did not stand as it must; see above")


def _besiege(server: Served, checkpoint: str, rng: random.Random, n: tuple[int, int, int]) -> dict[str, Any]:
    """Do everything, and return the figures."""
    messages, garbage, half_open = n
    _flood(server.address, checkpoint, rng, min(messages, 2000))  # what is made once is made
    rss_mib, n_files = server.rss_mib(), server.n_files()
    server.arm()
    began_s = time.monotonic()
    told = _flood(server.address, checkpoint, rng, messages)
    flood_s = time.monotonic() - began_s
    _garbage(server.address, rng, garbage)
    n_peak = _half_open(server, rng, half_open, n_files + half_open)
    time.sleep(_SETTLE_S)
    return {
        "messages": messages,
        "messages_per_s": round(messages / flood_s),
        "answered": dict(told),
        "garbage_connections": garbage,
        "half_open_connections": half_open,
        "descriptors": [n_files, n_peak, server.n_files()],
        "grown_mib": round(server.rss_mib() - rss_mib, 1),
        "audit_events": server.heard(),
    }


def _flood(address: str, checkpoint: str, rng: random.Random, n: int) -> Counter[str]:
    """Send malformed messages, and return what came back."""
    told: Counter[str] = Counter()
    valid = [encode_request(Hello(b"h" * 16)), small_predict(checkpoint)]
    context = zmq.Context()
    vandal = context.socket(zmq.DEALER)
    vandal.setsockopt(zmq.LINGER, 0)
    vandal.connect(address)
    for i in range(n):
        parts = _mutate(list(valid[i % 2]), rng)
        told[f"sent {_kind(parts)}"] += 1
        vandal.send_multipart(parts)
        if i % _BATCH == _BATCH - 1 or i == n - 1:
            _drain(vandal, told)
    vandal.close()
    context.term()
    if told["bad"] < told["sent malformed"]:
        raise SiegeError(f"not every malformed message was refused: {dict(told)}")
    return told


def _drain(vandal: zmq.Socket[bytes], told: Counter[str]) -> None:
    """Say hello, and read until that is answered, and with it all that came before."""
    hello = Hello(uuid4().bytes)
    vandal.send_multipart(encode_request(hello))
    while vandal.poll(20_000):
        reply = decode_reply(vandal.recv_multipart())
        if reply.id == hello.id:
            return
        told[reply.status if isinstance(reply, Refusal) else type(reply).__name__.lower()] += 1
    raise SiegeError("a hello was not answered within 20 s")


def _kind(parts: list[bytes]) -> str:
    try:
        decode_request(parts)
    except ProtocolError:
        return "malformed"
    return "accepted"


def small_predict(checkpoint: str) -> list[bytes]:
    """Return a valid request for the least work that there is."""
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    context = Context(frames, np.zeros((1, 4), np.float32))
    asked = PredictionRequest(context, np.zeros((2, 2, 4), np.float32), frames[0], 1, GoalCost())
    return encode_request(Predict(uuid4().bytes, asked, checkpoint, 1.0))


def _mutate(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Return a message with one or a few things wrong."""
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
    """Put something else in the place of a header's field."""
    try:
        header = msgpack.unpackb(parts[0])
    except (ValueError, msgpack.UnpackException):
        return parts
    if not isinstance(header, dict) or not header:
        return parts
    header[rng.choice([*header, "extra"])] = rng.choice(_ODD)
    return [msgpack.packb(header), *parts[1:]]


def _connections(address: str, n: int) -> Iterator[socket.socket]:
    host, port = address.removeprefix("tcp://").split(":")
    for _ in range(n):
        yield socket.create_connection((host, int(port)), 10)


def _garbage(address: str, rng: random.Random, n: int) -> None:
    """Open connections one after the other, and send what is not ZeroMQ."""
    for raw in _connections(address, n):
        with raw:
            raw.sendall(rng.choice((b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(rng.randrange(1, 600)), b"\xff" * 10)))


def _half_open(server: Served, rng: random.Random, n: int, n_expected: int) -> int:
    """Hold connections open that say nothing or stop in their greeting; return the descriptors at the peak."""
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
