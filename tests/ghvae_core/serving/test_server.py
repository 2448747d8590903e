""""""

import errno
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import psutil
import pytest

from ghvae_core.predictor import MismatchError, PredictorError
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal, Welcome, encode_request
from ghvae_core.serving.server import PredictionServer, QueuedRequest, RequestQueue, ServingConfig
from ghvae_core.serving.sockets import AddressError
from ghvae_core.serving.wire import MAX_PART_BYTES
from tests.ghvae_core.serving.example import SPEC, prediction, request
from tests.ghvae_core.serving.live import PATIENCE_S, Running, commands, hello, peer, predict, running, status, until
from tests.patience import patience, relaxed


def test_hello_is_answered_with_the_spec_and_the_limits() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(hello())
    assert isinstance(reply, Welcome)
    assert reply.spec == SPEC
    assert reply.limits.max_waiting == 32


@pytest.fixture(scope="module")
def abused() -> Iterator[Running]:
    """One server for all the garbage, which it must survive."""
    with running() as server:
        yield server


def test_a_request_is_answered() -> None:
    with running() as server, peer(server.address) as client:
        reply = client.ask(predict())
    assert isinstance(reply, PredictionReply)
    assert reply.id == b"id-1"
    np.testing.assert_array_equal(reply.prediction.costs, prediction(request()).costs)
    assert set(reply.prediction.timing_s) == {"imagine", "queue", "work"}


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
def test_garbage_is_refused_and_the_service_goes_on(parts: list[bytes], abused: Running) -> None:
    with peer(abused.address) as client:
        reply = client.ask(parts)
        assert isinstance(reply, Refusal)
        assert reply.status == "bad" and reply.why
        assert "Traceback" not in reply.why
        assert status(client.ask(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_flood_of_random_messages_leaves_the_service_well(n_messages: int, abused: Running) -> None:
    rng = random.Random(0)
    with peer(abused.address) as vandal, peer(abused.address) as client:
        for _ in range(n_messages):
            vandal.send([rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 8))])
        assert status(client.ask(predict())) == "ok"


