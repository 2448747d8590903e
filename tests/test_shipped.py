"""What the package ships fits together: the demo's goal picture, the model, and the simulated robot."""

from pathlib import Path

from configs.loader import FOLDER, Config, load
from ghvae_core.checkpoint import load as load_checkpoint
from ghvae_core.in_process import InProcessPredictor
from ghvae_core.predictor import GoalCost
from ghvae_core.run_server import SHIPPED
from planner.configuration import load_run
from planner.goal import load_goal
from planner.handshake import check_fit
from robot_bridge.robot import RobotSpec
from robot_bridge.simulation.franka import SimulationConfig

ROOT = Path(__file__).resolve().parents[1]


class _Section(Config):
    robot: SimulationConfig


def test_the_demo_names_a_goal_that_is_shipped() -> None:
    robot = load(_Section, {"robot": "robots/simulation.yaml"}).robot
    goal = FOLDER / "goals" / "pick_wipe.png"
    assert f"--goal {goal.relative_to(ROOT)}" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert load_goal(goal, robot.camera).std() > 10


def test_the_shipped_model_is_whole_and_fits_robot_and_planner() -> None:
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.info.modules_trained == len(checkpoint.info.model.modules) == 6
    config = load_run("tasks/pick_wipe.yaml", [])
    spec = RobotSpec("franka", config.robot.limits, config.robot.camera, config.robot.step_s)
    check_fit(spec, InProcessPredictor(checkpoint, GoalCost()).spec, config.planner)


def test_the_shipped_model_passed_its_health_check() -> None:
    facts = load_checkpoint(SHIPPED).info.provenance
    assert float(facts["rollout"]) < 0.5 * float(facts["rollout_shuffled"])
    assert float(facts["rollout"]) < 0.5 * float(facts["copy_last"])
