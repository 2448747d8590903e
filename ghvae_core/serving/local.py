"""The predictor that runs a checkpoint in this process: candidates in chunks, costs on the device of the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.interruption import check
from ghvae_core.goal_cost import GoalCost, GoalCostEvaluator, load_evaluator
from ghvae_core.models.checkpoint import Checkpoint, load, matches_self_test, self_test_output
from ghvae_core.models.device import find_device
from ghvae_core.predictor import (
    Context,
    DeadlineError,
    MismatchError,
    NonFiniteError,
    Prediction,
    PredictionRequest,
    PredictorError,
    PredictorSpec,
    merge,
    rank,
)
from ghvae_core.serving.config import InProcessConfig
from ghvae_core.serving.wire import MAX_ERRORS
from robot_bridge.robot import ACTION_DIM

_DEFAULTS = InProcessConfig()
_WARM_STEPS = 2  # the first step decodes, the second encodes the decoded frame
_log = logging.getLogger(__name__)


def _never() -> bool:
    check()
    return False


class InProcessPredictor:
    """Predicts with a checkpoint on the device it was loaded to. One caller at a time.

    Args:
        checkpoint: The model and its data. Latents are the prior's mean, so that equal requests give equal predictions.
        cost: Weights of the goal cost in `predict`.
        config: Size of chunks, precision, and networks for the cost.

    Raises:
        MismatchError: The data of the checkpoint do not fit any robot of this project, so it cannot be used to plan.
        MetricError: LPIPS weights were requested but are not available.
        CheckpointError: The temporal distance network cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint, cost: GoalCost, config: InProcessConfig = _DEFAULTS) -> None:
        self._evaluator = load_evaluator(checkpoint, config)
        self._spec = _spec(checkpoint, config.max_candidates, self._evaluator)
        self._model, self._info = checkpoint.model.eval(), checkpoint.info
        self._device = checkpoint.model.action_scale.device
        self._cost, self._chunk = cost, config.chunk
        self._is_half = config.precision == "bfloat16"

    @property
    def chunk(self) -> int:
        """Largest number of candidates that are predicted together."""
        return min(self._chunk, self._spec.max_candidates)

    @property
    def spec(self) -> PredictorSpec:
        """The capabilities of the checkpoint."""
        return self._spec

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Do as `Predictor.predict`, without a deadline.

        Raises:
            NonFiniteError: No candidate has a finite cost.
            MismatchError: The arguments do not fit the checkpoint.
        """
        prediction = self.evaluate(PredictionRequest(context, candidates, goal, n_videos, self._cost))
        if not np.isfinite(prediction.costs).any():
            raise NonFiniteError(f"none of {len(candidates)} candidates has a finite cost; use another checkpoint")
        return prediction

    def evaluate(self, request: PredictionRequest, must_stop: Callable[[], bool] = _never) -> Prediction:
        """Compute one request. A cost that is not finite is returned as it is, and ranked last.

        If a chunk does not fit into the memory of the device, the size of chunks is halved from then on.

        Args:
            request: The request.
            must_stop: Called before every predicted step; the computation ends when it returns True.

        Raises:
            DeadlineError: `must_stop` returned True.
            MismatchError: The request does not fit the checkpoint.
            PredictorError: Not even one candidate fits into the memory of the device.
        """
        request.check(self._spec)
        start_s = time.monotonic()
        with torch.inference_mode():
            context = self._images(request.context.frames)[None]
            goal = self._images(request.goal[None])[0]
            actions = self._actions(request)
            prepared_s = time.monotonic()
            parts: list[Prediction] = []
            first = 0
            while first < len(actions):
                chunk = actions[first : first + self._chunk]
                try:
                    parts.append(self._predict(context, chunk, goal, request, must_stop))
                except torch.OutOfMemoryError:
                    self._halve(len(chunk))
                    continue
                first += len(chunk)
        timing_s = {"prepare": prepared_s - start_s, "rollout": time.monotonic() - prepared_s}
        return replace(merge(parts, request.n_videos), timing_s=timing_s)

    def warm_up(self, horizon: int = _WARM_STEPS) -> float:
        """Predict one full chunk and return the time in s; the default number of steps covers all operations.

        Args:
            horizon: Number of steps, limited to the horizon of the checkpoint.

        Raises:
            PredictorError: Not even one candidate fits into the memory of the device.
        """
        spec = self._spec
        image = np.zeros((spec.n_context, spec.image_px, spec.image_px, 3), dtype=np.uint8)
        context = Context(image, np.zeros((spec.n_context - 1, spec.action_dim), dtype=np.float32))
        candidates = np.zeros((self.chunk, min(horizon, spec.max_horizon), spec.action_dim), dtype=np.float32)
        start_s = time.monotonic()
        self.evaluate(PredictionRequest(context, candidates, image[0], 1, GoalCost()))
        return time.monotonic() - start_s

    def self_test(self) -> None:
        """Compute the self-test output and compare it with the one stored in the checkpoint, if there is one.

        Raises:
            PredictorError: The outputs differ.
        """
        stored = self._info.self_test_output
        if stored is None:
            _log.warning("the checkpoint holds no self-test output; the computation on this device is not verified")
            return
        with torch.inference_mode(), self._precision():
            computed = self_test_output(self._model, self._info.n_context, self._info.horizon)
        if not matches_self_test(stored, computed):
            apart = max(abs(one - other) for one, other in zip(stored, computed, strict=True))
            raise PredictorError(
                f"the model on {self._device} does not reproduce its stored self-test output (difference {apart:.3g}); "
                "try --device cpu, and check the GPU"
            )

    def close(self) -> None:
        """Do nothing; there is nothing to close."""

    def _precision(self) -> torch.autocast:
        """Return the autocast context of the model; its images are always float32."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_half)

    def _halve(self, n: int) -> None:
        """Halve the size of chunks after n candidates did not fit into the memory of the device."""
        if n == 1:
            raise PredictorError(
                f"not even one candidate fits into the memory of {self._device}; free memory, or use a smaller model"
            )
        self._chunk = n // 2
        _log.warning(
            "a chunk of %d candidates does not fit into the memory of %s; reduced to %d", n, self._device, self._chunk
        )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return (n, 3, px, px) in [0, 1] of frames (n, px, px, 3)."""
        # Arrays of a message are read-only views, which torch does not accept.
        return torch.from_numpy(frames.copy()).to(self._device).permute(0, 3, 1, 2).float() / 255

    def _actions(self, request: PredictionRequest) -> Tensor:
        """Return (N, n_context - 1 + T, A): the context's actions followed by those of each candidate."""
        past = np.broadcast_to(request.context.actions, (len(request.candidates), *request.context.actions.shape))
        return torch.from_numpy(np.concatenate([past, request.candidates], axis=1)).to(self._device)

    def _predict(
        self, context: Tensor, actions: Tensor, goal: Tensor, request: PredictionRequest, must_stop: Callable[[], bool]
    ) -> Prediction:
        """Return the prediction for one chunk of actions."""
        frames: list[Tensor] = []
        steps = self._model.predict(context, actions)
        with self._precision():
            for _ in range(request.candidates.shape[1]):
                if must_stop():
                    raise DeadlineError("the deadline passed while candidates were being predicted")
                frames.append(next(steps))
        videos = torch.stack(frames, 1)
        costs = self._evaluator.costs(videos, goal, request.cost).cpu().numpy()
        best = rank(costs)[: request.n_videos]
        return Prediction(costs, best, _to_bytes(videos[torch.from_numpy(best).to(self._device)]), {})


