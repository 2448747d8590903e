import numpy as np
import pytest
import torch

from ghvae_core.goal_cost import GoalCost, pixel_cost


def test_only_the_final_frames_are_compared() -> None:
    frames = np.zeros((2, 4, 3, 2, 2), dtype=np.float32)
    frames[0, 0] = 1.0  # not a final frame
    frames[1, 2] = 0.5
    goal = np.zeros((3, 2, 2), dtype=np.float32)
    np.testing.assert_array_equal(pixel_cost(frames, goal, GoalCost(final_frames=1)), [0, 0])
    np.testing.assert_array_equal(pixel_cost(frames, goal, GoalCost(final_frames=2)), [0, 0.125])
    np.testing.assert_array_equal(pixel_cost(frames, goal, GoalCost(final_frames=4)), [0.25, 0.0625])


def test_tensors_and_arrays_have_equal_costs() -> None:
    rng = np.random.default_rng(0)
    frames = rng.random((5, 3, 3, 8, 8), dtype=np.float32)
    goal = rng.random((3, 8, 8), dtype=np.float32)
    cost = GoalCost(final_frames=2)
    on_tensors = pixel_cost(torch.from_numpy(frames), torch.from_numpy(goal), cost)
    assert isinstance(on_tensors, torch.Tensor) and on_tensors.dtype == torch.float32
    np.testing.assert_allclose(on_tensors.numpy(), pixel_cost(frames, goal, cost), rtol=1e-5)


def test_a_nan_affects_its_candidate_only() -> None:
    frames = np.zeros((3, 1, 3, 2, 2), dtype=np.float32)
    frames[1, 0, 0, 0, 0] = np.nan
    costs = pixel_cost(frames, np.zeros((3, 2, 2), dtype=np.float32), GoalCost())
    assert np.isnan(costs).tolist() == [False, True, False]


def test_the_cost_is_zero_at_the_goal_and_grows_with_distance() -> None:
    goal = np.full((3, 2, 2), 0.5, dtype=np.float32)
    frames = np.stack([goal + delta for delta in (0.0, 0.1, 0.4)])[:, None]
    costs = pixel_cost(frames, goal, GoalCost())
    assert costs == pytest.approx([0.0, 0.01, 0.16])


def test_only_the_brightness_is_scaled_by_its_weight() -> None:
    goal = np.full((2, 2, 3), 0.5, dtype=np.float32)
    brighter, redder = goal + 0.1, goal + np.array([0.2, -0.1, -0.1], np.float32)
    costs = {
        w: pixel_cost(np.stack([brighter, redder])[:, None], goal, GoalCost(brightness=w)) for w in (0.0, 0.3, 1.0)
    }
    assert costs[1.0] == pytest.approx([0.01, 0.02])
    assert costs[0.3] == pytest.approx([0.003, 0.02])
    assert costs[0.0] == pytest.approx([0.0, 0.02], abs=1e-9)


@pytest.mark.parametrize("brightness", [0.0, 0.3])
def test_the_channel_axis_may_be_first_or_last(brightness: float) -> None:
    rng = np.random.default_rng(0)
    frames, goal = rng.random((5, 3, 3, 8, 8), dtype=np.float32), rng.random((3, 8, 8), dtype=np.float32)
    cost = GoalCost(final_frames=2, brightness=brightness)
    expected = pixel_cost(frames, goal, cost)
    np.testing.assert_allclose(
        pixel_cost(np.moveaxis(frames, 2, -1), np.moveaxis(goal, 0, -1), cost), expected, rtol=1e-5
    )
    tensors = pixel_cost(torch.from_numpy(frames), torch.from_numpy(goal), cost)
    np.testing.assert_allclose(tensors.numpy(), expected, rtol=1e-5)
    assert (expected < pixel_cost(frames, goal, GoalCost(final_frames=2))).all()
