from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from configs.command import ReportedError
from ghvae_core.checkpoint import load
from ghvae_core.run_finetune import finetune
from ghvae_core.trainer import Stage
from ghvae_core.training_log import TrainingLog
from ghvae_core.training_run import Request, train
from tests.ghvae_core.episodes import record

MODEL = """
modules:
  - {channels: 8, latent: 2, hidden: 8, encoder_blocks: 1, decoder_blocks: 1}
  - {channels: 12, latent: 2, hidden: 8, encoder_blocks: 1, decoder_blocks: 1}
pixel_channels: 8
"""
SETTINGS = (
    "training.module_steps=[3, 2]",
    "training.polish_steps=1",
    "training.rollout_steps=1",
    "training.batch_windows=2",
    "training.validation_windows=2",
    "data.horizon=2",
    "data.validation_share=0.3",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    for index in range(4):
        record(folder / "episodes", index)
    (folder / "small.yaml").write_text(MODEL)
    return folder


def _request(folder: Path, out: Path, **changes: Any) -> Request:
    request = Request(folder / "episodes", out, str(folder / "small.yaml"), None, False, 0, "cpu", SETTINGS)
    return dataclasses.replace(request, **changes)


def test_a_run_leaves_checkpoints_pictures_curves_and_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(_request(folder, out)) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    checkpoint = load(out / "checkpoint")
    assert report["sha256"] == checkpoint.sha256
    assert [*report["stages"]] == ["module_1", "module_2", "polish", "rollout"]
    assert report["stages"]["module_1"]["copy_last"] > 0
    assert checkpoint.info.model.action_scale == (0.2, 0.2, 0.2, 1.0)
    assert checkpoint.info.horizon == 2
    assert checkpoint.info.provenance["n_episodes"] == 4
    assert load(out / "stages" / "module_1").model.n_modules == 1
    for name in ("config.yaml", "pictures/module_1.png", "pictures/module_2.png"):
        assert (out / name).stat().st_size > 100
    assert list((out / "tensorboard").iterdir())
    assert "module_2" in captured.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_run_is_saved_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(_request(folder, whole)) == 0
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", _killer(number))
        assert train(_request(folder, parts)) == code
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert not (parts / "checkpoint").exists()
    assert train(_request(folder, parts, resume=True)) == 0
    expected, got = load(whole / "checkpoint").model, load(parts / "checkpoint").model
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, got.state_dict()[name]), name


def _killer(number: signal.Signals) -> object:
    def step(self: TrainingLog, stage: Stage, step: int, loss: dict[str, float]) -> None:
        if (stage.name, step) == ("module_1", 2):
            os.kill(os.getpid(), number)

    return step


def test_training_goes_on_from_a_checkpoint_that_fits(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert train(_request(folder, first)) == 0
    start = first / "checkpoint"
    idle = (*SETTINGS, "training.module_steps=[0]", "training.learning_rate=1e-12", "training.rollout_steps=0")
    assert train(_request(folder, tmp_path / "second", init=start, overrides=idle)) == 0
    second = load(tmp_path / "second" / "checkpoint")
    assert second.info.provenance["init_sha256"] == load(start).sha256
    for name, tensor in load(start).model.state_dict().items():
        torch.testing.assert_close(tensor, second.model.state_dict()[name])
    wider = (*SETTINGS, "model.pixel_channels=16")
    with pytest.raises(ReportedError, match="its model is"):
        train(_request(folder, tmp_path / "third", init=start, overrides=wider))
    with pytest.raises(ReportedError, match="its modules is 1, this run has 2"):
        train(_request(folder, tmp_path / "third", init=first / "stages" / "module_1"))
    assert not (tmp_path / "third").exists()


def test_what_would_be_overwritten_or_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ReportedError, match="no run to resume"):
        train(_request(folder, out, resume=True))
    assert train(_request(folder, out)) == 0
    with pytest.raises(ReportedError, match="holds a run already; add --resume"):
        train(_request(folder, out))
    with pytest.raises(ReportedError, match="another configuration, data or seed"):
        train(_request(folder, out, resume=True, seed=1))
    with pytest.raises(ReportedError, match="found none"):
        train(_request(folder, tmp_path / "other", data=tmp_path / "run" / "pictures"))
    with pytest.raises(ReportedError, match="expected actions of 5 numbers"):
        wide = (*SETTINGS, "model.action_dim=5", "model.action_scale=[1.0, 1.0, 1.0, 1.0, 1.0]")
        train(_request(folder, tmp_path / "other", overrides=wide))
    assert not (tmp_path / "other").exists()


def test_the_command_passes_its_options_on(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(finetune)
    arguments = ["--data", str(folder / "episodes"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    arguments += ["--model", str(folder / "small.yaml"), "--set", "training.speed=1"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ReportedError)
    assert "unknown key 'training.speed'" in str(result.exception)
