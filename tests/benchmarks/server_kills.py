"""Kills (SIGKILL) of the model process and of the server during a plan: times to the error and to the next plan."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from configs.command import ReportedError, run
from ghvae_core.predictor import PredictorError
from ghvae_core.serving.client import ServerClient
from tests.benchmarks.served import Costs, RandomRequest, connect, served

_AGAIN_S = 5.0
_MARGIN_S = 0.5  # time of the client itself beyond its deadline


class KillsError(ReportedError):
    """A client waited too long, or the next plan was late or incorrect."""

    exit_code = 1


def server_kills(  # noqa: PLR0917 - the parameters are the options of the command line
    of: Annotated[Literal["model", "server", "both"], typer.Option(help="Process to kill.")] = "both",
    kills: Annotated[int, typer.Option(min=1, help="Kills of each process.")] = 20,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per plan.")] = 100,
    deadline: Annotated[float, typer.Option(min=0.1, help="Deadline of the interrupted plan in seconds.")] = 3.0,
    up: Annotated[
        float, typer.Option(min=0, help="Seconds between readiness and the plan, for the start of the standby process.")
    ] = 8.0,
    seed: Annotated[int, typer.Option(help="Seed of the random times.")] = 0,
) -> None:
    """Kill processes; print the longest times until the client is informed, and from the kill to the next plan.

    A killed server is restarted immediately, as by systemd or another supervisor; the server replaces a killed model
    process. After the error, a second client with a longer deadline requests the next plan.
    """
    rng, late = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        for victim in ("model", "server") if of == "both" else (of,):
            request = RandomRequest(candidates, 10)
            numbers = track(range(kills), victim, console=Console(stderr=True))
            killed = [_kill(Path(name), f"{victim}_{i}", request, Times(up, deadline), rng) for i in numbers]
            error_s, again_s = max(each.error_s for each in killed), max(each.again_s for each in killed)
            n_incorrect = sum(not each.is_correct for each in killed)
            figures = {
                "killed": victim,
                "times": kills,
                "deadline_s": deadline,
                "longest_until_the_error_s": round(error_s, 2),
                "median_until_the_next_plan_s": round(median(each.again_s for each in killed), 2),
                "longest_until_the_next_plan_s": round(again_s, 2),
                f"next_plan_later_than_{_AGAIN_S:g}_s": sum(each.again_s > _AGAIN_S for each in killed),
                "incorrect_plans": n_incorrect,
            }
            print(json.dumps(figures), flush=True)
            if error_s > deadline + _MARGIN_S or again_s > _AGAIN_S or n_incorrect:
                late.append(victim)
    if late:
        raise KillsError(f"not within {deadline} s and {_AGAIN_S} s, or incorrect, after a kill of: {', '.join(late)}")


class Times(NamedTuple):
    """Times in seconds."""

    up: float
    deadline: float


class KillResult(NamedTuple):
    """Measurements of one kill."""

    error_s: float  # from the interrupted request to its error
    again_s: float  # from the kill to the next plan
    is_correct: bool


def _kill(folder: Path, name: str, request: RandomRequest, times: Times, rng: random.Random) -> KillResult:
    address = f"ipc://{folder}/{name}"
    with (
        served(folder, address=address) as server,
        closing(connect(address, times.deadline)) as client,
        closing(connect(address)) as patient,
        ExitStack() as opened,
    ):
        time.sleep(times.up)
        began_s = time.monotonic()
        expected = request.costs(patient)
        moment_s = rng.uniform(0.1, 0.8) * (time.monotonic() - began_s)
        kills_model = name.startswith("model")
        pid = server.pids[0] if kills_model else server.process.pid

        def kill() -> None:
            os.kill(pid, signal.SIGKILL)
            if not kills_model:
                opened.enter_context(served(folder, address=address))

        killing = threading.Timer(moment_s, kill)
        killing.start()
        began_s = time.monotonic()
        with suppress(PredictorError):
            request.costs(client)
        error_s = time.monotonic() - began_s
        again = _again(patient, request)
        again_s = time.monotonic() - began_s - moment_s
        killing.join()
        return KillResult(error_s, again_s, bool(np.allclose(again, expected, rtol=1e-4)))


def _again(client: ServerClient, request: RandomRequest) -> Costs:
    """Repeat the request until it succeeds."""
    while True:
        try:
            return request.costs(client)
        except PredictorError:
            time.sleep(0.05)


def main() -> NoReturn:
    """Run the command."""
    run(server_kills)


if __name__ == "__main__":
    main()
