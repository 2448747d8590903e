"""The one interface of everything that imagines: the server's client, the model in process, the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.command import ReportedError
from configs.loader import Config
from robot_bridge.camera import Camera


class PredictorError(ReportedError):
    """No usable prediction came. The caller must hold the arm."""

    exit_code: ClassVar[int] = 1


class MismatchError(PredictorError):
    """The robot, the model and the planner do not fit together, or cannot be used. Refused before anything moved."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class PredictorSpec:
    """What a predictor can do and what it was made for; known at the handshake."""

    name: str  # "server", "in_process", "oracle"
    image_px: int  # side of the model image
    action_dim: int
    step_limit_m: float  # the action scale that the model was trained with
    step_s: float  # duration of the steps that the model was trained with
    n_context: int  # context frames
    max_horizon: int
    max_candidates: int  # in one request
    checkpoint: str  # sha256 of the checkpoint's manifest; empty where nothing of one is used
    # Of the robot that the model was trained on; None where the checkpoint does not tell it.
    workspace_m: tuple[_Vector, _Vector] | None = None  # low and high x, y, z in the base frame
    camera: Camera | None = None
    # Root mean square error of images in [0, 1], by imagined step, that 95 % of validation videos stay below.
    val_rmse_p95: tuple[float, ...] | None = None  # None where the checkpoint does not tell it
    terms: tuple[str, ...] = ("pixel",)  # of a `GoalCost` that it can weigh
    distance: str = ""  # sha256 of the manifest of the network that tells steps to go; empty: it has none


@dataclass(frozen=True)
class Context:
    """What has been seen last; candidates start from its last frame."""

    frames: NDArray[np.uint8]  # (n_context, 64, 64, 3) RGB, oldest first
    actions: NDArray[np.float32]  # (n_context - 1, 4) applied; action t leads from frame t to frame t + 1


class GoalCost(Config):
    """How imagined frames are compared with the goal; sent with each request, evaluated where the frames are.

    A sum of weighted terms; the defaults are ours. Measured in simulation, none did better than pixels, with less
    weight on brightness.
    """

    final_frames: int = Field(default=1, ge=1)  # how many of the last imagined frames count; ours
    brightness: float = Field(default=1.0, ge=0, le=1)  # weight of a pixel's error in brightness against that in colour
    pixel: float = Field(default=1.0, ge=0)  # weight of the squared error of pixels
    features: float = Field(default=0.0, ge=0)  # of the squared distance of the model's own deepest features
    lpips: float = Field(default=0.0, ge=0)  # of LPIPS (AlexNet), where the predictor holds its weights
    steps: float = Field(default=0.0, ge=0)  # of the steps still to go, where it holds a network that tells them

    @model_validator(mode="after")
    def _check_terms(self) -> GoalCost:
        if not self.terms():
            raise ValueError(f"expected a weight above 0 for one of {', '.join(TERMS)}")
        return self

    def terms(self) -> tuple[str, ...]:
        """Return the names of the terms that count."""
        return tuple(name for name in TERMS if getattr(self, name) > 0)


class Networks(Config):
    """What a predictor holds for the costs of requests, beside its model. Defaults: ours."""

    lpips: bool = False  # its weights are fetched once
    distance: str | None = None  # folder that run_distance made; None: steps to go cannot be told


@dataclass(frozen=True)
class Prediction:
    """The candidates' costs and what the best of them look like."""

    costs: NDArray[np.float32]  # (N,) lower is better; may hold NaN or infinity, which the planner must gate
    best: NDArray[np.int64]  # (k,) candidates, best first
    videos: NDArray[np.uint8]  # (k, T, 64, 64, 3) imagined frames of the best
    timing_s: Mapping[str, float]  # seconds by stage


class Predictor(Protocol):
    """Anything that imagines where candidate actions lead, and weighs it against a goal."""

    @property
    def spec(self) -> PredictorSpec:
        """What this predictor can do."""
        ...

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Imagine every candidate from the same context and weigh it against the goal.

        Args:
            context: What was seen last.
            candidates: (N, T, 4) actions as they would be applied.
            goal: (64, 64, 3) uint8 RGB.
            n_videos: How many imagined videos to return, at most N.

        Raises:
            PredictorError: No answer within the deadline, or none that can be used. The caller must hold the arm.
        """
        ...

    def close(self) -> None:
        """Let go of sockets and processes. Safe to call twice."""
        ...


class DeadlineError(PredictorError):
    """The time for the answer ran out; what was imagined until then is thrown away."""


class NonFiniteError(PredictorError):
    """Not one candidate has a finite cost, so nothing can be chosen."""


@dataclass(frozen=True)
class Request:
    """Everything that `Predictor.predict` is told, and how the goal is weighed."""

    context: Context
    candidates: NDArray[np.float32]  # (N, T, 4) actions as they would be applied
    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    n_videos: int
    cost: GoalCost

    def check(self, spec: PredictorSpec) -> None:
        """Refuse what the predictor cannot answer.

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
                raise MismatchError(f"cost.{term}: expected weights of {', '.join(spec.terms)} alone")
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


def _expect(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise MismatchError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise MismatchError(f"{name}: expected {low} to {high}, got {value}")


_Vector = tuple[float, float, float]
TERMS = ("pixel", "features", "lpips", "steps")  # of a `GoalCost`
