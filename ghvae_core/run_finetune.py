"""`run_finetune`: train a GHVAE on recorded episodes, greedily, one module after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from configs.command import run

_PIPED_COLUMNS = 120  # of tables where there is no terminal to say its width


def finetune(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[list[Path] | None, typer.Option(help="Folder of recorded episodes; again to mix several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of this run; made new.")] = None,
    model: Annotated[str, typer.Option(help="Size of the model: a file of configs/models, or a path.")] = "tiny",
    modules: Annotated[int | None, typer.Option(help="How many of its modules; all without it.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start from, or a .pt file of others.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    describe: Annotated[bool, typer.Option("--describe", help="Say what the model costs; train nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the weights, the windows and the latents.", min=0)] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="model.*, training.*, objective.*, data.*"),
    ] = None,
) -> None:
    """Train a video-prediction model on recorded episodes, greedily, one module after another.

    Episodes are RoboNet files (ours too), BAIR and MetaWorld archives, BridgeData records, or plain videos, which have
    no actions. Several `--data` are mixed, equally unless data.folder_fractions says otherwise: half old and half new is the way
    to fine-tune on a new robot. A checkpoint that was made for other actions is adapted, and what was done is told.

    Writes into `--out`: `config.yaml`, `prepared/` (episodes at model size), `tensorboard/`, `pictures/` (real and
    imagined frames after each stage), `stages/` (a checkpoint after each), and at the end `checkpoint/`. The last line
    on stdout is JSON with the figures of every stage on held-out episodes. Ctrl-C and SIGTERM save and exit with 130
    and 75; the same command with `--resume` goes on as if nothing had happened. On several devices:
    `torchrun --nproc-per-node N -m ghvae_core.run_finetune ...`
    """
    overrides = tuple(set_ or [])
    if describe:
        _describe(model, overrides, modules)
        return
    if not data or out is None:
        missing = "--out" if data else "--data"
        raise typer.BadParameter(f"expected {missing}, got none; or --describe to train nothing")
    from ghvae_core.training.run import TrainingRequest, train  # noqa: PLC0415 - torch loads slowly, and --help needs none

    raise typer.Exit(train(TrainingRequest(tuple(data), out, model, init, resume, seed, device, overrides, modules)))


def _describe(model: str, overrides: tuple[str, ...], modules: int | None) -> None:
    from rich.console import Console  # noqa: PLC0415

    from ghvae_core.training.config import load_config  # noqa: PLC0415
    from ghvae_core.training.cost_model import model_cost, print_cost  # noqa: PLC0415

    config = load_config(model, overrides, modules)
    cost = model_cost(config.model, config.training)
    console = Console(stderr=True)
    print_cost(cost, console if console.is_terminal else Console(stderr=True, width=_PIPED_COLUMNS))
    print(cost.model_dump_json(), flush=True)


def main() -> NoReturn:
    """Run the command."""
    run(finetune)


if __name__ == "__main__":
    main()
