"""Time of each stage of a plan, and its rate compared with that of a plain matrix product."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NoReturn

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from configs.command import run
from ghvae_core.predictor import Predictor
from planner.options import PredictorChoice, SolverName
from planner.predictors import open_predictor
from planner.solver import Solver
from robot_bridge.camera import model_image
from tests.benchmarks.pool import Scene
from tests.benchmarks.subject import machine

SHIPPED = Path(__file__).parents[2] / "ghvae_core" / "checkpoints" / "tiny"
_PRODUCT = 1024  # rows and columns of the matrices multiplied for comparison


def plan_latency(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = SHIPPED,
    predictor: Annotated[Literal["server", "in_process", "oracle"], typer.Option(help="Predictor backend.")] = "server",
    solver: Annotated[SolverName, typer.Option(help="Solver.")] = "shooting",
    candidates: Annotated[int, typer.Option(min=4, help="Candidates per plan.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Number of plans; medians are reported.")] = 5,
) -> None:
    """Time plans from the first image of a scene, alternating with a plain matrix product."""
    settings = (f"planner.n_candidates={candidates}", f"planner.solver={solver}")
    scene = Scene.open("pick_wipe", 0, settings)
    choice = PredictorChoice(predictor, checkpoint)
    planner = Solver(scene.config.planner, scene.proposals())
    with closing(scene.robot), open_predictor(choice, scene.config, scene.robot, seed=0) as opened:
        flop = _flop(scene, planner, opened) if predictor == "in_process" else 0
        planner.plan(scene.state, opened, scene.plan_rng())  # warm-up
        timings = [_stages(scene, planner, opened) for _ in range(repeats)]
    medians_s = {stage: median(each[stage] for each in timings) for stage in timings[0]}
    whole_s = sum(medians_s[stage] for stage in ("observe", "propose", "predict"))
    device = "cuda" if predictor == "server" and torch.cuda.is_available() else "cpu"  # as the private server chooses
    print(
        f"{candidates} candidates of {scene.config.planner.horizon} actions, {solver}, {predictor}; {machine(device)}"
    )
    for stage, stage_s in medians_s.items():
        if stage != "product":
            print(f"{stage:12} {1000 * stage_s:9.1f} ms {stage_s / whole_s:7.1%}")
    print(f"{'total':12} {1000 * whole_s:9.1f} ms")
    if flop:
        rate, plain = flop / medians_s["  rollout"], 2 * _PRODUCT**3 / medians_s["product"]
        print(f"{flop / 1e9:.0f} GFLOP at {rate / 1e9:.1f} GFLOP/s, {rate / plain:.1%} of a plain product (limit 100%)")


def _stages(scene: Scene, planner: Solver, opened: Predictor) -> dict[str, float]:
    """Return the seconds of each stage of one plan; indented ones are part of the stage above."""
    started_s = time.perf_counter()
    model_image(scene.robot.render(), scene.robot.spec.camera.crop)
    observed_s = time.perf_counter()
    plan = planner.plan(scene.state, opened, scene.plan_rng())
    inner = {f"  {stage}": stage_s for stage, stage_s in plan.predictor_timing_s.items() if stage != "round_trip"}
    between = {"  other": plan.timing_s["predict"] - sum(inner.values())}
    return {"observe": observed_s - started_s, **plan.timing_s, **inner, **between, "product": _product_s()}


def _flop(scene: Scene, planner: Solver, opened: Predictor) -> int:
    with FlopCounterMode(display=False) as counter:
        planner.plan(scene.state, opened, scene.plan_rng())
    return int(counter.get_total_flops())


def _product_s() -> float:
    """Return the seconds of a product of two matrices that exceed the caches."""
    left, right = torch.rand(2, _PRODUCT, _PRODUCT)
    started_s = time.perf_counter()
    left @ right
    return time.perf_counter() - started_s


def main() -> NoReturn:
    """Run the command."""
    run(plan_latency)


if __name__ == "__main__":
    main()
