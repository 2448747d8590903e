"""Features of frames that the model itself predicts, on which the deepest prior is trained further; ours.

In training the prior sees features of real frames, in a rollout those of predicted ones, so its errors add up. Data as
Demonstrator (Venkatraman et al. 2015) trains it on predicted inputs with the real outcome as the target: the model is
rolled out on training windows, and from the features of its frames the prior must predict the posterior of the real
next frame. All other networks are frozen, and no gradient passes through the decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_collection.atomic_io import write_file
from ghvae_core.models.checkpoint_files import CheckpointError, pack_tensors, unpack_tensors
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.batches import BatchSource, MicroBatch
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.objective import Batch, PredictedBatch
from ghvae_core.training.stages import TrainingConfig, autocast

_CHUNK = 32  # windows per rollout; bounds the memory; ours
_WINDOWS, _CLIP = 1, 2  # last numbers of seeds: of the windows of a stage and of a step, and of an augmented clip


class _Arrays(NamedTuple):
    """Of W windows of T transitions."""

    features: Tensor  # (W, T, C, H, W) float32, h_t of the deepest encoder, of predicted frames after the context
    actions: Tensor  # (W, T, A) raw
    target: Tensor  # (W, T, C_Z, H, W) float32, posterior mean of the next latent, of real frames


class PredictedFeatures:
    """Rolls a model out at the start of a stage, and draws the batches of its steps from the result."""

    def __init__(self, source: BatchSource, training: TrainingConfig, file: Path, group: ProcessGroup) -> None:
        """Compute nothing yet; the features of a stage are kept in `file`, so that it can be resumed."""
        self._source = source
        self._training, self._file, self._group = training, file, group
        self._arrays: _Arrays | None = None

    def fill(self, model: Ghvae, k: int, stage: int, is_begun: bool) -> None:
        """Roll the first k modules out, or load what was kept when the stage began. All processes must call it.

        Args:
            model: As at the start of the stage, unless `is_begun`.
            k: The deepest module in use.
            stage: Index of the stage, which decides the windows.
            is_begun: Steps of the stage were taken; `model` is no longer the one that was rolled out.

        Raises:
            CheckpointError: The kept features are missing or damaged.
        """
        if self._group.is_first and not is_begun:
            arrays = self._computed(model, k, stage)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._file, pack_tensors(arrays._asdict()))
        self._group.wait(is_patient=True)
        try:
            tensors = unpack_tensors(self._file.read_bytes(), str(self._file))
            self._arrays = _Arrays(**tensors)
        except (FileNotFoundError, TypeError):
            raise CheckpointError(
                f"{self._file}: expected the features of the stage that is resumed, found none; start the run again "
                "with another --out and --init from the stage before it"
            ) from None

    def discard(self) -> None:
        """Remove the features. All processes must call it after the last step of a stage."""
        self._arrays = None
        if self._group.is_first:
            self._file.unlink(missing_ok=True)

    def parts(self, stage: int, step: int) -> Iterator[MicroBatch[PredictedBatch]]:
        """Yield the parts of this process of the batch of a step.

        The batch is divided as by `BatchLoader`, so any number of processes and parts uses the same windows.
        """
        assert self._arrays is not None  # noqa: S101 - filled at the start of the stage
        arrays, training = self._arrays, self._training
        numbers = np.random.default_rng([self._source.seed, stage, step, _WINDOWS])
        chosen = torch.from_numpy(numbers.integers(len(arrays.actions), size=training.batch_windows))
        n = training.batch_windows // (self._group.size * training.accumulation_steps)
        for part in range(training.accumulation_steps):
            first = (self._group.rank * training.accumulation_steps + part) * n
            rows = chosen[first : first + n]
            features, actions, target = (_steps_first(each[rows]).to(self._group.device) for each in arrays)
            batch = PredictedBatch(features, actions, target, arrays.actions.shape[1])
            yield MicroBatch(batch, noise_seed=0)  # without noise

    def _computed(self, model: Ghvae, k: int, stage: int) -> _Arrays:
        source, n = self._source, self._training.prior_predicted_windows
        indices = source.windows.draw(np.random.default_rng([source.seed, stage, _WINDOWS]), n)
        chunks = []
        for first in range(0, n, _CHUNK):
            chosen = indices[first : first + _CHUNK]
            frames, actions, _ = source.windows.batch(chosen)
            frames = source.augmented(frames, [[source.seed, stage, first + i, _CLIP] for i in range(len(chosen))])
            chunks.append(self._rolled_out(model, k, Batch.of(frames, actions, self._group.device)))
        return _Arrays(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    @torch.no_grad()
    def _rolled_out(self, model: Ghvae, k: int, batch: Batch) -> _Arrays:
        n, n_seen = batch.n_sequences, model.config.n_context
        with autocast(model, self._training.precision == "bfloat16"):
            h = model.encode(batch.frames, k)[-1]
            target = model.module(k).posterior(h[n:], batch.n_steps)
            images, numbers = batch.sequences()
            predicted = model.rollout(images[:, :n_seen], numbers, depth=k)[:, :-1]
            after = model.encode(predicted.transpose(0, 1).flatten(0, 1), k)[-1]
        parts = (torch.cat([h[: n_seen * n], after]), batch.actions, target)
        return _Arrays(*(part.unflatten(0, (-1, n)).transpose(0, 1).float().cpu() for part in parts))


def _steps_first(x: Tensor) -> Tensor:
    """Return (B, T, ...) as (T * B, ...), oldest step first; images channels last in memory."""
    folded = x.transpose(0, 1).flatten(0, 1)
    return folded.contiguous(memory_format=torch.channels_last) if folded.dim() == 4 else folded.contiguous()
