"""Command `run_server`, in a child process and in this process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghvae_core.run_server import OPENMP_SPIN, main
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.protocol import Welcome
from tests.ghvae_core.serving.live import PATIENCE_S, hello, peer, status
from tests.ghvae_core.serving.small_model import small_checkpoint, small_request
from tests.patience import patience

REQUEST = small_request()
OPTIONS = ("--device", "cpu", "--threads", "1")

Command = Callable[..., int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run the command with options and return its exit code; the signal handlers are restored afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*options: object) -> int:
        monkeypatch.setattr(sys, "argv", ["run_server", *OPTIONS, *map(str, options)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def _started(*options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, and yield it with its address once it is ready."""
    arguments = [sys.executable, "-m", "ghvae_core.run_server", *OPTIONS, *map(str, options)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["pid"] == process.pid and ready["warm_up_s"] > 0
            yield process, ready["ready"]
        finally:
            process.kill()


def test_overrides_are_applied_and_sigterm_drains_the_server(checkpoint: Path) -> None:
    overrides = ("--set", "serving.max_waiting=1", "--set", "predictor.max_candidates=8")
    with _started("--checkpoint", checkpoint, "--address", "tcp://127.0.0.1:0", *overrides) as (process, address):
        with peer(address) as bare:
            reply = bare.exchange(hello())
        assert isinstance(reply, Welcome)
        assert (reply.limits.max_waiting, reply.spec.max_candidates) == (1, 8)
        client = ServerClient(address, REQUEST.cost)
        client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(PATIENCE_S)) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert "stopped; replies:" in log and "'prediction': 1" in log
    assert "Traceback" not in log


def test_ctrl_c_drains_the_server(
    command: Command, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, statuses = f"ipc://{tmp_path}/s", []

    def interrupt() -> None:
        with peer(address) as client:
            while (reply := status(client.exchange(hello()))) == "unavailable":
                time.sleep(0.05)
        statuses.append(reply)
        if statuses == ["ok"]:  # the server is ready, so its signal handlers are set and pytest is not stopped
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert command("--checkpoint", checkpoint, "--address", address) == 130
    thread.join()
    assert statuses == ["ok"]
    assert json.loads(capsys.readouterr().out)["ready"] == address


def test_refused_input_exits_with_2_and_one_line(
    command: Command, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes"
    file.write_text("notes")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for address, folder, message in (
            ("tcp://0.0.0.0:5555", checkpoint, "tcp://0.0.0.0:5555: expected tcp://127.0.0.1:PORT"),
            (f"tcp://127.0.0.1:{port}", checkpoint, f"tcp://127.0.0.1:{port}: another program listens there; stop it"),
            (f"ipc://{file}", checkpoint, f"ipc://{file}: expected a new path or a socket's"),
            (f"ipc://{tmp_path}/s", tmp_path / "none", str(tmp_path / "none")),
        ):
            assert command("--checkpoint", folder, "--address", address) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            (line,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
            assert line.startswith(f"error: {message}")
    assert file.read_text() == "notes"


def test_a_health_port_in_use_is_refused_before_a_worker_is_started(
    command: Command,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ghvae_core.serving.worker.subprocess.Popen", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert command("--checkpoint", checkpoint, "--address", f"ipc://{tmp_path}/s", "--health", port) == 2
    assert f"error: --health {port}: " in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_check_times_a_chunk_without_binding_an_address(
    checkpoint: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--checkpoint", checkpoint, "--check", "--set", "predictor.chunk=3") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["candidates"] == 3 and report["chunk_s"] > 0 and report["warm_up_s"] > 0
    assert report["rollouts_per_s"] == pytest.approx(3 / report["chunk_s"], rel=0.2)


def test_openmp_threads_spin_briefly_unless_the_environment_sets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghvae_core.run_server.run", lambda _: None)
    for given, expected in ((None, OPENMP_SPIN[1]), ("7", "7")):
        monkeypatch.setenv(*OPENMP_SPIN)  # so that the value set by `main` is removed after the test
        monkeypatch.delenv(OPENMP_SPIN[0])
        if given is not None:
            monkeypatch.setenv(OPENMP_SPIN[0], given)
        main()
        assert os.environ[OPENMP_SPIN[0]] == expected


def test_the_server_does_not_import_torch() -> None:
    code = "import ghvae_core.run_server, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_invalid_device_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--device", "tpu") == 2
    assert "--device tpu: expected auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_help_lists_options_and_signals(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert "SIGTERM" in text and "--checkpoint" in text
