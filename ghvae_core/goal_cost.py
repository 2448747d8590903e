"""How far imagined frames end from the goal, by all terms of a cost: pixels, and features of networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghvae_core.cost import goal_costs
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.models.temporal_distance import TemporalDistance
from ghvae_core.models.video_model import VideoModel
from ghvae_core.predictor import TERMS, GoalCost

_EPSILON = 1e-8


class Weigher:
    """Weighs frames against a goal on the device where they are.

    Args:
        model: Whose features count.
        lpips: The metric with its weights, on the same device; None: it cannot be asked for.
        distance: Tells how many steps are left, on the same device; None: it cannot be asked for.
        checkpoint_sha256: Of the manifest of the model.
    """

    def __init__(
        self,
        model: VideoModel,
        lpips: Lpips | None = None,
        distance: TemporalDistance | None = None,
        checkpoint_sha256: str = "",
    ) -> None:
        self._model = model
        self.checkpoint_sha256 = checkpoint_sha256
        self._lpips = lpips
        self._distance = distance

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that can be asked for."""
        held = {"pixel": True, "features": True, "lpips": self._lpips, "steps": self._distance}
        return tuple(name for name in TERMS if held[name] is not None)

    @property
    def distance_sha256(self) -> str:
        """Of the manifest of the network that tells steps to go; empty: there is none."""
        return "" if self._distance is None else self._distance.sha256

    def costs(self, frames: Tensor, goal: Tensor, cost: GoalCost) -> Tensor:
        """Return the cost of each candidate, lower is better; NaN where its frames hold one.

        Args:
            frames: (N, T, 3, px, px) imagined, in [0, 1].
            goal: (3, px, px).
            cost: The weights; its terms are among `terms`.

        Returns:
            (N,)

        Raises:
            ValueError: A term has a weight for which no network is held.
        """
        if not {*cost.terms()} <= {*self.terms}:
            raise ValueError(f"cost: expected terms among {self.terms}, got {cost.terms()}")
        total = frames.new_zeros(len(frames))
        final = frames[:, -cost.final_frames :]
        if cost.pixel > 0:
            total = total + cost.pixel * goal_costs(final, goal, cost)
        if cost.features > 0:
            total = total + cost.features * self._apart(final, goal)
        if cost.lpips > 0 and self._lpips is not None:
            total = total + cost.lpips * self._lpips(goal.expand_as(final), final).mean(1)
        if cost.steps > 0 and self._distance is not None:
            steps = self._distance.steps(final.flatten(0, 1), goal[None])
            total = total + cost.steps * steps.view(final.shape[:2]).mean(1)
        return total

    def costs_of_images(
        self, frames: NDArray[np.uint8], goal: NDArray[np.uint8], cost: GoalCost
    ) -> NDArray[np.float32]:
        """Do as `costs` for frames (N, T, px, px, 3) and a goal (px, px, 3) of bytes."""
        device = self._model.action_scale.device
        ends, aim = (torch.tensor(images, device=device).movedim(-1, -3).float() / 255 for images in (frames, goal))
        with torch.inference_mode():
            return np.asarray(self.costs(ends, aim, cost).cpu().numpy(), np.float32)

    def _apart(self, final: Tensor, goal: Tensor) -> Tensor:
        """Return the mean squared distance (N,) of features, each place scaled to length 1 as LPIPS does."""
        ends, aim = (_unit(self._model.features(frames)) for frames in (final.flatten(0, 1), goal[None]))
        return (ends - aim).square().sum(1).mean((1, 2)).view(final.shape[:2]).mean(1)


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
