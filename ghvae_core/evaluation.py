"""What a model's predictions are worth on held-out windows, beside what costs nothing: copying and wrong actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.loader import Config
from ghvae_core.clips import Clips
from ghvae_core.ghvae import Ghvae
from ghvae_core.lpips import LPIPS_CONVENTION, Lpips
from ghvae_core.metrics import PSNR_CAP_DB, PSNR_CONVENTION, SSIM_CONVENTION, MetricError, psnr, ssim

MEAN, SAMPLE = "model, prior mean", "model, one sample"
SHUFFLED, COPY = "model, shuffled actions", "copy last context frame"
ROWS = (MEAN, SAMPLE, SHUFFLED, COPY)
CONVENTIONS = {"psnr_db": PSNR_CONVENTION, "ssim": SSIM_CONVENTION, "lpips_alex": LPIPS_CONVENTION}


@dataclass(frozen=True)
class Scores:
    """A number for each predicted frame of N windows."""

    rows: Mapping[str, Mapping[str, NDArray[np.float64]]]  # row, metric: (N, T)

    def __len__(self) -> int:
        return len(self.rows[MEAN]["psnr_db"])


class Estimate(Config):
    """A mean over windows and its standard error."""

    mean: float
    standard_error: float


class WindowScores(Config):
    """One window's numbers, each the mean over its predicted frames."""

    name: str  # episode and first frame
    rows: dict[str, dict[str, float]]  # row, metric


class Evaluation(Config):
    """Everything that was measured; the JSON file's content."""

    about: dict[str, str | int | float]  # checkpoint, data, protocol
    conventions: dict[str, str]  # metric: what exactly it is
    rows: dict[str, dict[str, Estimate]]  # row, metric
    differences: dict[str, dict[str, Estimate]]  # paired, MEAN minus the row
    steps: dict[str, dict[str, list[Estimate]]]  # row, metric, predicted step
    identical_frames: dict[str, int]  # row: predicted frames equal to the real ones, which count as 100 dB
    windows: list[WindowScores]


def score(model: Ghvae, clips: Clips, lpips: Lpips | None, batch_windows: int, seed: int) -> Iterator[Scores]:
    """Yield the scores of one batch of windows after another, in the windows' order; the seed draws the latents."""
    generator = torch.Generator().manual_seed(seed)
    wrong = clips.shuffled()
    for start in range(0, len(clips), batch_windows):
        batch = range(start, min(start + batch_windows, len(clips)))
        part = clips.take(batch)
        yield measure(part.real(), predict(model, part, wrong.take(batch), generator), lpips)


def predict(model: Ghvae, clips: Clips, wrong: Clips, generator: torch.Generator) -> dict[str, Tensor]:
    """Return each row's predicted frames (N, T, 3, px, px) in [0, 1], on the CPU.

    Args:
        model: On any device.
        clips: The windows.
        wrong: The same windows with the actions of others.
        generator: Draws the sample's latents.

    Raises:
        MetricError: The model imagines NaN or infinity.
    """
    device = next(model.parameters()).device
    context = clips.context().to(device)
    actions, wrong_actions = (torch.tensor(each.actions, device=device) for each in (clips, wrong))
    imagined = {
        MEAN: model.rollout(context, actions),
        SAMPLE: model.rollout(context, actions, generator),
        SHUFFLED: model.rollout(context, wrong_actions),
    }
    for row, frames in imagined.items():
        if not frames.isfinite().all():
            raise MetricError(f"{row}: expected finite frames, got NaN or infinity; the checkpoint is unusable")
    copy = context[:, -1:].expand_as(imagined[MEAN])
    return {row: frames.float().cpu() for row, frames in {**imagined, COPY: copy}.items()}


def measure(real: Tensor, rows: Mapping[str, Tensor], lpips: Lpips | None) -> Scores:
    """Return the metrics of each row's frames (N, T, 3, px, px) against the real ones."""
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_db": psnr, "ssim": ssim}
    if lpips is not None:
        metrics["lpips_alex"] = lpips
    return Scores(
        {row: {m: f(real, frames).double().numpy() for m, f in metrics.items()} for row, frames in rows.items()}
    )


def join(parts: Sequence[Scores]) -> Scores:
    """Return the scores of all batches as one."""
    return Scores(
        {
            row: {metric: np.concatenate([part.rows[row][metric] for part in parts]) for metric in metrics}
            for row, metrics in parts[0].rows.items()
        }
    )


def summarize(scores: Scores, clips: Clips, about: Mapping[str, str | int | float]) -> Evaluation:
    """Return means, standard errors, paired differences and per-step means.

    Args:
        scores: Of the first windows, all of them or at least two.
        clips: All windows.
        about: What was evaluated; the protocol is added to it.
    """
    n_windows, every = len(scores), scores.rows
    by_window = {row: {m: values.mean(axis=1) for m, values in metrics.items()} for row, metrics in every.items()}
    names = clips.names[:n_windows]
    return Evaluation(
        about={
            **about,
            "n_windows": n_windows,
            "n_episodes": len({name.rpartition(" ")[0] for name in names}),
            "n_context": clips.n_context,
            "n_predicted": clips.frames.shape[1] - clips.n_context,
        },
        conventions={metric: CONVENTIONS[metric] for metric in every[MEAN]},
        rows={row: {m: _estimate(values) for m, values in metrics.items()} for row, metrics in by_window.items()},
        differences={
            row: {m: _estimate(by_window[MEAN][m] - values) for m, values in by_window[row].items()}
            for row in (COPY, SHUFFLED)
        },
        steps={
            row: {m: [_estimate(column) for column in values.T] for m, values in metrics.items()}
            for row, metrics in every.items()
        },
        identical_frames={row: int((metrics["psnr_db"] >= PSNR_CAP_DB).sum()) for row, metrics in every.items()},
        windows=[
            WindowScores(
                name=name,
                rows={
                    row: {m: float(values[i]) for m, values in metrics.items()} for row, metrics in by_window.items()
                },
            )
            for i, name in enumerate(names)
        ],
    )


def ranked(evaluation: Evaluation) -> list[int]:
    """Return the windows from best to worst prediction, by LPIPS where it was measured, else by PSNR."""
    scores = [window.rows[MEAN] for window in evaluation.windows]
    costs = [score.get("lpips_alex", -score["psnr_db"]) for score in scores]
    return [int(i) for i in np.argsort(costs, kind="stable")]


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate(mean=float(values.mean()), standard_error=float(values.std(ddof=1) / len(values) ** 0.5))
