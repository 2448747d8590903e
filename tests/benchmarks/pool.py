"""Candidates of one scene, all executed in simulation: the possible choices of a first plan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghvae_core.predictor import Context
from planner.config import TaskRunConfig, load_run
from planner.plan import PlanningState
from planner.proposals import Proposals
from robot_bridge.camera import model_image
from robot_bridge.factory import open_robot
from robot_bridge.robot import RobotError, RobotFault
from robot_bridge.simulation.franka import SimulatedFranka
from robot_bridge.simulation.scripted_policy import make_goal

_OPENED = -1.0  # gripper command before the first plan
PROPOSALS: Mapping[str, tuple[str, ...]] = {  # source of the candidates: overrides of the configuration
    "directed": (),
    "policy": ("difference.fraction=0",),
    "blind": ("difference.fraction=0", "policy.noise_fraction=1"),
}
_RESULTS = ("strict", "goal", "picked")  # of an executed candidate


def context(start: NDArray[np.uint8]) -> Context:
    """Return the context before the first action: the start frame (64, 64, 3), twice."""
    return Context(np.stack([start, start]), np.array([[0, 0, 0, _OPENED]], np.float32))


class Pool(NamedTuple):
    """Candidates of one source, and the results of their execution."""

    actions: NDArray[np.float32]  # (N, T, 4) as applied
    ends: NDArray[np.uint8]  # (N, 64, 64, 3) RGB, the last frame; black after a fault
    results: NDArray[np.bool_]  # (N, 3) success with the tool, objects at the goal, tool lifted
    stopped: NDArray[np.bool_]  # (N,)


@dataclass(frozen=True)
class Scene:
    """One scene and its goal, before the arm has moved."""

    robot: SimulatedFranka
    config: TaskRunConfig
    state: PlanningState
    seed: int

    @classmethod
    def open(cls, task: str, seed: int, overrides: tuple[str, ...] = ()) -> Scene:
        """Set up the scene of a trial with this seed.

        Raises:
            RobotError: The scripted policy cannot create a goal in it.
        """
        config = load_run(f"tasks/{task}.yaml", overrides)
        robot = open_robot(config.robot)
        assert isinstance(robot, SimulatedFranka)
        scene_rng, _ = np.random.default_rng(seed).spawn(2)
        observation = robot.reset(scene_rng)
        crop = config.robot.camera.crop
        goal, now = model_image(make_goal(robot), crop), model_image(observation.image, crop)
        nothing = np.empty((0, 4), np.float32)
        return cls(robot, config, PlanningState(observation, context(now), goal, _OPENED, nothing), seed)

    def plan_rng(self, draw: int = 0) -> np.random.Generator:
        """Return the generator of a plan's candidates; draw 0 is that of a trial with this seed."""
        return np.random.default_rng(self.seed).spawn(2 + draw)[1 + draw]

    def proposals(self) -> Proposals:
        """Return the proposals of the configuration."""
        return Proposals(self.config.policy, self.config.difference, self.robot.spec)

    def execute(self, candidates: NDArray[np.float32]) -> Pool:
        """Execute every candidate (N, T, 4) from the start."""
        start, twin = self.robot.snapshot(), self.robot.twin()
        shape = self.state.goal.shape
        ends, results, stopped = np.zeros((len(candidates), *shape), np.uint8), [], []
        for end, actions in zip(ends, candidates, strict=True):
            twin.restore(start)
            try:
                for action in actions:
                    twin.advance(action)
                end[:] = model_image(twin.render(), self.robot.spec.camera.crop)
                stopped.append(False)
            except RobotFault:
                stopped.append(True)
            outcome = twin.task_success()
            achieved = outcome is not None and not stopped[-1]
            results.append([achieved and bool(getattr(outcome, name)) for name in _RESULTS])
            if stopped[-1]:  # a fault leaves a state that cannot be restored
                twin.close()
                twin = self.robot.twin()
        twin.close()
        return Pool(candidates, ends, np.array(results), np.array(stopped))


class SceneJob(NamedTuple):
    """One scene whose candidates are executed."""

    task: str
    seed: int
    sizes: Mapping[str, int]  # number of candidates by source
    out: Path

    @property
    def file(self) -> Path:
        """File of the results."""
        sizes = "_".join(str(size) for size in self.sizes.values())
        return self.out / f"{self.task}_{self.seed}_{sizes}.npz"


def fill(job: SceneJob) -> str:
    """Execute candidates of all sources and store the results; return the reason if the scene has no goal."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for kind, overrides in PROPOSALS.items():
        try:
            scene = Scene.open(job.task, job.seed, overrides)
        except RobotError as error:
            return str(error)
        with closing(scene.robot):
            n, horizon = job.sizes[kind], scene.config.planner.horizon
            drawn = scene.proposals().draw(scene.state, n, horizon, scene.plan_rng())
            pool = scene.execute(drawn.actions)
        arrays |= {f"{kind}_{name}": array for name, array in pool._asdict().items()}
        arrays |= {"goal": scene.state.goal, "start": scene.state.context.frames[-1]}
    unfinished = job.file.with_suffix(".part.npz")
    np.savez_compressed(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(job.file)
    return ""


@dataclass(frozen=True)
class ExecutedScene:
    """The stored results of one scene."""

    task: str
    seed: int
    file: Path
    start: NDArray[np.uint8]  # (64, 64, 3)
    goal: NDArray[np.uint8]  # (64, 64, 3)
    pools: Mapping[str, Pool]

    @classmethod
    def read(cls, job: SceneJob) -> ExecutedScene:
        """Read the file of `fill`."""
        with np.load(job.file, allow_pickle=False) as arrays:
            pools = {kind: Pool(*(arrays[f"{kind}_{name}"] for name in Pool._fields)) for kind in PROPOSALS}
            return cls(job.task, job.seed, job.file, arrays["start"], arrays["goal"], pools)
