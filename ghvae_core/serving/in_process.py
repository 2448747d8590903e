"""The model in this process as a predictor: candidates in chunks, costs where the frames are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.metric_weights import LPIPS
from ghvae_core.models.checkpoint import Checkpoint
from ghvae_core.models.distance import load as load_distance
from ghvae_core.predictor import Context, GoalCost, MismatchError, Networks, Prediction, PredictorError, PredictorSpec
from ghvae_core.serving.header import MAX_ERRORS
from ghvae_core.serving.request import DeadlineError, NonFiniteError, Request
from ghvae_core.serving.weigher import Weigher
from robot_bridge.robot import ACTION_DIM


class InProcessConfig(Networks):
    """How the work is cut up, and what is held for costs."""

    chunk: int = Field(
        default=50, ge=1
    )  # imagined together; bounds the memory and how late a deadline is noticed; ours
    max_candidates: int = Field(default=1000, ge=1, le=65536)  # in one request; ours


_DEFAULTS = InProcessConfig()
_log = logging.getLogger(__name__)


def _never() -> bool:
    return False


class InProcessPredictor:
    """A checkpoint that imagines on the device that it was loaded to. One caller at a time.

    Args:
        checkpoint: The model and what it was made for; its latents take the prior's mean, so that the same request has
            the same answer.
        cost: How imagined frames are compared with the goal in `predict`.
        config: How the work is cut up.

    Raises:
        MismatchError: The checkpoint is of data that no robot of ours could have recorded, so nothing can be planned.
        MetricError: The weights of LPIPS are wanted and cannot be had.
    """

    def __init__(self, checkpoint: Checkpoint, cost: GoalCost, config: InProcessConfig = _DEFAULTS) -> None:
        self._weigher = weigher(checkpoint, config)
        self._spec = _spec(checkpoint, config.max_candidates, self._weigher)
        self._model = checkpoint.model.eval()
        self._device = checkpoint.model.action_scale.device
        self._cost, self._chunk = cost, config.chunk

    @property
    def chunk(self) -> int:
        """How many candidates are imagined together at most."""
        return min(self._chunk, self._spec.max_candidates)

    @property
    def spec(self) -> PredictorSpec:
        """What the checkpoint was made for."""
        return self._spec

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Do as `Predictor.predict`, without a deadline.

        Raises:
            NonFiniteError: No candidate has a finite cost.
            MismatchError: The arguments do not fit the checkpoint.
        """
        return self.evaluate(Request(context, candidates, goal, n_videos, self._cost))

    def evaluate(self, request: Request, is_over: Callable[[], bool] = _never) -> Prediction:
        """Answer one request. A cost that is not finite is returned as it is, and ranked behind all that are.

        Where the memory does not hold a chunk, half of it is tried, then and later.

        Args:
            request: What to imagine, and how to weigh it.
            is_over: Asked before every imagined step; when it says yes, the work ends there.

        Raises:
            DeadlineError: `is_over` said yes.
            NonFiniteError: No candidate has a finite cost.
            MismatchError: The request does not fit the checkpoint.
            PredictorError: The device's memory does not hold a single candidate.
        """
        request.check(self._spec)
        start_s = time.monotonic()
        with torch.inference_mode():
            context = self._images(request.context.frames)[None]
            goal = self._images(request.goal[None])[0]
            actions = self._actions(request)
            prepared_s = time.monotonic()
            costs: list[NDArray[np.float32]] = []
            videos: list[NDArray[np.uint8]] = []
            shown: list[NDArray[np.int64]] = []
            first = 0
            while first < len(actions):
                chunk = actions[first : first + self._chunk]
                try:
                    frames = self._imagine(context, chunk, is_over)
                    costs.append(self._weigher.costs(frames, goal, request.cost).cpu().numpy())
                except torch.OutOfMemoryError:
                    self._halve(len(chunk))
                    continue
                best = _rank(costs[-1])[: request.n_videos]
                shown.append(first + best)
                videos.append(_pictures(frames[torch.from_numpy(best).to(self._device)]))
                first += len(chunk)
        timing_s = {"prepare": prepared_s - start_s, "imagine": time.monotonic() - prepared_s}
        return _choose(np.concatenate(costs), np.concatenate(shown), np.concatenate(videos), request.n_videos, timing_s)

    def warm_up(self) -> float:
        """Imagine one full chunk of the longest horizon and return the seconds it took.

        Raises:
            PredictorError: The device's memory does not hold a single candidate.
        """
        spec = self._spec
        image = np.zeros((spec.n_context, spec.image_px, spec.image_px, 3), dtype=np.uint8)
        context = Context(image, np.zeros((spec.n_context - 1, spec.action_dim), dtype=np.float32))
        n = self.chunk
        candidates = np.zeros((n, spec.max_horizon, spec.action_dim), dtype=np.float32)
        start_s = time.monotonic()
        self.evaluate(Request(context, candidates, image[0], 1, GoalCost()))
        return time.monotonic() - start_s

    def close(self) -> None:
        """Nothing to let go of."""

    def _halve(self, n: int) -> None:
        """Imagine fewer than n candidates at once from now on, as the device's memory does not hold them."""
        if n == 1:
            raise PredictorError(
                f"not one candidate fits the memory of {self._device}; free it, or take a smaller model"
            )
        self._chunk = n // 2
        _log.warning("%d candidates at once do not fit the memory of %s; now %d", n, self._device, self._chunk)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return (n, 3, px, px) in [0, 1] of frames (n, px, px, 3)."""
        # The copy is for arrays that a message lent us read-only.
        return torch.from_numpy(frames.copy()).to(self._device).permute(0, 3, 1, 2).float() / 255

    def _actions(self, request: Request) -> Tensor:
        """Return (N, n_context - 1 + T, A): the actions of the context in front of every candidate."""
        past = np.broadcast_to(request.context.actions, (len(request.candidates), *request.context.actions.shape))
        return torch.from_numpy(np.concatenate([past, request.candidates], axis=1)).to(self._device)

    def _imagine(self, context: Tensor, actions: Tensor, is_over: Callable[[], bool]) -> Tensor:
        """Return the frames (n, T, 3, px, px) that one chunk of actions leads to."""
        frames: list[Tensor] = []
        steps = self._model.imagine(context, actions)
        while True:
            if is_over():
                raise DeadlineError("the time for the answer ran out while candidates were being imagined")
            frame = next(steps, None)
            if frame is None:
                return torch.stack(frames, 1)
            frames.append(frame)


def weigher(checkpoint: Checkpoint, networks: Networks) -> Weigher:
    """Return what weighs frames where a checkpoint was loaded to, with the networks that are wanted.

    Raises:
        MetricError: The weights of LPIPS cannot be had.
        CheckpointError: The network of steps to go cannot be used.
    """
    device = checkpoint.model.action_scale.device
    lpips = Lpips(LPIPS.find(None)).to(device) if networks.lpips else None
    distance = None if networks.distance is None else load_distance(Path(networks.distance), device)
    if distance is not None and distance.config.image_px != checkpoint.info.model.image_px:
        raise MismatchError(
            f"{networks.distance}: expected a network of images of {checkpoint.info.model.image_px} pixels,"
            f" got one of {distance.config.image_px}"
        )
    return Weigher(checkpoint.model, lpips, distance, checkpoint.sha256)


def _spec(checkpoint: Checkpoint, max_candidates: int, weigher: Weigher) -> PredictorSpec:
    info = checkpoint.info
    if info.model.action_dim != ACTION_DIM:
        raise MismatchError(
            f"the checkpoint's action_dim: the robot has {ACTION_DIM}, the model was trained with "
            f"{info.model.action_dim}; take a checkpoint of the robot's own episodes"
        )
    if info.step_limit_m is None or info.step_s is None:
        missing = "step_limit_m" if info.step_limit_m is None else "step_s"
        raise MismatchError(
            f"the checkpoint's {missing}: expected a number, got none: its data are of no robot that it could drive; "
            "take a checkpoint of the robot's own episodes"
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
        usual_error=info.usual_error and info.usual_error[:MAX_ERRORS],
        terms=weigher.terms,
        distance=weigher.distance_sha256,
    )


def _rank(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the candidates, lowest cost first; those without a finite cost come last, where argmin puts them first."""
    return np.argsort(np.where(np.isfinite(costs), costs, np.inf), kind="stable")


def _pictures(frames: Tensor) -> NDArray[np.uint8]:
    """Return uint8 videos (n, T, px, px, 3) of frames (n, T, 3, px, px) in [0, 1]."""
    bytes_ = (frames.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    pictures: NDArray[np.uint8] = bytes_.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    return pictures


def _choose(
    costs: NDArray[np.float32],
    shown: NDArray[np.int64],
    videos: NDArray[np.uint8],
    n_videos: int,
    timing_s: dict[str, float],
) -> Prediction:
    """Return the prediction, with the best of all among the chunks' best: `videos` of the candidates `shown`."""
    if not np.isfinite(costs).any():
        raise NonFiniteError(f"not one of {len(costs)} candidates has a finite cost; the checkpoint is not usable")
    order = _rank(costs[shown])[:n_videos]
    return Prediction(costs, shown[order], videos[order], timing_s)
