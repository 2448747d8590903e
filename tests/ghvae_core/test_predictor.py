from dataclasses import replace

import numpy as np
import pytest

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, MismatchError, PredictionRequest, PredictorError
from tests.ghvae_core.serving.example import SPEC, request

VALID = request()
FRAMES, ACTIONS = VALID.context.frames, VALID.context.actions


def test_a_valid_request_passes() -> None:
    VALID.check(SPEC)
    request(n=20, horizon=3, n_videos=20).check(SPEC)
    request(n=1, horizon=1, n_videos=0).check(SPEC)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(VALID, context=Context(FRAMES[:1], ACTIONS)), "context frames: expected uint8"),
        (replace(VALID, context=Context(FRAMES.astype(np.float32), ACTIONS)), "got float32"),
        (replace(VALID, context=Context(FRAMES, ACTIONS[:0])), "context actions"),
        (replace(VALID, goal=VALID.goal[:4]), "goal: expected uint8"),
        (replace(VALID, candidates=VALID.candidates[0]), "candidates: expected shape"),
        (replace(VALID, candidates=VALID.candidates[..., :3]), "candidates: expected float32"),
        (replace(VALID, candidates=VALID.candidates[:0]), "number of candidates: expected 1 to 20, got 0"),
        (request(n=21), "number of candidates: expected 1 to 20, got 21"),
        (request(horizon=4), "horizon: expected 1 to 3, got 4"),
        (request(n_videos=6), "n_videos: expected 0 to 5, got 6"),
        (replace(VALID, cost=GoalCost(final_frames=4)), "final_frames: expected 1 to 3, got 4"),
    ],
)
def test_the_error_for_an_invalid_request_names_the_field(bad: PredictionRequest, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        bad.check(SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(value: float) -> None:
    candidates = VALID.candidates.copy()
    candidates[2, 1, 0] = value
    with pytest.raises(PredictorError, match="candidates: expected finite"):
        replace(VALID, candidates=candidates).check(SPEC)
    with pytest.raises(PredictorError, match="context actions: expected finite"):
        replace(VALID, context=Context(FRAMES, np.full_like(ACTIONS, value))).check(SPEC)