@pytest.mark.parametrize("n_messages", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_answer_to_a_quick_client_is_lost(n_messages: int, abused: Running) -> None:
    with peer(abused.address) as client:
        assert all(status(client.ask(hello())) == "ok" for _ in range(n_messages))


def test_bytes_that_are_not_zeromq_are_ignored(abused: Running) -> None:
    host, port = abused.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with peer(abused.address) as client:
        assert status(client.ask(predict())) == "ok"


def test_an_oversize_part_cuts_its_sender_off(abused: Running) -> None:
    with peer(abused.address) as large, peer(abused.address) as client:
        large.send([b"x" * (MAX_PART_BYTES + 1)])
        assert status(client.ask(predict())) == "ok"
        assert large.receive(200) is None


def test_another_version_is_told_ours() -> None:
    header = msgpack.unpackb(hello()[0])
    header["version"] = 6
    with running() as server, peer(server.address) as client:
        reply = client.ask([msgpack.packb(header)])
    assert isinstance(reply, Refusal)
    assert reply.id == header["id"]
    assert reply.why == "expected messages of version 5, got version 6"


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
    with running("gate") as server, peer(server.address) as client:
        client.send(predict())
        server.wait_until_begun()
        assert status(client.ask(hello())) == "ok"
        server.open()
        assert status(client.receive()) == "ok"


def test_the_newest_request_of_a_client_wins() -> None:
    with running("gate") as server, peer(server.address) as eager, peer(server.address) as patient:
        eager.send(predict(request_id=b"in work"))
        server.wait_until_begun()
        patient.send(predict(request_id=b"other"))
        assert status(patient.ask(hello())) == "ok"  # taken in by now
        told = [eager.ask(predict(request_id=b"waiting")), eager.ask(predict(request_id=b"newest"))]
        assert [(reply.id, reply.status) for reply in told if isinstance(reply, Refusal)] == [
            (b"in work", "superseded"),
            (b"waiting", "superseded"),
        ]
        server.open()
        first, last = patient.receive(), eager.receive()
    assert isinstance(first, PredictionReply) and first.id == b"other", (
        "a client that asks again waits behind the others"
    )
    assert isinstance(last, PredictionReply) and last.id == b"newest"


def test_all_clients_together_may_have_so_many_requests() -> None:
    with (
        running("gate", ServingConfig(max_waiting=1)) as server,
        peer(server.address) as first,
        peer(server.address) as second,
        peer(server.address) as third,
    ):
        first.send(predict())
        server.wait_until_begun()
        second.send(predict())
        assert status(second.ask(hello())) == "ok"
        reply = third.ask(predict(request_id=b"third"))
        assert isinstance(reply, Refusal)
        assert (reply.id, reply.status, reply.retry_after_s) == (b"third", "busy", 0.05)
        server.open()
        assert [status(first.receive()), status(second.receive())] == ["ok", "ok"]


def test_a_request_that_expired_while_waiting_is_not_computed() -> None:
    with running("gate") as server, peer(server.address) as client, peer(server.address) as other:
        client.send(predict(request_id=b"slow"))
        server.wait_until_begun()
        other.send(predict(0.001, b"late"))
        assert status(other.ask(hello())) == "ok"  # the late one has been taken in by now
        time.sleep(0.01)
        server.open()
        first, late = client.receive(), other.receive()
        assert server.n_begun == 1
    assert isinstance(first, PredictionReply) and first.id == b"slow"
    assert isinstance(late, Refusal) and (late.id, late.status) == (b"late", "expired")


def test_work_ends_at_its_deadline() -> None:
    with running("until over") as server, peer(server.address) as client:
        assert status(client.ask(predict(0.05))) == "expired"


def test_what_the_model_raises_is_told_to_the_log_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with running("raise") as server, peer(server.address) as client:
        for _ in range(2):  # it goes on
            reply = client.ask(predict())
            assert isinstance(reply, Refusal)
            assert (reply.id, reply.status) == (b"id-1", "failed")
            assert "secret" not in reply.why
        assert server.server.metrics.answered == {"failed": 2}
    assert "CUDA error at /secret/path.cu:7" in capfd.readouterr().err


def test_no_finite_cost_is_told() -> None:
    with running("nan") as server, peer(server.address) as client:
        assert status(client.ask(predict())) == "nonfinite"


def test_processes_share_the_candidates() -> None:
    with running("half nan", n=2) as server, peer(server.address) as client:
        reply = client.ask(predict())
    assert isinstance(reply, PredictionReply)
    whole = prediction(request())
    assert np.isnan(reply.prediction.costs[:3]).all(), "NaN of one process does not hide what the other found"
    np.testing.assert_array_equal(reply.prediction.costs[3:], whole.costs[3:])
    assert {*reply.prediction.best} == {3, 4}
    assert (reply.prediction.videos[:, 0, 0, 0, 0] == reply.prediction.best - 3).all()


@pytest.mark.parametrize(("script", "n"), [("die once", 1), ("die once", 2), ("hang once", 1), ("hang once", 2)])
def test_a_lost_process_costs_one_request(script: str, n: int) -> None:
    with running(script, ServingConfig(hang_s=relaxed(0.2)), n=n) as server, peer(server.address) as client:
        lost = client.ask(predict(relaxed(1.0, 60.0)))
        assert isinstance(lost, Refusal) and (lost.status, lost.retry_after_s) == ("unavailable", 0.0)
        while status(reply := client.ask(predict())) == "unavailable":
            assert isinstance(reply, Refusal) and reply.retry_after_s > 0, "it is told when to come back"
            time.sleep(0.05)
        assert isinstance(reply, PredictionReply)
        np.testing.assert_array_equal(reply.prediction.costs, prediction(request()).costs)
        until(lambda: server.server.metrics.state == "ready", "ready again")


def test_the_process_in_reserve_takes_the_place_of_a_lost_one() -> None:
    with running("die once", ServingConfig(standby_after_s=0)) as server, peer(server.address) as client:
        until(lambda: len(server.processes()) == 2, "a reserve")
        (pid,) = server.server.pids
        (reserve,) = server.processes() - {pid}
        assert status(client.ask(predict())) == "unavailable"
        while status(client.ask(predict())) == "unavailable":
            time.sleep(0.05)
        assert server.server.pids == [reserve]
        until(lambda: len(server.processes()) == 2, "another reserve")
        (reserve,) = server.processes() - {reserve}
        os.kill(reserve, signal.SIGKILL)
        until(lambda: len(server.processes() - {reserve}) == 2, "another in place of a reserve that died")
        assert status(client.ask(predict())) == "ok"
        left = server.processes()
    assert not any(psutil.pid_exists(pid) for pid in left)


def test_a_reserve_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with running(config=ServingConfig(standby_after_s=0.3)) as server, peer(server.address) as client:
        with monkeypatch.context() as patched:
            patched.setattr("ghvae_core.serving.worker.subprocess.Popen", refuse)
            until(lambda: "there is none in reserve: no process for the model could" in caplog.text, "a warning")
        assert status(client.ask(predict())) == "ok"
        assert server.processes() == {*server.server.pids}


def test_a_second_process_that_cannot_be_started_ends_the_first_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def one_alone(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr("ghvae_core.serving.worker.subprocess.Popen", one_alone)
    with pytest.raises(PredictorError, match="could be started: Cannot allocate memory"):
        PredictionServer(f"ipc://{tmp_path}/s", ServingConfig(), commands("answer", tmp_path, n=2))
    assert started[0].poll() is not None


def test_without_a_reserve_there_is_none() -> None:
    with running(config=ServingConfig(standby_after_s=None)) as server, peer(server.address) as client:
        assert status(client.ask(predict())) == "ok"
        assert server.processes() == {*server.server.pids}


def test_after_an_error_a_process_that_cannot_prove_itself_is_replaced() -> None:
    with running("raise once", None, "broken") as server, peer(server.address) as client:
        assert status(client.ask(predict())) == "unavailable"
        while status(reply := client.ask(predict())) == "unavailable":
            time.sleep(0.05)
        assert isinstance(reply, PredictionReply)


def test_too_many_losses_end_the_service() -> None:
    with running("die", ServingConfig(restarts=1)) as server, peer(server.address) as client:
        assert status(client.ask(predict())) == "unavailable"
        server.ready.clear()
        while not server.ready.wait(0.05):  # set once more when the service has ended
            client.send(predict())
    assert isinstance(server.error, PredictorError) and not isinstance(server.error, MismatchError)
    assert "was lost 2 times within 10 minutes" in str(server.error) and "-9" in str(server.error)


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("refuse", MismatchError, "nowhere: expected a checkpoint"),
        (
            "dead at start",
            PredictorError,
            "lost 2 times within 10 minutes, the last time while starting: it ended with 3",
        ),
    ],
)
def test_what_cannot_start_ends_the_service(script: str, kind: type[Exception], said: str) -> None:
    with running(script, ServingConfig(restarts=1)) as server:
        pass
    assert type(server.error) is kind and said in str(server.error)


