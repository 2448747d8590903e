"""Success rate of the first plan alone, by source and number of the candidates, goal cost, and solver.

Every candidate is executed in simulation once. The plans of all settings are then chosen from the same candidates, by
the observed frames (oracle) and by the predicted frames (model). Solvers draw new candidates, so their plans are
executed separately.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import numpy as np
import typer
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from configs.command import ReportedError, run
from ghvae_core.goal_cost import CostNetworks, GoalCost, GoalCostEvaluator, load_evaluator
from ghvae_core.models.checkpoint import Checkpoint
from ghvae_core.models.checkpoint import load as load_checkpoint
from ghvae_core.serving.config import InProcessConfig
from ghvae_core.serving.local import InProcessPredictor
from planner.config import load_run
from planner.options import PredictorChoice, PredictorName
from planner.plan import PlanError
from planner.predictors import open_predictor
from planner.solver import Solver
from planner.trials.process_pool import ProcessFailure, run_in_processes
from tests.benchmarks.pool import PROPOSALS, ExecutedScene, Scene, SceneJob, context, fill

SHIPPED = Path(__file__).parents[2] / "ghvae_core" / "checkpoints" / "tiny"
_N_DRAWS = 200  # subsets of a scene's candidates per rate; ours
_NUMBERS = (50, 100, 200, 400)
_SOLVERS = ("shooting", "cem", "icem", "mppi")
_PIXELS = GoalCost(brightness=0.3)  # as planning/solver.yaml has it
_COSTS: Mapping[str, GoalCost] = {
    "pixels, brightness 0.3": _PIXELS,
    "pixels, brightness 1": GoalCost(),
    "pixels, brightness 0": GoalCost(brightness=0.0),
    "deepest features": GoalCost(pixel=0.0, features=1.0),
    "LPIPS": GoalCost(pixel=0.0, lpips=1.0),
    "steps to go": GoalCost(pixel=0.0, steps=1.0),
    "pixels + 0.01 features": GoalCost(brightness=0.3, features=0.01),
    "pixels + 0.03 LPIPS": GoalCost(brightness=0.3, lpips=0.03),
    "pixels + 0.0003 steps": GoalCost(brightness=0.3, steps=0.0003),
}
_Row = dict[str, "Rate"]


class Rate(NamedTuple):
    """A success rate over scenes."""

    mean: float
    standard_error: float | None  # None if there is only one scene

    @classmethod
    def of(cls, scenes: Sequence[float]) -> Rate:
        """Return the mean of the scenes' success fractions."""
        n = len(scenes)
        return cls(float(np.mean(scenes)), float(np.std(scenes, ddof=1) / np.sqrt(n)) if n > 1 else None)

    def __str__(self) -> str:
        spread = "" if self.standard_error is None else f" ± {100 * self.standard_error:.0f}"
        return f"{100 * self.mean:.0f}{spread} %"


def first_plans(  # noqa: PLR0917 - the parameters are the options of the command line
    out: Annotated[Path, typer.Option(help="Folder of the results; stored scenes are not executed again.")],
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Repeat for several tasks (default: both).")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds A to B - 1 of the scenes; tune below 1000 only.")] = "0:20",
    candidates: Annotated[
        int, typer.Option(min=4, help="Candidates per scene from the difference to the goal.")
    ] = 1000,
    others: Annotated[int, typer.Option(min=4, help="Candidates per scene from each other source.")] = 200,
    chosen: Annotated[int, typer.Option(min=4, help="Candidates of one plan, by default.")] = 100,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = SHIPPED,
    distance: Annotated[Path | None, typer.Option(help="Temporal distance network of run_distance.")] = None,
    lpips: Annotated[bool, typer.Option(help="Include LPIPS; its weights are downloaded once.")] = True,
    solver_plans: Annotated[int, typer.Option(min=0, help="Plans per solver and scene; 0: none.")] = 1,
    solver_predictor: Annotated[
        Literal["in_process", "oracle"], typer.Option(help="Predictor backend of the solvers.")
    ] = "oracle",
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
) -> None:
    """Execute all candidates, then print the success rate of the first plan for each setting.

    Success is as in a trial, with the tool. Rates are means over scenes with standard errors. The last line is one JSON
    object with all tables.
    """
    sizes = {kind: candidates if kind == "directed" else others for kind in PROPOSALS}
    scenes = [(task, seed) for task in tasks or ["pick_wipe", "pick_sweep"] for seed in _range(seeds)]
    loaded = load_checkpoint(checkpoint)
    evaluator = load_evaluator(loaded, CostNetworks(lpips=lpips, distance=None if distance is None else str(distance)))
    _store_config(out, dict.fromkeys(task for task, _ in scenes))
    pools = [SceneJob(task, seed, sizes, out) for task, seed in scenes]
    _work(fill, [job for job in pools if not job.file.is_file()], workers, "executing candidates")
    executed = [ExecutedScene.read(job) for job in pools if job.file.is_file()]
    if not executed:
        raise ReportedError(f"--seeds {seeds}: expected a scene with a goal, got none; choose other seeds")
    compared = Comparison(executed, loaded, evaluator, chosen)
    tables = compared.tables()
    if solver_plans:
        job = SolverJob("", 0, solver_predictor, checkpoint, loaded.sha256, chosen, solver_plans, out)
        jobs = [job._replace(task=t.task, seed=t.seed) for t in executed]
        _work(solve, [job for job in jobs if not job.file.is_file()], workers, f"solvers, {solver_predictor}")
        tables[f"solver, {chosen} candidates"] = _solvers(jobs)
    for title, rows in tables.items():
        _print(title, rows)
    print(json.dumps({"scenes": len(executed), "tables": tables}, allow_nan=False))


