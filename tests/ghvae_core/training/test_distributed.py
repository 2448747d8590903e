from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ghvae_core.models.checkpoint import load
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.stages import TrainingConfig
from ghvae_core.training.training_state import latest_state, load_state
from tests.ghvae_core.episodes import record as record_episode
from tests.ghvae_core.runs import make_trainer, never
from tests.ghvae_core.small import MODEL
from tests.ghvae_core.together import CONFIG, SHARDED
from tests.patience import patience
from tests.shared_results import made_once

ROOT = Path(__file__).resolve().parents[3]
LAUNCH_S = 140  # time limit of a launch; it exceeds the timeouts of the processes


def _launch(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launched:
        try:
            output, errors = launched.communicate(timeout=patience(LAUNCH_S))
        finally:
            launched.terminate()  # ends both processes; a kill would leave them running
    return subprocess.CompletedProcess(command, launched.returncode, output, errors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of two processes."""

    def launch(folder: Path) -> None:
        done = _launch("tests.ghvae_core.together", str(folder))
        assert done.returncode == 0, done.stderr[-6000:]

    return made_once(tmp_path_factory, "together", launch)


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


def test_processes_agree(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["largest"] == seen[1]["largest"] == [1, 10]
    for name in ("plain", "sharded", "poisoned"):
        assert seen[0][name]["sha256"] == seen[1][name]["sha256"]


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_stopped_by_one_process_and_resumed_equals_uninterrupted_bit_for_bit(
    seen: list[dict[str, Any]], name: str
) -> None:
    for each in seen:
        resumed = each[f"{name} resumed"]
        assert resumed["notes"] == ["interrupted"] * (2 if name == "plain" else 1)
        assert resumed["sha256"] == each[name]["sha256"]
        assert resumed["losses"] == each[name]["losses"]


@pytest.mark.parametrize(("name", "config"), [("plain", CONFIG), ("sharded", SHARDED)])
def test_two_processes_train_as_one_that_accumulates(
    folder: Path, seen: list[dict[str, Any]], tmp_path: Path, name: str, config: TrainingConfig
) -> None:
    trainer, model, record = make_trainer(tmp_path, config.model_copy(update={"accumulation_steps": 2}))
    trainer.train(never)
    means = [(a + b) / 2 for a, b in zip(seen[0][name]["losses"], seen[1][name]["losses"], strict=True)]
    assert means == pytest.approx([loss for _, _, loss in record.losses], rel=1e-4)
    _check_close(model, _weights(folder / name))


@pytest.mark.parametrize(("name", "config"), [("plain", CONFIG), ("sharded", SHARDED)])
def test_one_process_resumes_a_run_of_two(folder: Path, tmp_path: Path, name: str, config: TrainingConfig) -> None:
    alone = config.model_copy(update={"accumulation_steps": 2})
    half = shutil.copytree(folder / f"{name}_half", tmp_path / "half")
    trainer, model, record = make_trainer(half, alone)
    assert trainer.resume()
    trainer.train(never)
    assert record.losses[0][1] == 3
    _check_close(model, _weights(folder / name))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    path = latest_state(run / "state")
    assert path is not None
    return load_state(path, "run 0").weights


def _check_close(model: VideoModel, expected: dict[str, torch.Tensor]) -> None:
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(expected[key], tensor, atol=1e-4, rtol=1e-3)


def test_a_non_finite_loss_in_one_process_is_skipped_by_all(seen: list[dict[str, Any]]) -> None:
    for each in seen:
        assert each["poisoned"]["notes"] == ["module_1 step 2: the loss is NaN or infinite; step skipped"]
        assert len(each["poisoned"]["losses"]) == len(each["plain"]["losses"]) - 1


def test_the_first_process_may_decode_for_three_days(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    timeouts: list[timedelta] = []

    def new_group(backend: str, timeout: timedelta) -> str:
        timeouts.append(timeout)
        return backend

    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, stub in (
        ("init_process_group", lambda *_, timeout: timeouts.append(timeout)),
        ("new_group", new_group),
        ("barrier", waited.append),
        ("destroy_process_group", lambda: None),
    ):
        monkeypatch.setattr(f"ghvae_core.training.distributed.distributed.{name}", stub)
    with ProcessGroup("cpu") as group:
        group.wait(is_patient=True)
    assert waited == ["gloo", None]
    assert timeouts[0] < timedelta(hours=1)
    assert timeouts[1] >= timedelta(days=3)  # videos of RoboNet's size on a slow disk


def test_a_single_process_is_a_group_of_one() -> None:
    with ProcessGroup("cpu") as group:
        assert group.is_first
        assert group.largest(3, 1) == (3, 1)
        group.wait()


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match="lower --nproc-per-node"):
        ProcessGroup("cuda")


SETTINGS = (
    "module_steps=[20, 4]",
    "end_to_end_steps=3",
    "prior_finetune_steps=0",
    "rollout_steps=0",
    "shard=true",
    "batch_windows=4",
    "validation_windows=2",
    "checks=warn",
)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_command_is_stopped_by_sigterm_to_one_process_and_resumed(tmp_path: Path) -> None:
    for index in range(4):
        record_episode(tmp_path / "episodes", index)
    (tmp_path / "small.yaml").write_text(MODEL)
    command = ["--data", str(tmp_path / "episodes"), "--model", str(tmp_path / "small.yaml"), "--device", "cpu"]
    for setting in (*(f"training.{each}" for each in SETTINGS), "data.horizon=2", "data.validation_fraction=0.3"):
        command += ["--set", setting]
    whole = _launch("ghvae_core.run_finetune", *command, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    parts = [*command, "--out", str(tmp_path / "parts")]
    stopped = _launch("tests.ghvae_core.stopped", *parts)
    assert stopped.returncode != 0
    assert stopped.stderr.count("exitcode  : 75") == 2, stopped.stderr[-3000:]
    assert not (tmp_path / "parts" / "checkpoint").exists()
    again = _launch("ghvae_core.run_finetune", *parts, "--resume")
    assert again.returncode == 0, again.stderr[-3000:]
    reports = [json.loads(done.stdout.splitlines()[-1]) for done in (whole, again)]
    assert reports[0]["stages"] == reports[1]["stages"]
    assert load(tmp_path / "whole" / "checkpoint").sha256 == load(tmp_path / "parts" / "checkpoint").sha256
