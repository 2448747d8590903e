"""Runs a series of trials: tasks, scenes and variants, each trial in its own process, and the report at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ghvae_core.serving.launch import private_server
from planner.compatibility import check_compatibility
from planner.config import TaskRunConfig, load_run
from planner.episode import EpisodeRequest
from planner.goal import GoalError, goal_file, load_goal
from planner.options import task_file, task_name
from planner.plan import PlannerError
from planner.predictors import Specified, check_checkpoint, open_predictor, required_networks
from planner.questions import check_terminal
from planner.trials.attended import run_attended
from planner.trials.process_pool import ProcessFailure, run_in_processes
from planner.trials.report import TrialsReport
from planner.trials.store import TrialsConfig, TrialsError, TrialsFolder, VariantConfig
from planner.trials.trial import Trial, TrialJob, TrialOutcome, run_trial
from planner.trials.variant import Variant
from robot_bridge.factory import AnyConfig, RobotName, open_robot, spec_of
from robot_bridge.robot import RobotSpec
from robot_bridge.simulation import renderer
from robot_bridge.simulation.config import SimulationConfig

_MAX_ABORTED = 3  # consecutive aborted trials, after which no more are started; ours


@dataclass(frozen=True)
class TrialSeries:
    """A series of trials, as the command line describes it."""

    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: range
    out: Path
    resume: bool
    n_workers: int
    quiet: bool
    robot: RobotName = "simulation"
    goal: Path | None = None  # on a real robot: the goal image of all trials
    strict_goal: bool = False

    @property
    def is_real(self) -> bool:
        """Whether a person arranges the scenes and judges the trials."""
        return self.robot != "simulation"


class _ClosedRobot(NamedTuple):
    """The description of a robot that is not open."""

    spec: RobotSpec


def run_series(series: TrialSeries) -> None:
    """Run the trials that are not finished, then report on all, also after an interrupt.

    Raises:
        ReportedError: The input was refused and no trial was started, or trials were aborted.
    """
    names = [task_name(task) for task in series.tasks]
    if len(set(names)) < len(names):
        raise PlannerError(f"expected tasks of different names, got {', '.join(names)}")
    requested = series.variants
    _check(series)
    if not series.is_real:
        series = replace(series, variants=tuple(_with_renderer(series, variant) for variant in requested))
    folder = TrialsFolder(series.out)
    folder.check(series.resume)
    with ExitStack() as stack:
        series = replace(series, variants=tuple(_with_servers(series, stack)))
        config = TrialsConfig(variants={variant.name: _variant_config(series, variant) for variant in series.variants})
        stack.enter_context(folder.locked())
        folder.check(series.resume)  # again, now that no other command can write
        folder.store_config(config)
        with TrialsReport(folder, names, requested, series.seeds, series.quiet) as report:
            jobs = list(_jobs(series, folder, config))
            try:
                if series.is_real:
                    run_attended(jobs, folder, report)
                else:
                    _run_all(jobs, series.n_workers, folder, report)
            finally:
                report.write()
    aborted = [trial for trial in report.trials if trial.status == "aborted"]
    if aborted:
        raise TrialsError(
            f"{len(aborted)} trials were aborted and are not counted, the first one by: {aborted[0].reason}; "
            f"resume with --resume --out {series.out}"
        )


def _check(series: TrialSeries) -> None:
    """Refuse options that do not fit the robot, and a goal image that cannot be used.

    Raises:
        ReportedError: They are refused.
    """
    if not series.is_real:
        if series.goal or series.strict_goal:
            raise GoalError(
                "--goal: expected a real robot; in simulation the scripted policy makes the goal of a scene"
            )
        return
    if series.goal is None:
        raise GoalError(
            f"--robot {series.robot}: expected --goal with the goal image of all trials; make one by run_goal"
        )
    if len(series.tasks) > 1:
        raise PlannerError(f"--robot {series.robot}: expected one task, as --goal shows one, got {len(series.tasks)}")
    if series.n_workers > 1:
        raise PlannerError(f"--workers {series.n_workers}: expected 1, as there is one arm")
    check_terminal(f"--robot {series.robot}")
    load_goal(goal_file(series.goal), load_run(task_file(series.tasks[0]), (), series.robot).robot.camera)


def _with_renderer(series: TrialSeries, variant: Variant) -> Variant:
    """Return the variant with its renderer set by name instead of `auto`: scenes look different in each renderer.

    Raises:
        ConfigError: The configuration of one of the tasks is refused.
    """
    first, *_ = [load_run(task_file(task), variant.overrides).robot for task in series.tasks]
    assert isinstance(first, SimulationConfig)  # noqa: S101 - `load_run` loads the simulation
    return replace(variant, overrides=(*variant.overrides, f"robot.renderer={renderer.choose(first.renderer)}"))


def _with_servers(series: TrialSeries, stack: ExitStack) -> Iterator[Variant]:
    """Yield the variants with the addresses of their servers; all trials of a checkpoint share one private server."""
    addresses: dict[tuple[Path, str], str] = {}
    for variant in series.variants:
        choice = variant.predictor
        check_checkpoint(choice)
        if choice.name == "server" and not choice.server:
            folder = choice.checkpoint.resolve()
            # The networks are equal for all tasks.
            config = load_run(task_file(series.tasks[0]), variant.overrides, series.robot)
            networks = required_networks(config)
            key = folder, networks.model_dump_json()
            if key not in addresses:
                addresses[key] = stack.enter_context(private_server(folder, networks=networks)).address
            yield replace(variant, predictor=replace(choice, server=addresses[key]))
        else:
            yield variant


def _variant_config(series: TrialSeries, variant: Variant) -> VariantConfig:
    """Return everything that determines a variant's trials, after checking that its components are compatible."""
    tasks: dict[str, TaskRunConfig] = {}
    checkpoint = distance = ""
    for task in series.tasks:
        config = load_run(task_file(task), variant.overrides, series.robot)
        with (
            _described(config.robot) as robot,
            open_predictor(variant.predictor, config, robot, series.seeds.start) as predictor,
        ):
            check_compatibility(robot.spec, predictor.spec, config.planner)
            checkpoint, distance = predictor.spec.checkpoint, predictor.spec.distance
        tasks[task_name(task)] = config
    return VariantConfig(predictor=variant.predictor.name, checkpoint=checkpoint, distance=distance, tasks=tasks)


