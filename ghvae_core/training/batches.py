"""Training batches; the next one is prepared during the present step."""

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
    """The part of the batch of a step that one process uses in one backward pass."""

    batch: Batch
    noise_seed: int  # equal for all parts: noise is drawn for the whole batch


@dataclass(frozen=True)
class BatchSource:
    """Windows, augmentation and seed of the batches."""

    windows: Windows
    augment: Augment | None
    seed: int


class BatchLoader:
    """Draws windows as a function of seed, stage and step, in a thread of its own.

    The batch of a step is divided evenly by process, then by accumulation step. Any number of processes and of
    accumulation steps thus uses the same windows.
    """

    def __init__(
        self, source: BatchSource, training: TrainingConfig, group: ProcessGroup, features: FeatureCache
    ) -> None:
        """Start the thread; prepare nothing yet."""
        self._source, self._group, self._features = source, group, features
        self._n_total, self._n_parts = training.batch_windows, training.accumulation_steps
        self._thread = ThreadPoolExecutor(1, "loader")
        self._next: tuple[tuple[int, int, int], Future[MicroBatch]] | None = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def parts(self, stage: int, step: int, n_steps: int) -> Iterator[MicroBatch]:
        """Yield the parts of this process of the batch of a step, and prepare the next one."""
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
        """Discard the prepared part; called when the feature cache changes."""
        if self._next is not None:
            self._next[1].exception()  # waits for it
            self._next = None

    def _prepare(self, stage: int, step: int, part: int) -> MicroBatch:
        source, device = self._source, self._group.device
        numbers = np.random.default_rng([source.seed, stage, step])
        indices = source.windows.draw(numbers, self._n_total)
        noise_seed = int(numbers.integers(2**63))
        place = self._group.rank * self._n_parts + part
        n = self._n_total // (self._group.size * self._n_parts)
        frames, actions, rows = source.windows.batch(indices[place * n : (place + 1) * n])
        if source.augment is not None:
            frames = _augmented(
                frames, source.augment, [[source.seed, stage, step, 1 + place * n + i] for i in range(n)]
            )
        with torch.cuda.device(device) if device != "cpu" else nullcontext():
            batch = Batch.of(frames, actions, device)
            lower = self._features.gather(rows, device)
        return MicroBatch(replace(batch, lower=lower, first=place * n, n_total=self._n_total), noise_seed)


def _augmented(frames: NDArray[np.uint8], augment: Augment, seeds: list[list[int]]) -> NDArray[np.uint8]:
    """Return each clip augmented with a seed of its own, so that the result does not depend on the division.

    Seeds must not end with 0: numpy treats [1, 2, 0] as [1, 2], the seed of the windows.
    """
    clips = [augment(frames[:, i : i + 1], np.random.default_rng(seed)) for i, seed in enumerate(seeds)]
    return np.concatenate(clips, axis=1)
