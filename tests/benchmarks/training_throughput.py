"""How fast each phase trains, what of the machine it uses, and what the loader costs."""

from __future__ import annotations

from itertools import count
from typing import Annotated, Literal, NoReturn

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from configs.command import run
from tests.benchmarks.subject import Subject, interleaved, machine, subject

LOADER_LIMIT = 0.05  # of the time of a step; ours
_PRODUCT = 1024  # rows and columns of the matrices multiplied for comparison: no longer in the caches


def training_throughput(
    model: Annotated[str, typer.Option(help="size: a file of configs/models")] = "tiny",
    batch: Annotated[int, typer.Option(min=1, help="clips of 12 frames a step")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="steps of each side; medians are reported")] = 7,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="where to train")] = "cpu",
) -> None:
    """Time training steps with data loading on and off, and a plain matrix product, in turns."""
    print(f"{model}, {batch} clips of 12 frames a step, float32; {machine(device)}")
    print(f"{'phase':12} {'clips/s':>8} {'no loading':>10} {'loader':>7} {'GFLOP/s':>8} {'product':>8} {'share':>6}")
    with subject(model, batch, device) as trained:
        shares = [_phase(trained, stage.k, batch, repeats) for stage in trained.stages()]
    print(f"loader: {max(shares):.1%} of a step at most (limit {LOADER_LIMIT:.0%})")


def _phase(trained: Subject, k: int, batch: int, repeats: int) -> float:
    """Measure a phase, print its row, and return the loader's share."""
    stage = trained.stages()[k - 1]
    engine, device = trained.engine(stage), trained.group.device
    levels = range(1, k)
    part = trained.part(levels)
    size = (_PRODUCT, _PRODUCT)
    left, right = torch.rand(size, device=device), torch.rand(size, device=device)
    with FlopCounterMode(display=False) as counter:
        engine.gradients([part], 0)
    steps = count()
    with trained.loader(levels) as loader:

        def loading() -> None:
            engine.gradients(loader.parts(0, next(steps), 10**9), 0)
            engine.update(0.0, 0)

        def not_loading() -> None:
            engine.gradients([part], 0)
            engine.update(0.0, 0)

        def product() -> None:
            left @ right

        with_s, without_s, product_s = interleaved([loading, not_loading, product], repeats, device)
    rate = counter.get_total_flops() / without_s
    plain = 2 * _PRODUCT**3 / product_s
    share = 1 - without_s / with_s
    print(
        f"{stage.name:12} {batch / with_s:8.1f} {batch / without_s:10.1f} {share:7.1%} {rate / 1e9:8.1f} "
        f"{plain / 1e9:8.1f} {rate / plain:6.1%}",
        flush=True,
    )
    return share


def main() -> NoReturn:
    """Run the command."""
    run(training_throughput)


if __name__ == "__main__":
    main()
