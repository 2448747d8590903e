"""Predictor backends: opens the one that the command line selects, and defines the two baselines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.progress import announce
from ghvae_core.goal_cost import TERMS, CostNetworks, GoalCost, load_evaluator, pixel_cost
from ghvae_core.predictor import Context, Prediction, PredictionRequest, Predictor, PredictorSpec
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.launch import private_server
from planner.config import TaskRunConfig
from planner.options import MODEL_PREDICTORS, PredictorChoice
from planner.plan import PlannerError
from planner.solver import SolverConfig
from robot_bridge.camera import MODEL_IMAGE_PX
from robot_bridge.robot import ACTION_DIM, RobotSpec

if TYPE_CHECKING:
    from ghvae_core.goal_cost import GoalCostEvaluator
    from ghvae_core.serving.local import InProcessPredictor
    from planner.oracle import OraclePredictor

UNLIMITED = 100_000  # candidates and actions of one request, for predictors without a limit of their own


class Specified(Protocol):
    """What predictors need of a robot, opened or not."""

    @property
    def spec(self) -> RobotSpec:
        """The description of the robot."""
        ...


@contextmanager
def open_predictor(choice: PredictorChoice, config: TaskRunConfig, robot: Specified, seed: int) -> Iterator[Predictor]:
    """Open the selected predictor, and close it at the end of the block.

    Args:
        choice: The backend.
        config: Configuration of the run.
        robot: The robot, or its description alone; the oracle rolls candidates out on copies of an opened simulation.
        seed: Seed of the random baseline.

    Raises:
        PlannerError: The oracle was selected without a simulated robot, or the server lacks a requested network.
        PredictorError: The server does not reply.
        CheckpointError: The checkpoint is damaged.
    """
    cost = config.planner.cost
    with ExitStack() as stack:
        if choice.name == "oracle":
            yield stack.enter_context(closing(_oracle(choice, config, robot)))
        elif choice.name == "copy":
            yield CopyPredictor(robot.spec, cost)
        elif choice.name == "random":
            yield RandomPredictor(robot.spec, cost, np.random.default_rng(seed))
        elif choice.name == "in_process":
            yield stack.enter_context(closing(_local(choice, config)))
        else:
            address = choice.server
            if not address:
                networks = required_networks(config)
                address = stack.enter_context(private_server(choice.checkpoint, networks=networks)).address
            client = stack.enter_context(closing(connect(address, config.planner)))
            _check_networks(config.predictor, client.spec, address)
            yield client


def check_checkpoint(choice: PredictorChoice) -> None:
    """Refuse a missing checkpoint where the predictor needs one.

    Raises:
        PlannerError: The checkpoint is not a folder.
    """
    if choice.name in MODEL_PREDICTORS and not choice.server and not choice.checkpoint.is_dir():
        raise PlannerError(f"{choice.checkpoint}: expected a checkpoint folder; choose another with --checkpoint")


def connect(address: str, config: SolverConfig) -> ServerClient:
    """Return a client of the server at an address. Keys are used for tcp:// addresses only.

    Raises:
        PredictorError: As `ServerClient`.
    """
    keys = Path(config.keys) if config.keys and address.startswith("tcp:") else None
    timeout_s, load_timeout_s = config.predict_timeout_s, config.load_timeout_s
    return ServerClient(address, config.cost, timeout_s, keys, load_timeout_s=load_timeout_s)


def required_networks(config: TaskRunConfig) -> CostNetworks:
    """Return the networks that the predictor must load: the configured ones, and LPIPS where the cost uses it."""
    return config.predictor.completed_for(config.planner.cost)


class CopyPredictor:
    """Baseline: predicts that the last frame never changes. All candidates cost the same, so the arm holds still."""

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
            max_horizon=UNLIMITED,
            max_candidates=UNLIMITED,
            checkpoint="",
            terms=TERMS,
        )

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Repeat the last frame for every candidate and return its goal cost; see `Predictor.predict`."""
        PredictionRequest(context, candidates, goal, n_videos, self._cost).check(self.spec)
        started_s = time.monotonic()
        n, horizon = candidates.shape[:2]
        last, target = (image / np.float32(255) for image in (context.frames[-1], goal))
        (cost,) = pixel_cost(last[None, None], target, GoalCost(brightness=self._cost.brightness))
        costs = self._costs(float(cost), n)
        best = np.argsort(costs, kind="stable")[:n_videos]
        videos = np.broadcast_to(context.frames[-1], (len(best), horizon, *goal.shape)).copy()
        return Prediction(costs, best, videos, {"copy": time.monotonic() - started_s})

    def close(self) -> None:
        """Do nothing: this predictor holds no resources."""

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        """Return the costs (n,) of all candidates, from the cost of the last frame."""
        return np.full(n, cost, np.float32)


class RandomPredictor(CopyPredictor):
    """Baseline: as `CopyPredictor`, with random costs, so that an arbitrary proposal is executed."""

    name = "random"

    def __init__(self, robot: RobotSpec, cost: GoalCost, rng: np.random.Generator) -> None:
        super().__init__(robot, cost)
        self._rng = rng

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        return np.asarray(cost * self._rng.random(n), np.float32)


def _local(choice: PredictorChoice, config: TaskRunConfig) -> InProcessPredictor:
    """Return the model of the checkpoint as a predictor in this process."""
    with announce(f"loading the model {choice.checkpoint}"):
        from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which only this backend needs
        from ghvae_core.serving.config import InProcessConfig  # noqa: PLC0415
        from ghvae_core.serving.local import InProcessPredictor  # noqa: PLC0415

        settings = InProcessConfig(**required_networks(config).model_dump())
        return InProcessPredictor(load(choice.checkpoint), config.planner.cost, settings)


def _oracle(choice: PredictorChoice, config: TaskRunConfig, robot: Specified) -> OraclePredictor:
    from planner.oracle import OraclePredictor  # noqa: PLC0415 - MuJoCo, which only this backend needs
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415

    if not isinstance(robot, SimulatedFranka):
        raise PlannerError(
            f"--predictor oracle: expected --robot simulation, got {config.robot.kind}; choose another predictor"
        )
    return OraclePredictor(robot, config.planner.cost, evaluator=_evaluator(choice, config))


def _evaluator(choice: PredictorChoice, config: TaskRunConfig) -> GoalCostEvaluator | None:
    """Return the evaluator of a goal cost that uses networks; None for a cost of pixels alone."""
    if config.planner.cost.is_pixel_only:
        return None
    from ghvae_core.models.checkpoint import load  # noqa: PLC0415 - torch, which pixels do without

    return load_evaluator(load(choice.checkpoint), required_networks(config))


def _check_networks(requested: CostNetworks, spec: PredictorSpec, address: str) -> None:
    """Refuse a server that lacks a requested network: only its own command line can load one.

    Raises:
        PlannerError: The server lacks a network, or has loaded a different one.
        CheckpointError: The folder of the requested network holds none.
    """
    for field, term in requested.missing_from(spec.terms):
        raise PlannerError(
            f"predictor.{field}: the server at {address} does not have the cost term {term}; start that server with "
            "it, or omit --server"
        )
    if requested.distance is None:
        return
    from ghvae_core.models.checkpoint_files import read_manifest  # noqa: PLC0415 - torch, which only this check needs

    if read_manifest(Path(requested.distance))[2] != spec.distance:
        raise PlannerError(
            f"predictor.distance: the server at {address} has loaded a network other than {requested.distance}; "
            "start the server with it, or omit --server"
        )
