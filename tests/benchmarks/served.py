"""A real `run_server` process for benchmarks, with an audit hook on request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from configs.command import ReportedError
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, Prediction
from ghvae_core.serving.client import ServerClient

Costs = NDArray[np.float32]  # (N,)

SHIPPED = Path(__file__).parents[2] / "ghvae_core" / "checkpoints" / "tiny"
# Once the first file exists, each event that loads code, starts a process or opens a file for writing is logged to the
# second file. Only the constant `_getframe()` is left out: pyzmq compiles it on Python 3.13 for a line of a traceback.
_AUDITED = """
import sys, os
arm, audit_log = sys.argv.pop(1), sys.argv.pop(1)
names = {"import", "exec", "compile", "pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "marshal.loads"}
log = open(audit_log, "a", buffering=1)
def hook(event, arguments):
    if event == "compile" and arguments[0] == b"_getframe()":
        return
    if event in names or (event == "open" and str(arguments[1] or "r")[:1] in "wax"):
        if os.path.exists(arm):
            log.write(f"{event} {arguments[0]!r:.80}\\n")
sys.addaudithook(hook)
from ghvae_core.run_server import main
main()
"""


@dataclass
class Served:
    """A server that is ready."""

    process: subprocess.Popen[str]
    address: str
    pids: list[int]  # of the model processes
    folder: Path

    def arm(self) -> None:
        """Start the log of the audit hook."""
        (self.folder / "armed").touch()

    def audit_events(self) -> list[str]:
        """Return the events that the audit hook has logged."""
        return (self.folder / "audit_events").read_text(encoding="utf-8").splitlines()

    def rss_mib(self) -> float:
        """Return the resident memory of the server process."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def n_files(self) -> int:
        """Return the number of open file descriptors of the server process."""
        return int(psutil.Process(self.process.pid).num_fds())


@contextmanager
def served(
    folder: Path,
    *options: str,
    address: str = "tcp://127.0.0.1:0",
    checkpoint: Path = SHIPPED,
    devices: Sequence[str] = ("cpu",),
    audited: bool = False,
) -> Iterator[Served]:
    """Start a server, wait until it is ready, and kill it at the end of the block.

    Raises:
        ReportedError: It did not start.
    """
    program = ["-m", "ghvae_core.run_server"]
    if audited:
        program = ["-c", _AUDITED, str(folder / "armed"), str(folder / "audit_events")]
    command = [sys.executable, *program, "--checkpoint", str(checkpoint), "--address", address]
    command += [argument for device in devices for argument in ("--device", device)]
    with (
        (folder / "server.log").open("a", encoding="utf-8") as log,
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
                raise ReportedError(f"no server: {lines[-1].removeprefix('error: ') if lines else 'its log is empty'}")
            ready = json.loads(line)
            yield Served(process, ready["ready"], ready["processes"], folder)
        finally:
            process.kill()


@dataclass(frozen=True)
class RandomRequest:
    """A request with random frames and candidates; the same seed gives the same request."""

    n: int = 20
    horizon: int = 10
    seed: int = 0

    def costs(self, client: ServerClient) -> Costs:
        """Return the costs predicted by the server.

        Raises:
            PredictorError: As `ServerClient.predict`.
        """
        return self.predict(client).costs

    def predict(self, client: ServerClient) -> Prediction:
        """Return the prediction of the server.

        Raises:
            PredictorError: As `ServerClient.predict`.
        """
        spec, rng = client.spec, np.random.default_rng(self.seed)
        image = (spec.image_px, spec.image_px, 3)
        frames = rng.integers(0, 256, (spec.n_context, *image), dtype=np.uint8)
        context = Context(frames, np.zeros((spec.n_context - 1, spec.action_dim), np.float32))
        size = (self.n, self.horizon, spec.action_dim)
        candidates = rng.uniform(-spec.step_limit_m, spec.step_limit_m, size).astype(np.float32)
        return client.predict(context, candidates, frames[0], 1)


def connect(address: str, timeout_s: float = 20.0) -> ServerClient:
    """Return a client."""
    return ServerClient(address, GoalCost(), timeout_s)
