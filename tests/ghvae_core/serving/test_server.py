"""The server with real worker processes: protocol, queue, deadlines, lost workers, draining, addresses."""

import errno
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import psutil
import pytest

from ghvae_core.predictor import MismatchError, PredictorError
from ghvae_core.serving import protocol
from ghvae_core.serving.protocol import Hello, Predict, PredictionReply, Refusal, Welcome, encode_request
from ghvae_core.serving.server import PredictionServer, QueuedRequest, RequestQueue, ServingConfig
from ghvae_core.serving.sockets import AddressError
from ghvae_core.serving.wire import MAX_PART_BYTES
from tests.ghvae_core.serving.example import SPEC, prediction, request
from tests.ghvae_core.serving.live import PATIENCE_S, Running, commands, hello, peer, predict, running, status, until
from tests.patience import patience, relaxed


def test_hello_is_answered_with_the_spec_and_the_limits() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.exchange(hello())
    assert isinstance(reply, Welcome)
    assert reply.spec == SPEC
    assert reply.limits.max_waiting == 32


@pytest.fixture(scope="module")
def long_lived() -> Iterator[Running]:
    """One server for all invalid messages."""
    with running() as server:
        yield server


def test_a_request_is_answered() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.exchange(predict())
    assert isinstance(reply, PredictionReply)
    assert reply.id == b"id-1"
    np.testing.assert_array_equal(reply.prediction.costs, prediction(request()).costs)
    assert set(reply.prediction.timing_s) == {"rollout", "queue", "work"}


