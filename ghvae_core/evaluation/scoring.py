"""Scores of every row: each model with the prior's mean, with samples and with shuffled actions, and copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.interruption import check
from ghvae_core.evaluation.clips import Clips, EvaluationConfig
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED, EvaluatedModel
from ghvae_core.evaluation.fvd import I3d
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.metrics import psnr, ssim

REAL = "real"  # key of the real videos in `Scores.features`
LOWER_IS_BETTER = frozenset({"lpips_alex", "fvd"})

Values = Mapping[str, NDArray[np.float64]]  # metric: (N, T)


@dataclass(frozen=True)
class Scores:
    """The metrics of each predicted frame of N windows, and the I3D features of the whole videos."""

    rows: Mapping[str, Values]  # by row
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # row or REAL: (N, 400); empty: no FVD

    def __len__(self) -> int:
        return len(self.rows[COPY]["psnr_db"])


@dataclass(frozen=True)
class Metrics:
    """The metrics in addition to PSNR and SSIM."""

    lpips: Lpips | None = None
    i3d: I3d | None = None
    device: str = "cpu"  # of both networks; frames are moved to it

    def frames(self, real: Tensor, predicted: Tensor) -> Values:
        """Return each metric of each pair of frames of two videos (N, T, 3, px, px)."""
        real, predicted = real.to(self.device), predicted.to(self.device)
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_db": psnr, "ssim": ssim}
        if self.lpips is not None:
            metrics["lpips_alex"] = self.lpips
        return {name: metric(real, predicted).double().cpu().numpy() for name, metric in metrics.items()}

    def video(self, context: Tensor, future: Tensor) -> NDArray[np.float32]:
        """Return the I3D logits (N, 400) of videos of context frames followed by future frames."""
        assert self.i3d is not None  # noqa: S101 - called only with FVD
        videos = torch.cat([context, future], 1).to(self.device)
        logits: list[Tensor] = [self.i3d(video[None]) for video in videos]  # one at a time: each takes 0.3 GB
        return torch.cat(logits).cpu().numpy()


def score(
    models: Sequence[EvaluatedModel], clips: Clips, metrics: Metrics, config: EvaluationConfig, seed: int
) -> Iterator[Scores]:
    """Yield the scores of each batch of windows, in the order of the windows.

    Args:
        models: The models.
        clips: The windows.
        metrics: The metrics.
        config: Batch size, and number of samples for each window: with 0 there is no row of a sample, from 2 on there
            is also a row of the best one.
        seed: Samples the latents of each model, independent of the other models.
    """
    generators = [torch.Generator().manual_seed(seed) for _ in models]
    shuffled = clips.shuffled()
    for start in range(0, len(clips), config.batch_windows):
        batch = range(start, min(start + config.batch_windows, len(clips)))
        part, shuffled_part = clips.take(batch), shuffled.take(batch)
        batch_scores = _BatchScores(part, metrics)
        for each, generator in zip(models, generators, strict=True):
            check()
            batch_scores.add(each.row(MEAN), each.predict(part, MEAN))
            samples: list[Values] = []
            for index in range(config.n_samples):
                check()
                predicted = each.predict(part, SAMPLE, generator)
                if index == 0:
                    samples.append(batch_scores.add(each.row(SAMPLE), predicted))
                else:
                    samples.append(metrics.frames(batch_scores.real, predicted))
            if config.n_samples > 1:
                batch_scores.rows[each.row(best_of(config.n_samples))] = choose_best(samples)
            if each.takes_actions:
                batch_scores.add(each.row(SHUFFLED), each.predict(shuffled_part, SHUFFLED))
        batch_scores.add(COPY, part.context()[:, -1:].expand_as(batch_scores.real))
        yield Scores(batch_scores.rows, batch_scores.features)


def best_of(n_samples: int) -> str:
    """Return the kind of the row of the best of `n_samples` samples."""
    return f"best of {n_samples} samples"


def choose_best(samples: Sequence[Values]) -> Values:
    """Return the best sample of each window, for each metric separately, by its mean over the predicted frames."""
    best = {}
    for name in samples[0]:
        values = np.stack([sample[name] for sample in samples])  # (S, N, T)
        means = values.mean(axis=2)
        chosen = (means.argmin if name in LOWER_IS_BETTER else means.argmax)(axis=0)
        best[name] = values[chosen, np.arange(values.shape[1])]
    return best


def join(parts: Sequence[Scores]) -> Scores:
    """Concatenate the scores of all batches."""
    rows = {
        row: {name: np.concatenate([part.rows[row][name] for part in parts]) for name in values}
        for row, values in parts[0].rows.items()
    }
    return Scores(rows, {row: np.concatenate([part.features[row] for part in parts]) for row in parts[0].features})


class _BatchScores:
    """Collects the rows of one batch."""

    def __init__(self, clips: Clips, metrics: Metrics) -> None:
        self.real, self._context, self._metrics = clips.real(), clips.context(), metrics
        self.rows: dict[str, Values] = {}
        self.features: dict[str, NDArray[np.float32]] = {}
        if metrics.i3d is not None:
            self.features[REAL] = metrics.video(self._context, self.real)

    def add(self, row: str, predicted: Tensor) -> Values:
        self.rows[row] = self._metrics.frames(self.real, predicted)
        if self._metrics.i3d is not None:
            self.features[row] = self._metrics.video(self._context, predicted)
        return self.rows[row]
