"""A small predictor's spec, valid requests and their predictions."""

import numpy as np

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, Prediction, PredictionRequest, PredictorSpec
from robot_bridge.camera import Camera, Crop

SPEC = PredictorSpec(
    name="example",
    image_px=8,
    action_dim=4,
    step_limit_m=0.05,
    step_s=0.5,
    n_context=2,
    max_horizon=3,
    max_candidates=20,
    checkpoint="c0ffee" * 10,
    workspace_m=((0.3, -0.2, 0.0), (0.7, 0.2, 0.3)),
    camera=Camera(
        height_px=240,
        width_px=320,
        crop=Crop(top_px=0, left_px=40, height_px=240, width_px=240),
        position_m=(0.9, 0.0, 0.5),
        target_m=(0.4, 0.0, 0.0),
        fovy_rad=0.8,
    ),
    val_rmse_p95=(0.02, 0.03, 0.05),
)


def request(n: int = 5, horizon: int = 3, n_videos: int = 2, seed: int = 0) -> PredictionRequest:
    rng = np.random.default_rng(seed)
    px = SPEC.image_px
    context = Context(
        rng.integers(0, 256, (SPEC.n_context, px, px, 3), dtype=np.uint8),
        rng.uniform(-0.05, 0.05, (SPEC.n_context - 1, 4)).astype(np.float32),
    )
    candidates = rng.uniform(-0.05, 0.05, (n, horizon, 4)).astype(np.float32)
    return PredictionRequest(
        context, candidates, rng.integers(0, 256, (px, px, 3), dtype=np.uint8), n_videos, GoalCost()
    )


def prediction(of: PredictionRequest) -> Prediction:
    """Return the path lengths of the candidates as costs; each pixel of a video is the index of its candidate."""
    costs = np.abs(of.candidates).sum(axis=(1, 2))
    best = np.argsort(costs, kind="stable")[: of.n_videos]
    shape = (of.n_videos, of.candidates.shape[1], *of.goal.shape)
    videos = np.broadcast_to(best[:, None, None, None, None], shape).astype(np.uint8)
    return Prediction(costs, best, videos, {"rollout": 0.25})