def _store_config(out: Path, tasks: Iterable[str]) -> None:
    """Write the configuration of each task into the folder, or compare it with the stored one.

    Raises:
        ReportedError: The stored results have another configuration.
    """
    for task in tasks:
        file, now = out / f"{task}.yaml", yaml.safe_dump(load_run(f"tasks/{task}.yaml", ()).model_dump(mode="json"))
        if file.is_file() and file.read_text(encoding="utf-8") != now:
            raise ReportedError(f"{file}: expected the stored configuration, got another; choose another --out")
        if not file.is_file():
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(now, encoding="utf-8")


class Comparison:
    """Plans of all settings, chosen from the same candidates."""

    def __init__(
        self, executed: Sequence[ExecutedScene], loaded: Checkpoint, evaluator: GoalCostEvaluator, chosen: int
    ) -> None:
        self._scenes, self._chosen = executed, chosen
        self._tasks = [t.task for t in executed]
        self._evaluator = evaluator
        settings = InProcessConfig(max_candidates=max(len(pool.actions) for t in executed for pool in t.pools.values()))
        model = InProcessPredictor(loaded, _PIXELS, settings)
        shown = track(executed, "predicting", console=Console(stderr=True))
        self._predicted = [_predicted(t, model, t.file.with_stem(f"{t.file.stem}_{loaded.sha256[:12]}")) for t in shown]

    def tables(self) -> dict[str, dict[str, _Row]]:
        """Return the tables by title, each with its rows and columns."""
        n, most = self._chosen, min(len(t.pools["directed"].actions) for t in self._scenes)
        numbers = [number for number in _NUMBERS if number < most] + [most]
        costs = {name: cost for name, cost in _COSTS.items() if {*cost.terms()} <= {*self._evaluator.terms}}
        return {
            "all candidates, executed": {kind: self._all(kind) for kind in PROPOSALS},
            f"proposals, the best of {n} by pixels": {kind: self._first(kind, _PIXELS, n) for kind in PROPOSALS},
            f"cost, the best of {n} directed": {name: self._first("directed", c, n) for name, c in costs.items()},
            "candidates, directed, by pixels": {str(m): self._first("directed", _PIXELS, m) for m in numbers},
        }

    def _all(self, kind: str) -> _Row:
        return _columns(self._tasks, [float(t.pools[kind].results[:, 0].mean()) for t in self._scenes], "any")

    def _first(self, kind: str, cost: GoalCost, n: int) -> _Row:
        """Return the success rate of the candidate of least cost among `n`."""
        row: _Row = {}
        for predictor in ("oracle", "model"):
            fractions = []
            for t, predicted in zip(self._scenes, self._predicted, strict=True):
                pool = t.pools[kind]
                ends = pool.ends if predictor == "oracle" else predicted[kind]
                costs = self._evaluator.costs_of_images(ends[:, None], t.goal, cost)
                if predictor == "oracle":  # the oracle reports faults
                    costs = np.where(pool.stopped, np.inf, costs)
                fractions.append(_success_fraction(costs, pool.results[:, 0], n, np.random.default_rng(t.seed)))
            row |= _columns(self._tasks, fractions, predictor)
        return row


class SolverJob(NamedTuple):
    """All solvers in one scene."""

    task: str
    seed: int
    predictor: PredictorName
    checkpoint: Path
    checkpoint_sha: str
    n_candidates: int
    n_plans: int
    out: Path

    @property
    def file(self) -> Path:
        """File of the results."""
        jobs = f"{self.predictor}_{self.checkpoint_sha[:12]}_{self.n_candidates}x{self.n_plans}"
        return self.out / f"{self.task}_{self.seed}_{jobs}.json"


