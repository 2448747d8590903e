"""Who imagines: the predictor that was asked for on the command line, opened and closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghvae_core.predictor import Networks, Predictor, PredictorSpec
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.launch import private_server
from planner.baseline import CopyPredictor, RandomPredictor
from planner.config import RunConfig
from planner.plan import PlannerError
from planner.solver import SolverConfig
from planner.trials.variant import MODELS
from robot_bridge.factory import RobotName
from robot_bridge.robot import Robot

if TYPE_CHECKING:
    from ghvae_core.goal_cost import Weigher
    from planner.oracle import OraclePredictor


@dataclass(frozen=True)
class Choice:
    """What was asked for on the command line."""

    task: str
    robot: RobotName
    predictor: str
    server: str | None
    checkpoint: Path
    seed: int
    goal: Path | None
    out: Path | None

    @property
    def task_name(self) -> str:
        """The task without folder and suffix."""
        return Path(self.task).stem

    @property
    def task_file(self) -> str:
        """The YAML file of the task, as `configs.loader` finds it."""
        return self.task if self.task.endswith(".yaml") else f"tasks/{self.task}.yaml"


def check_checkpoint(choice: Choice) -> None:
    """Refuse a checkpoint that is needed and not there.

    Raises:
        PlannerError: It is no folder.
    """
    if choice.predictor in MODELS and not choice.server and not choice.checkpoint.is_dir():
        raise PlannerError(f"{choice.checkpoint}: expected the folder of a checkpoint; name another with --checkpoint")


@contextmanager
def open_predictor(choice: Choice, config: RunConfig, robot: Robot) -> Iterator[Predictor]:
    """Provide the predictor that was asked for, and close it.

    Raises:
        PlannerError: It needs a simulated robot.
    """
    cost = config.planner.cost
    with ExitStack() as stack:
        if choice.predictor == "oracle":
            yield stack.enter_context(closing(_oracle(choice, config, robot)))
        elif choice.predictor == "copy":
            yield CopyPredictor(robot.spec, cost)
        elif choice.predictor == "random":
            yield RandomPredictor(robot.spec, cost, np.random.default_rng(choice.seed))
        elif choice.predictor == "in_process":
            from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which only this way needs
            from ghvae_core.serving.config import InProcessConfig  # noqa: PLC0415
            from ghvae_core.serving.local import InProcessPredictor  # noqa: PLC0415

            settings = InProcessConfig(**networks(config).model_dump())
            here = InProcessPredictor(load(choice.checkpoint), cost, settings)
            yield stack.enter_context(closing(here))
        else:
            address = choice.server
            if not address:
                address = stack.enter_context(private_server(choice.checkpoint, networks=networks(config))).address
            client = stack.enter_context(closing(connect(address, config.planner)))
            _check_held(config.predictor, client.spec, address)
            yield client


def connect(address: str, config: SolverConfig) -> ServerClient:
    """Return a client of the server at an address; keys are for those at tcp://, a private one needs none.

    Raises:
        PredictorError: As `ServerClient`.
    """
    keys = Path(config.keys) if config.keys and address.startswith("tcp:") else None
    return ServerClient(address, config.cost, config.predict_timeout_s, keys)


def _oracle(choice: Choice, config: RunConfig, robot: Robot) -> OraclePredictor:
    from planner.oracle import OraclePredictor  # noqa: PLC0415 - MuJoCo, which only this way needs
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415

    if not isinstance(robot, SimulatedFranka):
        raise PlannerError(
            f"--predictor oracle: expected --robot simulation, got {choice.robot}; take another predictor"
        )
    return OraclePredictor(robot, config.planner.cost, weigher=_weigher(choice, config))


def networks(config: RunConfig) -> Networks:
    """Return what the predictor must hold: what was told, and what the cost needs and can be had without being told."""
    needs = config.predictor.lpips or config.planner.cost.lpips > 0
    return config.predictor.model_copy(update={"lpips": needs})


def _check_held(wanted: Networks, spec: PredictorSpec, address: str) -> None:
    """Refuse a server without the networks that were asked for, which it alone can load.

    Raises:
        PlannerError: It lacks one, or has another one.
        CheckpointError: The folder that was named holds none.
    """
    asked = {"predictor.lpips": ("lpips", wanted.lpips), "predictor.distance": ("steps", wanted.distance is not None)}
    for key, (term, is_wanted) in asked.items():
        if is_wanted and term not in spec.terms:
            raise PlannerError(f"{key}: {address} weighs no {term}; start that server with it, or leave --server out")
    if wanted.distance is None:
        return
    from ghvae_core.models.checkpoint_files import read_manifest  # noqa: PLC0415 - torch, which only this way needs

    if read_manifest(Path(wanted.distance))[2] != spec.distance:
        raise PlannerError(
            f"predictor.distance: {address} holds another network than {wanted.distance}; start that server with it, "
            "or leave --server out"
        )


def _weigher(choice: Choice, config: RunConfig) -> Weigher | None:
    """Return what weighs more than pixels, by the networks of the checkpoint; None where pixels are all that counts."""
    if config.planner.cost.terms() == ("pixel",):
        return None
    from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which pixels do without
    from ghvae_core.serving.local import weigher  # noqa: PLC0415

    return weigher(load(choice.checkpoint), networks(config))
