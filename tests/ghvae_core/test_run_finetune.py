from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from configs.command import ReportedError
from configs.loader import former_names, migrate
from ghvae_core.models.checkpoint import load
from ghvae_core.models.checkpoint_files import read_manifest, write_folder
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.run_finetune import finetune
from ghvae_core.training.config import TrainingRunConfig, continued, load_config
from ghvae_core.training.logger import TrainingLog
from ghvae_core.training.objective import Loss, module_loss
from ghvae_core.training.run import TrainingRequest, train
from ghvae_core.training.stages import TrainingStage
from ghvae_core.training.trainer import TrainingError
from ghvae_core.training.training_state import latest_state
from tests.ghvae_core.episodes import record
from tests.ghvae_core.small import MODEL

SETTINGS = (
    "training.module_steps=[3, 2]",
    "training.prior_finetune_steps=1",
    "training.rollout_steps=1",
    "training.batch_windows=2",
    "training.validation_windows=2",
    "training.checks=warn",
    "data.horizon=2",
    "data.validation_fraction=0.3",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    for index in range(4):
        record(folder / "episodes", index)
    (folder / "small.yaml").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A finished run; tests do not change it."""
    assert train(_request(folder, folder / "run")) == 0
    return folder / "run"


def _request(folder: Path, out: Path, **changes: Any) -> TrainingRequest:
    request = TrainingRequest((folder / "episodes",), out, str(folder / "small.yaml"), None, False, 0, "cpu", SETTINGS)
    return dataclasses.replace(request, **changes)


def _finetune(folder: Path, out: Path, *options: str) -> Result:
    """Run the command."""
    app = typer.Typer()
    app.command()(finetune)
    arguments = ["--data", str(folder / "episodes"), "--out", str(out), "--model", str(folder / "small.yaml")]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    return CliRunner().invoke(app, [*arguments, "--device", "cpu", *options])


def _killer(
    number: signal.Signals, at: tuple[str, int]
) -> Callable[[TrainingLog, TrainingStage, int, dict[str, float]], None]:
    def step(self: TrainingLog, stage: TrainingStage, step: int, loss: dict[str, float]) -> None:
        if (stage.name, step) == at:
            os.kill(os.getpid(), number)

    return step


def test_a_run_writes_checkpoints_images_curves_and_metrics(folder: Path, tmp_path: Path) -> None:
    result = _finetune(folder, tmp_path / "run")
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    out = tmp_path / "run"
    checkpoint = load(out / "checkpoint")
    assert report["sha256"] == checkpoint.sha256
    assert [*report["stages"]] == ["module_1", "module_2", "prior_finetune", "rollout"]
    assert report["stages"]["module_1"]["copy_last"] > 0
    assert checkpoint.info.model.action_scale == (0.2, 0.2, 0.2, 1.0)
    assert checkpoint.info.horizon == 2
    assert checkpoint.info.provenance["n_episodes"] == 4
    assert checkpoint.info.provenance["camera"] == 0
    assert load(out / "stages" / "module_1").model.n_modules == 1
    for name in ("config.yaml", "images/module_1.png", "images/module_2.png"):
        assert (out / name).stat().st_size > 100
    assert list((out / "tensorboard").iterdir())
    assert "module_2" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_run_is_saved_and_resumed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    folder = finished.parent
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", _killer(number, ("module_1", 2)))
        assert train(_request(folder, tmp_path)) == code
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert not (tmp_path / "checkpoint").exists()
    operational = (*SETTINGS, "training.save_every_s=5.0", "training.feature_cache_limit_gb=1.0")
    assert train(_request(folder, tmp_path, resume=True, overrides=operational)) == 0
    expected, got = load(finished / "checkpoint").model, load(tmp_path / "checkpoint").model
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, got.state_dict()[name]), name


def test_a_run_from_a_checkpoint_copies_pixels_as_its_model_does_unless_set(folder: Path, finished: Path) -> None:
    start, file = load(finished / "checkpoint"), str(folder / "small.yaml")
    assert isinstance(start.model.config, GhvaeConfig)
    literal = start.model.config.model_copy(update={"copies": 0})
    soft = dataclasses.replace(start, model=Ghvae(start.model.config.model_copy(update={"mask_threshold": 0.0})))
    from_paper = dataclasses.replace(start, model=Ghvae(literal))
    for overrides, checkpoint, expected in (((), start, 2), ((), from_paper, 0), (("model.copies=2",), from_paper, 2)):
        model = continued(load_config(file, overrides), checkpoint, overrides).model
        assert isinstance(model, GhvaeConfig) and model.copies == expected
    paper = dataclasses.replace(start, model=Ghvae(start.model.config.model_copy(update={"prior_frames": "all"})))
    for overrides, frames in (((), "all"), (("model.prior_frames=context",), "context")):
        model = continued(load_config(file, overrides), paper, overrides).model
        assert isinstance(model, GhvaeConfig) and model.prior_frames == frames
    for overrides, threshold in (((), 0.0), (("model.mask_threshold=0.2",), 0.2)):
        model = continued(load_config(file, overrides), soft, overrides).model
        assert isinstance(model, GhvaeConfig) and model.mask_threshold == threshold


def test_a_complete_model_is_trained_further(folder: Path, finished: Path, tmp_path: Path) -> None:
    start = finished / "stages" / "prior_finetune"
    idle = (*SETTINGS, "training.module_steps=[0]", "training.learning_rate=1e-12", "training.rollout_steps=0")
    assert train(_request(folder, tmp_path, init=start, overrides=idle)) == 0
    second = load(tmp_path / "checkpoint")
    assert second.info.provenance["init_sha256"] == load(start).sha256
    for name, tensor in load(start).model.state_dict().items():
        torch.testing.assert_close(tensor, second.model.state_dict()[name])


def test_only_missing_modules_are_trained_unless_steps_are_set(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_steps = tuple(setting for setting in SETTINGS if "module_steps" not in setting)
    init = finished / "stages" / "module_1"
    for overrides, first in ((without_steps, "module_2"), (SETTINGS, "module_1")):
        monkeypatch.setattr(TrainingLog, "step", _killer(signal.SIGINT, (first, 1)))
        assert train(_request(folder, tmp_path / first, init=init, overrides=overrides)) == 130
        assert not (tmp_path / first / "stages").exists()  # so it was the first stage


def test_the_options_in_the_error_message_resume_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(model: Ghvae, k: int, *rest: Any) -> Loss:
        loss = module_loss(model, k, *rest)
        return loss._replace(total=loss.total * float("nan")) if k == 2 else loss

    longer = (*SETTINGS, "training.module_steps=[3, 20]")
    with monkeypatch.context() as patch:
        patch.setattr("ghvae_core.training.stages.module_loss", poisoned)
        with pytest.raises(TrainingError, match="module_2: the loss is still NaN or infinite") as error:
            train(_request(folder, tmp_path / "first", overrides=longer))
    options = re.search("with another --out and these options: (.*)", str(error.value))
    assert options is not None
    assert _finetune(folder, tmp_path / "second", *shlex.split(options[1])).exit_code == 0
    got, start = load(tmp_path / "second" / "stages" / "module_2"), load(tmp_path / "first" / "stages" / "module_1")
    assert got.info.provenance["init_sha256"] == start.sha256
    assert not (tmp_path / "second" / "stages" / "module_1").exists()
    for name, tensor in start.model.state_dict().items():
        assert torch.equal(tensor, got.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("start", "settings", "reason"),
    [
        ("checkpoint", ["model.pixel_channels=16"], "pixel_channels: the checkpoint has 8, this run 16"),
        (
            "checkpoint",
            ["training.module_steps=[3, 0]"],
            "prior cannot be fine-tuned; set training.prior_finetune_steps=0",
        ),
        ("stages/module_1", ["training.module_steps=[3, 0]"], "expected steps for module 2, which is not trained"),
        (None, ["training.module_steps=[0, 3]"], "expected steps for module 1, which is not trained"),
        (None, ["model.image_px=66"], "divisible by"),
        (None, ["model.prior=uniform"], "uniform cannot be fine-tuned; set training.prior_finetune_steps=0"),
        (None, ["training.end_to_end_steps=0.5"], "training.end_to_end_steps"),
        (None, ["training.speed=1"], "unknown key 'training.speed'"),
        (None, ["model.action_dim=5"], "model.action_dim: is derived from the data"),
        (
            "stages/prior_finetune",
            ["training.module_steps=[3, 0]", "training.prior_finetune_steps=0", "training.rollout_steps=0"],
            "expected steps for module 2 too",
        ),
        ("weights.pt", [], "expected a .pt file of weights, found none"),
    ],
)
def test_invalid_input_is_refused_before_anything_is_written(
    finished: Path, tmp_path: Path, start: str | None, settings: list[str], reason: str
) -> None:
    options = [] if start is None else ["--init", str(finished / start)]
    for setting in settings:
        options += ["--set", setting]
    result = _finetune(finished.parent, tmp_path / "run", *options)
    assert isinstance(result.exception, ReportedError)
    assert reason in str(result.exception)
    assert result.exception.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_the_use_of_the_initial_checkpoint_is_reported(
    folder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shallow.yaml").write_text("\n".join(line for line in MODEL.splitlines() if "12" not in line))
    init, model = finished / "stages/prior_finetune", str(tmp_path / "shallow.yaml")
    assert train(_request(folder, tmp_path / "run", init=init, model=model)) == 0
    printed = capsys.readouterr().err
    assert "--init: modules: was 2, is 1" in printed
    assert "--init: unused: levels.1.encoder" in printed
    provenance = load(tmp_path / "run" / "checkpoint").info.provenance
    assert "levels.0.decoder" in str(provenance["init_loaded"])
    assert "levels.1.decoder" in str(provenance["init_unused"])


def test_a_pytorch_file_initializes_the_model(folder: Path, finished: Path, tmp_path: Path) -> None:
    weights = load(finished / "checkpoint").model.state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "foreign.pt")
    idle = ("training.module_steps=[0]", "training.learning_rate=1e-12", "training.rollout_steps=0")
    request = _request(folder, tmp_path / "run", init=tmp_path / "foreign.pt", overrides=(*SETTINGS, *idle))
    assert train(request) == 0
    for name, tensor in load(tmp_path / "run" / "checkpoint").model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])


def test_describe_prints_the_cost_of_a_model_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(finetune)
    result = CliRunner().invoke(app, ["--describe", "--model", "svg_tiny", "--set", "training.batch_windows=1"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["kind"] == "svg"
    assert "Layers" in result.stderr


@pytest.mark.parametrize(("name", "n"), [("tiny", 7), ("tiny", 0), ("svg_tiny", 2), ("hier_vrnn_tiny", 2)])
def test_modules_that_a_model_does_not_have_are_refused(name: str, n: int) -> None:
    with pytest.raises(ReportedError, match=f"--modules: expected 1 to .* as {name} has, got {n}"):
        load_config(name, (), n)
    assert load_config("tiny", (), 2).model.n_modules == 2


def test_images_may_be_too_small_for_modules_that_are_left_out() -> None:
    with pytest.raises(ReportedError, match=r"image_px must be divisible by 2\^6 = 64"):
        load_config("tiny", ("model.image_px=32",))
    assert load_config("tiny", ("model.image_px=32",), 5).model.image_px == 32


@pytest.mark.parametrize(("line", "got"), [("", "none"), ("kind: ghvea", "ghvea")])
def test_a_model_without_a_valid_kind_is_refused(tmp_path: Path, line: str, got: str) -> None:
    (tmp_path / "invalid.yaml").write_text(MODEL.replace("kind: ghvae", line))
    with pytest.raises(
        ReportedError, match=rf"invalid\.yaml.*'model\.kind': expected ghvae or svg or hier_vrnn, got {got}"
    ):
        load_config(str(tmp_path / "invalid.yaml"), ())


def test_data_and_out_are_required() -> None:
    app = typer.Typer()
    app.command()(finetune)
    result = CliRunner().invoke(app, ["--data", "episodes"])
    assert result.exit_code == 2
    assert "expected --out" in result.stderr


def test_existing_runs_and_missing_data_are_refused(folder: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportedError, match="no run to resume"):
        train(_request(folder, tmp_path / "other", resume=True))
    with pytest.raises(ReportedError, match="found none"):
        train(_request(folder, tmp_path / "other", data=(finished / "images",)))
    assert not (tmp_path / "other").exists()
    before = _contents(finished)
    with pytest.raises(ReportedError, match="contains a run; add --resume"):
        train(_request(folder, finished))
    for changes in ({"seed": 1}, {"overrides": (*SETTINGS, "training.learning_rate=1e-4")}):
        with pytest.raises(ReportedError, match="another configuration, data or seed"):
            train(_request(folder, finished, resume=True, **changes))
    assert _contents(finished) == before


def test_a_folder_with_other_content_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ReportedError, match=r"expected a new or empty folder, got one with notes\.txt"):
        train(_request(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_of_a_run_that_was_killed_before_its_first_state_is_accepted(folder: Path, tmp_path: Path) -> None:
    for name in ("prepared", "tensorboard", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml").touch()
    assert train(_request(folder, tmp_path)) == 0


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _crash(*_: object) -> Loss:
    raise ZeroDivisionError


def test_a_run_of_an_earlier_version_is_resumed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions called a stage "polish" and its metrics "figures"."""
    with monkeypatch.context() as patch:
        patch.setattr("ghvae_core.training.stages.rollout_loss", _crash)
        with pytest.raises(ZeroDivisionError):
            train(_request(finished.parent, tmp_path))
    state = latest_state(tmp_path / "state")
    assert state is not None
    files, _, _ = read_manifest(state)
    text = files["state.json"].decode().replace('"metrics"', '"figures"').replace("prior_finetune", "polish")
    write_folder(state, {**files, "state.json": text.encode()}, {})
    (tmp_path / "stages" / "prior_finetune").rename(tmp_path / "stages" / "polish")
    assert train(_request(finished.parent, tmp_path, resume=True)) == 0
    assert load(tmp_path / "checkpoint").sha256 == load(finished / "checkpoint").sha256
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == [
        "module_1",
        "module_2",
        "prior_finetune",
        "rollout",
    ]


def test_a_run_is_identified_by_the_former_names_of_its_settings() -> None:
    config = load_config("tiny", ())
    dump = former_names(TrainingRunConfig, config.model_dump(mode="json"))
    assert {"polish_steps", "ramp_steps", "final_rate_share"} < {*dump["training"]}
    assert "warm_up_share" in dump["objective"]
    assert {"validation_share", "shares"} < {*dump["data"]}
    assert "min_side_share" in dump["data"]["augmentation"]
    assert TrainingRunConfig.model_validate_json(json.dumps(migrate(TrainingRunConfig, dump))) == config


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("training.polish_steps", "training.prior_finetune_steps"),
        ("training.ramp_steps", "training.lr_warmup_steps"),
        ("training.final_rate_share", "training.final_rate_fraction"),
        ("objective.warm_up_share", "objective.warmup_fraction"),
        ("data.validation_share", "data.validation_fraction"),
        ("data.shares", "data.folder_fractions"),
        ("data.augmentation.min_side_share", "data.augmentation.min_side_fraction"),
    ],
)
def test_a_former_key_is_refused_with_the_present_one(former: str, present: str) -> None:
    with pytest.raises(ReportedError, match=f"'{re.escape(former)}' is now '{re.escape(present)}'"):
        load_config("tiny", (f"{former}=1",))


def test_the_folder_of_decoded_episodes_may_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", _killer(signal.SIGINT, ("module_1", 2)))
        assert train(_request(folder, tmp_path / "run")) == 130
    overrides = (*SETTINGS, f"data.prepared={tmp_path / 'elsewhere'}")
    assert train(_request(folder, tmp_path / "run", resume=True, overrides=overrides)) == 0
    assert any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", ["svg", "hier_vrnn"])
def test_a_bound_that_a_baseline_does_not_support_is_refused(kind: str) -> None:
    with pytest.raises(ReportedError, match=rf"objective.prior_emphasis: expected 1, .* of kind {kind} .* got 2"):
        load_config(f"{kind}_tiny", ("objective.prior_emphasis=2",))


SIZES = ("nano", "tiny", "base", "paper", "paper_x0.6", "svg_tiny", "svg_paper", "hier_vrnn_tiny", "hier_vrnn_paper")


@pytest.mark.parametrize("name", SIZES)
def test_each_size_has_steps_for_at_most_its_modules(name: str) -> None:
    config = load_config(name, ())
    assert len(config.training.module_steps) <= config.model.n_modules
