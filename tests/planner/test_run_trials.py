"""run_trials as a command: very small real trials, and the effect of killed processes and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.loader import FOLDER, ConfigError
from planner.options import PredictorChoice
from planner.run_trials import run_trials
from planner.trials import runner as trials_module
from planner.trials.runner import TrialSeries, run_series
from planner.trials.trial import TrialJob, TrialOutcome
from planner.trials.variant import Variant
from tests.messages import messages
from tests.patience import patience, relaxed
from tests.planner.test_run_task import checkpoint  # noqa: F401 - a fixture

COMMAND = [sys.executable, "-m", "planner.run_trials"]
ROOT = FOLDER.parent
SMALL = (
    "planner.n_candidates=4",
    "planner.horizon=2",
    "planner.replan_every=1",
    "planner.n_videos=2",
    "task.n_steps=2",
    "robot.renderer=ray",
)
ENDLESS = (*SMALL, "task.n_steps=5000")


def _command(out: Path, *arguments: str, settings: tuple[str, ...] = SMALL) -> list[str]:
    options = [option for override in settings for option in ("--set", override)]
    return [*COMMAND, "pick_wipe", "--predictor", "oracle", "--out", str(out), *options, *arguments]


def _run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(out, *arguments), capture_output=True, text=True, check=False, cwd=ROOT)


def _last_json(output: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a folder of finished trials, run two at a time, and the output of the command."""
    out = tmp_path_factory.mktemp("done") / "trials"
    completed = _run(out, "--seeds", "0:2", "--workers", "2", "--compare", "planner.n_candidates=5")
    assert completed.returncode == 0, completed.stderr
    return out, completed


