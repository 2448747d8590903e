"""Command `run_evaluation`: from files to a report."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_collection.episode import Episode
from data_collection.folder_lock import locked_folder
from data_collection.formats.robonet import write_episode
from ghvae_core.data.dataset import DataConfig, load_dataset
from ghvae_core.evaluation import report as evaluation_report
from ghvae_core.evaluation import run as evaluation_run
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED
from ghvae_core.evaluation.scoring import Scores, score
from ghvae_core.models.checkpoint import CheckpointInfo, save
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, ModuleConfig
from ghvae_core.run_evaluation import main
from robot_bridge.camera import Camera
from robot_bridge.robot import RobotSpec
from robot_bridge.safety import MotionLimits
from tests.reference_data import DATA

torch.set_num_threads(1)
WEIGHTS = DATA / "weights/lpips_alex_v0.1_torchvision.safetensors"
SPEC = RobotSpec(
    name="franka",
    limits=MotionLimits(workspace_low_m=(0.3, -0.2, 0.0), workspace_high_m=(0.7, 0.2, 0.2), step_limit_m=0.05),
    camera=Camera(height_px=240, width_px=320, position_m=(0.9, 0.0, 0.5), target_m=(0.45, 0.0, 0.05), fovy_rad=0.84),
    step_s=0.5,
)

Command = Callable[..., int]
ROWS = [*(f"model, {kind}" for kind in (MEAN, SAMPLE, SHUFFLED)), COPY]


def episode(seed: int) -> Episode:
    """Return 24 frames of a bright square that moves to the right."""
    rng = np.random.default_rng(seed)
    frames = np.full((24, 240, 320, 3), 90, np.uint8)
    for t, frame in enumerate(frames):
        frame[100:140, 8 * t : 8 * t + 40] = 200
    actions = np.concatenate([rng.uniform(-0.02, 0.02, (23, 3)), np.ones((23, 1))], axis=1).astype(np.float32)
    states = np.tile([0.5, 0.0, 0.1, 0.0, 0.0], (24, 1))
    return Episode(frames, states, actions, actions, np.arange(24, dtype=np.float64), {"seed": seed})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for i in range(2):
        write_episode(episode(i), folder / f"lab_franka_test_traj{i}.hdf5", SPEC)
    return folder


def save_checkpoint(folder: Path, step_limit_m: float = 0.05, **provenance: str | float) -> Path:
    torch.manual_seed(0)
    size = ModuleConfig(channels=4, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1)
    config = GhvaeConfig(modules=(size,), pixel_channels=4)
    info = CheckpointInfo(
        model=config, step_limit_m=step_limit_m, step_s=0.5, modules_trained=1, provenance=dict(provenance)
    )
    save(folder, Ghvae(config), info)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "nano")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs the command with options and returns its exit code; later options override."""

    def run(*options: object) -> int:
        defaults = ("--checkpoint", checkpoint, "--data", data, "--device", "cpu", "--no-lpips")
        monkeypatch.setattr(sys, "argv", ["run_evaluation", *map(str, (*defaults, *options))])
        with pytest.raises(SystemExit) as stop:
            main()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return run