@contextmanager
def _described(config: AnyConfig) -> Iterator[Specified]:
    """Provide a robot to check the predictor with: a real one is not opened, each trial does that."""
    if not isinstance(config, SimulationConfig):
        yield _ClosedRobot(spec_of(config))
        return
    with closing(open_robot(config)) as robot:
        yield robot


def _jobs(series: TrialSeries, folder: TrialsFolder, config: TrialsConfig) -> Iterator[TrialJob]:
    """Yield all trials. A and B of a scene are adjacent, so that changes of the machine over time affect both."""
    for seed in series.seeds:
        for task in series.tasks:
            for variant in series.variants:
                out = folder.trial_folder(task_name(task), variant.name, seed)
                request = EpisodeRequest(
                    task, series.robot, variant.predictor, seed, series.goal, out, strict_goal=series.strict_goal
                )
                stored = config.variants[variant.name]
                yield TrialJob(variant.name, request, variant.overrides, stored.checkpoint, stored.distance)


def _run_all(jobs: Sequence[TrialJob], n_workers: int, folder: TrialsFolder, report: TrialsReport) -> None:
    """Run the unfinished jobs; repeat a job once when its process dies."""
    finished = {job: trial for job in jobs if (trial := folder.finished(job))}
    report.resume(list(finished.values()))
    queue = deque(job for job in jobs if job not in finished)
    for job in queue:
        folder.remove(job)
    failed: set[TrialJob] = set()
    n_aborted = 0  # in a row
    with closing(run_in_processes(run_trial, queue, n_workers)) as answers:
        for job, answer in answers:
            if isinstance(answer, ProcessFailure):
                folder.remove(job, log=job not in failed)
                if job not in failed:
                    report.say(f"{job}: {answer.reason}; it is repeated once")
                    failed.add(job)
                    queue.appendleft(job)
                    continue
            trial = Trial.of(job, _outcome(job, answer), folder.path)
            if trial.status == "aborted":
                n_aborted += 1
            else:
                folder.store(trial)
                n_aborted = 0
            report.add(trial)
            if n_aborted == _MAX_ABORTED:
                report.say(f"{n_aborted} trials in a row were aborted; no more are started")
                queue.clear()


def _outcome(job: TrialJob, answer: TrialOutcome | ProcessFailure) -> TrialOutcome:
    if isinstance(answer, ProcessFailure):
        return TrialOutcome("counted", f"{answer.reason}, a second time; see {job.log.name}")
    return answer
