"""Time of a chunk of candidates on a busy machine, for two ways in which OpenMP threads wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track

from configs.command import ReportedError, run
from ghvae_core.run_server import OPENMP_SPIN
from tests.benchmarks.served import SHIPPED

_CHECK = "from configs.command import run; from ghvae_core.run_server import serve; run(serve)"
_WAYS = {"spinning": {}, "sleeping": dict([OPENMP_SPIN])}


def busy(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = SHIPPED,
    others: Annotated[int, typer.Option(min=1, help="Number of other processes that compute.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Starts with each way; the ways alternate.")] = 5,
) -> None:
    """Time a chunk of candidates on an idle and on a busy machine, with spinning and with sleeping threads."""
    print("| other processes | waiting threads | median s | longest s | speedup over spinning |\n|---|---|---|---|---|")
    for n in (0, others):
        took: dict[str, list[float]] = {way: [] for way in _WAYS}
        with _others(n):
            for _ in track(range(repeats), f"{n} other processes", console=Console(stderr=True)):
                for way, environment in _WAYS.items():
                    took[way].append(_chunk_s(checkpoint, environment))
        for way, times_s in took.items():
            ratio = median(took["spinning"]) / median(times_s)
            print(f"| {n} | {way} | {median(times_s):.2f} | {max(times_s):.2f} | {ratio:.2f} |", flush=True)


def _chunk_s(checkpoint: Path, environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", _CHECK, "--check", "--device", "cpu", "--checkpoint", str(checkpoint)]
    others = {name: value for name, value in os.environ.items() if name != OPENMP_SPIN[0]}
    done = subprocess.run(command, env={**others, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReportedError(done.stderr.splitlines()[-1].removeprefix("error: "))
    return float(json.loads(done.stdout.splitlines()[-1])["chunk_s"])


@contextmanager
def _others(n: int) -> Iterator[None]:
    """Run n computing processes until the end of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> NoReturn:
    """Run the command."""
    run(busy)


if __name__ == "__main__":
    main()
