"""The process that holds the model: what `run_server` starts once for each device, and again when it is lost."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import ReportedError, run
from ghvae_core.serving.config import load_run_server
from ghvae_core.serving.worker_main import Work


def model_process(
    line: Annotated[str, typer.Option(help="Address of the front's end of the line.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="predictor.KEY=VALUE")] = None,
) -> None:
    """Wait for the word of the front, load, prove itself, warm up, and compute, until the front is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with closing(Work(line, sys.stdin.fileno())) as work:
        from ghvae_core.serving.local import open_predictor  # noqa: PLC0415 - seconds, spent in reserve

        if not work.begins():
            return
        try:
            work.tell("loading")
            predictor = open_predictor(checkpoint, device, threads, load_run_server(set_ or []).predictor)
            work.tell("warming")
            predictor.prove()
            warm_up_s = predictor.warm_up()
        except ReportedError as error:
            work.fail(error)
            return
        work.serve(predictor.spec, warm_up_s, predictor.evaluate, predictor.prove)


def main() -> NoReturn:
    """Run the process."""
    run(model_process)


if __name__ == "__main__":
    main()
