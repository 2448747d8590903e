"""GHVAE of 2, 4 and 6 modules, ablations, and the baselines SVG' and Hier-VRNN, compared on the same clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NoReturn

import typer

from configs.command import run
from tests.benchmarks.study import (
    NO_STEPS,
    DataOption,
    EvaluateOption,
    FvdOption,
    HeldOutOption,
    OnlyOption,
    OutOption,
    Protocol,
    Row,
    SeedOption,
    Study,
    TrainedOnOption,
    WindowsOption,
    train_and_evaluate,
)

PUBLISHED_LOSS = ("objective.ssim_weight=0", "objective.beta=1e-6")  # squared error and KL
LITERAL = ("model.copies=0", "model.prior_frames=all", *PUBLISHED_LOSS)  # the model of the paper


def rows(size: str) -> dict[str, Row]:
    """Return all rows of a size of the model by folder name, in the order of training."""
    finetuned = {**NO_STEPS, "prior_finetune_steps": 8000}
    only_finetuned = {"module_steps": [0], **finetuned}
    end_to_end = {**only_finetuned, "end_to_end_steps": "matched"}
    baseline = {"module_steps": [0], **NO_STEPS, "end_to_end_steps": "matched"}
    stage, whole = "greedy/stages/module_{}", ("greedy", "ghvae_6")
    then = {**only_finetuned, "end_to_end_steps": 500}
    return {
        "greedy": Row("6 modules, greedy, before fine-tuning", NO_STEPS, model=size),
        "ghvae_2": Row("GHVAE, 2 modules", only_finetuned, stage.format(2), size, 2),
        "ghvae_4": Row("GHVAE, 4 modules", only_finetuned, stage.format(4), size, 4),
        "ghvae_6": Row("GHVAE, 6 modules", only_finetuned, stage.format(6), size),
        "then_end_to_end": Row("6 modules, then end to end", then, stage.format(6), size),
        "uniform": Row("6 modules, uniform prior", NO_STEPS, "", size, 6, ("model.prior=uniform",)),
        "scratch": Row("6 modules, end to end from scratch", end_to_end, "", size),
        "svg": Row("SVG'", baseline, "", f"svg_{size}", 0, PUBLISHED_LOSS, whole),
        "svg_ssim": Row("SVG' with the loss of GHVAE", baseline, "", f"svg_{size}", 0, (), whole),
        "hier_vrnn": Row("Hier-VRNN", baseline, "", f"hier_vrnn_{size}", 0, PUBLISHED_LOSS, whole),
    }


def ablations(  # noqa: PLR0917 - the parameters are the options of the command line
    data: DataOption,
    out: OutOption,
    held_out: HeldOutOption = None,
    only: OnlyOption = None,
    size: Annotated[str, typer.Option(help="Size of the model; svg_SIZE and hier_vrnn_SIZE must exist too.")] = "tiny",
    steps: Annotated[tuple[int, int, int], typer.Option(help="Steps of module 1, of each of 2 to 5, and of 6.")] = (
        1200,
        1200,
        5500,
    ),
    seed: SeedOption = None,
    evaluate: EvaluateOption = True,
    windows: WindowsOption = 256,
    fvd: FvdOption = True,
    trained_on: TrainedOnOption = False,
    literal: Annotated[
        bool, typer.Option(help="All GHVAEs as in the paper: no copies, prior on all frames, no SSIM in the loss.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Further settings of all trainings.")] = None,
) -> None:
    """Train all unfinished rows, then evaluate all finished ones together.

    The rows of a seed are in `seed_SEED`. An interrupted row is resumed. Greedy models, and those trained end to end,
    are fine-tuned: the deepest prior alone. End to end from scratch gets as many steps as take the CPU time of the
    greedy stages, and a baseline as take that of GHVAE with 6 modules in all, as determined by a short calibration.
    Steps and CPU seconds of a row, over all its starts, are saved in `ROW.json`; the seconds
    are printed at the end.
    """
    first, middle, deepest = steps
    module_steps = f"training.module_steps={[first, middle, middle, middle, middle, deepest]}"
    more = LITERAL if literal else ()
    variants = {
        name: replace(row, more=(*row.more, *more)) if row.n_modules else row for name, row in rows(size).items()
    }
    train_and_evaluate(
        [Study(variants, data, out / f"seed_{each}", each, (module_steps, *(set_ or []))) for each in seed or [0]],
        only,
        Protocol(held_out, windows, fvd, trained_on) if evaluate else None,
    )


def main() -> NoReturn:
    """Run the command."""
    run(ablations)


if __name__ == "__main__":
    main()
