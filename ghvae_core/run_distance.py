"""`run_distance`: teach how many steps lie between two images, as a term of the planner's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from configs.command import run


def distance(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[list[Path], typer.Option(help="Folder of recorded episodes; again to mix several.")],
    out: Annotated[Path, typer.Option(help="Folder of the network; made new.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Model that imagines half of the images within its reach, as it will in planning."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the pairs.", min=0)] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="distance.*, training.*, data.*")
    ] = None,
) -> None:
    """Teach a small network how many steps lie between two images, from recorded videos alone, without labels.

    It is a term of the planner's cost:
    `run_task ... --set predictor.distance=OUT/distance --set planner.cost.steps=0.001`.

    The last line on stdout is JSON with its figures on held-out episodes. Ctrl-C and SIGTERM keep what was learned so
    far and exit with 130.
    """
    from ghvae_core.training.temporal_distance import TemporalDistanceRequest, train  # noqa: PLC0415 - torch loads slowly

    raise typer.Exit(train(TemporalDistanceRequest(tuple(data), out, checkpoint, seed, device, tuple(set_ or []))))


def main() -> NoReturn:
    """Run the command."""
    run(distance)


if __name__ == "__main__":
    main()