def last_line(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


def test_the_report_is_written(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--out", "report") == 0
    printed = capsys.readouterr()
    result = last_line(printed.out)
    names = {
        "report.html",
        "evaluation.json",
        "evaluation.md",
        "curves.png",
        "filmstrip.png",
        "rollouts.gif",
        "sheet.gif",
    }
    assert {path.name for path in (folder / "report").iterdir()} == names
    written = json.loads((folder / "report/evaluation.json").read_text(encoding="utf-8"))
    assert len(written["windows"]) == 4 and written["about"]["n_episodes_passed_over"] == 0
    assert (result["n_windows"], result["n_episodes"]) == (4, 2)
    assert result["report"].startswith("report/") and (folder / result["report"]).is_file()
    assert list(result["rows"]) == list(written["rows"]) == ROWS
    assert set(result["rows"][ROWS[0]]) == {"psnr_db", "ssim"}
    means = {row: metrics["psnr_db"]["value"] for row, metrics in written["rows"].items()}
    assert {row: metrics["psnr_db"] for row, metrics in result["rows"].items()} == pytest.approx(means, abs=1e-6)
    assert result["rows"][COPY]["psnr_db"] > result["rows"][ROWS[0]]["psnr_db"], "an untrained model"
    assert len(printed.out) < 2000, "details are in the file alone"
    assert "PSNR" in printed.err
    assert "Held out of training (model): not known" in printed.err


def test_without_out_nothing_is_written_and_the_seed_determines_the_results(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for seed in (1, 1, 2):
        assert command("--windows", 3, "--seed", seed) == 0
        results.append(last_line(capsys.readouterr().out))
    assert results[0] == results[1] != results[2]
    assert results[0]["n_windows"] == 3
    assert not list(folder.iterdir())


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no LPIPS weights at {WEIGHTS}")
def test_lpips_is_computed_with_given_weights(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--windows", 2, "--lpips", "--lpips-weights", WEIGHTS) == 0
    result = last_line(capsys.readouterr().out)
    assert result["rows"][COPY]["lpips_alex"] > 0


def test_ctrl_c_reports_the_completed_batches(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def interrupted(*arguments: Any) -> Iterator[Scores]:
        yield next(score(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_run, "score", interrupted)
    assert command("--out", "report", "--set", "evaluation.batch_windows=2") == 130
    assert last_line(capsys.readouterr().out)["n_windows"] == 2
    assert (folder / "report/evaluation.json").is_file()


def test_ctrl_c_before_the_first_batch_reports_nothing(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Iterator[Scores]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(evaluation_run, "score", interrupted)
    assert command("--out", "report") == 130
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere: expected a folder of episodes"),
        (["--modules", "2"], "expected --modules of 1 to 1, got 2"),
        (["--depth", "2"], "--depth is now --modules"),
        (["--label", "a", "--label", "b"], "expected one for each of 1 checkpoints, got 2"),
        (["--sensitivity", "4"], "expected at most 3 other sequences of 4 windows, got 4"),
        (["--fvd", "--set", "evaluation.n_predicted=7"], "--fvd: expected videos of at least 10 frames"),
        (["--fvd", "--i3d-weights", "nowhere.safetensors"], "nowhere.safetensors: no such file of I3D"),
        (["--windows", "1"], "evaluation.n_windows"),
        (["--set", "evaluation.n_window=4"], "did you mean 'n_windows'"),
        (["--lpips", "--lpips-weights", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--out", "used"], "used: expected a new or empty folder, got one with note"),
        (["--out", "used/note/report"], "used/note/report: expected a new or empty folder, got: Not a directory"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: expected auto or one of cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device"),
        ),
    ],
    ids=[
        *("checkpoint", "data", "modules", "depth", "label", "sensitivity", "fvd", "i3d"),
        *("windows", "key", "weights", "out", "parent", "device"),
    ],
)
def test_refused_input_exits_with_2_and_writes_nothing(
    options: list[str], message: str, command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "used").mkdir()
    (folder / "used/note").touch()
    before = sorted(folder.rglob("*"))
    assert command("--out", "report", *options) == 2
    printed = capsys.readouterr()
    assert message in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


def test_training_episodes_exit_with_2(
    command: Command, data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = load_dataset([data], DataConfig(), 64, folder / "cache", lambda done, total: None).sha256
    trained = save_checkpoint(folder / "trained", data_sha256=digest, validation_fraction=0.05)
    assert command("--checkpoint", trained, "--out", "report") == 2
    printed = capsys.readouterr()
    assert "the model was trained on these episodes" in printed.err.splitlines()[-1]
    assert "--set evaluation.validation_fraction=0.05" in printed.err.splitlines()[-1]
    assert printed.out == "" and not (folder / "report").exists()


def test_a_report_that_cannot_be_written_exits_with_1_after_printing_the_json(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path / "sheet.gif"))

    monkeypatch.setattr(evaluation_report, "write_folder", full)
    assert command("--out", "report") == 1
    printed = capsys.readouterr()
    assert last_line(printed.out)["n_windows"] == 4
    reason = f"{folder / 'report/sheet.gif'}: No space left on device"
    assert printed.err.splitlines()[-1] == f"error: report: the report could not be written: {reason}"
    assert not list(folder.iterdir())


def test_a_folder_in_use_by_another_evaluation_is_refused(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked_folder(folder / "report"):
        assert command("--out", "report") == 2
    assert "report: locked by another run" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_episodes_of_another_robot_exit_with_2(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--checkpoint", save_checkpoint(tmp_path / "other", step_limit_m=0.2)) == 2
    assert "expected step_limit_m 0.2 as in the checkpoint, got 0.05" in capsys.readouterr().err


def test_several_models_are_compared_with_the_first(
    command: Command, checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_checkpoint(folder / "other")
    options = ("--checkpoint", other, "--label", "one", "--label", "two", "--samples", 2, "--sensitivity", 2)
    assert command(*options, "--windows", 3) == 0
    result = last_line(capsys.readouterr().out)
    kinds = [MEAN, SAMPLE, "best of 2 samples", SHUFFLED]
    assert list(result["rows"]) == [*(f"{label}, {kind}" for label in ("one", "two") for kind in kinds), COPY]
    assert result["checkpoints"] == {"one": str(checkpoint), "two": str(other)}
    assert result["differences"][f"two, {MEAN} - one, {MEAN}"]["psnr_db"] == 0, "the same weights"
    assert [*result["median_percentile"]] == ["one", "two"]
    assert result["median_percentile"]["one"] == result["median_percentile"]["two"]


def test_ctrl_c_during_the_ranking_of_actions_reports_the_other_results(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(evaluation_run, "rank", interrupted)
    assert command("--out", "report", "--sensitivity", 2) == 130
    result = last_line(capsys.readouterr().out)
    assert (result["n_windows"], result["median_percentile"]) == (4, {})
    assert (folder / "report/evaluation.json").is_file()


def test_the_sensitivity_of_an_action_free_model_is_omitted(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ModuleConfig(channels=4, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1)
    config = GhvaeConfig(modules=(size,), pixel_channels=4, action_dim=0)
    save(folder / "free", Ghvae(config), CheckpointInfo(model=config, modules_trained=1))
    arguments = [f"--checkpoint={folder / 'free'}", "--label", "a", "--label", "free"]
    assert command(*arguments, "--sensitivity", 2, "--windows", 3) == 0
    result = last_line(capsys.readouterr().out)
    assert set(result["median_percentile"]) == {"a"}
    assert f"free, {SHUFFLED}" not in result["rows"] and f"free, {MEAN}" in result["rows"]


def test_only_damaged_episodes_are_reported_in_one_line(
    command: Command, data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in data.iterdir():
        (folder / "cut").mkdir(exist_ok=True)
        (folder / "cut" / path.name).write_bytes(path.read_bytes()[:2000])
    assert command("--data", folder / "cut") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: expected at least 2 windows of episodes, found 0; 2 of 2 episodes are unreadable")
    assert "traj" in line


def test_training_episodes_are_evaluated_on_request(
    command: Command, data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = save_checkpoint(folder / "trained", data_sha256="0f", validation_fraction=1e-9)
    assert command("--checkpoint", trained, "--label", "a", "--label", "b", "--part", "trained-on") == 0
    result = last_line(capsys.readouterr().out)
    assert result["part"] == "trained-on"
