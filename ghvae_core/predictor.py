"""The interface of predictors: the server's client, the model in this process, the simulator (oracle), baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from ghvae_core.goal_cost import GoalCost
from robot_bridge.camera import Camera

_Vector = tuple[float, float, float]


class PredictorError(ReportedError):
    """There is no usable prediction. The caller must hold the arm."""

    exit_code: ClassVar[int] = 1


class MismatchError(PredictorError):
    """The robot, the model and the planner do not fit together, or cannot be used. Raised before anything moves."""

    exit_code: ClassVar[int] = 2


class DeadlineError(PredictorError):
    """The deadline passed; the partial prediction was discarded."""


class NonFiniteError(PredictorError):
    """No candidate has a finite cost, so none can be chosen."""


@dataclass(frozen=True)
class PredictorSpec:
    """The capabilities of a predictor and the robot it was trained for; exchanged at the handshake."""

    name: str  # "server", "in_process", "oracle"
    image_px: int  # side of the model image
    action_dim: int
    step_limit_m: float  # action scale of the training data
    step_s: float  # duration of a step in the training data
    n_context: int  # context frames
    max_horizon: int
    max_candidates: int  # in one request
    checkpoint: str  # sha256 of the checkpoint's manifest; empty where no checkpoint is used
    # Of the robot in the training data; None where the checkpoint does not record it.
    workspace_m: tuple[_Vector, _Vector] | None = None  # low and high x, y, z in the base frame
    camera: Camera | None = None
    # 95th percentile over validation videos of the RMSE of images in [0, 1], by predicted step.
    val_rmse_p95: tuple[float, ...] | None = None  # None where the checkpoint does not record it
    terms: tuple[str, ...] = ("pixel",)  # available terms of `GoalCost`
    distance: str = ""  # sha256 of the manifest of the temporal distance network; empty without one


@dataclass(frozen=True)
class Context:
    """The last observed frames and applied actions; candidates start from the last frame."""

    frames: NDArray[np.uint8]  # (n_context, 64, 64, 3) RGB, oldest first
    actions: NDArray[np.float32]  # (n_context - 1, 4) applied; action t leads from frame t to frame t + 1


@dataclass(frozen=True)
class Prediction:
    """The costs of all candidates and the predicted videos of the best ones."""

    costs: NDArray[np.float32]  # (N,) lower is better; may hold NaN or infinity, which the planner must exclude
    best: NDArray[np.int64]  # (k,) indices of candidates, best first
    videos: NDArray[np.uint8]  # (k, T, 64, 64, 3) RGB, predicted frames of the best
    timing_s: Mapping[str, float]  # by stage


class Predictor(Protocol):
    """Predicts the frames that candidate actions lead to, and scores them against a goal image."""

    @property
    def spec(self) -> PredictorSpec:
        """The capabilities of this predictor."""
        ...

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Predict every candidate from the same context and compute its goal cost.

        Args:
            context: The last observed frames and actions.
            candidates: (N, T, 4) actions, within the limits that the robot applies.
            goal: (64, 64, 3) uint8 RGB.
            n_videos: Number of predicted videos to return, at most N.

        Raises:
            PredictorError: There is no usable prediction within the deadline. The caller must hold the arm.
        """
        ...

    def close(self) -> None:
        """Close sockets and stop processes. Safe to call twice."""
        ...


@dataclass(frozen=True)
class PredictionRequest:
    """The arguments of `Predictor.predict`, and the weights of the goal cost."""

    context: Context
    candidates: NDArray[np.float32]  # (N, T, 4) actions, within the limits that the robot applies
    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    n_videos: int
    cost: GoalCost

    def check(self, spec: PredictorSpec) -> None:
        """Refuse a request that the predictor cannot compute.

        Raises:
            MismatchError: A shape, dtype or count does not fit `spec`.
            PredictorError: An action is not finite.
        """
        n, horizon = self._size(spec)
        image = (spec.image_px, spec.image_px, 3)
        _expect("context frames", self.context.frames, np.uint8, (spec.n_context, *image))
        _expect("context actions", self.context.actions, np.float32, (spec.n_context - 1, spec.action_dim))
        _expect("candidates", self.candidates, np.float32, (n, horizon, spec.action_dim))
        _expect("goal", self.goal, np.uint8, image)
        _within("n_videos", self.n_videos, 0, n)
        _within("cost.final_frames", self.cost.final_frames, 1, horizon)
        for term in self.cost.terms():
            if term not in spec.terms:
                raise MismatchError(f"cost.{term}: expected only terms among {', '.join(spec.terms)}")
        for name, actions in (("context actions", self.context.actions), ("candidates", self.candidates)):
            if not np.isfinite(actions).all():
                raise PredictorError(f"{name}: expected finite actions, got NaN or infinity")

    def _size(self, spec: PredictorSpec) -> tuple[int, int]:
        if self.candidates.ndim != 3:
            raise MismatchError(f"candidates: expected shape (N, T, {spec.action_dim}), got {self.candidates.shape}")
        n, horizon = self.candidates.shape[:2]
        _within("number of candidates", n, 1, spec.max_candidates)
        _within("horizon", horizon, 1, spec.max_horizon)
        return n, horizon


def merge(predictions: Sequence[Prediction], n_videos: int) -> Prediction:
    """Return the prediction for all candidates from the predictions for consecutive parts of them.

    Args:
        predictions: At least one, in the order of the candidates.
        n_videos: Number of videos to keep, those of the best candidates.

    Returns:
        The merged prediction; the time of each stage is the longest among the parts.
    """
    firsts = np.cumsum([0, *(len(each.costs) for each in predictions)])
    costs = np.concatenate([each.costs for each in predictions])
    best = np.concatenate([first + each.best for first, each in zip(firsts, predictions, strict=False)])
    videos = np.concatenate([each.videos for each in predictions])
    order = rank(costs[best])[:n_videos]
    stages = {stage for each in predictions for stage in each.timing_s}
    timing_s = {stage: max(each.timing_s.get(stage, 0.0) for each in predictions) for stage in stages}
    return Prediction(costs, best[order], videos[order], timing_s)


def rank(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of candidates by cost (N,), lowest first; costs that are not finite come last."""
    return np.argsort(np.where(np.isfinite(costs), costs, np.inf), kind="stable")


def _expect(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise MismatchError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise MismatchError(f"{name}: expected {low} to {high}, got {value}")