def test_a_request_and_its_reply_are_forwarded_without_being_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = predict()
    decode, decoded = protocol.decode_request, []

    def count(message: Sequence[bytes]) -> Hello | Predict:
        decoded.append(message)
        return decode(message)

    def refuse(_message: object) -> list[bytes]:
        raise AssertionError("encoded again")

    with running() as server, peer(server.address) as client:
        monkeypatch.setattr(protocol, "decode_request", count)
        monkeypatch.setattr(protocol, "encode_request", refuse)
        monkeypatch.setattr(protocol, "encode_reply", refuse)
        assert status(client.exchange(parts)) == "ok"
        monkeypatch.undo()
    assert decoded == [parts]


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
def test_an_invalid_message_is_refused_and_the_server_continues(parts: list[bytes], long_lived: Running) -> None:
    with peer(long_lived.address) as client:
        reply = client.exchange(parts)
        assert isinstance(reply, Refusal)
        assert reply.status == "bad" and reply.why
        assert "Traceback" not in reply.why
        assert status(client.exchange(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_flood_of_random_messages_does_not_stop_the_server(n_messages: int, long_lived: Running) -> None:
    rng = random.Random(0)
    with peer(long_lived.address) as sender, peer(long_lived.address) as client:
        for _ in range(n_messages):
            sender.send([rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 8))])
        assert status(client.exchange(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_reply_to_a_fast_client_is_dropped(n_messages: int, long_lived: Running) -> None:
    with peer(long_lived.address) as client:
        assert all(status(client.exchange(hello())) == "ok" for _ in range(n_messages))


def test_bytes_that_are_not_zeromq_are_ignored(long_lived: Running) -> None:
    host, port = long_lived.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with peer(long_lived.address) as client:
        assert status(client.exchange(predict())) == "ok"


def test_an_oversize_part_disconnects_its_sender(long_lived: Running) -> None:
    with peer(long_lived.address) as large, peer(long_lived.address) as client:
        large.send([b"x" * (MAX_PART_BYTES + 1)])
        assert status(client.exchange(predict())) == "ok"
        assert large.receive(200) is None


def test_another_version_is_refused_by_name() -> None:
    header = msgpack.unpackb(hello()[0])
    header["version"] = 6
    with running() as server, peer(server.address) as client:
        reply = client.exchange([msgpack.packb(header)])
    assert isinstance(reply, Refusal)
    assert reply.id == header["id"]
    assert reply.why == "expected messages of version 5, got version 6"


def test_a_request_for_another_checkpoint_is_refused() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.exchange(predict(checkpoint="deadbeef"))
    assert isinstance(reply, Refusal)
    assert reply.status == "bad" and "deadbeef" in reply.why and SPEC.checkpoint[:12] in reply.why


def test_a_request_that_does_not_fit_is_refused_by_name() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.exchange(encode_request(Predict(b"x", request(n=21), SPEC.checkpoint, 1.0)))
    assert isinstance(reply, Refusal)
    assert reply.status == "bad" and reply.why == "number of candidates: expected 1 to 20, got 21"


def test_hello_is_answered_while_the_model_computes() -> None:
    with running("gate") as server, peer(server.address) as client:
        client.send(predict())
        server.wait_until_begun()
        assert status(client.exchange(hello())) == "ok"
        server.open()
        assert status(client.receive()) == "ok"


def test_the_newest_request_of_a_client_replaces_older_ones() -> None:
    with running("gate") as server, peer(server.address) as eager, peer(server.address) as patient:
        eager.send(predict(request_id=b"in work"))
        server.wait_until_begun()
        patient.send(predict(request_id=b"other"))
        assert status(patient.exchange(hello())) == "ok"  # its request has been accepted
        replies = [eager.exchange(predict(request_id=b"waiting")), eager.exchange(predict(request_id=b"newest"))]
        assert [(reply.id, reply.status) for reply in replies if isinstance(reply, Refusal)] == [
            (b"in work", "superseded"),
            (b"waiting", "superseded"),
        ]
        server.open()
        first, last = patient.receive(), eager.receive()
    assert isinstance(first, PredictionReply) and first.id == b"other", (
        "a newer request of a client is the last in the queue"
    )
    assert isinstance(last, PredictionReply) and last.id == b"newest"


def test_the_queue_is_bounded_over_all_clients() -> None:
    with (
        running("gate", ServingConfig(max_waiting=1)) as server,
        peer(server.address) as first,
        peer(server.address) as second,
        peer(server.address) as third,
    ):
        first.send(predict())
        server.wait_until_begun()
        second.send(predict())
        assert status(second.exchange(hello())) == "ok"
        reply = third.exchange(predict(request_id=b"third"))
        assert isinstance(reply, Refusal)
        assert (reply.id, reply.status, reply.retry_after_s) == (b"third", "busy", 0.05)
        server.open()
        assert [status(first.receive()), status(second.receive())] == ["ok", "ok"]


def test_a_request_that_expired_while_waiting_is_not_computed() -> None:
    with running("gate") as server, peer(server.address) as client, peer(server.address) as other:
        client.send(predict(request_id=b"slow"))
        server.wait_until_begun()
        other.send(predict(0.001, b"late"))
        assert status(other.exchange(hello())) == "ok"  # the late request has been accepted
        time.sleep(0.01)
        server.open()
        first, late = client.receive(), other.receive()
        assert server.n_begun == 1
    assert isinstance(first, PredictionReply) and first.id == b"slow"
    assert isinstance(late, Refusal) and (late.id, late.status) == (b"late", "expired")


def test_a_computation_stops_at_its_deadline() -> None:
    with running("until stopped") as server, peer(server.address) as client:
        assert status(client.exchange(predict(0.05))) == "expired"


def test_an_exception_of_the_model_is_written_to_the_log_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with running("raise") as server, peer(server.address) as client:
        for _ in range(2):  # the server continues
            reply = client.exchange(predict())
            assert isinstance(reply, Refusal)
            assert (reply.id, reply.status) == (b"id-1", "failed")
            assert "secret" not in reply.why
        assert server.server.metrics.n_replies == {"failed": 2}
    assert "CUDA error at /secret/path.cu:7" in capfd.readouterr().err


def test_a_prediction_without_a_finite_cost_is_refused() -> None:
    with running("nan") as server, peer(server.address) as client:
        assert status(client.exchange(predict())) == "nonfinite"


def test_workers_share_the_candidates() -> None:
    with running("half nan", n=2) as server, peer(server.address) as client:
        reply = client.exchange(predict())
    assert isinstance(reply, PredictionReply)
    whole = prediction(request())
    assert np.isnan(reply.prediction.costs[:3]).all(), "NaN of one worker does not affect the other"
    np.testing.assert_array_equal(reply.prediction.costs[3:], whole.costs[3:])
    assert {*reply.prediction.best} == {3, 4}
    assert (reply.prediction.videos[:, 0, 0, 0, 0] == reply.prediction.best - 3).all()


@pytest.mark.parametrize(("script", "n"), [("die once", 1), ("die once", 2), ("hang once", 1), ("hang once", 2)])
def test_a_lost_worker_fails_one_request(script: str, n: int) -> None:
    with running(script, ServingConfig(hang_s=relaxed(0.2)), n=n) as server, peer(server.address) as client:
        lost = client.exchange(predict(relaxed(1.0, 60.0)))
        assert isinstance(lost, Refusal) and (lost.status, lost.retry_after_s) == ("unavailable", 0.0)
        while status(reply := client.exchange(predict())) == "unavailable":
            assert isinstance(reply, Refusal) and reply.retry_after_s > 0, "the refusal says when to retry"
            time.sleep(0.05)
        assert isinstance(reply, PredictionReply)
        np.testing.assert_array_equal(reply.prediction.costs, prediction(request()).costs)
        until(lambda: server.server.metrics.state == "ready", "ready again")


def test_the_standby_process_replaces_a_lost_one() -> None:
    with running("die once", ServingConfig(standby_after_s=0)) as server, peer(server.address) as client:
        until(lambda: len(server.processes()) == 2, "a standby process")
        (pid,) = server.server.pids
        (standby,) = server.processes() - {pid}
        assert status(client.exchange(predict())) == "unavailable"
        while status(client.exchange(predict())) == "unavailable":
            time.sleep(0.05)
        assert server.server.pids == [standby]
        until(lambda: len(server.processes()) == 2, "another standby process")
        (standby,) = server.processes() - {standby}
        os.kill(standby, signal.SIGKILL)
        until(lambda: len(server.processes() - {standby}) == 2, "another in place of a lost standby process")
        assert status(client.exchange(predict())) == "ok"
        left = server.processes()
    assert not any(psutil.pid_exists(pid) for pid in left)


def test_a_standby_process_that_cannot_be_started_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with running(config=ServingConfig(standby_after_s=0.3)) as server, peer(server.address) as client:
        with monkeypatch.context() as patched:
            patched.setattr("ghvae_core.serving.worker.subprocess.Popen", refuse)
            until(lambda: "no standby process: no process for the model could" in caplog.text, "a warning")
        assert status(client.exchange(predict())) == "ok"
        assert server.processes() == {*server.server.pids}


def test_a_second_worker_that_cannot_be_started_stops_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def first_only(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr("ghvae_core.serving.worker.subprocess.Popen", first_only)
    with pytest.raises(PredictorError, match="could be started: Cannot allocate memory"):
        PredictionServer(f"ipc://{tmp_path}/s", ServingConfig(), commands("predict", tmp_path, n=2))
    assert started[0].poll() is not None


def test_the_standby_process_can_be_turned_off() -> None:
    with running(config=ServingConfig(standby_after_s=None)) as server, peer(server.address) as client:
        assert status(client.exchange(predict())) == "ok"
        assert server.processes() == {*server.server.pids}


def test_a_worker_that_fails_its_self_test_after_an_error_is_replaced() -> None:
    with running("raise once", None, "broken") as server, peer(server.address) as client:
        assert status(client.exchange(predict())) == "unavailable"
        while status(reply := client.exchange(predict())) == "unavailable":
            time.sleep(0.05)
        assert isinstance(reply, PredictionReply)


def test_too_many_lost_workers_stop_the_server() -> None:
    with running("die", ServingConfig(restarts=1)) as server, peer(server.address) as client:
        assert status(client.exchange(predict())) == "unavailable"
        server.ready.clear()
        while not server.ready.wait(0.05):  # set once more when the service has ended
            client.send(predict())
    assert isinstance(server.error, PredictorError) and not isinstance(server.error, MismatchError)
    assert "was lost 2 times within 10 minutes" in str(server.error) and "-9" in str(server.error)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("refuse", MismatchError, "nowhere: expected a checkpoint"),
        (
            "dead at start",
            PredictorError,
            "lost 2 times within 10 minutes, the last time while starting: it exited with 3",
        ),
    ],
)
def test_workers_that_cannot_start_stop_the_server(script: str, kind: type[Exception], message: str) -> None:
    with running(script, ServingConfig(restarts=1)) as server:
        pass
    assert type(server.error) is kind and message in str(server.error)


def test_a_changed_checkpoint_stops_the_server() -> None:
    with running("changes") as server, peer(server.address) as client:
        assert status(client.exchange(predict())) == "unavailable"
        until(lambda: server.error, "an error")
    assert "the checkpoint has changed since this server was started" in str(server.error)


def test_the_server_reports_its_state_until_it_is_ready() -> None:
    with running("slow start", waits=False) as server, peer(server.address) as client:
        until(lambda: server.server.state == "loading", "loading")
        for parts in (hello(), predict()):
            reply = client.exchange(parts)
            assert isinstance(reply, Refusal) and reply.status == "unavailable" and reply.retry_after_s > 0
            assert reply.why == "the model is not ready yet: loading"
        server.open()
        assert server.ready.wait(patience(PATIENCE_S))
        assert status(client.exchange(predict())) == "ok"


def test_draining_finishes_accepted_requests_and_refuses_new_ones() -> None:
    with running("gate", ServingConfig(drain_s=60)) as server, peer(server.address) as client:
        client.send(predict())
        server.wait_until_begun()
        server.server.drain()
        assert status(client.exchange(predict())) == "draining"
        assert status(client.exchange(hello())) == "draining"
        server.open()
        assert status(client.receive()) == "ok"


def test_draining_stops_after_its_time_limit() -> None:
    with (
        running("until stopped", ServingConfig(drain_s=0.05)) as server,
        peer(server.address) as client,
        peer(server.address) as other,
    ):
        client.send(predict(60))
        other.send(predict(60))
        assert [status(each.exchange(hello())) for each in (client, other)] == ["ok", "ok"]  # both are accepted
        server.server.drain()
        assert [status(each.receive()) for each in (client, other)] == ["draining", "draining"]


def test_the_exit_of_the_parent_stops_the_server(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    server = PredictionServer("tcp://127.0.0.1:0", ServingConfig(), commands("predict", tmp_path))
    server.serve(lambda _: os.close(write_end), read_end)  # returns although `drain` is not called
    assert server.state == "draining"
    server.close()
    os.close(read_end)


def test_no_worker_outlives_the_server(tmp_path: Path) -> None:
    with running() as server:
        (pid,) = server.server.pids
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_a_client_that_disconnects_does_not_affect_others() -> None:
    with running("gate") as server, peer(server.address) as client:
        with peer(server.address) as leaver:
            leaver.send(predict())
            server.wait_until_begun()
        server.open()
        assert status(client.exchange(predict())) == "ok"


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
def test_an_address_that_another_machine_could_reach_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="with keys only") as caught:
        PredictionServer(address, ServingConfig(), [])
    assert caught.value.exit_code == 2


def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    with running() as server, pytest.raises(AddressError, match="another program listens there"):
        PredictionServer(server.address, ServingConfig(), [])
    first = PredictionServer(f"ipc://{tmp_path}/s", ServingConfig(), [])
    try:
        with pytest.raises(AddressError, match="another server listens there"):
            PredictionServer(f"ipc://{tmp_path}/s", ServingConfig(), [])
    finally:
        first.close()


@pytest.mark.parametrize("kind", ["file", "link to a file", "dangling link", "folder", "pipe"])
def test_the_path_of_another_file_is_refused_and_not_deleted(kind: str, tmp_path: Path) -> None:
    path, notes = tmp_path / "path", tmp_path / "notes"
    notes.write_text("notes")
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
        PredictionServer(f"ipc://{path}", ServingConfig(), [])
    assert caught.value.exit_code == 2
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (path if kind == "file" else notes).read_text() == "notes"


def test_a_socket_file_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = PredictionServer(f"ipc://{path}", ServingConfig(), [])
    assert path.stat().st_mode & 0o777 == 0o600
    server.close()
    server.close()
    with pytest.raises(AddressError):
        PredictionServer(f"ipc://{tmp_path}/no/such/folder/s", ServingConfig(), [])


def _queued(client: bytes, name: bytes = b"x") -> QueuedRequest:
    return QueuedRequest(client, Predict(name, request(), SPEC.checkpoint, 1.0), [], 0.0)


def test_the_queue_is_first_in_first_out_and_bounded() -> None:
    queue = RequestQueue(2)
    assert queue.next() is None
    assert queue.add(_queued(b"a")) and queue.add(_queued(b"b")) and not queue.add(_queued(b"c"))
    assert len(queue) == 2
    first = queue.next()
    assert first is not None and first.client == b"a"
    assert queue.add(_queued(b"c"))
    assert [each.client for each in iter(queue.next, None)] == [b"b", b"c"]


def test_a_request_that_is_removed_and_added_again_is_the_last() -> None:
    queue = RequestQueue(3)
    queue.add(_queued(b"a", b"older"))
    queue.add(_queued(b"b"))
    older = queue.remove(b"a")
    assert older is not None and older.message.id == b"older"
    assert queue.remove(b"c") is None
    queue.add(_queued(b"a", b"newer"))
    assert [each.message.id for each in iter(queue.next, None)] == [b"x", b"newer"]
