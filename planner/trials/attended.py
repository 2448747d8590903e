"""Trials on a real robot: before each a person arranges the scene, after it the person judges it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from planner.questions import ENTER, ask
from planner.trials.process_pool import ProcessFailure, run_in_processes
from planner.trials.report import TrialsReport
from planner.trials.store import TrialsFolder
from planner.trials.trial import Trial, TrialJob, TrialOutcome, run_trial
from planner.verdict import read_result, record_verdict

_JUDGE = "Is the task done? y: yes, n: no, u: undo, repeat this trial"


def run_attended(jobs: Sequence[TrialJob], folder: TrialsFolder, report: TrialsReport) -> None:
    """Run the unfinished jobs one after the other. A trial that says nothing about the task is repeated.

    Raises:
        KeyboardInterrupt: Ctrl-C, also while a question is open. All finished trials are kept.
        NoTerminalError: The terminal was closed. All finished trials are kept.
    """
    finished = {job: trial for job in jobs if (trial := folder.finished(job))}
    report.resume(list(finished.values()))
    for number, job in enumerate(jobs, 1):
        if job in finished:
            continue
        example = next((image for other in jobs if (image := _start_image(other, folder)) and other != job), None)
        arranged = "as the start of the task" if example is None else f"as in {example}"
        question = (
            f"Trial {number} of {len(jobs)} ({job}): arrange the scene {arranged}, step back and press Enter; "
            "Ctrl-C ends the trials"
        )
        trial = None
        while trial is None:
            folder.remove(job)
            ask(question, ENTER)
            report.say(f"The arm moves. The output of the trial is in {job.log}")
            trial = _judged(job, _run(job), folder, report)
        folder.store(trial)
        report.add(trial)


def _run(job: TrialJob) -> TrialOutcome | ProcessFailure:
    """Run one trial in a process of its own."""
    with closing(run_in_processes(run_trial, deque([job]), 1)) as answers:
        ((_, outcome),) = answers
    return outcome


def _judged(
    job: TrialJob, outcome: TrialOutcome | ProcessFailure, folder: TrialsFolder, report: TrialsReport
) -> Trial | None:
    """Return the record of a trial after a person has judged it; None where it is to be repeated."""
    if isinstance(outcome, ProcessFailure) or outcome.status != "counted":
        report.say(f"{outcome.reason}; the trial does not count and is repeated")
        return None
    for warning in read_result(job.out).goal_warnings:
        report.say(f"warning: {warning}")
    if outcome.reason:
        report.say(f"It ended by a failure: {outcome.reason}")
    answer = ask(_JUDGE, "ynu")
    if answer == "u":
        return None
    record_verdict(job.out, answer == "y")
    return Trial.of(job, outcome, folder.path)


def _start_image(job: TrialJob, folder: TrialsFolder) -> Path | None:
    """Return the image of the start of a finished trial; None of another."""
    return job.out / "start.png" if folder.finished(job) else None
