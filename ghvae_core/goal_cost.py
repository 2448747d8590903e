"""The goal cost: its terms, their weights, and the networks that some of them need.

The cost of a candidate is a weighted sum of terms that compare the last predicted frames with the goal image; lower is
better. The weights (`GoalCost`) and the pixel term (`pixel_cost`) need no torch; the evaluator of all terms imports it
when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config

if TYPE_CHECKING:
    from torch import Tensor

    from ghvae_core.evaluation.lpips import Lpips
    from ghvae_core.models.checkpoint import Checkpoint
    from ghvae_core.models.temporal_distance import TemporalDistance
    from ghvae_core.models.video_model import VideoModel

TERMS = ("pixel", "features", "lpips", "steps")  # fields of `GoalCost`
_EPSILON = 1e-8  # keeps the scale of a feature vector of length 0 finite; ours

_Array = TypeVar("_Array", bound=Any)  # a NumPy array or a torch tensor; naming the latter would import torch


class GoalCost(Config):
    """The weights of the goal cost; part of each request.

    The defaults are ours. In simulation no weights gave more successes than pixels with a lower weight of brightness.
    """

    final_frames: int = Field(default=1, ge=1)  # how many of the last predicted frames are compared; ours
    brightness: float = Field(default=1.0, ge=0, le=1)  # weight of a pixel's error in brightness relative to colour
    pixel: float = Field(default=1.0, ge=0)  # weight of the mean squared error of pixels
    features: float = Field(default=0.0, ge=0)  # of the squared distance of the model's deepest features
    lpips: float = Field(default=0.0, ge=0)  # of LPIPS (AlexNet), where the predictor has its weights
    steps: float = Field(default=0.0, ge=0)  # of the predicted number of steps to the goal, where it has the network

    @model_validator(mode="after")
    def _check_terms(self) -> GoalCost:
        if not self.terms():
            raise ValueError(f"expected a weight above 0 for one of {', '.join(TERMS)}")
        return self

    @property
    def is_pixel_only(self) -> bool:
        """Whether the pixel term is the only one, so that no network is needed."""
        return self.terms() == ("pixel",)

    def terms(self) -> tuple[str, ...]:
        """Return the names of the terms with a weight above 0."""
        return tuple(name for name in TERMS if getattr(self, name) > 0)


class CostNetworks(Config):
    """Networks that a predictor loads for the cost, in addition to its model. Defaults: ours."""

    lpips: bool = False  # its weights are downloaded once
    distance: str | None = None  # folder written by run_distance; None: the term `steps` is not available

    def completed_for(self, cost: GoalCost) -> CostNetworks:
        """Return these networks and those that `cost` needs and that can be downloaded."""
        return self.model_copy(update={"lpips": self.lpips or cost.lpips > 0})

    def missing_from(self, terms: Sequence[str]) -> list[tuple[str, str]]:
        """Return the networks without which a predictor has only `terms`, each as (field of this class, term)."""
        needed = [("lpips", "lpips", self.lpips), ("distance", "steps", self.distance is not None)]
        return [(field, term) for field, term, is_needed in needed if is_needed and term not in terms]


def pixel_cost(frames: _Array, goal: _Array, cost: GoalCost) -> _Array:
    """Return each candidate's mean squared error to the goal over the last `cost.final_frames` frames.

    With one final frame and full brightness it ranks candidates as the l2 pixel distance to the goal image does. The
    squared error of a pixel is the sum of the squared error of its mean over the channels (brightness) and of the rest
    (colour). A lower weight of brightness reduces the influence of a white or grey arm on the cost.

    Args:
        frames: (N, T, C, H, W) predicted frames in [0, 1], NumPy or torch; the last three axes in any order, C is 3.
        goal: One frame of the same layout, on the same device.
        cost: `final_frames`, at most T, and `brightness` are used.

    Returns:
        (N,) of the array type of `frames`, lower is better. A NaN in a candidate's frames makes its cost NaN.
    """
    difference = frames[:, -cost.final_frames :] - goal
    brightness = difference.mean(2 + tuple(goal.shape).index(3))
    error: _Array = (difference * difference).mean((1, 2, 3, 4))
    error -= (1 - cost.brightness) * (brightness * brightness).mean((1, 2, 3))
    return error


class GoalCostEvaluator:
    """Computes the goal cost of predicted frames on the device that holds them.

    Args:
        model: Its features are compared.
        lpips: LPIPS with its weights, on the same device; None: the term is not available.
        distance: Predicts the number of steps to the goal, on the same device; None: the term is not available.
        checkpoint_sha256: sha256 of the manifest of the model's checkpoint.
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
        """The available terms."""
        held = {"pixel": True, "features": True, "lpips": self._lpips, "steps": self._distance}
        return tuple(name for name in TERMS if held[name] is not None)

    @property
    def distance_sha256(self) -> str:
        """sha256 of the manifest of the temporal distance network; empty without one."""
        return "" if self._distance is None else self._distance.sha256

    def costs(self, frames: Tensor, goal: Tensor, cost: GoalCost) -> Tensor:
        """Return the cost of each candidate, lower is better; NaN where its frames hold a NaN.

        Args:
            frames: (N, T, 3, px, px) predicted, in [0, 1].
            goal: (3, px, px) in [0, 1].
            cost: The weights; its terms are among `terms`.

        Returns:
            (N,)

        Raises:
            ValueError: A term with a weight above 0 is not available.
        """
        if not {*cost.terms()} <= {*self.terms}:
            raise ValueError(f"cost: expected terms among {self.terms}, got {cost.terms()}")
        total = frames.new_zeros(len(frames))
        final = frames[:, -cost.final_frames :]
        if cost.pixel > 0:
            total = total + cost.pixel * pixel_cost(final, goal, cost)
        if cost.features > 0:
            total = total + cost.features * self._feature_cost(final, goal)
        if cost.lpips > 0 and self._lpips is not None:
            total = total + cost.lpips * self._lpips(goal.expand_as(final), final).mean(1)
        if cost.steps > 0 and self._distance is not None:
            steps = self._distance.steps(final.flatten(0, 1), goal[None])
            total = total + cost.steps * steps.view(final.shape[:2]).mean(1)
        return total

    def costs_of_images(
        self, frames: NDArray[np.uint8], goal: NDArray[np.uint8], cost: GoalCost
    ) -> NDArray[np.float32]:
        """Do as `costs` for uint8 frames (N, T, px, px, 3) and a uint8 goal (px, px, 3)."""
        import torch  # noqa: PLC0415 - only this method needs it

        device = self._model.action_scale.device
        ends, aim = (torch.tensor(images, device=device).movedim(-1, -3).float() / 255 for images in (frames, goal))
        with torch.inference_mode():
            return np.asarray(self.costs(ends, aim, cost).cpu().numpy(), np.float32)

    def _feature_cost(self, final: Tensor, goal: Tensor) -> Tensor:
        """Return the mean squared distance (N,) of features, each feature vector scaled to length 1 as in LPIPS."""
        ends, aim = (_normalized(self._model.features(frames)) for frames in (final.flatten(0, 1), goal[None]))
        return (ends - aim).square().sum(1).mean((1, 2)).view(final.shape[:2]).mean(1)


def load_evaluator(checkpoint: Checkpoint, networks: CostNetworks) -> GoalCostEvaluator:
    """Return the evaluator of a checkpoint, with the requested networks loaded to the device of the model.

    Raises:
        MetricError: The weights of LPIPS were requested but are not available.
        CheckpointError: The temporal distance network cannot be used.
    """
    from ghvae_core.evaluation.lpips import Lpips  # noqa: PLC0415 - torch
    from ghvae_core.evaluation.weights_download import LPIPS  # noqa: PLC0415
    from ghvae_core.models.checkpoint_files import CheckpointError  # noqa: PLC0415
    from ghvae_core.models.temporal_distance import load  # noqa: PLC0415

    device = checkpoint.model.action_scale.device
    lpips = Lpips(LPIPS.find(None)).to(device) if networks.lpips else None
    distance = None if networks.distance is None else load(Path(networks.distance), device)
    if distance is not None and distance.config.image_px != checkpoint.info.model.image_px:
        raise CheckpointError(
            f"{networks.distance}: expected a network of images of {checkpoint.info.model.image_px} pixels,"
            f" got one of {distance.config.image_px}"
        )
    return GoalCostEvaluator(checkpoint.model, lpips, distance, checkpoint.sha256)


def _normalized(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
