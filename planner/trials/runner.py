"""Trials of tasks over many scenes, in processes of their own: each is a run as `run_task` does it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from ghvae_core.serving.launch import private_server
from planner.compatibility import check_compatibility
from planner.config import TaskRunConfig, load_run
from planner.plan import PlannerError
from planner.predictors import EpisodeRequest, check_checkpoint, networks, open_predictor
from planner.trials.process_pool import ProcessFailure, run_in_processes
from planner.trials.report import TrialsReport
from planner.trials.store import TrialsConfig, TrialsError, TrialsFolder, VariantConfig
from planner.trials.trial import Trial, TrialJob, TrialOutcome, run_trial
from planner.trials.variant import Variant
from robot_bridge.factory import open_robot
from robot_bridge.simulation import renderer
from robot_bridge.simulation.config import SimulationConfig

_MOST_BROKEN = 3  # trials that the machine breaks off in a row; then no more are begun; ours


@dataclass(frozen=True)
class TrialSeries:
    """What was asked for on the command line."""

    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: range
    out: Path
    resume: bool
    n_workers: int
    quiet: bool

    def request(self, task: str, variant: Variant) -> EpisodeRequest:
        """Return a run of a task by a variant, before its seed and its folder are known."""
        return EpisodeRequest(
            task=task,
            robot="simulation",
            predictor=variant.predictor,
            server=variant.server,
            checkpoint=variant.checkpoint,
            seed=self.seeds.start,
            goal=None,
            out=None,
        )


def run_series(series: TrialSeries) -> None:
    """Do the trials that are not over yet, then report on all: also when stopped on the way.

    Raises:
        ReportedError: The input was refused and no trial was begun, or the machine broke off trials.
    """
    names = _names(series)
    asked = series.variants
    series = replace(series, variants=tuple(_with_renderer(series, variant) for variant in asked))
    folder = TrialsFolder(series.out)
    folder.check(series.resume)
    with ExitStack() as stack:
        served = replace(series, variants=tuple(_with_servers(series, stack)))
        config = TrialsConfig(variants={variant.name: _fit(served, variant) for variant in served.variants})
        stack.enter_context(folder.held())
        folder.check(series.resume)  # a second time, now that nobody else can write
        folder.keep_config(config)
        with TrialsReport(folder, names, asked, series.seeds, series.quiet) as report:
            try:
                _run_all(list(_jobs(served, folder, config)), series.n_workers, folder, report)
            finally:
                report.write()
    broken = [trial for trial in report.trials if trial.status == "broken off"]
    if broken:
        raise TrialsError(
            f"{len(broken)} trials were broken off by the machine and are not counted, the first by: "
            f"{broken[0].reason}; go on with --resume --out {series.out}"
        )


def _names(series: TrialSeries) -> list[str]:
    names = [series.request(task, series.variants[0]).task_name for task in series.tasks]
    if len(set(names)) < len(names):
        raise PlannerError(f"expected tasks of different names, got {', '.join(names)}")
    return names


def _config(series: TrialSeries, task: str, variant: Variant) -> TaskRunConfig:
    return load_run(series.request(task, variant).task_file, variant.overrides)


def _with_renderer(series: TrialSeries, variant: Variant) -> Variant:
    """Return the variant with its renderer by name, never `auto`: another renderer shows another scene.

    Raises:
        ConfigError: The configuration of one of the tasks is refused.
    """
    first, *_ = [_config(series, task, variant).robot for task in series.tasks]
    assert isinstance(first, SimulationConfig)  # noqa: S101 - no other is loaded here
    return replace(variant, overrides=(*variant.overrides, f"robot.renderer={renderer.choose(first.renderer)}"))


def _with_servers(series: TrialSeries, stack: ExitStack) -> Iterator[Variant]:
    """Yield the variants with the address of a server where they need one; a checkpoint has one for all trials."""
    addresses: dict[tuple[Path, str], str] = {}
    for variant in series.variants:
        check_checkpoint(series.request(series.tasks[0], variant))
        if variant.predictor == "server" and not variant.server:
            place = variant.checkpoint.resolve()
            held = networks(_config(series, series.tasks[0], variant))  # a task's own file says nothing of them
            key = place, held.model_dump_json()
            if key not in addresses:
                addresses[key] = stack.enter_context(private_server(place, networks=held)).address
            yield replace(variant, server=addresses[key])
        else:
            yield variant


def _fit(series: TrialSeries, variant: Variant) -> VariantConfig:
    """Return all that decides what a variant does, having asked whether its parts fit together."""
    tasks: dict[str, TaskRunConfig] = {}
    checkpoint = distance = ""
    for task in series.tasks:
        request, config = series.request(task, variant), _config(series, task, variant)
        with closing(open_robot(config.robot)) as robot, open_predictor(request, config, robot) as predictor:
            check_compatibility(robot.spec, predictor.spec, config.planner)
            checkpoint, distance = predictor.spec.checkpoint, predictor.spec.distance
        tasks[request.task_name] = config
    return VariantConfig(predictor=variant.predictor, checkpoint=checkpoint, distance=distance, tasks=tasks)


def _jobs(series: TrialSeries, folder: TrialsFolder, config: TrialsConfig) -> Iterator[TrialJob]:
    """Yield all trials, A and B of a scene one after the other, so that what changes with time changes for both."""
    for seed in series.seeds:
        for task in series.tasks:
            for variant in series.variants:
                request = series.request(task, variant)
                out = folder.place(request.task_name, variant.name, seed)
                held = config.variants[variant.name]
                request = replace(request, seed=seed, out=out)
                yield TrialJob(variant.name, request, variant.overrides, held.checkpoint, held.distance)


def _run_all(jobs: Sequence[TrialJob], n_workers: int, folder: TrialsFolder, report: TrialsReport) -> None:
    kept = {job: trial for job in jobs if (trial := folder.kept(job))}
    report.resume(list(kept.values()))
    waiting = deque(job for job in jobs if job not in kept)
    for job in waiting:
        folder.clear(job)
    died: set[TrialJob] = set()
    n_broken = 0  # in a row
    with closing(run_in_processes(run_trial, waiting, n_workers)) as answers:
        for job, answer in answers:
            if isinstance(answer, ProcessFailure):
                folder.clear(job, log=job not in died)
                if job not in died:
                    report.say(f"{job}: {answer.reason}; it is done once more")
                    died.add(job)
                    waiting.appendleft(job)
                    continue
            trial = Trial.of(job, _outcome(job, answer), folder.path)
            if trial.status == "broken off":
                n_broken += 1
            else:
                folder.keep(trial)
                n_broken = 0
            report.add(trial)
            if n_broken == _MOST_BROKEN:
                report.say(f"{n_broken} trials in a row were broken off by the machine; no more are begun")
                waiting.clear()


def _outcome(job: TrialJob, answer: TrialOutcome | ProcessFailure) -> TrialOutcome:
    if isinstance(answer, ProcessFailure):
        return TrialOutcome("counted", f"{answer.reason}, a second time; {job.log.name} may tell more")
    return answer
