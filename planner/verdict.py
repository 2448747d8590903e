"""The verdict on an episode: its words in the report and on the terminal, and the record of what a person judged."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_collection.atomic_io import write_file
from data_collection.reports import html
from planner.plan import PlannerError
from planner.record import (
    BY_PERSON,
    BY_SIMULATION,
    FAILED,
    GOAL_SEEN,
    INTERRUPTED,
    SETTLED,
    STEPS_USED,
    SUCCESS,
    EpisodeResult,
)
from planner.task_words import task_words

RESULT, REPORT = "result.json", "report.html"  # files of a run
_TEMPLATE = "verdict.html.j2"  # begins and ends with a comment, between which `record_verdict` replaces the text
_BLOCK = re.compile(r"<!-- verdict -->.*?<!-- /verdict -->", re.DOTALL)
_ENDS = {
    SUCCESS: "when the task was done",
    GOAL_SEEN: "when the camera image matched the goal",
    SETTLED: "as acting was predicted to be hardly better than holding still",
    STEPS_USED: "the most that it may have",
    INTERRUPTED: "by Ctrl-C or a signal",
    FAILED: "by a failure",
}


class JudgeError(PlannerError):
    """A verdict that cannot be recorded. Nothing was written."""


@dataclass(frozen=True)
class Verdict:
    """What is known about the success of an episode, in words."""

    headline: str
    style: Literal["good", "fair", "bad", "open"]  # class of the badge
    explanation: str  # one sentence or two
    question: str = ""  # for the person who judges; empty: it is judged
    commands: tuple[str, ...] = ()  # that record the answer: yes, no

    @classmethod
    def of(cls, result: EpisodeResult) -> Verdict:
        """Return the verdict on an episode from its result."""
        ended = f"It ended after {html.count(result.steps, 'action')}, {_ENDS[result.ended]}."
        if result.judged_by == BY_PERSON:
            note = f" Note: {result.note.rstrip('.')}." if result.note else ""
            headline = "Success" if result.success else "Not done"
            return cls(headline, "good" if result.success else "bad", f"A person judged it. {ended}{note}")
        if result.success is None:
            headline = "Stopped by a failure, not judged" if result.ended == FAILED else "Not judged"
            explanation = f"{ended} Nothing measures success on a real robot: a person judges it."
            style: Literal["bad", "open"] = "bad" if result.ended == FAILED else "open"
            commands = tuple(f"{_judge_command(result)} {answer}" for answer in ("yes", "no"))
            return cls(headline, style, explanation, task_words(result.task).question, commands)
        if result.success:
            return cls("Success", "good", ended)
        if result.ended == FAILED:
            return cls("Stopped by a failure", "bad", ended)
        return cls("Interrupted", "fair", ended) if result.ended == INTERRUPTED else cls("Not done", "bad", ended)


def one_line(result: EpisodeResult) -> str:
    """Return the verdict for a terminal, up to the path of the report."""
    verdict = Verdict.of(result)
    actions = f"{html.count(result.steps, 'action')} in {result.seconds:.0f} s"
    ask = f"; record whether it is done with: {_judge_command(result)} yes|no" if result.success is None else ""
    return f"{verdict.headline}: {actions}{ask}; report:"


def verdict_block(result: EpisodeResult) -> str:
    """Return the HTML of the verdict, between two comments by which `record_verdict` finds it."""
    return html.render("planner", _TEMPLATE, {"verdict": Verdict.of(result)}).strip()


def _judge_command(result: EpisodeResult) -> str:
    return f"run_task judge {shlex.quote(str(Path(result.report).parent))}"


def read_result(run: Path) -> EpisodeResult:
    """Return the result of a run.

    Raises:
        JudgeError: The folder is none of a run, or its result is damaged.
    """
    file = run / RESULT
    try:
        return EpisodeResult.from_json(file.read_bytes())
    except OSError as error:
        raise JudgeError(f"{run}: expected the folder of a run; {file}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise JudgeError(f"{file}: expected the result of a run: {error}") from None


def record_verdict(run: Path, is_done: bool, note: str = "") -> EpisodeResult:
    """Record in the result and in the report of a run whether a person finds the task done; return the result.

    An earlier verdict of a person is replaced.

    Raises:
        JudgeError: The folder is none of a run, or the simulation has judged it. Nothing was written.
        OSError: The disk is full or failing.
    """
    result = read_result(run)
    if result.judged_by == BY_SIMULATION:
        raise JudgeError(
            f"{run}: the simulation has judged this run ({'success' if result.success else 'not done'}); "
            "only runs on a real robot are judged by a person"
        )
    report = run / REPORT
    try:
        page = report.read_text(encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"{report}: expected the report of the run; {error.strerror}") from None
    result = replace(result, success=is_done, judged_by=BY_PERSON, note=note)
    block = verdict_block(result)
    page, n_found = _BLOCK.subn(lambda _: block, page, count=1)
    if not n_found:
        raise JudgeError(f"{report}: expected a report with a verdict, got one of an earlier version")
    write_file(report, page)
    write_file(run / RESULT, result.to_json() + "\n")
    return result
