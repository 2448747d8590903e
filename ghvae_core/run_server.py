"""Serve a checkpoint: load it, warm it up, say so in one line, and answer planners until told to stop."""

from __future__ import annotations

import json
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

from configs.command import run
from ghvae_core.predictor import MismatchError
from ghvae_core.serving.config import InProcessConfig, load_run_server
from ghvae_core.serving.metrics import Vitals
from ghvae_core.serving.metrics import health as open_health
from ghvae_core.serving.server import Front
from ghvae_core.serving.worker_pool import Crew

# Threads that wait for each other spin a hundredth as long as GNU's OpenMP lets them, then sleep. Spinning, two of them
# on two cores take several times as long as soon as others work there too: `tests.benchmarks.busy`.
WAITING = ("GOMP_SPINCOUNT", "3000")
SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"


def serve(  # noqa: PLR0917 - the parameters are the options of the command line
    checkpoint: Annotated[Path, typer.Option(help="folder of the model")] = SHIPPED,
    address: Annotated[
        str,
        typer.Option(help="tcp://127.0.0.1:PORT (0: any free port) or ipc:///PATH; with --keys also tcp://IPv4:PORT"),
    ] = "tcp://127.0.0.1:5555",
    keys: Annotated[
        Path | None, typer.Option(help="folder of the server's keys (run_keys); only machines let in are heard")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="where the model runs: auto, cpu, cuda or cuda:N; given several times, they share the work"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model; all cores without it")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="serving.* or predictor.*")
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="stop when standard input ends, as when the starting process dies")
    ] = False,
    health: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="port on 127.0.0.1 for /livez, /readyz and /metrics; 0: any free one"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="load, warm up, time one chunk of candidates, and exit")
    ] = False,
) -> None:
    """Hold a model ready and imagine where candidate actions lead, for planners on this machine or, by keys, on others.

    Binds, and starts a process for each device, which checks the checkpoint, compares its answer to a stored question
    with the stored one, and imagines two steps of a full chunk; then prints a line of JSON, `{"ready": ADDRESS, ...}`.
    Whoever asks earlier is told to come back. A process that crashes or hangs costs the request in hand and is
    replaced; more than `serving.restarts` times within 10 minutes, and the server ends with 1. SIGTERM or Ctrl-C lets
    requests that were taken finish for `serving.drain_s` seconds, then exits with 0; a second one ends it at once.

    With `--check` nothing is served; the last line is JSON: `warm_up_s` and, of a chunk imagined after it,
    `candidates`, `horizon`, `chunk_s` and `rollouts_per_s`.

    Without `--keys` an address that another machine could reach is refused before anything is bound, with exit code 2;
    an address that is taken, and keys that others can read, are refused always.
    """
    if find_spec("torch") is None:  # the worker processes need it
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = load_run_server(set_ or [])
    commands = [_command(checkpoint, each, threads, set_ or []) for each in device or ["auto"]]
    if check:
        print(json.dumps(_time(checkpoint, (device or ["auto"])[0], threads, config.predictor)))
        return
    with _probes(health) as (vitals, probed), closing(Front(address, config.serving, commands, keys, vitals)) as front:
        _serve(front, probed, sys.stdin.fileno() if with_parent else None)


def main() -> NoReturn:
    """Run the command."""
    os.environ.setdefault(*WAITING)
    run(serve)


def _command(checkpoint: Path, device: str, threads: int | None, overrides: Sequence[str]) -> list[str]:
    """Return what starts a process with the model.

    Raises:
        MismatchError: There is no device of such a name.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", device):
        raise MismatchError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    command = [sys.executable, "-m", "ghvae_core.serving.worker_main"]
    command += ["--checkpoint", str(checkpoint), "--device", device]
    command += ["--threads", str(threads)] if threads else []
    return [*command, *(word for override in overrides for word in ("--set", override))]


@contextmanager
def _probes(port: int | None) -> Iterator[tuple[Vitals, dict[str, int]]]:
    """Answer probes where a port is given; yields the vitals to write to, and what the line of JSON tells of it."""
    vitals = Vitals()
    with nullcontext() if port is None else open_health(port, vitals) as taken:
        yield vitals, {} if taken is None else {"health": taken}


def _serve(front: Front, probed: Mapping[str, int], parent: int | None) -> None:
    """Answer until a signal comes or the parent is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: _stop(front))

    def tell(crew: Crew) -> None:
        assert crew.spec is not None  # noqa: S101 - the crew is ready
        facts = {"checkpoint": crew.spec.checkpoint, "pid": os.getpid(), "processes": crew.pids}
        print(json.dumps({"ready": front.address, **facts, **probed, "warm_up_s": crew.warm_up_s}), flush=True)

    front.serve(tell, parent)


def _time(checkpoint: Path, device: str, threads: int | None, config: InProcessConfig) -> dict[str, object]:
    """Return how fast a predictor imagines once it is warm."""
    from ghvae_core.serving.local import open_predictor  # noqa: PLC0415 - torch, which the front does without

    predictor = open_predictor(checkpoint, device, threads, config)
    predictor.prove()
    spec, warm_up_s = predictor.spec, predictor.warm_up()
    chunk_s, n = predictor.warm_up(spec.max_horizon), predictor.chunk
    figures = {"warm_up_s": warm_up_s, "chunk_s": chunk_s, "rollouts_per_s": n / chunk_s}
    return {"checkpoint": spec.checkpoint, "candidates": n, "horizon": spec.max_horizon} | {
        name: round(value, 6) for name, value in figures.items()
    }


def _stop(front: Front) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process
    front.drain()


if __name__ == "__main__":
    main()
