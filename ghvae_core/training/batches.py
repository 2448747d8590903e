"""Batches for training, the next one prepared while the present one is learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ghvae_core.data.windows import Windows
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.feature_cache import FeatureCache
from ghvae_core.training.objective import Batch
from ghvae_core.training.stages import TrainingConfig

Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]  # frames (T, B, px, px, 3) alike


class MicroBatch(NamedTuple):
    """What one process learns from at once, a part of the batch of a step."""

    batch: Batch
    noise_seed: int  # the same for all parts: noise is drawn for the whole batch


@dataclass(frozen=True)
class BatchSource:
    """Where the windows come from."""

    windows: Windows
    augment: Augment | None
    seed: int


class BatchLoader:
    """Draws windows as a function of seed, stage and step alone, in a thread of its own.

    The batch of a step is divided evenly: first by process, then by accumulation step. So any number of processes and
    of accumulation steps learns from the same windows.
    """

    def __init__(
        self, draw: BatchSource, training: TrainingConfig, group: ProcessGroup, features: FeatureCache
    ) -> None:
        """Prepare nothing yet."""
        self._draw, self._group, self._features = draw, group, features
        self._n_whole, self._n_parts = training.batch_windows, training.accumulation_steps
        self._thread = ThreadPoolExecutor(1, "loader")
        self._next: tuple[tuple[int, int, int], Future[MicroBatch]] | None = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def parts(self, stage: int, step: int, n_steps: int) -> Iterator[MicroBatch]:
        """Yield this process's parts of the batch of a step, and prepare what most likely follows."""
        for part in range(self._n_parts):
            place = (stage, step, part)
            if self._next is None or self._next[0] != place:
                self._start(place)
            assert self._next is not None  # noqa: S101 - just started
            ready = self._next[1].result()
            if part + 1 < self._n_parts:
                self._start((stage, step, part + 1))
            elif step + 1 < n_steps:
                self._start((stage, step + 1, 0))
            else:
                self._next = None
            yield ready

    def _start(self, place: tuple[int, int, int]) -> None:
        self._next = (place, self._thread.submit(self._prepare, *place))

    def forget(self) -> None:
        """Drop what was prepared: other features are kept from now on."""
        if self._next is not None:
            self._next[1].exception()  # waits for it
            self._next = None

    def _prepare(self, stage: int, step: int, part: int) -> MicroBatch:
        draw, device = self._draw, self._group.device
        numbers = np.random.default_rng([draw.seed, stage, step])
        indices = draw.windows.draw(numbers, self._n_whole)
        noise_seed = int(numbers.integers(2**63))
        place = self._group.rank * self._n_parts + part
        n = self._n_whole // (self._group.size * self._n_parts)
        frames, actions, rows = draw.windows.batch(indices[place * n : (place + 1) * n])
        if draw.augment is not None:
            frames = _augmented(frames, draw.augment, [[draw.seed, stage, step, 1 + place * n + i] for i in range(n)])
        with torch.cuda.device(device) if device != "cpu" else nullcontext():
            batch = Batch.of(frames, actions, device)
            lower = self._features.gather(rows, device)
        return MicroBatch(replace(batch, lower=lower, first=place * n, n_whole=self._n_whole), noise_seed)


def _augmented(frames: NDArray[np.uint8], augment: Augment, seeds: list[list[int]]) -> NDArray[np.uint8]:
    """Return each clip augmented from a seed of its own, so that it is the same however the batch is divided.

    No seed may end with 0: numpy takes [1, 2, 0] for [1, 2], which drew the windows.
    """
    clips = [augment(frames[:, i : i + 1], np.random.default_rng(seed)) for i, seed in enumerate(seeds)]
    return np.concatenate(clips, axis=1)
