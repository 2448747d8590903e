"""`run_finetune`: train a GHVAE on recorded episodes, greedily, one module after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import print_result, refuse_unused, run
from configs.progress import announce

_PIPED_COLUMNS = 120  # width of tables where stderr is not a terminal

_Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a configuration key; sections: model, training, objective, data.",
    ),
]


def finetune(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of recorded episodes; repeat to mix several folders.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder of this run.")] = None,
    model: Annotated[str, typer.Option(help="Model size: a file of configs/models, or a path.")] = "tiny",
    modules: Annotated[int | None, typer.Option(help="Number of modules to train (default: all).")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from, or a PyTorch file (.pt, .pth) of weights.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print layers, parameters, FLOP and memory; train nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, windows and latents.", min=0)] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")] = "auto",
    set_: _Overrides = None,
) -> None:
    """Train a video-prediction model on recorded episodes, greedily, one module after another.

    Episodes are RoboNet files (also those of run_collection), BAIR and MetaWorld archives, BridgeData records, or plain
    videos, which have no actions. Several `--data` are mixed equally unless data.folder_fractions is set; for
    fine-tuning on a new robot, RoboNet recommends half old and half new episodes. A checkpoint that was trained with
    other actions is adapted; the changes are printed.

    Writes into `--out`: `config.yaml`, `prepared/` (episodes at model size), `tensorboard/`, `images/` (real and
    predicted frames after each stage), `stages/` (one checkpoint per stage), and at the end `checkpoint/`. The last
    line on stdout is JSON with the validation metrics of every stage. Ctrl-C and SIGTERM save the state between two
    steps and exit with 130 and 75; the same command with `--resume` continues with identical results. On several
    devices: `torchrun --nproc-per-node N -m ghvae_core.run_finetune ...`
    """
    overrides = tuple(set_ or [])
    if describe:
        unused = {"--data": bool(data), "--out": out is not None, "--init": init is not None, "--resume": resume}
        refuse_unused(unused, "with --describe, which trains nothing")
        _describe(model, overrides, modules)
        return
    if not data or out is None:
        missing = "--out" if data else "--data"
        raise typer.BadParameter(f"expected {missing}, got none; or --describe to train nothing")
    with announce("loading PyTorch"):
        from ghvae_core.training.run import TrainingRequest, train  # noqa: PLC0415 - torch would make --help slow

    raise typer.Exit(train(TrainingRequest(tuple(data), out, model, init, resume, seed, device, overrides, modules)))


def _describe(model: str, overrides: tuple[str, ...], modules: int | None) -> None:
    from rich.console import Console  # noqa: PLC0415

    with announce("loading PyTorch"):
        from ghvae_core.training.config import load_config  # noqa: PLC0415
        from ghvae_core.training.cost_model import model_cost, print_cost  # noqa: PLC0415

    config = load_config(model, overrides, modules)
    with announce("computing the cost of every layer and stage"):
        cost = model_cost(config.model, config.training)
    console = Console(stderr=True)
    print_cost(cost, console if console.is_terminal else Console(stderr=True, width=_PIPED_COLUMNS))
    print_result(cost.model_dump(mode="json"))


def main() -> NoReturn:
    """Run the command."""
    run(finetune)


if __name__ == "__main__":
    main()
