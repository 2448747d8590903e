"""A private server: a child process for one task that never outlives its parent."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.interruption import wait
from configs.progress import announce
from ghvae_core.goal_cost import CostNetworks
from ghvae_core.predictor import MismatchError, PredictorError
from ghvae_foresight import module_command

_READY_TIMEOUT_S = 120.0  # imports torch and loads a large checkpoint from a cold disk; ours
_STOP_TIMEOUT_S = 10.0  # then it is killed; longer than `ServingConfig.drain_s`; ours

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrivateServer:
    """A running server that only processes of this user can reach."""

    address: str  # for `ServerClient`
    pid: int


@contextmanager
def private_server(
    checkpoint: Path, device: str = "auto", threads: int | None = None, *, networks: CostNetworks | None = None
) -> Iterator[PrivateServer]:
    """Start `run_server` on a socket in a private folder; stop it at the end of the `with` block.

    The server also stops when this process exits in any way, because its standard input then ends.

    Args:
        checkpoint: Folder of the model.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of the model; None for all cores.
        networks: Networks for the cost; None: none.

    Raises:
        MismatchError: The server refused the checkpoint or the device; the message ends with the last line of its log.
        PredictorError: The server did not become ready for another reason.
    """
    with tempfile.TemporaryDirectory(prefix="ghvae_") as folder:  # mode 0700
        log = Path(folder) / "server.log"
        command = [*module_command("ghvae_core.run_server"), "--with-parent"]
        command += ["--checkpoint", str(checkpoint), "--address", f"ipc://{folder}/socket", "--device", device]
        command += ["--threads", str(threads)] if threads else []
        for name, value in (networks or CostNetworks()).model_dump(exclude_defaults=True).items():
            command += ["--set", f"predictor.{name}={json.dumps(value)}"]
        with log.open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for this process, which then stops the server
            )
        try:
            with announce("starting a private server, which loads the model"):
                server = PrivateServer(_wait_until_ready(process, log), process.pid)
            try:
                yield server
            finally:
                if process.poll() is not None:
                    _log.warning("the private server had ended with %d: %s", process.returncode, _last_line(log))
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address in the server's ready line."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    end_s, line = time.monotonic() + _READY_TIMEOUT_S, b""
    while not line.endswith(b"\n"):
        if not wait([process.stdout], max(0.0, end_s - time.monotonic())):
            raise PredictorError(f"the private server was not ready within {_READY_TIMEOUT_S:g} s: {_last_line(log)}")
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            refused = process.wait(_STOP_TIMEOUT_S) == MismatchError.exit_code
            kind = MismatchError if refused else PredictorError
            raise kind(f"the private server did not start: {_last_line(log)}")
        line += piece
    return str(json.loads(line)["ready"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they are pipes
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _log.warning("the private server did not stop within %g s and is killed", _STOP_TIMEOUT_S)
        process.kill()
        process.wait()
    process.stdin.close()
    process.stdout.close()


def _last_line(log: Path) -> str:
    """Return the last line of the server's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "its log is empty"
