"""The evaluated models: checkpoints with a label, the number of modules to use, and their predictions of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.models.checkpoint import Checkpoint, load
from ghvae_core.models.device import find_device
from ghvae_core.models.ghvae import rollout_with_sources

MEAN, SAMPLE, SHUFFLED = "prior mean", "one sample", "shuffled actions"
COPY = "copy last context frame"


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of the report."""

    label: str
    checkpoint: Checkpoint
    modules_used: int  # at most those of the checkpoint

    @property
    def takes_actions(self) -> bool:
        """Whether the model is conditioned on actions."""
        return self.checkpoint.model.config.action_dim > 0

    def row(self, kind: str) -> str:
        """Return the name of a row of this model."""
        return f"{self.label}, {kind}"

    def predict(self, clips: Clips, kind: str, generator: torch.Generator | None = None) -> Tensor:
        """Return the predicted frames (N, T, 3, px, px) in [0, 1] float32, on the CPU.

        Args:
            clips: The windows; the actions condition the prediction.
            kind: Kind of the row, for the error message.
            generator: Samples the latents; None: the prior's mean.

        Raises:
            MetricError: The model predicts NaN or infinity.
        """
        frames = self.checkpoint.model.rollout(*self._inputs(clips), generator, self.modules_used)
        if not frames.isfinite().all():
            raise MetricError(
                f"{self.row(kind)}: expected finite frames, got NaN or infinity; the checkpoint is unusable"
            )
        return frames.float().cpu()

    def sources(self, clips: Clips) -> Tensor | None:
        """Return where the pixels of the prior mean's frames come from, as in `rollout_with_sources`, on the CPU."""
        _, sources = rollout_with_sources(self.checkpoint.model, *self._inputs(clips), self.modules_used)
        return None if sources is None else sources.cpu()

    def _inputs(self, clips: Clips) -> tuple[Tensor, Tensor]:
        model = self.checkpoint.model
        device = model.action_scale.device
        actions = torch.tensor(clips.actions[..., : model.config.action_dim], device=device)
        return clips.context().to(device), actions


def load_evaluated_models(
    folders: Sequence[Path], labels: Sequence[str], modules: Sequence[int], device: str
) -> tuple[EvaluatedModel, ...]:
    """Load checkpoints; each is one model for every number of modules.

    Args:
        folders: Folders of the checkpoints, in the order of the report.
        labels: One for each folder; empty: names of the folders, and `model` for a single one.
        modules: Numbers of modules to use; empty: all of each checkpoint.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        MetricError: The models cannot be evaluated on the same windows, or labels or numbers of modules do not fit.
        CheckpointError: As `checkpoint.load`.
        DeviceError: The device does not exist.
    """
    device = find_device(device)
    names = list(labels) or ([_name(folder, folders) for folder in folders] if len(folders) > 1 else ["model"])
    if len(names) != len(folders):
        raise MetricError(f"--label: expected one for each of {len(folders)} checkpoints, got {len(names)}")
    models = []
    for folder, name in zip(folders, names, strict=True):
        checkpoint = load(folder, device)
        for n in modules or [checkpoint.model.n_modules]:
            if not 1 <= n <= checkpoint.model.n_modules:
                raise MetricError(f"{folder}: expected --modules of 1 to {checkpoint.model.n_modules}, got {n}")
            label = f"{name}, {n} modules" if len(modules) > 1 else name
            models.append(EvaluatedModel(label, checkpoint, n))
    if len({each.label for each in models}) < len(models):
        raise MetricError(f"expected different labels, got {', '.join(each.label for each in models)}; give --label")
    _check_comparable(models)
    return tuple(models)


def _check_comparable(models: Sequence[EvaluatedModel]) -> None:
    first = models[0].checkpoint.info.model
    for each in models:
        model = each.checkpoint.info.model
        if model.image_px != first.image_px:
            raise MetricError(
                f"{each.label}: expected images of {first.image_px} px as in {models[0].label}, got {model.image_px};"
                " evaluate them one at a time"
            )
    dimensions = {each.label: each.checkpoint.info.model.action_dim for each in models if each.takes_actions}
    if len(set(dimensions.values())) > 1:
        raise MetricError(
            f"expected models of the same actions, got dimensions {dimensions}; evaluate them one at a time"
        )


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """Return the shortest tail of a path that is unique among all folders; most are called `checkpoint`."""
    tails = list(_tails(folder))
    for length, tail in enumerate(tails, start=1):
        if sum(list(_tails(other))[min(length, len(other.parts)) - 1] == tail for other in folders) == 1:
            return tail
    return tails[-1]


def _tails(folder: Path) -> Iterator[str]:
    for length in range(1, len(folder.parts) + 1):
        yield "/".join(folder.parts[-length:])