def test_a_checkpoint_that_has_changed_is_not_served_on() -> None:
    with running("changes") as server, peer(server.address) as client:
        assert status(client.ask(predict())) == "unavailable"
        until(lambda: server.error, "an error")
    assert "the checkpoint has changed since this server was started" in str(server.error)


def test_before_it_is_ready_it_says_how_far_it_is() -> None:
    with running("slow start", waits=False) as server, peer(server.address) as client:
        until(lambda: server.server.state == "loading", "loading")
        for parts in (hello(), predict()):
            reply = client.ask(parts)
            assert isinstance(reply, Refusal) and reply.status == "unavailable" and reply.retry_after_s > 0
            assert reply.why == "the model is not ready yet: loading"
        server.open()
        assert server.ready.wait(patience(PATIENCE_S))
        assert status(client.ask(predict())) == "ok"


def test_draining_finishes_what_was_taken_and_refuses_the_rest() -> None:
    with running("gate", ServingConfig(drain_s=60)) as server, peer(server.address) as client:
        client.send(predict())
        server.wait_until_begun()
        server.server.drain()
        assert status(client.ask(predict())) == "draining"
        assert status(client.ask(hello())) == "draining"
        server.open()
        assert status(client.receive()) == "ok"


def test_draining_gives_up_what_takes_too_long() -> None:
    with (
        running("until over", ServingConfig(drain_s=0.05)) as server,
        peer(server.address) as client,
        peer(server.address) as other,
    ):
        client.send(predict(60))
        other.send(predict(60))
        assert [status(each.ask(hello())) for each in (client, other)] == ["ok", "ok"]  # both are taken in by now
        server.server.drain()
        assert [status(each.receive()) for each in (client, other)] == ["draining", "draining"]


def test_the_end_of_the_parent_is_the_end_of_the_service(tmp_path: Path) -> None:
    ours, parents = os.pipe()
    server = PredictionServer("tcp://127.0.0.1:0", ServingConfig(), commands("answer", tmp_path))
    server.serve(lambda _: os.close(parents), ours)  # comes back, although nothing here drains it
    assert server.state == "draining"
    server.close()
    os.close(ours)


def test_no_process_outlives_the_front(tmp_path: Path) -> None:
    with running() as server:
        (pid,) = server.server.pids
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_a_client_that_has_gone_is_no_trouble() -> None:
    with running("gate") as server, peer(server.address) as client:
        with peer(server.address) as leaver:
            leaver.send(predict())
            server.wait_until_begun()
        server.open()
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
        PredictionServer(f"ipc://{path}", ServingConfig(), [])
    assert caught.value.exit_code == 2
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (path if kind == "file" else notes).read_text() == "of a year"


def test_a_socket_file_is_private_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = PredictionServer(f"ipc://{path}", ServingConfig(), [])
    assert path.stat().st_mode & 0o777 == 0o600
    server.close()
    server.close()
    with pytest.raises(AddressError):
        PredictionServer(f"ipc://{tmp_path}/no/such/folder/s", ServingConfig(), [])


def _asked(client: bytes, name: bytes = b"x") -> QueuedRequest:
    return QueuedRequest(client, Predict(name, request(), SPEC.checkpoint, 1.0), 0.0)


def test_first_come_first_served_and_a_bound() -> None:
    line = RequestQueue(2)
    assert line.next() is None
    assert line.join(_asked(b"a")) and line.join(_asked(b"b")) and not line.join(_asked(b"c"))
    assert len(line) == 2
    first = line.next()
    assert first is not None and first.client == b"a"
    assert line.join(_asked(b"c"))
    assert [asked.client for asked in iter(line.next, None)] == [b"b", b"c"]


def test_who_leaves_and_joins_again_stands_at_the_end() -> None:
    line = RequestQueue(3)
    line.join(_asked(b"a", b"older"))
    line.join(_asked(b"b"))
    older = line.leave(b"a")
    assert older is not None and older.message.id == b"older"
    assert line.leave(b"nobody") is None
    line.join(_asked(b"a", b"newer"))
    assert [asked.message.id for asked in iter(line.next, None)] == [b"x", b"newer"]
