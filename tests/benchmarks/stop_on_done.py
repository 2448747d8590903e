"""When an episode could stop by itself: runs that continue after success, as on a real arm, and rules that end them.

The runs are recorded once, plan by plan. The rules are then compared on the same runs: how many they stop before the
task is done (harm), how many after it, and how many actions they save.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import numpy as np
import typer

from configs.command import ReportedError, print_result, run
from configs.progress import ProgressBar
from planner.options import SHIPPED, PredictorChoice, PredictorName
from planner.plan import HOLD
from planner.predictors import open_predictor
from planner.solver import Solver
from planner.task import TaskConfig, TaskController
from planner.trials.process_pool import ProcessFailure, run_in_processes
from robot_bridge.robot import RobotError
from tests.benchmarks.pool import Scene

_MOVED_M = 0.01  # of an applied translation, as the rule of `TaskController` has it


class RunJob(NamedTuple):
    """One run to record."""

    task: str
    seed: int
    predictor: PredictorName
    checkpoint: Path
    out: Path

    @property
    def file(self) -> Path:
        """File of the record."""
        return self.out / f"{self.task}_{self.predictor}_{self.seed}.json"


class Rule(NamedTuple):
    """Stops at the last of `n` successive plans that gain little, once the arm has moved."""

    n: int
    gain: float  # largest relative difference of the cost of holding still and the least cost
    limit: float | None = None  # largest cost of holding still, by the squared error of the model's last frame

    def __str__(self) -> str:
        plans = "a plan" if self.n == 1 else f"{self.n} plans in a row"
        if self.limit is None:
            return f"{plans}: acting gains at most {100 * self.gain:g} %"
        return f"{plans}: holding still costs less than {self.limit:g} times the model's squared error"


RULES = [Rule(n, gain) for gain in (0.0, 0.1, 0.2, 0.3) for n in (1, 2, 3)]
RULES += [Rule(n, 1.0, limit) for limit in (0.1, 0.2, 0.5) for n in (1, 2)]  # the cost alone


def stop_on_done(  # noqa: PLR0917 - typer calls it by name
    out: Annotated[Path, typer.Option(help="Folder of the records; recorded runs are not repeated.")],
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Repeat for several tasks (default: both).")] = None,
    first: Annotated[int, typer.Option(min=0, help="First seed; tune below 1000 only.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of each task.")] = 20,
    predictor: Annotated[PredictorName, typer.Option(help="Predictor backend.")] = "in_process",
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = SHIPPED,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
) -> None:
    """Record runs that go on to the step limit, then print what each rule would have done with them."""
    out.mkdir(parents=True, exist_ok=True)
    names = tasks or ["pick_wipe", "pick_sweep"]
    jobs = [RunJob(task, seed, predictor, checkpoint, out) for seed in range(first, first + scenes) for task in names]
    queue = deque(job for job in jobs if not job.file.exists())
    with ProgressBar("runs", len(queue)) as progress:
        for job, answer in run_in_processes(record, queue, workers):
            if isinstance(answer, ProcessFailure):
                raise ReportedError(f"{job.task}, seed {job.seed}: {answer.reason}; run the same command again")
            progress.advance(detail=f"{job.task}, seed {job.seed}: {answer}")
    runs = [json.loads(job.file.read_text(encoding="utf-8")) for job in jobs]
    runs = [each for each in runs if each["plans"]]
    if not runs:
        raise ReportedError("expected a scene with a goal, got none; choose other seeds")
    rows = {task: [_row(rule, [r for r in runs if r["task"] == task]) for rule in RULES] for task in names}
    for task, lines in rows.items():
        _print(task, lines)
    print_result({"runs": len(runs), "rules": rows})


def record(job: RunJob) -> str:
    """Run a task to the step limit, whatever its success, and store what each plan knew; return how it went."""
    try:
        scene = Scene.open(job.task, job.seed)
    except RobotError as error:
        job.file.write_text(json.dumps({"task": job.task, "seed": job.seed, "plans": []}), encoding="utf-8")
        return str(error)
    choice = PredictorChoice(job.predictor, job.checkpoint)
    with closing(scene.robot), open_predictor(choice, scene.config, scene.robot, job.seed) as predictor:
        config = TaskConfig.model_validate({**scene.config.task.model_dump(), "min_goal_distance": 0.0})
        task = TaskController(config, scene.robot, predictor, Solver(scene.config.planner, scene.proposals()))
        task.begin(scene.state.observation, scene.state.goal, scene.plan_rng())
        outcomes = []
        while not task.ended:
            task.advance()
            outcomes.append(scene.robot.task_success())
        history = task.history
        plans = [
            {
                "step": each.step,
                "family": each.plan.family,
                "cost": each.plan.cost,
                "hold": float(each.plan.costs[each.plan.families.index(HOLD)]),
            }
            for each in history.plans
        ]
        stored: dict[str, Any] = {
            "task": job.task,
            "seed": job.seed,
            "plans": plans,
            "moved_m": [float(np.linalg.norm(step.applied[:3])) for step in history.steps],
            "success": [bool(each and each.strict) for each in outcomes],
            "in_place": [bool(each and each.goal_now) for each in outcomes],
            "val_rmse_p95": predictor.spec.val_rmse_p95,
            "horizon": scene.config.planner.horizon,
        }
    job.file.write_text(json.dumps(stored), encoding="utf-8")
    done = _done_at(stored)
    return "never done" if done is None else f"done after {done} actions"


def _done_at(each: dict[str, Any]) -> int | None:
    """Return the number of actions after which a run had succeeded; None where it never did."""
    return each["success"].index(True) + 1 if True in each["success"] else None


def _stop_at(rule: Rule, each: dict[str, Any]) -> int | None:
    """Return the number of actions after which a rule stops a run; None where it does not."""
    in_row = 0
    errors = each["val_rmse_p95"]  # None of a predictor without one, for which no limit holds
    limit = np.inf if rule.limit is None else rule.limit * errors[each["horizon"] - 1] ** 2 if errors else 0.0
    for plan in each["plans"]:
        small = plan["cost"] >= (1 - rule.gain) * plan["hold"]
        below = plan["hold"] < limit
        moved = max(each["moved_m"][: plan["step"]], default=0.0) > _MOVED_M
        in_row = in_row + 1 if small and below and moved else 0
        if in_row == rule.n:
            return int(plan["step"])
    return None


def _row(rule: Rule, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a rule does with the runs of one task."""
    before = after = never = saved = kept = 0
    in_place_at_end = sum(each["in_place"][-1] for each in runs)
    for each in runs:
        done, stop, length = _done_at(each), _stop_at(rule, each), len(each["moved_m"])
        kept += each["in_place"][(stop or length) - 1]
        if stop is None:
            continue
        saved += length - stop
        if done is None:
            never += 1
        elif stop < done:
            before += 1
        else:
            after += 1
    return {
        "rule": str(rule),
        "runs": len(runs),
        "done": sum(_done_at(each) is not None for each in runs),
        "stopped_before_done": before,
        "stopped_after_done": after,
        "stopped_never_done": never,
        "actions_saved_per_run": round(saved / len(runs), 1),
        "in_place_at_stop": kept,
        "in_place_without_rule": in_place_at_end,
    }


def _print(task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("\n".join(_lines(task, rows)), flush=True)


def _lines(task: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"| {task}: stop when | stopped after success | before it | in runs without success | actions saved a run |"
        " in place at the end |"
    )
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['rule']} | {row['stopped_after_done']} of {row['done']} | {row['stopped_before_done']} | "
            f"{row['stopped_never_done']} of {row['runs'] - row['done']} | {row['actions_saved_per_run']} | "
            f"{row['in_place_at_stop']} of {row['runs']} (without: {row['in_place_without_rule']}) |"
        )
    yield ""


def main() -> NoReturn:
    """Run the command."""
    run(stop_on_done)


if __name__ == "__main__":
    main()
