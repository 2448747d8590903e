"""`run_finetune`: train a GHVAE on recorded episodes, greedily, one module after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from configs.command import run


def finetune(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="Folder of recorded episodes (*.hdf5, subfolders too).")],
    out: Annotated[Path, typer.Option(help="Folder of this run; made new.")],
    model: Annotated[str, typer.Option(help="Size of the model: a file of configs/models, or a path.")] = "tiny",
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start from, of all or the first modules.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    seed: Annotated[int, typer.Option(help="Of the weights, the windows and the latents.", min=0)] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="model.*, training.*, objective.*, data.*"),
    ] = None,
) -> None:
    """Train a video-prediction model on recorded episodes, greedily, one module after another.

    Writes into `--out`: `config.yaml`, `tensorboard/`, `pictures/` (real and imagined frames after each stage),
    `stages/` (a checkpoint after each), and at the end `checkpoint/`. The last line on stdout is JSON with the figures
    of every stage on held-out episodes. Ctrl-C and SIGTERM save and exit with 130 and 75; the same command with
    `--resume` goes on as if nothing had happened.
    """
    from ghvae_core.training_run import Request, train  # noqa: PLC0415 - torch loads slowly, and --help needs none

    raise typer.Exit(train(Request(data, out, model, init, resume, seed, device, tuple(set_ or []))))


def main() -> NoReturn:
    """Run the command."""
    run(finetune)


if __name__ == "__main__":
    main()
