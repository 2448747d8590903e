"""Files, classes and functions of each subject of the project."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = {  # subject: the file, and a class or function in it
    "camera crop": ("robot_bridge/camera.py", "crop_and_resize"),
    "robot interface": ("robot_bridge/robot.py", "Robot"),
    "workspace limits": ("robot_bridge/safety.py", "limit_action"),
    "inverse kinematics": ("robot_bridge/kinematics.py", "Kinematics"),
    "contact detection": ("robot_bridge/motion.py", "ContactGuard"),
    "joint command limits": ("robot_bridge/franka/command_limits.py", "CommandLimits"),
    "dead-man timer": ("robot_bridge/ros/joint_commands.py", "JointCommandPublisher"),
    "reflex recovery": ("robot_bridge/franka/recovery.py", "ErrorRecovery"),
    "ROS driver connection": ("robot_bridge/ros/driver.py", "Driver"),
    "simulated arm": ("robot_bridge/simulation/franka.py", "SimulatedFranka"),
    "success test": ("robot_bridge/simulation/success.py", "SuccessTest"),
    "scripted policy": ("robot_bridge/simulation/scripted_policy.py", "perform"),
    "fault injection": ("robot_bridge/simulation/fault_injection.py", "FaultInjectingFranka"),
    "episode": ("data_collection/episode.py", "Episode"),
    "episode writer": ("data_collection/formats/robonet.py", "write_episode"),
    "RoboNet reader": ("data_collection/formats/robonet.py", "read_episode"),
    "atomic file writes": ("data_collection/atomic_io.py", "write_file"),
    "random policy": ("data_collection/policies/random_policy.py", "RandomPolicy"),
    "motion primitives": ("data_collection/policies/primitives.py", "Primitives"),
    "object detection": ("data_collection/policies/object_detection.py", "detect_objects"),
    "table reset": ("data_collection/collection/table_reset.py", "TableReset"),
    "episode filter": ("data_collection/collection/episode_filter.py", "EpisodeFilterConfig"),
    "collection supervisor": ("data_collection/collection/supervisor.py", "Supervisor"),
    "LeRobot export": ("data_collection/export/lerobot.py", "export_lerobot"),
    "GHVAE model": ("ghvae_core/models/ghvae.py", "Ghvae"),
    "LSTM": ("ghvae_core/models/layers.py", "ConvLstm"),
    "KL objective": ("ghvae_core/training/objective.py", "kl_divergence"),
    "training stages": ("ghvae_core/training/stages.py", "TrainingStage"),
    "training loop": ("ghvae_core/training/trainer.py", "Trainer"),
    "data augmentation": ("ghvae_core/data/augmentation.py", "augment"),
    "checkpoint": ("ghvae_core/models/checkpoint.py", "Checkpoint"),
    "FVD": ("ghvae_core/evaluation/fvd.py", "frechet_distance"),
    "goal cost": ("ghvae_core/goal_cost.py", "GoalCostEvaluator"),
    "wire format": ("ghvae_core/serving/wire.py", "pack"),
    "request queue": ("ghvae_core/serving/server.py", "RequestQueue"),
    "worker pool": ("ghvae_core/serving/worker_pool.py", "WorkerPool"),
    "server authentication": ("ghvae_core/serving/auth.py", "Authenticator"),
    "server client": ("ghvae_core/serving/client.py", "ServerClient"),
    "server metrics": ("ghvae_core/serving/metrics.py", "ServerMetrics"),
    "CEM solver": ("planner/refinement.py", "Refinement"),
    "random shooting": ("planner/solver.py", "Solver"),
    "candidate proposals": ("planner/proposals.py", "Proposals"),
    "closed loop of a task": ("planner/task.py", "TaskController"),
    "goal image capture": ("planner/goal.py", "capture_goal"),
    "warnings on goal images": ("planner/goal_checks.py", "scene_warnings"),
    "verdict on a run": ("planner/verdict.py", "record_verdict"),
    "trials on a real robot": ("planner/trials/attended.py", "run_attended"),
    "oracle predictor": ("planner/oracle.py", "OraclePredictor"),
    "success rate": ("planner/trials/statistics.py", "SuccessRate"),
}


@pytest.mark.parametrize("subject", PLACES)
def test_subjects_are_in_the_files_of_their_names(subject: str) -> None:
    file, name = PLACES[subject]
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert name in defined
