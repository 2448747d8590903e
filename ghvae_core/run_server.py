"""Serve a checkpoint: load it, warm it up, say so in one line, and answer planners until told to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from configs.command import run

if TYPE_CHECKING:
    from ghvae_core.models.checkpoint import Checkpoint
    from ghvae_core.serving.in_process import InProcessConfig, InProcessPredictor
    from ghvae_core.serving.server import Server

SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"

_log = logging.getLogger(__name__)


def serve(  # noqa: PLR0917 - the parameters are the options of the command line
    checkpoint: Annotated[Path, typer.Option(help="folder of the model")] = SHIPPED,
    address: Annotated[
        str,
        typer.Option(help="tcp://127.0.0.1:PORT (0: any free port) or ipc:///PATH; with --keys also tcp://IPv4:PORT"),
    ] = "tcp://127.0.0.1:5555",
    keys: Annotated[
        Path | None, typer.Option(help="folder of the server's keys (run_keys); only machines let in are heard")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where the model runs")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model; all cores without it")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="serving.* or predictor.*")
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="stop when standard input ends, as when the starting process dies")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="load, warm up, time one chunk of candidates, and exit")
    ] = False,
) -> None:
    """Hold a model ready and imagine where candidate actions lead, for planners on this machine or, by keys, on others.

    Binds the address, loads and checks the checkpoint, imagines one full chunk to warm up, then prints one line of JSON
    on standard output, `{"ready": ADDRESS, ...}`, and serves. SIGTERM or Ctrl-C lets the requests that were taken
    finish for `serving.drain_s` seconds (and one chunk of work), then exits with 0; a second one ends it at once.

    With `--check` nothing is bound or served: the last line on standard output is JSON: `warm_up_s` and, of a chunk
    imagined after it, `candidates`, `horizon`, `chunk_s` and `rollouts_per_s`.

    Without `--keys` an address that another machine could reach is refused before anything is bound, with exit code 2;
    an address that is taken, and keys that others can read, are refused always.
    """
    from ghvae_core.serving.address import check_address  # noqa: PLC0415

    check_address(address, keys is not None)  # before torch is loaded, so that a refusal comes at once

    from ghvae_core.serving.configuration import load_run_server  # noqa: PLC0415
    from ghvae_core.serving.server import Server  # noqa: PLC0415 - torch would make --help slow

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = load_run_server(set_ or [])
    open_predictor = partial(_open_predictor, checkpoint, device, threads, config.predictor)
    if check:
        print(json.dumps(_time(open_predictor())))
        return
    with closing(Server(address, config.serving, keys)) as server:
        _serve(server, open_predictor, sys.stdin.fileno() if with_parent else None)


def main() -> NoReturn:
    """Run the command."""
    run(serve)


def _open_predictor(folder: Path, device: str, threads: int | None, config: InProcessConfig) -> InProcessPredictor:
    from ghvae_core.predictor import GoalCost  # noqa: PLC0415
    from ghvae_core.serving.in_process import InProcessPredictor  # noqa: PLC0415

    return InProcessPredictor(_load(folder, device, threads), GoalCost(), config)  # the cost comes with each request


def _load(folder: Path, device: str, threads: int | None) -> Checkpoint:
    """Load the checkpoint to the device that was asked for, or that there is."""
    import torch  # noqa: PLC0415

    from ghvae_core.models.checkpoint import load  # noqa: PLC0415
    from ghvae_core.predictor import MismatchError  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise MismatchError("--device cuda: torch finds no CUDA device here; take --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    start_s = time.monotonic()
    checkpoint = load(folder, device)
    _log.info("loaded %s to %s in %.1f s", folder, device, time.monotonic() - start_s)
    return checkpoint


def _serve(server: Server, open_predictor: Callable[[], InProcessPredictor], parent: int | None) -> None:
    """Answer from when the predictor is warm until a signal comes or the parent is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: _stop(server))
    predictor = open_predictor()
    warm_up_s = predictor.warm_up()
    checkpoint = predictor.spec.checkpoint
    ready = {"ready": server.address, "checkpoint": checkpoint, "pid": os.getpid(), "warm_up_s": warm_up_s}
    print(json.dumps(ready), flush=True)
    server.serve(predictor.spec, predictor.evaluate, parent)


def _time(predictor: InProcessPredictor) -> dict[str, object]:
    """Return how fast a predictor imagines once it is warm."""
    warm_up_s, chunk_s, n = predictor.warm_up(), predictor.warm_up(), predictor.chunk
    figures = {"warm_up_s": warm_up_s, "chunk_s": chunk_s, "rollouts_per_s": n / chunk_s}
    spec = predictor.spec
    return {"checkpoint": spec.checkpoint, "candidates": n, "horizon": spec.max_horizon} | {
        name: round(value, 6) for name, value in figures.items()
    }


def _stop(server: Server) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process
    server.drain()


if __name__ == "__main__":
    main()
