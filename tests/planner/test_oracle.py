"""The oracle predicts what the simulator does, and does not change the robot."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, MismatchError
from planner.config import load_run
from planner.oracle import OraclePredictor
from robot_bridge.camera import model_image
from robot_bridge.factory import open_robot
from robot_bridge.robot import RobotFault
from robot_bridge.simulation.franka import SimulatedFranka

HORIZON = 2
GOAL = np.full((64, 64, 3), 100, np.uint8)


@pytest.fixture
def robot() -> Iterator[SimulatedFranka]:
    robot = open_robot(load_run("tasks/pick_wipe.yaml", []).robot)
    assert isinstance(robot, SimulatedFranka)
    robot.reset(np.random.default_rng(0))
    yield robot
    robot.close()


@pytest.fixture
def oracle(robot: SimulatedFranka) -> Iterator[OraclePredictor]:
    oracle = OraclePredictor(robot, GoalCost())
    yield oracle
    oracle.close()


def _context(robot: SimulatedFranka) -> Context:
    frame = model_image(robot.render(), robot.spec.camera.crop)
    return Context(np.stack([frame, frame]), np.array([[0, 0, 0, -1]], np.float32))


def _candidates(n: int) -> NDArray[np.float32]:
    actions = np.random.default_rng(1).uniform(-0.05, 0.05, (n, HORIZON, 4)).astype(np.float32)
    actions[..., 3] = -1.0
    return actions


def test_the_robot_is_not_changed(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    before, simulated_s = robot.snapshot(), robot.simulated_s
    oracle.predict(_context(robot), _candidates(4), GOAL, 2)
    after = robot.snapshot()
    np.testing.assert_array_equal(after.physics, before.physics)
    assert after.progress == before.progress and robot.simulated_s == simulated_s


def test_its_predictions_are_exact(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    candidates = _candidates(3)
    prediction = oracle.predict(_context(robot), candidates, GOAL, 1)
    best = int(prediction.best[0])
    assert prediction.costs[best] == prediction.costs.min() and prediction.videos.shape == (1, HORIZON, 64, 64, 3)
    for action, predicted in zip(candidates[best], prediction.videos[0], strict=True):
        seen = model_image(robot.step(action).observation.image, robot.spec.camera.crop)
        np.testing.assert_array_equal(seen, predicted)
    assert prediction.costs[best] == pytest.approx(np.mean(((seen - 100.0) / 255) ** 2), rel=1e-4)


def test_equal_requests_have_equal_costs(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    first, second = (oracle.predict(_context(robot), _candidates(4), GOAL, 1).costs for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_after_a_reset_it_uses_the_new_scene(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    oracle.predict(_context(robot), _candidates(2), GOAL, 1)
    robot.reset(np.random.default_rng(5))
    candidates = _candidates(2)[:1]
    predicted = oracle.predict(_context(robot), candidates, GOAL, 1).videos[0, 0]
    seen = model_image(robot.step(candidates[0, 0]).observation.image, robot.spec.camera.crop)
    np.testing.assert_array_equal(seen, predicted)


def test_a_candidate_with_a_fault_is_never_best(
    robot: SimulatedFranka, oracle: OraclePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = SimulatedFranka.advance

    def faulting(self: SimulatedFranka, action: NDArray[np.float32]) -> object:
        if action[3] > 0:
            raise RobotFault("reflex")
        return advance(self, action)

    monkeypatch.setattr(SimulatedFranka, "advance", faulting)
    candidates = _candidates(4)
    candidates[1:3, 1, 3] = 1.0
    prediction = oracle.predict(_context(robot), candidates, GOAL, 4)
    assert np.isinf(prediction.costs[1:3]).all() and np.isfinite(prediction.costs[[0, 3]]).all()
    assert sorted(prediction.best.tolist()) == [0, 3] and prediction.videos.shape == (2, HORIZON, 64, 64, 3)


def test_an_invalid_request_is_refused(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    with pytest.raises(MismatchError, match="goal"):
        oracle.predict(_context(robot), _candidates(2), np.zeros((32, 32, 3), np.uint8), 1)


def test_closing_twice_is_harmless(robot: SimulatedFranka, oracle: OraclePredictor) -> None:
    oracle.predict(_context(robot), _candidates(2), GOAL, 1)
    oracle.close()
    oracle.close()
