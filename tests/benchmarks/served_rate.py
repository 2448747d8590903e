"""What a server adds to the time of its model, and what it gains from several processes."""

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
from tests.benchmarks.served import SHIPPED, Question, connect, served

_DEADLINE_S = 60.0  # the longest that a server takes


def served_rate(  # noqa: PLR0917 - the parameters are the options of the command line
    checkpoint: Annotated[Path, typer.Option(help="of the model")] = SHIPPED,
    device: Annotated[list[str] | None, typer.Option(help="of a server's processes; several share the work")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="of a plan")] = 200,
    horizon: Annotated[int, typer.Option(min=1, help="steps")] = 10,
    cores: Annotated[int, typer.Option(min=1, help="that the processes on a CPU share")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="plans of each server, in turn; medians are reported")] = 5,
) -> None:
    """Ask a server of one process, and one of several, in turn.

    *Overhead* is the part of the time between question and reply in which the model did not work: checking, sending,
    sharing out and merging. Without `--device` the second server has a process for each core, the first one with as
    many threads.
    """
    devices = device or ["cpu"] * cores
    crews = ((devices[:1], cores), (devices, max(1, cores // len(devices))))
    with ExitStack() as opened, tempfile.TemporaryDirectory() as name:
        clients: list[ServerClient] = []
        for pool, threads in crews:
            folder = Path(name, str(len(pool)))
            folder.mkdir(exist_ok=True)
            options = ("--threads", str(threads), "--set", f"predictor.max_candidates={max(1000, candidates)}")
            server = opened.enter_context(served(folder, *options, checkpoint=checkpoint, devices=pool))
            clients.append(opened.enter_context(closing(connect(server.address, _DEADLINE_S))))
        question = Question(candidates, horizon)
        told: list[list[Prediction]] = [[question.ask(client)] for client in clients]  # warms up
        for _ in range(repeats):
            for each, client in zip(told, clients, strict=True):
                each.append(question.ask(client))
    _print(told, len(devices))


def _print(told: list[list[Prediction]], n: int) -> None:
    """Print a row for each server; its first answer does not count."""
    print("| processes | rollouts/s | reply ms | model ms | overhead | times one process |\n|---|---|---|---|---|---|")
    replies_s = [median(each.timing_s["round_trip"] for each in answers[1:]) for answers in told]
    for answers, processes, reply_s in zip(told, (1, n), replies_s, strict=True):
        works_s = [each.timing_s["prepare"] + each.timing_s["rollout"] for each in answers[1:]]
        shares = [work_s / each.timing_s["round_trip"] for work_s, each in zip(works_s, answers[1:], strict=True)]
        print(
            f"| {processes} | {len(answers[0].costs) / reply_s:.0f} | {1000 * reply_s:.0f} | "
            f"{1000 * median(works_s):.0f} | {1 - median(shares):.1%} | {replies_s[0] / reply_s:.2f} |"
        )


def main() -> NoReturn:
    """Run the command."""
    run(served_rate)


if __name__ == "__main__":
    main()
