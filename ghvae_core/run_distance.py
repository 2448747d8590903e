"""`run_distance`: train a temporal distance of images, as a term of the planner's goal cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import run
from configs.progress import announce


def distance(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[list[Path], typer.Option(help="Folder of recorded episodes; repeat to mix several folders.")],
    out: Annotated[Path, typer.Option(help="New folder of the network.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Model whose predicted frames replace half of the real ones within its horizon."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the pairs.", min=0)] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Override a configuration key; sections: distance, training, data.",
        ),
    ] = None,
) -> None:
    """Train a small network on unlabelled videos that estimates the number of steps between two images.

    The estimate is an optional term of the planner's goal cost:
    `run_task ... --set predictor.distance=OUT/distance --set planner.cost.steps=0.001`.

    The last line on stdout is JSON with the validation metrics. Ctrl-C and SIGTERM end training after the current step,
    save the network and exit with 130.
    """
    with announce("loading PyTorch"):
        from ghvae_core.training.temporal_distance import (  # noqa: PLC0415 - torch would make --help slow
            TemporalDistanceRequest,
            train,
        )

    raise typer.Exit(train(TemporalDistanceRequest(tuple(data), out, checkpoint, seed, device, tuple(set_ or []))))


def main() -> NoReturn:
    """Run the command."""
    run(distance)


if __name__ == "__main__":
    main()
