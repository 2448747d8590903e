"""What is proposed is what would be executed."""

import numpy as np
import pytest

from data_collection.policies.random_policy import PolicyConfig
from planner.difference import DifferenceConfig
from planner.plan import HOLD, PREVIOUS, Situation
from planner.proposals import Proposals
from robot_bridge.safety import limit_actions
from tests.planner.doubles import SPEC, situation, with_rest


@pytest.fixture
def proposals() -> Proposals:
    return Proposals(PolicyConfig(), DifferenceConfig(), SPEC)


@pytest.mark.parametrize("seed", range(5))
def test_every_candidate_is_already_limited(proposals: Proposals, seed: int) -> None:
    rest = np.array([[0.9, -0.9, -0.9, 0.3]] * 3, np.float32)  # far beyond every limit
    start = with_rest(rest)
    drawn = proposals.draw(start, 50, 10, np.random.default_rng(seed))
    assert drawn.actions.shape == (50, 10, 4) and drawn.actions.dtype == np.float32 and len(drawn.families) == 50
    again = limit_actions(drawn.actions, start.observation.state[:3], SPEC.limits)
    np.testing.assert_allclose(again, drawn.actions, atol=1e-6)
    hands = start.observation.state[:3] + drawn.actions[:, :, :3].cumsum(1)
    assert (hands > np.array(SPEC.limits.workspace_low_m) - 1e-6).all()
    assert (hands < np.array(SPEC.limits.workspace_high_m) + 1e-6).all()
    assert set(np.unique(drawn.actions[..., 3])) <= {-1.0, 1.0}


@pytest.mark.parametrize("gripper", [-1.0, 1.0])
def test_the_first_candidate_holds_still_with_the_gripper_as_it_is(proposals: Proposals, gripper: float) -> None:
    start = Situation(**{**vars(situation()), "gripper": gripper})
    drawn = proposals.draw(start, 8, 4, np.random.default_rng(0))
    assert drawn.families[0] == HOLD and PREVIOUS not in drawn.families
    np.testing.assert_array_equal(drawn.actions[0], [[0, 0, 0, gripper]] * 4)


def test_the_rest_of_the_previous_plan_is_continued_by_holding_still(proposals: Proposals) -> None:
    rest = np.array([[0.01, 0, 0, 1], [0, 0.02, 0, 1]], np.float32)
    drawn = proposals.draw(with_rest(rest), 8, 4, np.random.default_rng(0))
    assert drawn.families[:2] == [HOLD, PREVIOUS]
    np.testing.assert_allclose(drawn.actions[1], [*rest, [0, 0, 0, 1], [0, 0, 0, 1]], atol=1e-7)


def test_a_longer_rest_is_cut_to_the_horizon(proposals: Proposals) -> None:
    rest = np.tile(np.array([0.001, 0, 0, -1], np.float32), (7, 1))
    assert proposals.draw(with_rest(rest), 8, 3, np.random.default_rng(0)).actions.shape == (8, 3, 4)
