"""Settings of greedy training compared at small size: which of them make predictions sharper and follow the actions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import run
from tests.benchmarks.study import NO_STEPS, Protocol, Row, Study, train_and_evaluate

_SIZE, _N_MODULES = "tiny", 5  # of images of 32 px


def rows(steps: tuple[int, int, int]) -> dict[str, Row]:
    """Return all rows by folder name; each changes one setting of the first.

    Args:
        steps: Of module 1, of each of 2 to 4, and of 5.
    """
    first, middle, deepest = steps
    greedy = {**NO_STEPS, "module_steps": [first, middle, middle, middle, deepest], "prior_finetune_steps": 300}
    changes = {
        "default": ("default", ()),
        "literal": ("nothing copied (the paper's model)", ("model.copies=0",)),
        "threshold_0": ("masks without a threshold", ("model.mask_threshold=0",)),
        "threshold_30": ("threshold 0.3", ("model.mask_threshold=0.3",)),
        "beta_low": ("beta 3e-7", ("objective.beta=3e-7",)),
        "beta_high": ("beta 3e-6", ("objective.beta=3e-6",)),
        "rate_high": ("learning rate 3e-3", ("training.learning_rate=3e-3",)),
        "small_batch": ("batch of 8, twice the steps", ("training.batch_windows=8",)),
    }
    return {
        name: Row(label, _doubled(greedy) if name == "small_batch" else greedy, "", _SIZE, _N_MODULES, more)
        for name, (label, more) in changes.items()
    }


def _doubled(steps: dict[str, object]) -> dict[str, object]:
    return {
        name: [2 * n for n in value] if isinstance(value, list) else 2 * int(str(value))
        for name, value in steps.items()
    }


def training_variants(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="Episodes for training.")],
    out: Annotated[Path, typer.Option(help="Folder of all rows; finished rows are reused.")],
    held_out: Annotated[
        Path | None, typer.Option(help="Episodes for evaluation (default: the validation episodes of --data).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Folder of a row to train; repeat for several (default: all).")
    ] = None,
    steps: Annotated[tuple[int, int, int], typer.Option(help="Steps of module 1, of each of 2 to 4, and of 5.")] = (
        150,
        100,
        250,
    ),
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the weights and the training batches; repeat for several.")
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate all finished rows.")] = True,
    windows: Annotated[int, typer.Option(help="Number of windows for evaluation.")] = 128,
    fvd: Annotated[bool, typer.Option(help="Also compute FVD: minutes per row on a CPU.")] = True,
) -> None:
    """Train greedy GHVAEs of 5 modules on images of 32 px, one for each setting, then evaluate all together.

    Each takes about 200 CPU seconds. The rows of a seed are in `seed_SEED`; an interrupted row is resumed.
    """
    settings = ("model.image_px=32", "training.validation_windows=32")
    train_and_evaluate(
        [Study(rows(steps), data, out / f"seed_{each}", each, settings) for each in seed or [0]],
        only,
        Protocol(held_out, windows, fvd) if evaluate else None,
    )


def main() -> NoReturn:
    """Run the command."""
    run(training_variants)


if __name__ == "__main__":
    main()
