"""The baseline predictors."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, MismatchError
from planner.plan import HOLD
from planner.predictors import CopyPredictor, RandomPredictor
from tests.planner.doubles import GOAL, SPEC, planning_state, solver


def _context() -> Context:
    return Context(planning_state().context.frames[-1:], np.empty((0, 4), np.float32))


def _candidates(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-0.1, 0.1, (n, 5, 4)).astype(np.float32)


def test_all_candidates_of_the_copy_baseline_cost_the_same() -> None:
    prediction = CopyPredictor(SPEC, GoalCost()).predict(_context(), _candidates(7), GOAL, 3)
    difference = (_context().frames[0] / np.float32(255) - GOAL / np.float32(255)) ** 2
    np.testing.assert_allclose(prediction.costs, [difference.mean()] * 7, rtol=1e-5)
    assert prediction.best.tolist() == [0, 1, 2] and prediction.videos.shape == (3, 5, 64, 64, 3)
    assert (prediction.videos == _context().frames[-1]).all()


def test_with_the_copy_baseline_the_arm_holds_still() -> None:
    start = planning_state()
    start = type(start)(**{**vars(start), "context": _context()})
    plan = solver().plan(start, CopyPredictor(SPEC, GoalCost()), np.random.default_rng(0))
    assert plan.family == HOLD


def test_random_costs_are_finite_and_reproducible() -> None:
    first, again = (RandomPredictor(SPEC, GoalCost(), np.random.default_rng(4)) for _ in range(2))
    predictions = [each.predict(_context(), _candidates(200), GOAL, 2) for each in (first, again)]
    np.testing.assert_array_equal(predictions[0].costs, predictions[1].costs)
    assert np.isfinite(predictions[0].costs).all() and len(np.unique(predictions[0].costs)) > 190
    assert predictions[0].best[0] == predictions[0].costs.argmin() != 0
    other = first.predict(_context(), _candidates(200), GOAL, 2)
    assert other.best[0] != predictions[0].best[0]


@pytest.mark.parametrize("goal", [GOAL[:32], GOAL[None]])
def test_an_invalid_request_is_refused(goal: NDArray[np.uint8]) -> None:
    with pytest.raises(MismatchError, match="goal"):
        CopyPredictor(SPEC, GoalCost()).predict(_context(), _candidates(3), goal, 1)
