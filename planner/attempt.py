"""One attempt at a task: the parts are built here from the configuration, handed to each other, and let go of."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.loader import save
from data_collection.policy import RandomPolicy
from data_collection.robonet import write_episode
from ghvae_core.predictor import Predictor
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.private import private_server
from planner.configuration import RunConfig, load_run
from planner.goal import load_goal
from planner.history import History
from planner.oracle import OraclePredictor
from planner.plan import PlannerError
from planner.proposals import Proposals
from planner.report import write_report
from planner.result import Setting, summarize
from planner.shooting import RandomShooting
from planner.task import Task
from robot_bridge.camera import model_image
from robot_bridge.robot import Observation, RobotError, RobotSpec
from robot_bridge.simulation.franka import SimulatedFranka
from robot_bridge.simulation.script import make_goal

_SCENE_DRAWS = 10  # scenes tried until the scripted arm can make a goal picture in one; ours


@dataclass(frozen=True)
class Choice:
    """What was asked for on the command line."""

    task: str
    robot: str
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


def attempt(choice: Choice, overrides: Sequence[str]) -> None:
    """Do a task once on the simulated robot, print the result, and leave its folder.

    Raises:
        ReportedError: The input was refused and nothing was written, or a part failed on the way, after which the arm
            was held and the folder written.
    """
    config = load_run(choice.task if choice.task.endswith(".yaml") else f"tasks/{choice.task}.yaml", overrides)
    goal = load_goal(choice.goal, config.robot.camera) if choice.goal else None
    if choice.predictor != "oracle" and not choice.server and not choice.checkpoint.is_dir():
        raise PlannerError(f"{choice.checkpoint}: expected the folder of a checkpoint; name another with --checkpoint")
    folder = _folder(choice)
    with ExitStack() as stack:
        robot = stack.enter_context(closing(SimulatedFranka(config.robot)))
        predictor = stack.enter_context(_predictor(choice, config, robot))
        proposals = Proposals(RandomPolicy(config.policy, robot.spec), robot.spec.limits)
        task = Task(config.task, robot, predictor, RandomShooting(config.planner, proposals))
        scene_rng, plan_rng = np.random.default_rng(choice.seed).spawn(2)
        observation, goal = _set_scene(robot, goal, scene_rng)
        task.begin(observation, goal, plan_rng)
        folder.mkdir(parents=True, exist_ok=True)
        save(config, folder / "config.yaml")
        setting = Setting(choice.task_name, choice.robot, predictor.spec.name, predictor.spec.checkpoint, choice.seed)
        try:
            with task:
                _drive(task, robot, config.task.n_steps)
        finally:
            _leave(folder, task.history, setting, robot.spec)


def _folder(choice: Choice) -> Path:
    """Return where to write; a folder in which something stands already is refused."""
    folder = choice.out or Path("runs") / f"{choice.task_name}_{time.strftime('%Y%m%d_%H%M%S')}_seed{choice.seed}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlannerError(f"{folder}: expected a new or empty folder for the report; choose another with --out")
    return folder


@contextmanager
def _predictor(choice: Choice, config: RunConfig, robot: SimulatedFranka) -> Iterator[Predictor]:
    """Provide the predictor that was asked for, and close it."""
    cost = config.planner.cost
    with ExitStack() as stack:
        if choice.predictor == "oracle":
            yield stack.enter_context(closing(OraclePredictor(robot, cost)))
        elif choice.predictor == "in_process":
            from ghvae_core.checkpoint import load  # noqa: PLC0415 - torch, which only this way needs
            from ghvae_core.in_process import InProcessPredictor  # noqa: PLC0415

            yield stack.enter_context(closing(InProcessPredictor(load(choice.checkpoint), cost)))
        else:
            address = choice.server or stack.enter_context(private_server(choice.checkpoint)).address
            yield stack.enter_context(closing(ServerClient(address, cost, config.planner.predict_timeout_s)))


def _set_scene(
    robot: SimulatedFranka, goal: NDArray[np.uint8] | None, rng: np.random.Generator
) -> tuple[Observation, NDArray[np.uint8]]:
    """Reset the robot; where no goal was given, into a scene in which the scripted arm can make one."""
    if goal is not None:
        return robot.reset(rng), goal
    for _ in range(_SCENE_DRAWS):
        observation = robot.reset(rng)
        try:
            return observation, model_image(make_goal(robot), robot.spec.camera.crop)
        except RobotError as error:
            print(f"no goal picture in this scene ({error}); trying another", file=sys.stderr)
    raise RobotError(
        f"expected a scene in which the scripted arm succeeds, got none of {_SCENE_DRAWS}; try another seed"
    )


def _drive(task: Task, robot: SimulatedFranka, n_steps: int) -> None:
    """Advance until the run is over, showing on standard error how it goes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[distance]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("acting", total=n_steps, distance="")
        n_plans = 0
        while not task.ended:
            task.advance()
            outcome = robot.outcome()
            if outcome:
                task.judge(outcome)
            history = task.history
            if len(history.plans) > n_plans:
                n_plans = len(history.plans)
                progress.console.print(_describe(history), highlight=False)
            progress.update(bar, advance=1, distance=f"goal {history.acts[-1].after.distance:.1f} of 255 away")


def _describe(history: History) -> str:
    record = history.plans[-1]
    plan, seconds = record.plan, sum(record.latency_s.values())
    return f"step {record.step}: {plan.family}, cost {plan.cost:.5f}, the best of {len(plan.costs)} in {seconds:.2f} s"


def _leave(folder: Path, history: History, setting: Setting, spec: RobotSpec) -> None:
    """Write all that is known of the run into its folder, the episode first, and print the result."""
    result = summarize(setting, history, str(folder / "report.html"))
    episode = history.episode(
        {
            "policy_desc": "random shooting",
            "task": setting.task,
            "predictor": setting.predictor,
            "seed": setting.seed,
            "ended": result.ended,
        }
    )
    try:
        if episode:
            write_episode(episode, folder / f"planner_{spec.name}_{setting.task}_traj{setting.seed}.hdf5", spec)
    finally:
        write_report(folder, history, result, (folder / "config.yaml").read_text(encoding="utf-8"))
        (folder / "result.json").write_text(result.to_json() + "\n", encoding="utf-8")
        print(result.to_json(), flush=True)
