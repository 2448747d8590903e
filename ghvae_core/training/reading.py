"""The episodes of a training, read before the eyes of whoever waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ghvae_core.data.dataset import DataConfig, Dataset, load_dataset
from ghvae_core.training.distributed import Group


def read_episodes(folders: Sequence[Path], config: DataConfig, image_px: int, prepared: Path, group: Group) -> Dataset:
    """Read the episodes, the first process before the others, which find them prepared; say what was left out.

    Args:
        folders: Where they are.
        config: What to read of them, and how.
        image_px: Side of the images that are kept.
        prepared: Folder for them.
        group: All processes that need them.
    """
    if not group.is_first:
        group.wait(is_patient=True)
    console = Console(stderr=True, quiet=not group.is_first)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading episodes", total=None)
        dataset = load_dataset(
            folders,
            config,
            image_px,
            prepared,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if group.is_first:
        group.wait(is_patient=True)
    warnings = [f"left out {count} episodes: {reason}" for reason, count in dataset.refused.items()]
    for warning in [*warnings, *dataset.warnings]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(dataset.train.starts)} windows to train on, {len(dataset.validation.starts)} to validate with"
    console.print(f"{dataset.n_episodes} episodes, {counts}", highlight=False)
    return dataset
