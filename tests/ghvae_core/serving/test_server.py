import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from ghvae_core.predictor import Prediction
from ghvae_core.serving.address import AddressError
from ghvae_core.serving.header import MAX_PART_BYTES
from ghvae_core.serving.protocol import Answer, Predict, Refusal, Welcome, encode_request
from ghvae_core.serving.request import DeadlineError, NonFiniteError, Request
from ghvae_core.serving.server import Server, ServingConfig
from tests.ghvae_core.serving.example import SPEC, prediction, request
from tests.ghvae_core.serving.live import PATIENCE_MS, Gate, hello, peer, predict, running, status


def test_hello_is_answered_with_the_spec_and_the_limits() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(hello())
    assert isinstance(reply, Welcome)
    assert reply.spec == SPEC
    assert (reply.limits.max_waiting, reply.limits.max_per_client) == (32, 2)


@pytest.fixture(scope="module")
def abused() -> Iterator[Server]:
    """One server for all the garbage, which it must survive."""
    with running() as server:
        yield server


def test_a_request_is_answered() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(predict())
    assert isinstance(reply, Answer)
    assert reply.id == b"id-1"
    np.testing.assert_array_equal(reply.prediction.costs, prediction(request()).costs)
    assert set(reply.prediction.timing_s) == {"imagine", "queue"}


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\xc1"],
        [b"\x91" * 4000],
        [b""] * 300,
        [b"x" * 5000],
        [*predict(), b""],
        predict()[:3],
        [msgpack.packb({})],
    ],
)
def test_garbage_is_refused_and_the_service_goes_on(parts: list[bytes], abused: Server) -> None:
    with peer(abused.address) as client:
        reply = client.ask(parts)
        assert isinstance(reply, Refusal)
        assert reply.status == "bad" and reply.why
        assert "Traceback" not in reply.why
        assert status(client.ask(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_flood_of_random_messages_leaves_the_service_well(n_messages: int, abused: Server) -> None:
    rng = random.Random(0)
    with peer(abused.address) as vandal, peer(abused.address) as client:
        for _ in range(n_messages):
            vandal.send([rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 8))])
        assert status(client.ask(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_answer_to_a_quick_client_is_lost(n_messages: int, abused: Server) -> None:
    with peer(abused.address) as client:
        assert all(status(client.ask(hello())) == "ok" for _ in range(n_messages))


def test_bytes_that_are_not_zeromq_are_ignored(abused: Server) -> None:
    host, port = abused.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with peer(abused.address) as client:
        assert status(client.ask(predict())) == "ok"


def test_an_oversize_part_cuts_its_sender_off(abused: Server) -> None:
    with peer(abused.address) as large, peer(abused.address) as client:
        large.send([b"x" * (MAX_PART_BYTES + 1)])
        assert status(client.ask(predict())) == "ok"
        assert large.receive(200) is None


def test_another_version_is_told_ours() -> None:
    header = msgpack.unpackb(hello()[0])
    header["version"] = 5
    with running() as server, peer(server.address) as client:
        reply = client.ask([msgpack.packb(header)])
    assert isinstance(reply, Refusal)
    assert reply.id == header["id"]
    assert reply.why == "expected messages of version 4, got version 5"


def test_a_request_for_another_checkpoint_is_refused() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(predict(checkpoint="deadbeef"))
    assert isinstance(reply, Refusal)
    assert reply.status == "bad" and "deadbeef" in reply.why and SPEC.checkpoint[:12] in reply.why


def test_a_request_that_does_not_fit_is_refused_by_name() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(encode_request(Predict(b"x", request(n=21), SPEC.checkpoint, 1.0)))
    assert isinstance(reply, Refusal)
    assert reply.status == "bad" and reply.why == "number of candidates: expected 1 to 20, got 21"


def test_hello_is_answered_while_the_model_works() -> None:
    gate = Gate()
    with running(gate) as server, peer(server.address) as client:
        client.send(predict())
        assert gate.entered.acquire(timeout=PATIENCE_MS / 1000)
        assert status(client.ask(hello())) == "ok"
        gate.open.set()
        assert status(client.receive()) == "ok"


def test_each_client_may_have_so_many_requests_and_no_more() -> None:
    gate = Gate()
    with running(gate) as server, peer(server.address) as greedy, peer(server.address) as modest:
        for _ in range(2):
            greedy.send(predict())
        reply = greedy.ask(predict(request_id=b"third"))
        assert isinstance(reply, Refusal)
        assert (reply.id, reply.status, reply.retry_after_s) == (b"third", "busy", 0.05)
        modest.send(predict())
        gate.open.set()
        assert status(modest.receive()) == "ok"
        assert [status(greedy.receive()) for _ in range(2)] == ["ok", "ok"]
        assert status(greedy.ask(predict())) == "ok"


def test_all_clients_together_may_have_so_many_requests() -> None:
    gate = Gate()
    one = ServingConfig(max_waiting=1)
    with running(gate, one) as server, peer(server.address) as first, peer(server.address) as second:
        first.send(predict())
        assert gate.entered.acquire(timeout=PATIENCE_MS / 1000)
        assert status(second.ask(predict())) == "busy"
        gate.open.set()
        assert status(first.receive()) == "ok"


def test_a_request_that_expired_while_waiting_is_not_computed() -> None:
    gate = Gate()
    with running(gate) as server, peer(server.address) as client:
        client.send(predict(request_id=b"slow"))
        assert gate.entered.acquire(timeout=PATIENCE_MS / 1000)
        client.send(predict(0.001, b"late"))
        assert status(client.ask(hello())) == "ok"  # the late one has been taken in by now
        threading.Event().wait(0.01)
        gate.open.set()
        first, late = client.receive(), client.receive()
    assert isinstance(first, Answer) and first.id == b"slow"
    assert isinstance(late, Refusal) and (late.id, late.status) == (b"late", "expired")
    assert gate.n_computed == 1


def _until_over(asked: Request, is_over: Callable[[], bool]) -> Prediction:
    while not is_over():
        threading.Event().wait(0.001)
    raise DeadlineError("over")


def test_work_ends_at_its_deadline() -> None:
    with running(_until_over) as server, peer(server.address) as client:
        assert status(client.ask(predict(0.05))) == "expired"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(NonFiniteError("none"), "nonfinite"), (RuntimeError("CUDA error at /secret/path.cu:7"), "failed")],
)
def test_what_the_model_raises_becomes_a_status(
    error: Exception, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(asked: Request, is_over: Callable[[], bool]) -> Prediction:
        raise error

    with running(work) as server, peer(server.address) as client:
        reply = client.ask(predict())
        assert isinstance(reply, Refusal)
        assert (reply.id, reply.status) == (b"id-1", expected)
        assert "secret" not in reply.why
        assert status(client.ask(predict())) == expected  # and goes on
    assert ("secret" in caplog.text) == (expected == "failed")  # the log has it instead


def test_draining_finishes_what_was_taken_and_refuses_the_rest() -> None:
    gate = Gate()
    with running(gate, ServingConfig(drain_s=20)) as server, peer(server.address) as client:
        client.send(predict())
        assert gate.entered.acquire(timeout=PATIENCE_MS / 1000)
        server.drain()
        assert status(client.ask(predict())) == "draining"
        assert status(client.ask(hello())) == "draining"
        gate.open.set()
        assert status(client.receive()) == "ok"


def test_draining_gives_up_what_takes_too_long() -> None:
    with running(_until_over, ServingConfig(drain_s=0.05)) as server, peer(server.address) as client:
        client.send(predict(60))
        client.send(predict(60))
        assert status(client.ask(hello())) == "ok"  # both are taken in by now
        server.drain()
        assert [status(client.receive()) for _ in range(2)] == ["draining", "draining"]


def test_the_end_of_the_parent_is_the_end_of_the_service() -> None:
    ours, parents = os.pipe()

    def outlive(asked: Request, is_over: Callable[[], bool]) -> Prediction:
        os.close(parents)  # what the kernel does when the parent dies
        return prediction(asked)

    server = Server("tcp://127.0.0.1:0", ServingConfig())
    with peer(server.address) as client:
        client.send(predict())
        server.serve(SPEC, outlive, ours)  # comes back although nothing here drains it
        server.close()
        assert status(client.receive()) == "ok", "what was taken is finished"
    os.close(ours)


def test_a_client_that_has_gone_is_no_trouble() -> None:
    gate = Gate()
    with running(gate) as server, peer(server.address) as client:
        with peer(server.address) as leaver:
            leaver.send(predict())
            assert gate.entered.acquire(timeout=PATIENCE_MS / 1000)
        gate.open.set()
        assert status(client.ask(predict())) == "ok"


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.1.4:5555",
        "tcp://localhost:5555",
        "tcp://[::]:5555",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1:*",
        "tcp://127.0.0.999:5555",
        "tcp://127.0.0.1:5555;192.168.1.4:5555",
        "tcp://127.0.0.1:5555\n",
        "udp://127.0.0.1:5555",
        "ipc://relative",
        "ipc://@abstract",
        f"ipc:///{'x' * 107}",
        "",
    ],
)
def test_what_another_machine_could_reach_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="with keys only") as caught:
        Server(address, ServingConfig())
    assert caught.value.exit_code == 2


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    with running() as server, pytest.raises(AddressError, match="another program listens there"):
        Server(server.address, ServingConfig())
    first = Server(f"ipc://{tmp_path}/s", ServingConfig())
    try:
        with pytest.raises(AddressError, match="another server listens there"):
            Server(f"ipc://{tmp_path}/s", ServingConfig())
    finally:
        first.close()


@pytest.mark.parametrize("kind", ["file", "link to a file", "dangling link", "folder", "pipe"])
def test_a_path_of_anything_but_a_socket_is_refused_and_kept(kind: str, tmp_path: Path) -> None:
    path, notes = tmp_path / "path", tmp_path / "notes"
    notes.write_text("of a year")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: notes.rename(path),
        "link to a file": lambda: path.symlink_to(notes),
        "dangling link": lambda: path.symlink_to(tmp_path / "nothing"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    before = path.lstat()
    with pytest.raises(AddressError, match="expected a new path or a socket's") as caught:
        Server(f"ipc://{path}", ServingConfig())
    assert caught.value.exit_code == 2
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (path if kind == "file" else notes).read_text() == "of a year"


def test_a_socket_file_is_private_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server(f"ipc://{path}", ServingConfig())
    assert path.stat().st_mode & 0o777 == 0o600
    server.close()
    server.close()
    with pytest.raises(AddressError):
        Server(f"ipc://{tmp_path}/no/such/folder/s", ServingConfig())