def test_trials_leave_pages_records_and_numbers(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, completed = done
    numbers = _last_json(completed.stdout)["pick_wipe"]
    assert numbers["trials"] == numbers["compare"]["trials"] == numbers["planned"] == 2 and numbers["steps"] == 2
    assert sum(numbers["paired"]["goal"][name] for name in ("both", "only_a", "only_b", "neither")) == 2
    for variant in ("A", "B"):
        for seed in ("seed0000", "seed0001"):
            names = {path.name for path in (out / "pick_wipe" / variant / seed).iterdir()}
            assert {"report.html", "result.json", "trial.json", "start.png", "goal.png", "log.txt"} <= names
    with Image.open(out / "failed.png") as failed:  # no trial succeeds with two actions
        assert failed.height == 4 * 130 and failed.width > 9 * 128
    page = (out / "trials.html").read_text()
    links = set(re.findall(r'href="([^"]+)"', page))
    assert len(links) == 4 and all((out / link).exists() for link in links)
    assert "data:image/png;base64," in page and "http" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert "n_candidates: 5" in (out / "config.yaml").read_text()
    assert "95 % interval" in completed.stderr and "McNemar" in completed.stderr and "for tuning" in completed.stderr
    assert "4 of 4, about 0 s left" in completed.stderr and "Traceback" not in completed.stderr


def test_both_variants_see_the_same_scene_and_goal_as_run_task(
    done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out, _ = done
    options = [option for override in SMALL for option in ("--set", override)]
    command = [sys.executable, "-m", "planner.run_task", "pick_wipe", "--predictor", "oracle", "--seed", "1"]
    command += ["--out", str(tmp_path / "run"), *options]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    a, b = (out / "pick_wipe" / variant / "seed0001" for variant in ("A", "B"))
    for name in ("start.png", "goal.png"):
        assert (a / name).read_bytes() == (b / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    alike = ("task", "predictor", "seed", "ended", "cost", "distance_start", "distance_end", "away_m", "steps", "plans")
    ours, theirs = (_last_json((folder / "result.json").read_text()) for folder in (a, tmp_path / "run"))
    assert {name: ours[name] for name in alike} == {name: theirs[name] for name in alike}


def test_resuming_repeats_only_unfinished_trials(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, first = done
    place = out / "pick_wipe" / "A"
    (place / "seed0001" / "trial.json").unlink()
    kept, repeated = ((place / seed / "result.json").stat().st_mtime_ns for seed in ("seed0000", "seed0001"))
    options = ("--seeds", "0:2", "--compare", "planner.n_candidates=5", "--out", str(out))
    completed = _run(out, *options, "--resume", "--json")
    assert completed.returncode == 0 and not messages(completed.stderr)
    assert (place / "seed0000" / "result.json").stat().st_mtime_ns == kept
    assert (place / "seed0001" / "result.json").stat().st_mtime_ns > repeated
    before, after = _last_json(first.stdout)["pick_wipe"], _last_json(completed.stdout)["pick_wipe"]
    assert {**before, "seconds_per_plan": 0} == {**after, "seconds_per_plan": 0}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Provide a list for commands, none of which outlives the test."""
    commands: list[subprocess.Popen[str]] = []
    yield commands
    for command in commands:
        command.kill()
        command.communicate()


def _start(out: Path, *arguments: str, settings: tuple[str, ...]) -> subprocess.Popen[str]:
    command = _command(out, *arguments, settings=settings)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True)


def _wait_for(path: Path) -> None:
    end_s = time.monotonic() + patience(100)
    while not path.exists():
        assert time.monotonic() < end_s, f"{path} did not appear"
        time.sleep(0.02)


def _workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_killed_worker_is_reported_and_ctrl_c_keeps_finished_trials(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "trials"
    command = _start(out, "--seeds", "3:5", settings=ENDLESS)
    started.append(command)
    began = out / "pick_wipe" / "A" / "seed0003" / "config.yaml"
    _wait_for(began)
    (worker,) = _workers(command.pid)
    os.kill(worker, signal.SIGKILL)
    assert command.stderr is not None
    repeated = "seed 3: its process was ended by SIGKILL; it is repeated once"
    assert any(repeated in line for line in command.stderr)  # after the progress of a slow start
    _wait_for(began)
    (worker,) = _workers(command.pid)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal sends it, to all
    output, errors = command.communicate(timeout=patience(60))
    assert command.returncode == 130, errors
    assert "Traceback" not in errors
    numbers = _last_json(output)["pick_wipe"]
    assert (numbers["trials"], numbers["planned"], numbers["success_rate"]) == (0, 2, None)
    assert (out / "trials.json").exists() and not Path(f"/proc/{worker}").exists()


def test_all_trials_share_one_server(
    tmp_path: Path,
    checkpoint: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    addresses: list[str] = []

    def note(_work: object, waiting: deque[TrialJob], _n_workers: int) -> Iterator[tuple[TrialJob, TrialOutcome]]:
        addresses.extend(str(job.request.predictor.server) for job in waiting)
        yield from ()

    monkeypatch.setattr(trials_module, "run_in_processes", note)
    a = Variant("A", PredictorChoice("server", checkpoint), SMALL)
    run_series(
        TrialSeries(("pick_wipe",), (a, a.changed(["planner.horizon=3"])), range(2), tmp_path / "t", False, 2, True)
    )
    assert len(addresses) == 4 and len(set(addresses)) == 1
    assert not Path(addresses[0].removeprefix("ipc://")).exists()  # it ended with them
    assert _last_json(capsys.readouterr().out)["pick_wipe"]["trials"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["server", "in_process"])
def test_a_model_runs_trials_two_at_a_time(tmp_path: Path, checkpoint: Path, predictor: str) -> None:  # noqa: F811
    arguments = ["--seeds", "0:2", "--workers", "2", "--predictor", predictor, "--checkpoint", str(checkpoint)]
    completed = _run(tmp_path / "trials", *arguments)
    assert completed.returncode == 0, completed.stderr
    assert _last_json(completed.stdout)["pick_wipe"]["trials"] == 2
    result = _last_json((tmp_path / "trials/pick_wipe/A/seed0000/result.json").read_text())
    assert result["predictor"] == predictor and len(result["checkpoint"]) == 64


@pytest.mark.slow
def test_trials_without_their_server_are_aborted(
    tmp_path: Path,
    checkpoint: Path,  # noqa: F811
    started: list[subprocess.Popen[str]],
) -> None:
    out = tmp_path / "trials"
    arguments = ["--seeds", "0:20", "--predictor", "server", "--checkpoint", str(checkpoint)]
    command = _start(out, *arguments, settings=(*ENDLESS, f"planner.predict_timeout_s={relaxed(2, 60.0)}"))
    started.append(command)
    _wait_for(out / "pick_wipe" / "A" / "seed0000" / "config.yaml")
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    (server,) = [int(c) for c in children if b"run_server" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(server, signal.SIGKILL)
    output, errors = command.communicate(timeout=patience(120))
    assert command.returncode == 1, errors
    numbers = _last_json(output)["pick_wipe"]
    assert numbers["trials"] == 0 and numbers["aborted"] == [0, 1, 2]
    assert "3 trials were aborted" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "5"}, "--seeds 5: expected A:B with A below B"),
        ({"seeds": "5:5"}, "expected A:B with A below B"),
        ({"seeds": "-1:5"}, "expected A:B with A below B"),
        ({"seeds": "0:5", "trials": 4}, "--seeds 0:5 gives 5 trials, --trials 4"),
        ({"compare": ["predictor=orakel"]}, "expected one of server, in_process, oracle"),
        ({"resume": True}, "--resume: expected --out"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        run_trials(["pick_wipe"], **options)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({}, range(1000, 1020)),
        ({"trials": 3}, range(1000, 1003)),
        ({"seeds": "7:9"}, range(7, 9)),
        ({"seeds": "7:9", "trials": 2}, range(7, 9)),
    ],
    ids=str,
)
def test_tuning_seeds_are_used_only_on_request(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], seeds: range
) -> None:
    asked: list[TrialSeries] = []
    monkeypatch.setattr(trials_module, "run_series", asked.append)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    run_trials(["pick_wipe", "pick_sweep"], **options)
    assert asked[0].seeds == seeds and asked[0].tasks == ("pick_wipe", "pick_sweep") and len(asked[0].variants) == 1


def test_a_bad_option_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    completed = _run(tmp_path / "trials", "--seeds", "5")
    assert (
        completed.returncode == 2
        and "expected A:B" in completed.stderr
        and not completed.stdout
        and not list(tmp_path.iterdir())
    )


def test_the_help_names_the_tuning_seeds_and_loads_no_heavy_library() -> None:
    completed = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Tune settings on seeds below 1000 only" in " ".join(completed.stdout.split())
    for option in ("--trials", "--seeds", "--predictor", "--checkpoint", "--set", "--compare", "--workers", "--resume"):
        assert option in completed.stdout
    code = "import sys, planner.run_trials; print({'torch', 'mujoco', 'numpy', 'cv2', 'scipy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "set()"
