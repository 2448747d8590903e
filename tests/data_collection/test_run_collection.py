"""`run_collection` from the command line: its files, refusals and interruptions."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_collection.formats.robonet import read_episode
from tests.patience import patience

TINY = ["--set", "robot.renderer=ray", "--set", "collection.n_steps=2", "--set", "collection.steps_per_draw=[1,2]"]
TINY += ["--set", "collection.free_disk_floor_gib=0"]
COMMAND = [sys.executable, "-m", "data_collection.run_collection"]


def collect(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=False)


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "--out", str(out), *TINY, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def summary(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    loaded: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return loaded


def closed(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.hdf5")}


def wait_for(out: Path, n_files: int) -> None:
    deadline = time.monotonic() + patience(60)
    while len(list(out.glob("*.hdf5"))) < n_files:
        assert time.monotonic() < deadline, "no episode was closed"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("three") / "new"
    return out, summary(collect(out, "--episodes", "3", *TINY))


def test_episodes_are_closed_and_counted(three: tuple[Path, dict[str, Any]]) -> None:
    out, counts = three
    files = closed(out)
    assert set(files) == {f"lab_franka_play_traj{number}.hdf5" for number in range(3)}
    assert counts["episodes"] == counts["episodes_in_folder"] == 3 and counts["dropped"] == {}
    assert counts["bytes"] == sum(len(data) for data in files.values())
    episodes = [read_episode(path) for path in sorted(out.glob("*.hdf5"))]
    assert counts["recorded_s"] == pytest.approx(sum(episode.times_s[-1] for episode in episodes), abs=1e-3)
    assert sum(counts["families"].values()) == sum(len(str(e.info["families"]).split(",")) for e in episodes)
    assert "n_steps: 2" in (out / "collection.yaml").read_text()
    assert not list(out.glob("*.part"))


def test_the_number_of_workers_changes_no_byte(three: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    counts = summary(collect(tmp_path / "new", "--episodes", "3", "--workers", "2", *TINY))
    assert counts["episodes"] == 3
    assert closed(tmp_path / "new") == closed(three[0])


def test_resuming_fills_gaps_and_continues(three: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    before = closed(three[0])
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "collection.yaml").write_text((three[0] / "collection.yaml").read_text())
    (tmp_path / "lab_franka_play_traj1.hdf5").unlink()
    (tmp_path / "lab_franka_play_traj7.hdf5.part").write_bytes(b"half")
    damaged = tmp_path / "lab_franka_play_traj2.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    counts = summary(collect(tmp_path, "--episodes", "4", "--resume", *TINY))
    assert counts["episodes"] == 3 and counts["episodes_in_folder"] == 4
    after = closed(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == 4
    assert not list(tmp_path.glob("*.part")) and (tmp_path / f"quarantine/damaged/{damaged.name}.aside").exists()
    assert summary(collect(tmp_path, "--episodes", "4", "--resume", *TINY))["episodes"] == 0
    floor = [*TINY[:-1], "collection.free_disk_floor_gib=0.001"]  # changes no episode
    assert summary(collect(tmp_path, "--episodes", "4", "--resume", *floor))["episodes"] == 0
    refused = collect(tmp_path, "--episodes", "9", "--resume", "--seed", "1", *TINY)
    assert refused.returncode == 2 and "'seed: 0' is now 'seed: 1'" in refused.stderr
    assert closed(tmp_path) == after


def test_a_target_in_hours_counts_recorded_time(tmp_path: Path) -> None:
    counts = summary(collect(tmp_path / "new", "--hours", str(3 / 3600), *TINY))
    assert 3 <= counts["recorded_s"] < 3 + 3 and counts["episodes"] == len(closed(tmp_path / "new"))


REFUSED = [
    (["--hours", "-1"], "--hours: expected a number above 0, got -1"),
    (["--hours", "0"], "--hours"),
    (["--hours", "nan"], "--hours"),
    (["--episodes", "0"], "--episodes: expected 1 or more"),
    ([], "got both or neither"),
    (["--hours", "1", "--episodes", "1"], "got both or neither"),
    (["--episodes", "1", "--robot", "ur5"], "'ur5' is not one of 'simulation'"),
    (["--episodes", "1", "--robot", "franka_ros", "--workers", "2"], "--workers: expected 1"),
    (["--episodes", "1", "--workers", "0"], "--workers"),
    (["--episodes", "1", "--seed", "-1"], "--seed"),
    (["--episodes", "1", "--set", "collection.polcy=1"], "did you mean 'policy'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=str)
def test_invalid_arguments_are_refused_and_nothing_written(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = collect(tmp_path / "new", *arguments)
    assert result.returncode == 2 and message in result.stderr
    assert not result.stdout and not (tmp_path / "new").exists()


def test_a_folder_with_content_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    result = collect(tmp_path, "--episodes", "1", *TINY)
    assert result.returncode == 2 and "--resume" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_collection_is_not_resumed(tmp_path: Path) -> None:
    for name in ("penn_sawyer_traj3.hdf5", "penn_sawyer_traj4.hdf5.part", "meta_data.pkl"):
        (tmp_path / name).write_bytes(b"x")
    result = collect(tmp_path, "--episodes", "1", "--resume", *TINY)
    assert result.returncode == 2 and "without collection.yaml" in result.stderr and not result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "penn_sawyer_traj3.hdf5",
        "penn_sawyer_traj4.hdf5.part",
        "meta_data.pkl",
    }


def test_an_impossible_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place, message in (("file", "got a file"), ("file/new", "Not a directory")):
        result = collect(tmp_path / place, "--episodes", "1", "--resume", *TINY)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_failing_renderer_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    command = [*COMMAND, "--out", str(tmp_path / "new"), "--episodes", "1", "--set", "robot.renderer=egl"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), check=False, env=environment
    )
    assert result.returncode == 2 and "renderer egl" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_selected_renderer_is_stored(tmp_path: Path) -> None:
    environment = {**os.environ, "MUJOCO_GL": "disable"}  # auto then selects ray
    command = [*COMMAND, "--out", str(tmp_path), "--episodes", "1", *TINY, "--set", "robot.renderer=auto"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), check=False, env=environment
    )
    assert summary(result)["episodes"] == 1
    assert "renderer: ray" in (tmp_path / "collection.yaml").read_text()
    assert summary(collect(tmp_path, "--episodes", "1", "--resume", *TINY))["episodes"] == 0  # TINY selects ray


def test_a_failed_start_leaves_a_usable_folder(tmp_path: Path) -> None:
    full = ["--set", "collection.free_disk_floor_gib=1e9"]
    assert collect(tmp_path, "--episodes", "1", *TINY, *full).returncode == 1
    assert summary(collect(tmp_path, "--episodes", "1", "--resume", *TINY, "--seed", "1"))["episodes"] == 1


def test_a_full_disk_stops_between_episodes(tmp_path: Path) -> None:
    result = collect(tmp_path / "new", "--episodes", "2", *TINY[:-1], "collection.free_disk_floor_gib=1e9")
    assert result.returncode == 1 and "GiB of free disk" in result.stderr and not closed(tmp_path / "new")
    assert json.loads(result.stdout.splitlines()[-1])["episodes"] == 0


@pytest.mark.parametrize(
    ("stop", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGINT, "2"), (signal.SIGTERM, "2")]
)
def test_a_stop_drops_only_the_open_episode(tmp_path: Path, stop: signal.Signals, workers: str) -> None:
    process = start(tmp_path, "--episodes", "10000", "--workers", workers)
    wait_for(tmp_path, 3)
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)  # the whole group
    out, err = process.communicate(timeout=patience(60))
    assert process.returncode == 130, err
    assert "Traceback" not in err
    counts = json.loads(out.splitlines()[-1])
    assert 3 <= len(closed(tmp_path)) <= counts["episodes"] + int(workers)  # one may close just before it is counted
    assert not list(tmp_path.glob("*.part"))
    for path in tmp_path.glob("*.hdf5"):
        read_episode(path)


@pytest.mark.parametrize("n_stops", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_a_stop_at_any_moment_prints_no_traceback(tmp_path: Path, n_stops: int) -> None:
    chance = random.Random(n_stops)
    for i in range(n_stops):
        process = start(tmp_path, "--episodes", "10000", "--workers", "2", "--resume")
        if i % 2:
            wait_for(tmp_path, len(closed(tmp_path)) + 1)
        else:
            _wait_until_stoppable(process)
        time.sleep(chance.uniform(0, 2.0))
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=patience(60))
        assert process.returncode == 130 and "Traceback" not in err and "Exception ignored" not in err, err
    assert not list(tmp_path.glob("*.part"))
    for path in tmp_path.glob("*.hdf5"):
        read_episode(path)


def _wait_until_stoppable(process: subprocess.Popen[str]) -> None:
    """Wait until the command handles SIGTERM, as it does from its first line on; Python's own start does not."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc to find the handlers")
    deadline = time.monotonic() + patience(60)
    while not int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def test_a_stop_while_workers_start_prints_no_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, "--episodes", "10000", "--workers", "2")
    deadline = time.monotonic() + patience(60)
    while not (tmp_path / "collection.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=patience(60))
    assert process.returncode == 130 and "Traceback" not in err, err


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_9_at_any_moment_loses_no_closed_episode(tmp_path: Path, n_kills: int, workers: str) -> None:
    chance = random.Random(n_kills)
    seen: dict[str, bytes] = {}
    for _ in range(n_kills):
        process = start(tmp_path, "--episodes", "10000", "--workers", workers, "--resume")
        wait_for(tmp_path, len(seen) + 1)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=patience(60))
        found = closed(tmp_path)
        assert {name: found[name] for name in seen} == seen
        seen = found
    counts = summary(collect(tmp_path, "--episodes", str(len(seen) + 1), "--resume", *TINY))
    names = set(closed(tmp_path))
    assert set(seen) <= names and counts["episodes_in_folder"] == len(names)
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "quarantine").exists()
    for path in tmp_path.glob("*.hdf5"):
        read_episode(path)


def test_a_lost_worker_is_replaced_and_reported(tmp_path: Path) -> None:
    process = start(tmp_path, "--episodes", "20", "--workers", "2")
    wait_for(tmp_path, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate(timeout=patience(60))
        pytest.skip("needs /proc to find the workers")
    os.kill(_workers(children)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=patience(120))
    counts = json.loads(out.splitlines()[-1])
    assert process.returncode == 0 and "died (exit code -9); starting another process" in err, err
    assert counts["episodes"] == 20 == len(closed(tmp_path)) and counts["restarts"] == 1
    assert counts["attempts"] == counts["episodes"] + counts["lost"] + sum(counts["dropped"].values()) + sum(
        counts["quarantined"].values()
    )
    assert not list(tmp_path.glob("*.part"))


def _workers(children: Path) -> list[int]:
    pids = [int(pid) for pid in children.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
