from dataclasses import replace

import numpy as np
import pytest

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, MismatchError, PredictionRequest, PredictorError
from tests.ghvae_core.serving.example import SPEC, request

GOOD = request()
FRAMES, ACTIONS = GOOD.context.frames, GOOD.context.actions


def test_a_fitting_request_passes() -> None:
    GOOD.check(SPEC)
    request(n=20, horizon=3, n_videos=20).check(SPEC)
    request(n=1, horizon=1, n_videos=0).check(SPEC)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (replace(GOOD, context=Context(FRAMES[:1], ACTIONS)), "context frames: expected uint8"),
        (replace(GOOD, context=Context(FRAMES.astype(np.float32), ACTIONS)), "got float32"),
        (replace(GOOD, context=Context(FRAMES, ACTIONS[:0])), "context actions"),
        (replace(GOOD, goal=GOOD.goal[:4]), "goal: expected uint8"),
        (replace(GOOD, candidates=GOOD.candidates[0]), "candidates: expected shape"),
        (replace(GOOD, candidates=GOOD.candidates[..., :3]), "candidates: expected float32"),
        (replace(GOOD, candidates=GOOD.candidates[:0]), "number of candidates: expected 1 to 20, got 0"),
        (request(n=21), "number of candidates: expected 1 to 20, got 21"),
        (request(horizon=4), "horizon: expected 1 to 3, got 4"),
        (request(n_videos=6), "n_videos: expected 0 to 5, got 6"),
        (replace(GOOD, cost=GoalCost(final_frames=4)), "final_frames: expected 1 to 3, got 4"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(bad: PredictionRequest, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        bad.check(SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(value: float) -> None:
    candidates = GOOD.candidates.copy()
    candidates[2, 1, 0] = value
    with pytest.raises(PredictorError, match="candidates: expected finite"):
        replace(GOOD, candidates=candidates).check(SPEC)
    with pytest.raises(PredictorError, match="context actions: expected finite"):
        replace(GOOD, context=Context(FRAMES, np.full_like(ACTIONS, value))).check(SPEC)
