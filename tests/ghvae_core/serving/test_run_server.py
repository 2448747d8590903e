import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.protocol import Welcome
from tests.ghvae_core.serving.live import hello, peer
from tests.ghvae_core.serving.small_model import small_checkpoint, small_request

ASKED = small_request()
PATIENCE_S = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


def _command(*options: str) -> list[str]:
    return [sys.executable, "-m", "ghvae_core.run_server", "--device", "cpu", "--threads", "1", *options]


def _refused(*options: str) -> str:
    """Return the one line that a refused start leaves on standard error."""
    done = subprocess.run(_command(*options), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in done.stderr
    return line


@contextmanager
def _started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, and yield it with its address once it is ready."""
    process = subprocess.Popen(
        _command(*options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["pid"] == process.pid and ready["warm_up_s"] > 0
            yield process, ready["ready"]
        finally:
            process.kill()


def test_sigterm_ends_it_in_order(checkpoint: Path) -> None:
    with _started("--checkpoint", str(checkpoint), "--address", "tcp://127.0.0.1:0") as (process, address):
        client = ServerClient(address, ASKED.cost)
        client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert "stopped; answered:" in log and "'answer': 1" in log
    assert "Traceback" not in log


def test_it_ends_with_the_process_that_started_it(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", str(checkpoint), "--address", f"ipc://{tmp_path}/s", "--with-parent")
    with _started(*options) as (process, _):
        assert process.stdin is not None
        process.stdin.close()  # what the kernel does when the parent dies
        assert process.wait(PATIENCE_S) == 0


def test_overrides_reach_the_server_and_ctrl_c_ends_it(checkpoint: Path) -> None:
    overrides = ("--set", "serving.max_per_client=1", "--set", "predictor.max_candidates=3")
    options = ("--checkpoint", str(checkpoint), "--address", "tcp://127.0.0.1:0", *overrides)
    with _started(*options) as (process, address):
        with peer(address) as client:
            reply = client.ask(hello())
        assert isinstance(reply, Welcome)
        assert (reply.limits.max_per_client, reply.spec.max_candidates) == (1, 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_an_address_that_another_machine_could_reach_is_refused(checkpoint: Path) -> None:
    line = _refused("--checkpoint", str(checkpoint), "--address", "tcp://0.0.0.0:5555")
    assert "tcp://0.0.0.0:5555: expected tcp://127.0.0.1:PORT" in line


def test_a_port_in_use_is_refused(checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        line = _refused("--checkpoint", str(checkpoint), "--address", address)
    assert line == f"error: {address}: another program listens there; stop it or take another --address"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in _refused(
        "--checkpoint", str(tmp_path / "none"), "--address", f"ipc://{tmp_path}/s"
    )


def test_help_explains() -> None:
    done = subprocess.run(_command("--help"), capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "SIGTERM" in done.stdout and "--checkpoint" in done.stdout