def open_predictor(folder: Path, device: str, threads: int | None, config: InProcessConfig) -> InProcessPredictor:
    """Load a checkpoint to a device; the weights of the cost come with each request.

    Args:
        folder: Folder of the checkpoint.
        device: "cpu", "cuda", "cuda:N", or "auto" for CUDA where available.
        threads: CPU threads of the model; None: all cores.
        config: Size of chunks, precision, and networks for the cost.

    Raises:
        DeviceError: The device does not exist.
        CheckpointError: As `load`.
    """
    device = find_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    start_s = time.monotonic()
    checkpoint = load(folder, device)
    _log.info("loaded %s to %s in %.1f s", folder, device, time.monotonic() - start_s)
    return InProcessPredictor(checkpoint, GoalCost(), config)


def _spec(checkpoint: Checkpoint, max_candidates: int, evaluator: GoalCostEvaluator) -> PredictorSpec:
    info = checkpoint.info
    if info.model.action_dim != ACTION_DIM:
        raise MismatchError(
            f"the checkpoint's action_dim: the robot has {ACTION_DIM}, the model was trained with "
            f"{info.model.action_dim}; use a checkpoint trained on the robot's own episodes"
        )
    if info.step_limit_m is None or info.step_s is None:
        missing = "step_limit_m" if info.step_limit_m is None else "step_s"
        raise MismatchError(
            f"the checkpoint's {missing}: expected a number, got none: its data do not describe a robot; "
            "use a checkpoint trained on the robot's own episodes"
        )
    return PredictorSpec(
        name="in_process",
        image_px=info.model.image_px,
        action_dim=info.model.action_dim,
        step_limit_m=info.step_limit_m,
        step_s=info.step_s,
        n_context=info.n_context,
        max_horizon=info.horizon,
        max_candidates=max_candidates,
        checkpoint=checkpoint.sha256,
        workspace_m=info.workspace_m,
        camera=info.camera,
        val_rmse_p95=info.val_rmse_p95 and info.val_rmse_p95[:MAX_ERRORS],
        terms=evaluator.terms,
        distance=evaluator.distance_sha256,
    )


def _to_bytes(frames: Tensor) -> NDArray[np.uint8]:
    """Return uint8 videos (n, T, px, px, 3) of frames (n, T, 3, px, px) in [0, 1]."""
    bytes_ = (frames.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    images: NDArray[np.uint8] = bytes_.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    return images