def solve(job: SolverJob) -> str:
    """Plan with every solver, execute the plans, and store the success rate of each solver."""
    fractions = {}
    for solver in _SOLVERS:
        settings = (f"planner.solver={solver}", f"planner.n_candidates={job.n_candidates}")
        scene = Scene.open(job.task, job.seed, settings)
        choice = PredictorChoice(job.predictor, job.checkpoint)
        planner = Solver(scene.config.planner, scene.proposals())
        with closing(scene.robot), open_predictor(choice, scene.config, scene.robot, job.seed) as predictor:
            plans = [planner.plan(scene.state, predictor, scene.plan_rng(i)) for i in range(job.n_plans)]
            fractions[solver] = float(scene.execute(np.stack([plan.actions for plan in plans])).results[:, 0].mean())
    unfinished = job.file.with_suffix(".part")
    unfinished.write_text(json.dumps(fractions), encoding="utf-8")
    unfinished.replace(job.file)
    return ""


def _solvers(jobs: Sequence[SolverJob]) -> dict[str, _Row]:
    stored = [(job, json.loads(job.file.read_text(encoding="utf-8"))) for job in jobs if job.file.is_file()]
    tasks, predictor = [job.task for job, _ in stored], jobs[0].predictor
    return {name: _columns(tasks, [fractions[name] for _, fractions in stored], predictor) for name in _SOLVERS}


def _work(work: Callable[[Any], str], jobs: Sequence[Any], workers: int, what: str) -> None:
    """Run all jobs in processes, and print which scenes have no goal.

    Raises:
        ReportedError: A process ended without a result.
    """
    done = run_in_processes(work, deque(jobs), workers)
    console = Console(stderr=True)
    for job, reason in track(done, what, total=len(jobs), console=console):
        if isinstance(reason, ProcessFailure):
            raise ReportedError(f"{job.task}, seed {job.seed}: {reason.reason}; run the same command again to continue")
        if reason:
            console.print(f"{job.task}, seed {job.seed}, is excluded: {reason}", highlight=False)


def _predicted(executed: ExecutedScene, model: InProcessPredictor, file: Path) -> Mapping[str, NDArray[np.uint8]]:
    """Return the last predicted frame (N, 64, 64, 3) of every candidate, from a file if there is one."""
    if not file.is_file():
        ends = {}
        for kind, pool in executed.pools.items():
            prediction = model.predict(context(executed.start), pool.actions, executed.goal, len(pool.actions))
            if len(prediction.best) < len(pool.actions):
                raise PlanError(f"{executed.task}, seed {executed.seed}: expected finite costs of all candidates")
            ends[kind] = prediction.videos[np.argsort(prediction.best), -1]
        unfinished = file.with_suffix(".part.npz")
        np.savez_compressed(unfinished, **ends)
        unfinished.replace(file)
    with np.load(file, allow_pickle=False) as stored:
        return {kind: stored[kind] for kind in executed.pools}


def _success_fraction(
    costs: NDArray[np.float32], success: NDArray[np.bool_], n: int, rng: np.random.Generator
) -> float:
    """Return the success fraction of the least finite cost among `n` candidates drawn without replacement."""
    order = np.argsort(np.where(np.isfinite(costs), costs, np.inf), kind="stable")
    drawn = np.argsort(rng.random((_N_DRAWS, len(costs))), axis=1)[:, : min(n, len(costs))]
    rank = np.empty(len(costs), np.int64)
    rank[order] = np.arange(len(costs))
    return float(success[order[rank[drawn].min(axis=1)]].mean())


def _columns(tasks: Sequence[str], fractions: Sequence[float], predictor: str) -> _Row:
    """Return a rate for each task, from the success fractions of the scenes."""
    pairs = list(zip(tasks, fractions, strict=True))
    return {
        f"{predictor}, {task}": Rate.of([fraction for of, fraction in pairs if of == task])
        for task in dict.fromkeys(tasks)
    }


def _range(seeds: str) -> range:
    first, colon, end = seeds.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise ReportedError(f"--seeds {seeds}: expected A:B with A below B, as in 0:20")
    return range(int(first), int(end))


def _print(title: str, rows: Mapping[str, _Row]) -> None:
    """Print a Markdown table."""
    columns = list(next(iter(rows.values())))
    print(f"| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    print(flush=True)


def main() -> NoReturn:
    """Run the command."""
    run(first_plans)


if __name__ == "__main__":
    main()
