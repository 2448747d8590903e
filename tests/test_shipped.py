"""The shipped goal image, model and simulated robot are compatible."""

from pathlib import Path

import torch

from configs.loader import Config, load
from ghvae_core.goal_cost import GoalCost
from ghvae_core.models.checkpoint import load as load_checkpoint
from ghvae_core.run_server import SHIPPED
from ghvae_core.serving.local import InProcessPredictor
from planner.compatibility import check_compatibility
from planner.config import load_run
from planner.goal import goal_file, load_goal
from robot_bridge.robot import RobotSpec
from robot_bridge.simulation.config import SimulationConfig

ROOT = Path(__file__).resolve().parents[1]


class _Section(Config):
    robot: SimulationConfig


def test_the_demo_uses_a_shipped_goal() -> None:
    robot = load(_Section, {"robot": "robots/simulation.yaml"}).robot
    assert "--goal demo:pick_wipe " in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert load_goal(goal_file(Path("demo:pick_wipe")), robot.camera).std() > 10


def test_the_shipped_model_is_complete_and_compatible_with_robot_and_planner() -> None:
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.info.modules_trained == checkpoint.info.model.n_modules == 6
    config = load_run("tasks/pick_wipe.yaml", [])
    spec = RobotSpec("franka", config.robot.limits, config.robot.camera, config.robot.step_s)
    check_compatibility(spec, InProcessPredictor(checkpoint, GoalCost()).spec, config.planner)


def test_the_predictions_of_the_shipped_model_are_unchanged() -> None:
    model = load_checkpoint(SHIPPED).model
    ramp = torch.linspace(0, 1, 64)
    across, down = ramp.expand(64, 64), ramp[:, None].expand(64, 64)
    frame = torch.stack([down, across, down * across])
    actions = torch.linspace(-0.2, 0.2, 2 * 11 * 4).view(2, 11, 4)
    predicted = model.rollout(torch.stack([frame, frame.flip(-1)])[None], actions)
    centre = torch.tensor([[0.29366, 0.35934, 0.30366], [0.37848, 0.37471, 0.35041]])
    torch.testing.assert_close(predicted[:, -1, :, 32, 32], centre, atol=1e-3, rtol=0)
    torch.testing.assert_close(predicted.mean((1, 2, 3, 4)), torch.tensor([0.38218, 0.51967]), atol=1e-3, rtol=0)


def test_the_shipped_model_passed_its_health_check() -> None:
    facts = load_checkpoint(SHIPPED).info.provenance
    assert float(facts["rollout"]) < 0.5 * float(facts["rollout_shuffled"])
    assert float(facts["rollout"]) < 0.5 * float(facts["copy_last"])
