"""Gain of the feature cache of frozen encoders: none, all but module 1, all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Annotated, Literal, NoReturn

import typer

from configs.command import ReportedError, run
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.batches import BatchLoader
from ghvae_core.training.engine import Engine
from tests.benchmarks.subject import Subject, interleaved, machine, subject


def feature_cache(
    model: Annotated[str, typer.Option(help="Model size: a file of configs/models.")] = "tiny",
    batch: Annotated[int, typer.Option(min=1, help="Clips of 12 frames per step.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each side; medians are reported.")] = 7,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device to train on.")] = "cpu",
) -> None:
    """Time the steps of each stage from the second on with the three kinds of caching, alternating."""
    print(f"{model}, {batch} clips of 12 frames per step, float32; {machine(device)}")
    print(
        f"{'stage':12} {'off':>8} {'deep':>8} {'all':>8} {'deep/off':>9} {'all/off':>8} {'MB/clip deep':>13} {'all':>6}"
    )
    with subject(model, batch, device) as trained:
        if not isinstance(trained.model, Ghvae):
            raise ReportedError(f"--model: expected a GHVAE, which has frozen encoders, got {model}")
        for k in range(2, trained.model.n_modules + 1):
            _stage(trained, k, repeats)
    print("clips per second; limit of all/off: 1")


def _stage(trained: Subject, k: int, repeats: int) -> None:
    stage, n_clips = trained.stages()[k - 1], trained.training.batch_windows
    engine = trained.engine(stage)
    sides, sizes = [], []
    with ExitStack() as stack:
        for levels in (range(0), range(2, k), range(1, k)):
            loader = stack.enter_context(trained.loader(levels))
            lower = next(loader.parts(0, 0, 1)).batch.lower
            sizes.append(sum(h.numel() * h.element_size() for h in lower) / n_clips / 1e6)
            sides.append(_steps(engine, loader))
        off, deep, all_levels = (n_clips / time_s for time_s in interleaved(sides, repeats, trained.group.device))
    print(
        f"{stage.name:12} {off:8.1f} {deep:8.1f} {all_levels:8.1f} {deep / off:9.2f} {all_levels / off:8.2f} "
        f"{sizes[1]:13.2f} {sizes[2]:6.2f}",
        flush=True,
    )


def _steps(engine: Engine, loader: BatchLoader) -> Callable[[], None]:
    steps = count()

    def step() -> None:
        engine.gradients(loader.parts(0, next(steps), 10**9), 0)
        engine.update(0.0, 0)

    return step


def main() -> NoReturn:
    """Run the command."""
    run(feature_cache)


if __name__ == "__main__":
    main()
