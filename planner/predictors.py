"""Who imagines: the predictor that was asked for on the command line, opened and closed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ghvae_core.goal_cost import TERMS, CostNetworks, GoalCost, load_evaluator, pixel_cost
from ghvae_core.predictor import Context, Prediction, PredictionRequest, Predictor, PredictorSpec
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.launch import private_server
from planner.config import TaskRunConfig
from planner.plan import PlannerError
from planner.solver import SolverConfig
from planner.trials.variant import MODELS
from robot_bridge.camera import MODEL_IMAGE_PX
from robot_bridge.factory import RobotName
from robot_bridge.robot import ACTION_DIM, Robot, RobotSpec

if TYPE_CHECKING:
    from ghvae_core.goal_cost import GoalCostEvaluator
    from planner.oracle import OraclePredictor


_MOST = 100_000  # candidates and actions of one request; a bound that nothing reaches


class CopyPredictor:
    """Imagines that the last frame stays, whatever is done: all candidates cost the same, and the arm holds still."""

    name = "copy"

    def __init__(self, robot: RobotSpec, cost: GoalCost) -> None:
        self._cost = cost
        self.spec = PredictorSpec(
            name=self.name,
            image_px=MODEL_IMAGE_PX,
            action_dim=ACTION_DIM,
            step_limit_m=robot.limits.step_limit_m,
            step_s=robot.step_s,
            n_context=1,
            max_horizon=_MOST,
            max_candidates=_MOST,
            checkpoint="",
            terms=TERMS,
        )

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Repeat the last frame for every candidate, and weigh that."""
        PredictionRequest(context, candidates, goal, n_videos, self._cost).check(self.spec)
        started_s = time.monotonic()
        n, horizon = candidates.shape[:2]
        last, aim = (image / np.float32(255) for image in (context.frames[-1], goal))
        (cost,) = pixel_cost(last[None, None], aim, GoalCost(brightness=self._cost.brightness))
        costs = self._costs(float(cost), n)
        best = np.argsort(costs, kind="stable")[:n_videos]
        videos = np.broadcast_to(context.frames[-1], (len(best), horizon, *goal.shape)).copy()
        return Prediction(costs, best, videos, {"copy": time.monotonic() - started_s})

    def close(self) -> None:
        """Do nothing; there is nothing to let go of."""

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        return np.full(n, cost, np.float32)


class RandomPredictor(CopyPredictor):
    """Imagines as little, and prefers at random: what is executed is a proposal like any other."""

    name = "random"

    def __init__(self, robot: RobotSpec, cost: GoalCost, rng: np.random.Generator) -> None:
        super().__init__(robot, cost)
        self._rng = rng

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        return np.asarray(cost * self._rng.random(n), np.float32)


@dataclass(frozen=True)
class EpisodeRequest:
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


def check_checkpoint(request: EpisodeRequest) -> None:
    """Refuse a checkpoint that is needed and not there.

    Raises:
        PlannerError: It is no folder.
    """
    if request.predictor in MODELS and not request.server and not request.checkpoint.is_dir():
        raise PlannerError(f"{request.checkpoint}: expected the folder of a checkpoint; name another with --checkpoint")


@contextmanager
def open_predictor(request: EpisodeRequest, config: TaskRunConfig, robot: Robot) -> Iterator[Predictor]:
    """Provide the predictor that was asked for, and close it.

    Raises:
        PlannerError: It needs a simulated robot.
    """
    cost = config.planner.cost
    with ExitStack() as stack:
        if request.predictor == "oracle":
            yield stack.enter_context(closing(_oracle(request, config, robot)))
        elif request.predictor == "copy":
            yield CopyPredictor(robot.spec, cost)
        elif request.predictor == "random":
            yield RandomPredictor(robot.spec, cost, np.random.default_rng(request.seed))
        elif request.predictor == "in_process":
            from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which only this way needs
            from ghvae_core.serving.config import InProcessConfig  # noqa: PLC0415
            from ghvae_core.serving.local import InProcessPredictor  # noqa: PLC0415

            settings = InProcessConfig(**networks(config).model_dump())
            here = InProcessPredictor(load(request.checkpoint), cost, settings)
            yield stack.enter_context(closing(here))
        else:
            address = request.server
            if not address:
                address = stack.enter_context(private_server(request.checkpoint, networks=networks(config))).address
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


def _oracle(request: EpisodeRequest, config: TaskRunConfig, robot: Robot) -> OraclePredictor:
    from planner.oracle import OraclePredictor  # noqa: PLC0415 - MuJoCo, which only this way needs
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415

    if not isinstance(robot, SimulatedFranka):
        raise PlannerError(
            f"--predictor oracle: expected --robot simulation, got {request.robot}; take another predictor"
        )
    return OraclePredictor(robot, config.planner.cost, evaluator=_evaluator(request, config))


def networks(config: TaskRunConfig) -> CostNetworks:
    """Return what the predictor must hold: what was told, and what the cost needs and can be had without being told."""
    return config.predictor.completed_for(config.planner.cost)


def _check_held(wanted: CostNetworks, spec: PredictorSpec, address: str) -> None:
    """Refuse a server without the networks that were asked for, which it alone can load.

    Raises:
        PlannerError: It lacks one, or has another one.
        CheckpointError: The folder that was named holds none.
    """
    for field, term in wanted.missing_from(spec.terms):
        raise PlannerError(
            f"predictor.{field}: the server at {address} does not have the cost term {term}; start that server with "
            "it, or leave --server out"
        )
    if wanted.distance is None:
        return
    from ghvae_core.models.checkpoint_files import read_manifest  # noqa: PLC0415 - torch, which only this way needs

    if read_manifest(Path(wanted.distance))[2] != spec.distance:
        raise PlannerError(
            f"predictor.distance: {address} holds another network than {wanted.distance}; start that server with it, "
            "or leave --server out"
        )


def _evaluator(request: EpisodeRequest, config: TaskRunConfig) -> GoalCostEvaluator | None:
    """Return what weighs more than pixels, by the networks of the checkpoint; None where pixels are all that counts."""
    if config.planner.cost.is_pixel_only:
        return None
    from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which pixels do without

    return load_evaluator(load(request.checkpoint), networks(config))
