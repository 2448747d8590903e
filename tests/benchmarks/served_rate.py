"""Overhead of the server over its model, and speedup by several processes."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Annotated, NoReturn

import typer

from configs.command import run
from ghvae_core.predictor import Prediction
from ghvae_core.serving.client import ServerClient
from tests.benchmarks.served import SHIPPED, RandomRequest, connect, served

_DEADLINE_S = 60.0  # the maximum that a server accepts


def served_rate(  # noqa: PLR0917 - the parameters are the options of the command line
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = SHIPPED,
    device: Annotated[
        list[str] | None, typer.Option(help="Device of a model process; repeat for several processes.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per plan.")] = 200,
    horizon: Annotated[int, typer.Option(min=1, help="Steps per candidate.")] = 10,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores shared by the processes.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Plans of each server, alternating; medians are reported.")] = 5,
) -> None:
    """Time requests to a server with one process and to one with several, alternating.

    *Overhead* is the part of the time between request and reply in which the model did not compute: checks, transfer,
    distribution and merging. Without `--device` the second server has one process per core, and the first one has one
    process with as many threads.
    """
    devices = device or ["cpu"] * cores
    pools = ((devices[:1], cores), (devices, max(1, cores // len(devices))))
    with ExitStack() as opened, tempfile.TemporaryDirectory() as name:
        clients: list[ServerClient] = []
        for pool, threads in pools:
            folder = Path(name, str(len(pool)))
            folder.mkdir(exist_ok=True)
            options = ("--threads", str(threads), "--set", f"predictor.max_candidates={max(1000, candidates)}")
            server = opened.enter_context(served(folder, *options, checkpoint=checkpoint, devices=pool))
            clients.append(opened.enter_context(closing(connect(server.address, _DEADLINE_S))))
        request = RandomRequest(candidates, horizon)
        predictions: list[list[Prediction]] = [[request.predict(client)] for client in clients]  # warm-up
        for _ in range(repeats):
            for each, client in zip(predictions, clients, strict=True):
                each.append(request.predict(client))
    _print(predictions, len(devices))


def _print(predictions: list[list[Prediction]], n: int) -> None:
    """Print a row for each server; its first prediction is excluded."""
    print("| processes | rollouts/s | reply ms | model ms | overhead | speedup |\n|---|---|---|---|---|---|")
    replies_s = [median(each.timing_s["round_trip"] for each in of_server[1:]) for of_server in predictions]
    for of_server, processes, reply_s in zip(predictions, (1, n), replies_s, strict=True):
        models_s = [each.timing_s["prepare"] + each.timing_s["rollout"] for each in of_server[1:]]
        fractions = [
            model_s / each.timing_s["round_trip"] for model_s, each in zip(models_s, of_server[1:], strict=True)
        ]
        print(
            f"| {processes} | {len(of_server[0].costs) / reply_s:.0f} | {1000 * reply_s:.0f} | "
            f"{1000 * median(models_s):.0f} | {1 - median(fractions):.1%} | {replies_s[0] / reply_s:.2f} |"
        )


def main() -> NoReturn:
    """Run the command."""
    run(served_rate)


if __name__ == "__main__":
    main()
