"""A person at a terminal judges runs of a robot that measures no success, here a doubled one."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import pytest

from configs.loader import FOLDER
from planner import episode
from tests.planner.doubled_arm import COMMANDS
from tests.planner.doubles import GOAL_M, FakeRobot, camera_view
from tests.terminal import Terminal, on_terminal

ROOT = FOLDER.parent
SMALL = ["--predictor", "copy", "--set", "planner.n_candidates=4", "--set", "task.n_steps=2"]
DOUBLED = [sys.executable, "-m", "tests.planner.doubled_arm"]
JUDGE = [sys.executable, "-m", "planner.run_task", "judge"]


@pytest.fixture
def goal(tmp_path: Path) -> Path:
    """Return the file of a goal image."""
    file = tmp_path / "goal.png"
    assert cv2.imwrite(str(file), camera_view(GOAL_M))
    return file


def _task(goal: Path, *arguments: str) -> list[str]:
    run = goal.parent / "run"
    command = [*DOUBLED, "run_task", "pick_wipe", "--robot", "franka_ros", "--goal", str(goal), "--out", str(run)]
    return [*command, *SMALL, *arguments]


def _trials(goal: Path, *arguments: str) -> list[str]:
    out = goal.parent / "trials"
    command = [*DOUBLED, "run_trials", "pick_wipe", "--robot", "franka_ros", "--goal", str(goal), "--out", str(out)]
    return [*command, *SMALL, *arguments]


def _open(command: list[str], goal: Path) -> AbstractContextManager[Terminal]:
    return on_terminal(command, goal.with_name("out.txt"), ROOT, {"OMP_NUM_THREADS": "1"})


def _result(goal: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(goal.with_name("out.txt").read_text().splitlines()[-1])
    return result


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300
    )


@pytest.mark.parametrize(
    ("key", "success", "line"),
    [("y", True, "Success: 2 actions"), ("N", False, "Not done: 2 actions"), ("q", None, "Not judged: 2 actions")],
)
def test_a_key_at_the_end_of_a_run_judges_it(goal: Path, key: str, success: bool | None, line: str) -> None:
    with _open(_task(goal, "--judge"), goal) as terminal:
        terminal.wait_for("Is the task done? y: yes, n: no, any other key: not judged")
        terminal.type(key)
        terminal.wait_for(line)
        shown = terminal.wait_for("report.html")
        assert terminal.end() == 0
    result = _result(goal)
    assert (result["success"], result["judged_by"]) == (success, "" if success is None else "person")
    assert ("run_task judge" in shown) == (success is None)
    assert "\x1b]8;" in terminal.shown and "file:///" in terminal.shown  # a link
    assert json.loads((goal.parent / "run" / "result.json").read_text()) == result


def test_a_run_is_judged_later_and_the_command_is_named(goal: Path) -> None:
    done = _run(_task(goal))
    run = goal.parent / "run"
    assert done.returncode == 0 and f"run_task judge {run} yes|no; report: {run}/report.html" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["success"] is None
    judged = _run([*JUDGE, str(run), "yes", "--note", "wiped clean"])
    assert judged.returncode == 0, judged.stderr
    result = json.loads(judged.stdout)
    assert (result["success"], result["judged_by"], result["note"]) == (True, "person", "wiped clean")
    assert "wiped clean" in (run / "report.html").read_text()
    refused = _run([*JUDGE, str(goal.parent), "no"])
    assert (refused.returncode, refused.stderr.count("\n")) == (
        2,
        1,
    ) and "expected the folder of a run" in refused.stderr
    assert _run([*JUDGE, str(run), "perhaps"]).returncode == 2


def test_ctrl_c_at_the_question_leaves_a_run_that_nobody_judged(goal: Path) -> None:
    with _open(_task(goal, "--judge"), goal) as terminal:
        terminal.wait_for("any other key: not judged")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert _result(goal)["success"] is None and (goal.parent / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run_task", "pick_wipe", "--judge"], "--judge: expected a real robot"),
        (["run_task", "pick_wipe", "--robot", "franka_ros", "--goal", "GOAL", "--judge"], "expected a terminal"),
        (["run_trials", "pick_wipe", "--robot", "franka_ros"], "expected --goal"),
        (["run_trials", "pick_wipe", "--robot", "franka_ros", "--goal", "GOAL"], "expected a terminal"),
        (["run_trials", "pick_wipe", "--robot", "franka_ros", "--goal", "GOAL", "--workers", "2"],
         "--workers 2: expected 1"),
        (["run_trials", "pick_wipe", "pick_sweep", "--robot", "franka_ros", "--goal", "GOAL"], "expected one task"),
        (["run_trials", "pick_wipe", "--goal", "GOAL"], "--goal: expected a real robot"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_no_person_can_answer_is_refused(
    goal: Path, command: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(goal) if word == "GOAL" else word for word in command]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(goal.parent / "out")])
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal
    monkeypatch.setattr(episode, "open_robot", lambda _: FakeRobot())
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command[0]]()
    out, errors = capsys.readouterr()
    assert (stop.value.code, errors.count("\n")) == (2, 1) and message in errors
    assert not (goal.parent / "out").exists() and not out


def test_trials_on_a_real_robot_are_arranged_judged_repeated_and_resumed(goal: Path) -> None:
    arrange, judge = "step back and press Enter", "Is the task done? y: yes, n: no, u: undo"
    with _open(_trials(goal, "--trials", "3"), goal) as terminal:
        for number, key in ((1, "y"), (2, "u"), (2, "n")):
            assert ("start.png" in terminal.wait_for(arrange)) == (number > 1)
            assert f"Trial {number} of 3" in terminal.shown
            terminal.type("\n")
            terminal.wait_for(judge)
            terminal.type(key)
        terminal.wait_for("Trial 3 of 3")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    numbers = _result(goal)["pick_wipe"]
    assert (numbers["success_rate"], numbers["trials"], numbers["planned"]) == (0.5, 2, 3)
    assert numbers["judged_by"] == "person" and not any("strict" in name or name == "picked_rate" for name in numbers)
    first = goal.parent / "trials" / "pick_wipe" / "A" / "seed1000"
    written = (first / "trial.json").stat().st_mtime_ns
    with _open(_trials(goal, "--trials", "3", "--resume"), goal) as terminal:
        terminal.wait_for("Trial 3 of 3")
        terminal.type("\n")
        terminal.wait_for(judge)
        terminal.type("y")
        assert "2 of 3 done, as a person judged" in terminal.wait_for("trials.html")
        assert terminal.end() == 0
    numbers = _result(goal)["pick_wipe"]
    assert (numbers["success_rate"], numbers["interval"]) == (0.6667, [0.2077, 0.9385])
    assert (first / "trial.json").stat().st_mtime_ns == written
    assert "A person judged it" in (first / "report.html").read_text()
    page = (goal.parent / "trials" / "trials.html").read_text()
    assert "done, as a person judged" in page and "tool lifted" not in page


def test_two_variants_alternate_on_a_real_robot(goal: Path) -> None:
    with _open(_trials(goal, "--trials", "1", "--compare", "planner.n_candidates=5"), goal) as terminal:
        for variant, key in (("A", "n"), ("B", "y")):
            assert f"pick_wipe, {variant}, seed 1000" in terminal.wait_for("press Enter")
            terminal.type("\n")
            terminal.wait_for("u: undo")
            terminal.type(key)
        assert terminal.end() == 0
    numbers = _result(goal)["pick_wipe"]
    assert (numbers["success_rate"], numbers["compare"]["success_rate"]) == (0.0, 1.0)
    assert numbers["paired"]["success"]["only_b"] == 1 and set(numbers["paired"]) == {"success"}
