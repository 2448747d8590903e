"""The command, in a process of its own and in this process."""

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
from tests.ghvae_core.serving.live import PATIENCE_S, hello, peer, running, status
from tests.ghvae_core.serving.small_model import small_checkpoint, small_request
from tests.patience import patience

ASKED = small_request()
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
    line = [sys.executable, "-m", "ghvae_core.run_server", *OPTIONS, *map(str, options)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["pid"] == process.pid and ready["warm_up_s"] > 0
            yield process, ready["ready"]
        finally:
            process.kill()


def test_overrides_reach_the_server_and_sigterm_drains_it(checkpoint: Path) -> None:
    overrides = ("--set", "serving.max_waiting=1", "--set", "predictor.max_candidates=8")
    with _started("--checkpoint", checkpoint, "--address", "tcp://127.0.0.1:0", *overrides) as (process, address):
        with peer(address) as bare:
            reply = bare.ask(hello())
        assert isinstance(reply, Welcome)
        assert (reply.limits.max_waiting, reply.spec.max_candidates) == (1, 8)
        client = ServerClient(address, ASKED.cost)
        client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(PATIENCE_S)) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert "stopped; replies:" in log and "'prediction': 1" in log
    assert "Traceback" not in log


def test_ctrl_c_drains_it(
    command: Command, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, heard = f"ipc://{tmp_path}/s", []

    def interrupt() -> None:
        with peer(address) as client:
            while (told := status(client.ask(hello()))) == "unavailable":
                time.sleep(0.05)
        heard.append(told)
        if heard == ["ok"]:  # it serves, so its signal handlers are set and pytest is not stopped
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert command("--checkpoint", checkpoint, "--address", address) == 0
    thread.join()
    assert heard == ["ok"]
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
        for address, folder, said in (
            ("tcp://0.0.0.0:5555", checkpoint, "tcp://0.0.0.0:5555: expected tcp://127.0.0.1:PORT"),
            (f"tcp://127.0.0.1:{port}", checkpoint, f"tcp://127.0.0.1:{port}: another program listens there; stop it"),
            (f"ipc://{file}", checkpoint, f"ipc://{file}: expected a new path or a socket's"),
            (f"ipc://{tmp_path}/s", tmp_path / "none", str(tmp_path / "none")),
        ):
            assert command("--checkpoint", folder, "--address", address) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            (line,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
            assert line.startswith(f"error: {said}")
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


def test_check_times_a_chunk_and_binds_nothing(
    checkpoint: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as other:
        options = ("--checkpoint", checkpoint, "--address", other.address, "--check", "--set", "predictor.chunk=3")
        assert command(*options) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["candidates"] == 3 and told["chunk_s"] > 0 and told["warm_up_s"] > 0
    assert told["rollouts_per_s"] == pytest.approx(3 / told["chunk_s"], rel=0.2)


def test_openmp_threads_sleep_soon_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghvae_core.run_server.run", lambda _: None)
    for given, expected in ((None, OPENMP_SPIN[1]), ("7", "7")):
        monkeypatch.setenv(*OPENMP_SPIN)  # so that what `main` sets does not stay
        monkeypatch.delenv(OPENMP_SPIN[0])
        if given is not None:
            monkeypatch.setenv(OPENMP_SPIN[0], given)
        main()
        assert os.environ[OPENMP_SPIN[0]] == expected


def test_the_server_needs_no_torch() -> None:
    code = "import ghvae_core.run_server, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_invalid_device_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--device", "tpu") == 2
    assert "--device tpu: expected auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_help_lists_options_and_signals(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert "SIGTERM" in text and "--checkpoint" in text
