"""Throughput of each training stage, its use of the machine, and the cost of the loader."""

from __future__ import annotations

from itertools import count
from typing import Annotated, Literal, NoReturn

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from configs.command import run
from tests.benchmarks.subject import Subject, interleaved, machine, subject

LOADER_LIMIT = 0.05  # of the time of a step; ours
_PRODUCT = 1024  # rows and columns of the matrices multiplied for comparison, too large for the caches


def training_throughput(
    model: Annotated[str, typer.Option(help="Model size: a file of configs/models.")] = "tiny",
    batch: Annotated[int, typer.Option(min=1, help="Clips of 12 frames per step.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each side; medians are reported.")] = 7,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device to train on.")] = "cpu",
) -> None:
    """Time training steps with and without data loading, and a matrix product, alternating."""
    print(f"{model}, {batch} clips of 12 frames per step, float32; {machine(device)}")
    print(f"{'stage':12} {'clips/s':>8} {'no loading':>10} {'loader':>7} {'GFLOP/s':>8} {'product':>8} {'ratio':>6}")
    with subject(model, batch, device) as trained:
        fractions = [_stage(trained, stage.k, batch, repeats) for stage in trained.stages()]
    print(f"loader: {max(fractions):.1%} of a step at most (limit {LOADER_LIMIT:.0%})")


def _stage(trained: Subject, k: int, batch: int, repeats: int) -> float:
    """Measure a stage, print its row, and return the fraction of the loader."""
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
    fraction = 1 - without_s / with_s
    print(
        f"{stage.name:12} {batch / with_s:8.1f} {batch / without_s:10.1f} {fraction:7.1%} {rate / 1e9:8.1f} "
        f"{plain / 1e9:8.1f} {rate / plain:6.1%}",
        flush=True,
    )
    return fraction


def main() -> NoReturn:
    """Run the command."""
    run(training_throughput)


if __name__ == "__main__":
    main()
