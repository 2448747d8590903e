"""Kill -9 in mid-plan, of the process with the model and of the front: how soon a client knows, and plans again."""

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
from tests.benchmarks.served import Costs, Question, connect, served

_AGAIN_S = 5.0
_MARGIN_S = 0.5  # a client's own time beyond its deadline


class KillsError(ReportedError):
    """A client hung, or the next plan came late or wrong."""

    exit_code = 1


def server_kills(  # noqa: PLR0917 - the parameters are the options of the command line
    of: Annotated[Literal["model", "front", "both"], typer.Option(help="what to kill")] = "both",
    kills: Annotated[int, typer.Option(min=1, help="of each")] = 20,
    candidates: Annotated[int, typer.Option(min=1, help="of a plan")] = 100,
    deadline: Annotated[float, typer.Option(min=0.1, help="seconds, of the plan that is hit")] = 3.0,
    up: Annotated[
        float, typer.Option(min=0, help="seconds that the server was ready before; then it has a reserve")
    ] = 8.0,
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
) -> None:
    """Kill, and print the longest times until the client knew, and from the kill to the next plan.

    A front that was killed is started again at once, as systemd or another supervisor does; the model's process is
    replaced by the front. The next plan is asked for as soon as the client knows, by one with more patience.
    """
    rng, late = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        for victim in ("model", "front") if of == "both" else (of,):
            question = Question(candidates, 10)
            numbers = track(range(kills), victim, console=Console(stderr=True))
            told = [_kill(Path(name), f"{victim}_{i}", question, Times(up, deadline), rng) for i in numbers]
            knew_s, again_s = max(each.knew_s for each in told), max(each.again_s for each in told)
            n_wrong = sum(not each.is_right for each in told)
            figures = {
                "killed": victim,
                "times": kills,
                "deadline_s": deadline,
                "longest_until_the_client_knew_s": round(knew_s, 2),
                "median_until_the_next_plan_s": round(median(each.again_s for each in told), 2),
                "longest_until_the_next_plan_s": round(again_s, 2),
                f"next_plan_later_than_{_AGAIN_S:g}_s": sum(each.again_s > _AGAIN_S for each in told),
                "wrong_plans": n_wrong,
            }
            print(json.dumps(figures), flush=True)
            if knew_s > deadline + _MARGIN_S or again_s > _AGAIN_S or n_wrong:
                late.append(victim)
    if late:
        raise KillsError(f"not within {deadline} s and {_AGAIN_S} s, or wrong, after a kill of: {', '.join(late)}")


class Times(NamedTuple):
    """What is given, in seconds."""

    up: float
    deadline: float


class Told(NamedTuple):
    """What followed one kill."""

    knew_s: float  # from the question that was hit to its end
    again_s: float  # from the kill to the next plan
    is_right: bool


def _kill(folder: Path, name: str, question: Question, times: Times, rng: random.Random) -> Told:
    address = f"ipc://{folder}/{name}"
    with (
        served(folder, address=address) as server,
        closing(connect(address, times.deadline)) as client,
        closing(connect(address)) as patient,
        ExitStack() as opened,
    ):
        time.sleep(times.up)
        began_s = time.monotonic()
        right = question.costs(patient)
        moment_s = rng.uniform(0.1, 0.8) * (time.monotonic() - began_s)
        hits_model = name.startswith("model")
        pid = server.pids[0] if hits_model else server.process.pid

        def strike() -> None:
            os.kill(pid, signal.SIGKILL)
            if not hits_model:
                opened.enter_context(served(folder, address=address))

        striking = threading.Timer(moment_s, strike)
        striking.start()
        began_s = time.monotonic()
        with suppress(PredictorError):
            question.costs(client)
        knew_s = time.monotonic() - began_s
        again = _again(patient, question)
        again_s = time.monotonic() - began_s - moment_s
        striking.join()
        return Told(knew_s, again_s, bool(np.allclose(again, right, rtol=1e-4)))


def _again(client: ServerClient, question: Question) -> Costs:
    """Plan until it works."""
    while True:
        try:
            return question.costs(client)
        except PredictorError:
            time.sleep(0.05)


def main() -> NoReturn:
    """Run the command."""
    run(server_kills)


if __name__ == "__main__":
    main()
