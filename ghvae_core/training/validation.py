"""Validation metrics of a stage, and checks for a model that ignores its latent or its actions or predicts nothing."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_collection.reports.images import filmstrip, png_bytes
from ghvae_core.data.windows import Windows
from ghvae_core.models.ghvae import rollout_with_sources
from ghvae_core.models.video_model import ModelConfig, VideoModel
from ghvae_core.training.objective import Batch, Kind
from ghvae_core.training.stages import teacher_forced

_CHUNK = 32  # windows per rollout; bounds the memory; ours
_QUANTILE = 0.95  # of the windows; ours
_MIN_KL = 1.0  # nats per window; a model that ignored its latent had 0.5, useful ones have hundreds; ours
_MIN_ACTION_GAP_DB = 0.05  # models that follow the actions have 1 dB or more; ours


class ValidationMetrics(NamedTuple):
    """Mean squared errors on validation windows, images in [0, 1]."""

    teacher_forced: float  # next frame, given the real previous frame and the posterior mean
    one_step_copy: float  # next frame = previous frame
    rollout: float  # frames after the context, predicted with the true actions and the prior mean
    rollout_shuffled: float  # the same with the actions of another window
    copy_last: float  # every frame = the last context frame
    kl: float  # nats per window

    @property
    def action_gap_db(self) -> float:
        """By how much the PSNR of a rollout falls with the actions of another window; NaN if an error is NaN."""
        if self.rollout == 0 or self.rollout_shuffled == 0:
            return math.inf if self.rollout < self.rollout_shuffled else 0.0
        return 10 * math.log10(self.rollout_shuffled / self.rollout)

    def stage_problems(self, kind: Kind) -> list[str]:
        """Return what is wrong with the latent after a stage.

        After the rollout stage it is not checked: that stage does not train the posterior.
        """
        if kind == "rollout":
            return []
        found = []
        if not self.teacher_forced < self.one_step_copy:
            found.append(
                f"teacher-forced error {self.teacher_forced:.5f} is not below one-step copy {self.one_step_copy:.5f}: "
                "the latent is not used; lower objective.beta or train longer"
            )
        if not self.kl >= _MIN_KL:
            found.append(
                f"KL {self.kl:.2f} nats per window is below {_MIN_KL:g}: the latent holds nothing; lower objective.beta"
            )
        return found

    def action_problems(self, model: ModelConfig) -> list[str]:
        """Return whether rollouts ignore the actions."""
        if not model.takes_actions or self.action_gap_db >= _MIN_ACTION_GAP_DB:
            return []
        return [
            f"rollout error with true actions {self.rollout:.5f} is not clearly below that with shuffled actions "
            f"{self.rollout_shuffled:.5f} ({self.action_gap_db:.2f} dB, at least {_MIN_ACTION_GAP_DB:g} expected): the "
            "prior ignores the actions; train longer, or set training.prior_finetune_steps"
        ]

    def final_problems(self, model: ModelConfig) -> list[str]:
        """Return what is wrong with the rollouts of a finished model."""
        found = self.action_problems(model)
        if not self.rollout < self.copy_last:
            found.append(
                f"rollout error {self.rollout:.5f} is not below that of copying the last context frame "
                f"{self.copy_last:.5f}; train longer"
            )
        return found


def to_batch(windows: Windows, indices: NDArray[np.int64], device: str = "cpu") -> Batch:
    """Return windows as a batch on a device."""
    frames, actions, _ = windows.batch(indices)
    return Batch.of(frames, actions, device)


def spread(windows: Windows, count: int) -> NDArray[np.int64]:
    """Return the numbers of at most `count` windows, evenly spread over all."""
    n = len(windows.starts)
    return np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(np.int64))


@torch.no_grad()
def measure(
    model: VideoModel, k: int, windows: Windows, indices: NDArray[np.int64], n_context: int
) -> ValidationMetrics:
    """Return the metrics of the first k modules on the windows `indices`."""
    parts, sizes = [], []
    shuffled = np.roll(indices, max(1, len(indices) // 2))
    device = str(model.action_scale.device)
    for first in range(0, len(indices), _CHUNK):
        chosen = slice(first, first + _CHUNK)
        batch = to_batch(windows, indices[chosen], device)
        other = to_batch(windows, shuffled[chosen], device)
        parts.append(_metrics(model, k, batch, other, n_context))
        sizes.append(batch.n_sequences)
    means = np.average(np.array(parts, dtype=np.float64), axis=0, weights=sizes)
    return ValidationMetrics(*(float(value) for value in means))


def _metrics(model: VideoModel, k: int, batch: Batch, other: Batch, n_context: int) -> ValidationMetrics:
    frames, actions = batch.sequences()
    context, future = frames[:, :n_context], frames[:, n_context:]
    forced = teacher_forced(model, k, batch)
    return ValidationMetrics(
        teacher_forced=float(forced.mse),
        one_step_copy=_mse(frames[:, 1:], frames[:, :-1]),
        rollout=_mse(model.rollout(context, actions, depth=k), future),
        rollout_shuffled=_mse(model.rollout(context, other.sequences()[1], depth=k), future),
        copy_last=_mse(context[:, -1:], future),
        kl=float(forced.kl),
    )


@torch.no_grad()
def val_rmse_p95(
    model: VideoModel, k: int, windows: Windows, indices: NDArray[np.int64], n_context: int
) -> tuple[float, ...] | None:
    """Return the 95th percentile over windows of the root mean square error, per step; None if not finite."""
    device = str(model.action_scale.device)
    errors = []
    for first in range(0, len(indices), _CHUNK):
        frames, actions = to_batch(windows, indices[first : first + _CHUNK], device).sequences()
        predicted = model.rollout(frames[:, :n_context], actions, depth=k).clamp(0, 1)
        errors.append(((predicted - frames[:, n_context:]) ** 2).mean((2, 3, 4)).sqrt().cpu())
    quantiles = torch.cat(errors).double().quantile(_QUANTILE, dim=0)
    return tuple(quantiles.tolist()) if bool(quantiles.isfinite().all()) else None


@torch.no_grad()
def comparison_png(model: VideoModel, k: int, windows: Windows, indices: NDArray[np.int64], n_context: int) -> bytes:
    """Return a PNG: real frames and, below them, frames predicted from the context with the real actions.

    A model that copies pixels has a third row: red where a pixel is drawn, green where it is copied from the last
    context frame, blue where it is copied from the one before it.
    """
    frames, actions = to_batch(windows, indices, str(model.action_scale.device)).sequences()
    predicted, sources = rollout_with_sources(model, frames[:, :n_context], actions, k)
    rows = {}
    for i in range(len(frames)):
        rows[f"real {i + 1}"] = _uint8(frames[i])
        rows[f"predicted {i + 1}"] = _uint8(torch.cat([frames[i, :n_context], predicted[i]]))
        if sources is not None:
            rows[f"sources {i + 1}"] = _uint8(torch.cat([torch.zeros_like(frames[i, :n_context]), sources[i]]))
    return png_bytes(filmstrip(rows))


def _mse(a: Tensor, b: Tensor) -> float:
    return float(((a - b) ** 2).mean())


def _uint8(frames: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels
