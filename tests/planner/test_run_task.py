"""run_task: its output, its refusals, and its record after a failure."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from configs.command import ReportedError
from configs.loader import FOLDER, load
from data_collection.episode import EpisodeError
from data_collection.formats.robonet import read_episode
from ghvae_core.goal_cost import CostNetworks
from ghvae_core.predictor import Context, Prediction, PredictorError
from ghvae_core.serving.launch import private_server
from planner import output_folder as folder_module
from planner.config import TaskRunConfig
from planner.episode import EpisodeRequest, run_episode
from planner.options import PredictorChoice
from planner.oracle import OraclePredictor
from planner.output_folder import RecordError
from robot_bridge.robot import RobotError
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka
from tests.patience import patience, relaxed

SMALL = ["planner.n_candidates=4", "planner.horizon=2", "planner.replan_every=1", "planner.n_videos=2"]
COMMAND = [sys.executable, "-m", "planner.run_task"]
ROOT = FOLDER.parent


def _request(folder: Path, **changes: Any) -> EpisodeRequest:
    values: dict[str, Any] = {
        "task": "pick_sweep",
        "predictor": "oracle",
        "checkpoint": folder / "none",
        "server": None,
        "goal": None,
        "out": folder / "run",
        "seed": 0,
        "robot": "simulation",
        **changes,
    }
    values["predictor"] = PredictorChoice(values["predictor"], values.pop("checkpoint"), values.pop("server"))
    return EpisodeRequest(**values)


def _last_json(output: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


def _episode_actions(folder: Path) -> int:
    (path,) = folder.glob("*.hdf5")
    return len(read_episode(path).actions)


def _children(pid: int) -> list[int]:
    """Return the running child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    run_episode(_request(folder), [*SMALL, "task.n_steps=2"])
    return folder / "run"


def test_a_run_writes_report_episode_configuration_and_result(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"report.html", "result.json", "config.yaml", "goal.png", "planner_franka_pick_sweep_traj0.hdf5"} <= names
    result = _last_json((finished / "result.json").read_text())
    assert result["steps"] == _episode_actions(finished) == 2 and result["predictor"] == "oracle"
    assert result["ended"] == "steps used" and result["success"] is False and result["report"].endswith("report.html")
    assert result["prediction_error"] == 0.0  # the oracle predicts exactly


def test_the_configuration_that_was_used_can_be_read_back(finished: Path) -> None:
    sections = yaml.safe_load((finished / "config.yaml").read_text())
    config = TaskRunConfig.model_validate_json(json.dumps(sections))
    assert isinstance(config.robot, SimulationConfig)
    assert config.planner.n_candidates == 4 and config.robot.scene == "pick_sweep" and config.robot.split == "test"


def test_equal_seeds_give_equal_results(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_episode(_request(tmp_path), [*SMALL, "task.n_steps=2"])
    first, second = (_last_json(text) for text in ((finished / "result.json").read_text(), capsys.readouterr().out))
    same = ("cost", "distance_start", "distance_end", "away_m", "steps", "plans")
    assert [first[name] for name in same] == [second[name] for name in same]


def test_a_given_goal_does_not_change_the_scene_of_the_seed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_episode(_request(tmp_path, goal=finished / "goal.png"), [*SMALL, "task.n_steps=1"])
    for name in ("goal.png", "start.png"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
    first, second = (_last_json(text) for text in ((finished / "result.json").read_text(), capsys.readouterr().out))
    assert first["distance_start"] == second["distance_start"] > 2


def test_a_goal_that_shows_the_present_is_refused_before_anything_moves(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportedError, match="differs from the present scene") as refusal:
        run_episode(_request(tmp_path, goal=finished / "start.png"), SMALL)
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())


def test_a_scene_in_which_the_scripted_policy_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(robot: SimulatedFranka) -> NDArray[np.uint8]:
        raise RobotError("dropped it")

    monkeypatch.setattr("robot_bridge.simulation.scripted_policy.make_goal", fail)
    message = "the scripted policy does not succeed in the scene of seed 7; choose another seed or give --goal"
    with pytest.raises(ReportedError, match=f"^{message}$") as refusal:
        run_episode(_request(tmp_path, seed=7), SMALL)
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"task": "pick_wpie"}, [], "did you mean 'tasks/pick_wipe.yaml'"),
        ({}, ["planner.n_candidate=8"], "did you mean 'n_candidates'"),
        ({}, ["planner.replan_every=11"], "replan_every"),
        ({"predictor": "server"}, [], "expected a checkpoint folder"),
        ({"predictor": "server", "server": "nonsense"}, [], "expected an address"),
        ({"goal": Path(__file__)}, [], "expected a goal image"),
        ({}, ["task.min_goal_distance=200"], "single colour|differs from the present"),
    ],
)
def test_refused_input_exits_with_2_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(ReportedError, match=message) as refusal:
        run_episode(_request(tmp_path, **changes), overrides)
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())


def test_a_folder_with_files_is_refused(finished: Path) -> None:
    before = sorted(finished.iterdir())
    with pytest.raises(ReportedError, match="expected a new or empty folder"):
        run_episode(_request(finished.parent), SMALL)
    assert sorted(finished.iterdir()) == before


def test_the_default_folder_is_named_after_task_predictor_time_and_seed_and_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260102_030405")
    run_episode(_request(tmp_path, out=None), [*SMALL, "task.n_steps=1"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "pick_sweep_oracle_20260102_030405_seed0" and (folder / "result.json").exists()
    with pytest.raises(ReportedError, match="expected a new or empty folder") as refusal:
        run_episode(_request(tmp_path, out=None), [*SMALL, "task.n_steps=1"])
    assert refusal.value.exit_code == 2


def _fail_at(monkeypatch: pytest.MonkeyPatch, plan: int, error: BaseException) -> None:
    """Make the oracle raise at one plan."""

    class Failing(OraclePredictor):
        n_asked = 0

        def predict(
            self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
        ) -> Prediction:
            self.n_asked += 1
            if self.n_asked > plan:
                raise error
            return super().predict(context, candidates, goal, n_videos)

    monkeypatch.setattr("planner.oracle.OraclePredictor", Failing)


@pytest.mark.parametrize("plan", [0, 2])
def test_after_a_failure_of_the_predictor_everything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plan: int
) -> None:
    _fail_at(monkeypatch, plan, PredictorError("no answer in time"))
    with pytest.raises(PredictorError, match="no answer in time") as failure:
        run_episode(_request(tmp_path), SMALL)
    assert failure.value.exit_code == 1
    result = _last_json(capsys.readouterr().out)
    assert result["ended"] == "failed" and result["error"] == "no answer in time" and result["steps"] == plan
    assert result["success"] is False and result["picked"] is False and result["away_m"] > 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "no answer in time. The arm was held." in report and "Not judged" not in report
    assert [_episode_actions(path.parent) for path in (tmp_path / "run").glob("*.hdf5")] == ([plan] if plan else [])


NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "run/file")
NO_EPISODE = EpisodeError("the episode could not be written")
REASONS = {NO_SPACE: "run/file: No space left on device", NO_EPISODE: str(NO_EPISODE)}  # in one line


def _fail_to_write(monkeypatch: pytest.MonkeyPatch, part: str, fault: Exception) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(folder_module, part, fail)


@pytest.mark.parametrize(
    ("part", "fault"), [("write_episode", NO_EPISODE), ("write_episode", NO_SPACE), ("write_report", NO_SPACE)]
)
def test_a_failed_part_of_the_record_exits_with_1_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str, fault: Exception
) -> None:
    _fail_to_write(monkeypatch, part, fault)
    with pytest.raises(RecordError) as failure:
        run_episode(_request(tmp_path), [*SMALL, "task.n_steps=1"])
    assert str(failure.value) == f"not all was recorded: {REASONS[fault]}"
    assert failure.value.exit_code == 1
    output, errors = capsys.readouterr()
    assert _last_json((tmp_path / "run" / "result.json").read_text()) == _last_json(output)
    assert REASONS[fault] not in errors  # printed once, by the command
    written = {path.suffix for path in (tmp_path / "run").iterdir()}
    assert (".hdf5" in written) == (part != "write_episode") and (".html" in written) == (part != "write_report")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PredictorError("no answer in time")], ids=repr)
def test_a_failed_part_of_the_record_does_not_hide_the_error_that_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    _fail_at(monkeypatch, 1, error)
    _fail_to_write(monkeypatch, "write_episode", NO_EPISODE)
    _fail_to_write(monkeypatch, "write_report", NO_SPACE)
    with pytest.raises(type(error)) as raised:
        run_episode(_request(tmp_path), [*SMALL, "task.n_steps=3"])
    assert raised.value is error
    output, errors = capsys.readouterr()
    assert _last_json((tmp_path / "run" / "result.json").read_text()) == _last_json(output)
    assert _last_json(output)["steps"] == 1
    assert f"not all was recorded: {REASONS[NO_EPISODE]}; {REASONS[NO_SPACE]}" in errors


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Provide a list for processes, none of which outlives the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def _start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    options = [option for override in SMALL for option in ("--set", override)]
    return subprocess.Popen(
        [*COMMAND, "pick_wipe", "--out", str(folder / "run"), *options, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _wait_for_plan(process: subprocess.Popen[str], step: int) -> None:
    """Read standard error until the plan at `step` was made."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"step {step}:"):
            return
    pytest.fail("ended before that plan: " + "".join(lines))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_holds_the_arm_writes_the_record_and_exits_with_130(
    tmp_path: Path, started: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = _start(tmp_path, ["--predictor", "oracle", "--steps", "5000"])
    started.append(process)
    _wait_for_plan(process, 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 130, errors
    result = _last_json(output)
    assert result["ended"] == "interrupted" and result["steps"] >= 2
    assert _episode_actions(tmp_path / "run") == result["steps"]
    assert "Interrupted" in (tmp_path / "run" / "report.html").read_text()
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small untrained model."""
    import torch

    from configs.loader import Config
    from ghvae_core.models.checkpoint import CheckpointInfo, save
    from ghvae_core.models.ghvae import Ghvae, GhvaeConfig

    class Sections(Config):
        model: GhvaeConfig

    config = load(Sections, {"model": "models/nano.yaml"}).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Ghvae(config)
    folder = tmp_path_factory.mktemp("checkpoint") / "nano"
    save(folder, model, CheckpointInfo(model=config, step_limit_m=0.2, step_s=0.6, modules_trained=6))
    return folder


def test_a_private_server_makes_one_command_enough(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _children(os.getpid())
    run_episode(_request(tmp_path, predictor="server", checkpoint=checkpoint), [*SMALL, "task.n_steps=2"])
    result = _last_json(capsys.readouterr().out)
    assert result["predictor"] == "server" and len(result["checkpoint"]) == 64 and result["plans"] == 2
    assert _children(os.getpid()) == before


def test_the_network_of_steps_to_go_is_named_by_its_hash(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig, load, save

    save(tmp_path / "distance", TemporalDistance(TemporalDistanceConfig(channels=(8, 8))), {})
    settings = (f"predictor.distance={tmp_path / 'distance'}", "planner.cost.steps=0.1", "task.n_steps=1")
    for name in ("server", "in_process", "oracle"):
        run_episode(_request(tmp_path, predictor=name, checkpoint=checkpoint, out=tmp_path / name), [*SMALL, *settings])
        assert _last_json(capsys.readouterr().out)["distance"] == load(tmp_path / "distance").sha256 != "", name


def test_a_server_without_a_requested_network_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with private_server(checkpoint) as server:
        request = _request(tmp_path, predictor="server", server=server.address)
        with pytest.raises(ReportedError, match=r"predictor\.distance: .* does not have the cost term steps") as no:
            run_episode(request, [*SMALL, "predictor.distance=anything"])
    assert no.value.exit_code == 2 and not (tmp_path / "run").exists()


def test_a_server_with_another_network_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig, save

    for name in ("one", "other"):
        save(tmp_path / name, TemporalDistance(TemporalDistanceConfig(channels=(8, 8))), {"name": name})
    with private_server(checkpoint, networks=CostNetworks(distance=str(tmp_path / "one"))) as server:
        request = _request(tmp_path, predictor="server", server=server.address)
        with pytest.raises(ReportedError, match=r"predictor\.distance: .* has loaded a network other than .*other"):
            run_episode(request, [*SMALL, f"predictor.distance={tmp_path / 'other'}"])
        assert not (tmp_path / "run").exists()
        run_episode(request, [*SMALL, f"predictor.distance={tmp_path / 'one'}", "task.n_steps=1"])


def test_the_local_model_plans_as_the_server_does(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = []
    for name in ("server", "in_process"):
        request = _request(tmp_path, predictor=name, checkpoint=checkpoint, out=tmp_path / name)
        run_episode(request, [*SMALL, "task.n_steps=1"])
        costs.append(_last_json(capsys.readouterr().out)["cost"])
    assert costs[0] == pytest.approx(costs[1], rel=1e-4)


def test_a_robot_unlike_that_of_the_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    request = _request(tmp_path, predictor="in_process", checkpoint=checkpoint)
    with pytest.raises(ReportedError, match=r"step_limit_m: the robot has 0\.1, the predictor was trained with 0\.2"):
        run_episode(request, [*SMALL, "robot.limits.step_limit_m=0.1"])
    assert not (tmp_path / "run").exists()


def test_after_the_server_is_killed_the_episode_is_recorded(
    tmp_path: Path, checkpoint: Path, started: list[subprocess.Popen[str]]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--steps", "5000"]
    arguments += ["--set", f"planner.predict_timeout_s={relaxed(2, 60.0)}"]
    process = _start(tmp_path, arguments)
    started.append(process)
    _wait_for_plan(process, 2)
    (server,) = _children(process.pid)
    os.kill(server, signal.SIGKILL)
    output, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 1, errors
    result = _last_json(output)
    assert result["ended"] == "failed" and result["steps"] >= 2 and "no reply" in result["error"]
    assert _episode_actions(tmp_path / "run") == result["steps"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "error: no reply" in errors and "Traceback" not in errors


def test_importing_the_command_loads_no_heavy_library() -> None:
    code = (
        "import sys, planner.run_task; print(sorted({'torch', 'mujoco', 'rospy', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert output.stdout.strip() == "[]"


def test_planning_loads_neither_torch_nor_ros() -> None:
    code = "import sys, planner.episode; print(sorted({'torch', 'rospy', 'genpy'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert output.stdout.strip() == "[]"


def test_the_help_names_every_option_and_a_typo_exits_with_2() -> None:
    output = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for option in ("--goal", "--predictor", "--server", "--checkpoint", "--seed", "--steps", "--out", "--set"):
        assert option in output.stdout
    typo = subprocess.run([*COMMAND, "pick_wipe", "--gaol", "x"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert typo.returncode == 2
