"""One question to a predictor, and the check that it fits before anything is computed or sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghvae_core.predictor import Context, GoalCost, MismatchError, PredictorError, PredictorSpec


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
