"""Serve a checkpoint: load it, warm it up, print one line of JSON, and answer planners until a signal arrives."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import ghvae_foresight  # refuses folders that hide our packages
from configs.command import print_result, refuse_unused, run
from configs.interruption import interruption
from configs.progress import announce
from ghvae_core.predictor import MismatchError
from ghvae_core.serving.config import InProcessConfig, load_run_server
from ghvae_core.serving.metrics import ServerMetrics, serve_metrics
from ghvae_core.serving.server import PredictionServer
from ghvae_core.serving.worker_pool import WorkerPool

# GNU OpenMP: threads that wait for each other spin for a hundredth of the default, then sleep. With the default, two
# threads on two cores take several times as long as soon as another process is busy: `tests.benchmarks.busy`.
OPENMP_SPIN = ("GOMP_SPINCOUNT", "3000")
_LOG = logging.getLogger(__name__)
ADDRESS = "tcp://127.0.0.1:5555"
SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"


_Address = Annotated[
    str, typer.Option(help="tcp://127.0.0.1:PORT (0: any free port) or ipc:///PATH; with --keys also tcp://IPv4:PORT.")
]
_Keys = Annotated[
    Path | None, typer.Option(help="Folder of the server's keys (run_keys); only allowed machines can connect.")
]
_Devices = Annotated[
    list[str] | None,
    typer.Option(help="auto, cpu, cuda or cuda:N (default: auto). Repeat to split candidates across devices."),
]
_Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Override a configuration key; sections: serving, predictor."
    ),
]
_WithParent = Annotated[
    bool, typer.Option("--with-parent", help="Stop when standard input ends, as when the parent process exits.")
]
_Health = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port on 127.0.0.1 for /livez, /readyz and /metrics; 0: any free port."),
]
_Check = Annotated[bool, typer.Option("--check", help="Load, warm up, measure one chunk of candidates, and exit.")]


def serve(  # noqa: PLR0917 - the parameters are the options of the command line
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model.")] = SHIPPED,
    address: _Address = ADDRESS,
    keys: _Keys = None,
    device: _Devices = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model (default: all cores).")] = None,
    set_: _Overrides = None,
    with_parent: _WithParent = False,
    health: _Health = None,
    check: _Check = False,
) -> None:
    """Serve predictions of candidate actions to planners on this machine or, with keys, on other machines.

    Binds the address and starts one worker process for each device. A worker verifies the checkpoint, compares the
    model's self-test output with the stored one and predicts two steps of a full chunk; then one line of JSON is
    printed, `{"ready": ADDRESS, ...}`. Earlier requests are refused with a time to retry. If a worker crashes or hangs,
    the current request fails and the worker is replaced; after more than `serving.restarts` times within 10 minutes the
    server exits with 1. On SIGTERM or Ctrl-C accepted requests finish within `serving.drain_s` seconds, then the
    server exits with 0 after SIGTERM, as service managers expect, and with 130 after Ctrl-C; a second signal ends it at
    once.

    With `--check` nothing is served; the last line on standard output is JSON: `warm_up_s` and, of a chunk predicted
    after the warm-up, `candidates`, `horizon`, `chunk_s` and `rollouts_per_s`.

    Exits with 2 before anything is bound if the address can be reached from another machine and `--keys` is not given,
    if the address is in use, or if other users can read the keys.
    """
    if find_spec("torch") is None:  # the worker processes need it
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config, devices = load_run_server(set_ or []), device or ["auto"]
    commands = [_worker_command(checkpoint, each, threads, set_ or []) for each in devices]
    if check:
        unused = {"--address": address != ADDRESS, "--keys": keys is not None, "--health": health is not None}
        unused |= {"--with-parent": with_parent, "a second --device": len(devices) > 1}
        refuse_unused(unused, "with --check, which serves nothing")
        with announce("loading the model, warming up and measuring"):
            measured = _measure(checkpoint, devices[0], threads, config.predictor)
        print_result(measured)
        return
    with (
        interruption(then=signal.SIG_DFL) as stop,
        _metrics(health) as (metrics, facts),
        closing(PredictionServer(address, config.serving, commands, keys, metrics)) as server,
    ):
        _serve(server, facts, sys.stdin.fileno() if with_parent else None)
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command."""
    os.environ.setdefault(*OPENMP_SPIN)
    run(serve)


def _worker_command(checkpoint: Path, device: str, threads: int | None, overrides: Sequence[str]) -> list[str]:
    """Return the command line of a worker process.

    Raises:
        MismatchError: The name of the device is not valid.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", device):
        raise MismatchError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    command = ghvae_foresight.module_command("ghvae_core.serving.worker_main")
    command += ["--checkpoint", str(checkpoint), "--device", device]
    command += ["--threads", str(threads)] if threads else []
    return [*command, *(word for override in overrides for word in ("--set", override))]


@contextmanager
def _metrics(port: int | None) -> Iterator[tuple[ServerMetrics, dict[str, int]]]:
    """Serve metrics on a port, if one is given; yields them, and the port as an entry of the line of JSON."""
    metrics = ServerMetrics()
    with nullcontext() if port is None else serve_metrics(port, metrics) as bound:
        yield metrics, {} if bound is None else {"health": bound}


def _serve(server: PredictionServer, facts: Mapping[str, int], parent: int | None) -> None:
    """Serve until a signal arrives or the parent process exits."""

    def print_ready(pool: WorkerPool) -> None:
        assert pool.spec is not None  # noqa: S101 - the pool is ready
        ready = {"ready": server.address, "checkpoint": pool.spec.checkpoint, "pid": os.getpid()}
        print_result({**ready, "processes": pool.pids, **facts, "warm_up_s": pool.warm_up_s})

    _LOG.info("loading the model at %s; requests are answered once it is ready", server.address)
    server.serve(print_ready, parent)


def _measure(checkpoint: Path, device: str, threads: int | None, config: InProcessConfig) -> dict[str, object]:
    """Return how fast a warm predictor computes one chunk of candidates."""
    from ghvae_core.serving.local import open_predictor  # noqa: PLC0415 - torch, which the server does not need

    predictor = open_predictor(checkpoint, device, threads, config)
    predictor.self_test()
    spec, warm_up_s = predictor.spec, predictor.warm_up()
    chunk_s, n = predictor.warm_up(spec.max_horizon), predictor.chunk
    rates = {"warm_up_s": warm_up_s, "chunk_s": chunk_s, "rollouts_per_s": n / chunk_s}
    return {"checkpoint": spec.checkpoint, "candidates": n, "horizon": spec.max_horizon} | {
        name: round(value, 6) for name, value in rates.items()
    }


if __name__ == "__main__":
    main()
