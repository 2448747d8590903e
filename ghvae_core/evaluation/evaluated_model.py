"""The models of one evaluation: checkpoints under labels, each used to a depth, and what they imagine of windows."""

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

MEAN, SAMPLE, SHUFFLED = "prior mean", "one sample", "shuffled actions"
COPY = "copy last context frame"


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of the table."""

    label: str
    checkpoint: Checkpoint
    depth: int  # how many modules are used

    @property
    def takes_actions(self) -> bool:
        """Whether it is given actions at all."""
        return self.checkpoint.model.config.action_dim > 0

    def row(self, kind: str) -> str:
        """Return the name of one of its rows."""
        return f"{self.label}, {kind}"

    def imagine(self, clips: Clips, kind: str, generator: torch.Generator | None = None) -> Tensor:
        """Return the predicted frames (N, T, 3, px, px) in [0, 1] float32, on the CPU.

        Args:
            clips: The windows; their actions are the ones followed.
            kind: Of the row, for the message.
            generator: Draws the latents; None takes the prior's mean.

        Raises:
            MetricError: The model imagines NaN or infinity.
        """
        model = self.checkpoint.model
        device = model.action_scale.device
        actions = torch.tensor(clips.actions[..., : model.config.action_dim], device=device)
        frames = model.rollout(clips.context().to(device), actions, generator, self.depth)
        if not frames.isfinite().all():
            raise MetricError(
                f"{self.row(kind)}: expected finite frames, got NaN or infinity; the checkpoint is unusable"
            )
        return frames.float().cpu()


def load_evaluated_models(
    folders: Sequence[Path], labels: Sequence[str], depths: Sequence[int], device: str
) -> tuple[EvaluatedModel, ...]:
    """Load checkpoints, each once for every depth.

    Args:
        folders: Of the checkpoints, in the order of the table.
        labels: One a folder; none: the folders' names, and `model` for one alone.
        depths: How many modules are used; none: all of each checkpoint.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        MetricError: The models cannot be judged on the same windows, or the labels or depths do not fit.
        CheckpointError: As `checkpoint.load`.
        DeviceError: There is no such device.
    """
    device = find_device(device)
    names = list(labels) or ([_name(folder, folders) for folder in folders] if len(folders) > 1 else ["model"])
    if len(names) != len(folders):
        raise MetricError(f"--label: expected one for each of {len(folders)} checkpoints, got {len(names)}")
    judged = []
    for folder, name in zip(folders, names, strict=True):
        checkpoint = load(folder, device)
        for depth in depths or [checkpoint.model.n_modules]:
            if not 1 <= depth <= checkpoint.model.n_modules:
                raise MetricError(f"{folder}: expected --depth of 1 to {checkpoint.model.n_modules}, got {depth}")
            label = f"{name}, {depth} modules" if len(depths) > 1 else name
            judged.append(EvaluatedModel(label, checkpoint, depth))
    if len({each.label for each in judged}) < len(judged):
        raise MetricError(f"expected different labels, got {', '.join(each.label for each in judged)}; give --label")
    _check_comparable(judged)
    return tuple(judged)


def _check_comparable(judged: Sequence[EvaluatedModel]) -> None:
    first = judged[0].checkpoint.info.model
    for each in judged:
        model = each.checkpoint.info.model
        if model.image_px != first.image_px:
            raise MetricError(
                f"{each.label}: expected images of {first.image_px} px as in {judged[0].label}, got {model.image_px};"
                " judge them one by one"
            )
    dimensions = {each.label: each.checkpoint.info.model.action_dim for each in judged if each.takes_actions}
    if len(set(dimensions.values())) > 1:
        raise MetricError(f"expected models of the same actions, got dimensions {dimensions}; judge them one by one")


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other one has: most are called `checkpoint`."""
    tails = list(_tails(folder))
    for length, tail in enumerate(tails, start=1):
        if sum(list(_tails(other))[min(length, len(other.parts)) - 1] == tail for other in folders) == 1:
            return tail
    return tails[-1]


def _tails(folder: Path) -> Iterator[str]:
    for length in range(1, len(folder.parts) + 1):
        yield "/".join(folder.parts[-length:])
