"""Checkpoints: saving, loading, verification and the self-test output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ghvae_core.goal_cost import GoalCost
from ghvae_core.models.checkpoint import (
    SELF_TEST_TOLERANCE,
    CheckpointError,
    CheckpointInfo,
    build,
    load,
    matches_self_test,
    save,
    self_test_output,
)
from ghvae_core.models.checkpoint_files import MANIFEST, CheckpointWriteError, pack_tensors, sha256
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.hier_vrnn import HierVrnn
from ghvae_core.models.svg import Svg, SvgConfig
from ghvae_core.predictor import PredictorError
from ghvae_core.run_server import SHIPPED
from ghvae_core.serving.local import InProcessPredictor
from robot_bridge.camera import Crop
from tests.ghvae_core.episodes import spec as robot_spec
from tests.ghvae_core.models.test_checkpoint_files import GOLDEN
from tests.ghvae_core.serving.small_model import HORIZON, small_checkpoint
from tests.ghvae_core.small import HIER_VRNN, PX, small_config, small_model


def test_a_checkpoint_is_saved_with_its_self_test_output(tmp_path: Path) -> None:
    checkpoint = load(small_checkpoint(tmp_path / "small"))
    assert checkpoint.info.self_test_output == self_test_output(checkpoint.model, 2, HORIZON)
    assert len(checkpoint.info.self_test_output) == 36
    InProcessPredictor(checkpoint, GoalCost()).self_test()


def test_the_shipped_checkpoint_passes_its_self_test_also_in_bfloat16() -> None:
    checkpoint = load(SHIPPED)
    assert checkpoint.info.self_test_output is not None
    InProcessPredictor(checkpoint, GoalCost()).self_test()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = self_test_output(checkpoint.model, 2, 10)
    assert matches_self_test(checkpoint.info.self_test_output, coarse)


def test_a_model_with_other_outputs_fails_the_self_test(tmp_path: Path) -> None:
    checkpoint = load(SHIPPED)
    weights = checkpoint.model.module(1).state_dict()["encoder.stem.weight"]
    weights.zero_()  # as a faulty kernel could
    with pytest.raises(PredictorError, match="does not reproduce its stored self-test output"):
        InProcessPredictor(checkpoint, GoalCost()).self_test()


def test_outputs_match_within_the_tolerance() -> None:
    stored = (0.5, 0.25)
    assert matches_self_test(stored, (0.5 + 0.9 * SELF_TEST_TOLERANCE, 0.25))
    for other in ((0.5 + 1.1 * SELF_TEST_TOLERANCE, 0.25), (np.nan, 0.25), (np.inf, 0.25)):
        assert not matches_self_test(stored, other)


@pytest.mark.parametrize("action_dim", [0, 4])
def test_other_kinds_of_models_have_a_self_test_output(action_dim: int) -> None:
    scale = (1.0,) * action_dim
    svg = SvgConfig(image_px=16, width_k=0.125, width_m=0.0625, features=16, latent=3)
    for config in (svg, HIER_VRNN):
        model = build(config.model_copy(update={"action_dim": action_dim, "action_scale": scale}))
        assert len(self_test_output(model, 2, 3)) == 36


def test_a_model_that_predicts_nan_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(small_checkpoint(tmp_path / "small"))
    predict = checkpoint.model.predict

    def with_nan(*arguments: Any, **more: Any) -> Iterator[Tensor]:
        return (frame * torch.nan for frame in predict(*arguments, **more))

    monkeypatch.setattr(checkpoint.model, "predict", with_nan)
    with pytest.raises(CheckpointWriteError, match="predicts NaN"):
        save(tmp_path / "worse", checkpoint.model, checkpoint.info)
    assert not (tmp_path / "worse").exists()


FILES = ["config.json", "module_1.safetensors", "module_2.safetensors", MANIFEST]


def _info(modules_trained: int = 2) -> CheckpointInfo:
    return CheckpointInfo(model=small_config(), step_limit_m=0.2, step_s=0.6, modules_trained=modules_trained)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "checkpoint", small_model(), _info())
    return tmp_path / "checkpoint"


def _reseal(folder: Path) -> None:
    """Make the manifest agree with the files, like a deliberate change."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {p.name: sha256(p.read_bytes()) for p in folder.iterdir() if p.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_saved_model_is_loaded_unchanged(folder: Path) -> None:
    loaded = load(folder)
    model = small_model()
    assert loaded.info.model_copy(update={"self_test_output": None}) == _info()
    assert loaded.info.self_test_output is not None
    assert loaded.sha256 == sha256((folder / MANIFEST).read_bytes())
    assert all(torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(2, 4, 4)
    assert torch.equal(loaded.model.rollout(context, actions), model.rollout(context, actions))


def test_only_the_trained_modules_are_saved_and_loaded(tmp_path: Path) -> None:
    save(tmp_path / "one", small_model(), _info(modules_trained=1))
    assert not (tmp_path / "one" / "module_2.safetensors").exists()
    assert load(tmp_path / "one").model.n_modules == 1


def test_a_configuration_of_giant_layers_is_refused_before_memory_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["modules"][0]["channels"] = 2_000_000  # 3x3 kernels of which take 144 TB
    config["model"]["modules"][1]["channels"] = 2_000_001
    (folder / "config.json").write_text(json.dumps(config))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=r"module_1\.safetensors: .*: expected shape .*2000000"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64], ids=str)
def test_weights_of_another_type_are_refused_and_not_rounded(folder: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in small_model().module(2).state_dict().items()}
    (folder / "module_2.safetensors").write_bytes(pack_tensors(state))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=f"module_2.safetensors: .*: expected dtype torch.float32, got {dtype}"):
        load(folder)


def test_saving_again_replaces_the_folder(folder: Path) -> None:
    (folder / "left_over").write_text("x")
    save(folder, small_model(), _info(modules_trained=1))
    assert load(folder).info.modules_trained == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused(folder: Path, name: str) -> None:
    good = (folder / name).read_bytes()
    for position in np.random.default_rng(0).integers(len(good), size=20):
        bad = bytearray(good)
        bad[position] ^= 4
        (folder / name).write_bytes(bytes(bad))
        if name == MANIFEST:  # a manifest that is still readable has another sha256
            try:
                assert load(folder).sha256 != sha256(good)
            except CheckpointError:
                continue
        else:
            with pytest.raises(CheckpointError, match=f"{name}: its sha256 differs from the manifest"):
                load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_files_are_refused(folder: Path, name: str, share: float) -> None:
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(good[: int(len(good) * share)])
    with pytest.raises(CheckpointError, match=name):
        load(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"missing|expected a folder"):
        load(folder)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a folder with MANIFEST\.json"):
        load(tmp_path / "nowhere")


def test_added_files_are_refused(folder: Path) -> None:
    shutil.copy(folder / "module_2.safetensors", folder / "module_3.safetensors")
    with pytest.raises(CheckpointError, match=r"not in the manifest \['module_3.safetensors'\]"):
        load(folder)
    _reseal(folder)
    with pytest.raises(CheckpointError, match="expected"):
        load(folder)


def test_a_module_trained_on_other_lower_modules_is_refused(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = type(small_model())(small_config())
    (folder / "module_1.safetensors").write_bytes(pack_tensors(other.module(1).state_dict()))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=r"module_2\.safetensors: was trained on other lower modules"):
        load(folder)


def test_a_newer_schema_is_refused_by_name(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"schema_version": 6', '"schema_version": 7'))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: expected schema_version 6 .*got 7; use a newer version"):
        load(folder)


def test_an_old_checkpoint_loads_and_predicts_the_same(folder: Path) -> None:
    literal = small_config(copies=0, prior_frames="all")
    save(folder, small_model(copies=0, prior_frames="all"), _info().model_copy(update={"model": literal}))
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(2, 4, 4)
    before = load(folder).model.rollout(context, actions)
    config = json.loads((GOLDEN / "config_schema_1.json").read_bytes())
    config["model"]["action_scale"] = [1.0] * 4
    (folder / "config.json").write_text(json.dumps(config))
    _reseal(folder)
    loaded = load(folder)
    assert loaded.info.model == literal
    assert torch.equal(loaded.model.rollout(context, actions), before)


def test_robot_and_camera_are_kept_and_may_be_unknown(tmp_path: Path) -> None:
    robot = robot_spec(crop=Crop(top_px=0, left_px=40, height_px=240, width_px=240))
    workspace_m = (robot.limits.workspace_low_m, robot.limits.workspace_high_m)
    known = _info().model_copy(update={"workspace_m": workspace_m, "camera": robot.camera})
    unknown = CheckpointInfo(model=small_config(), modules_trained=2)
    assert (unknown.step_limit_m, unknown.step_s, unknown.workspace_m, unknown.camera) == (None,) * 4
    for info in (known, unknown):
        save(tmp_path / "checkpoint", small_model(), info)
        assert load(tmp_path / "checkpoint").info.model_copy(update={"self_test_output": None}) == info


def test_models_of_every_kind_are_built_and_loaded(tmp_path: Path) -> None:
    config = SvgConfig(image_px=PX, width_k=0.125, width_m=0.0625, features=16, latent=3)
    assert isinstance(build(small_config()), Ghvae)
    model = build(config)
    assert isinstance(model, Svg)
    save(tmp_path / "svg", model, CheckpointInfo(model=config, modules_trained=1))
    assert isinstance(load(tmp_path / "svg").model, Svg)
    save(tmp_path / "hier_vrnn", build(HIER_VRNN), CheckpointInfo(model=HIER_VRNN, modules_trained=1))
    assert isinstance(load(tmp_path / "hier_vrnn").model, HierVrnn)
    with pytest.raises(ValidationError, match=r"model\.n_context: expected 3 as n_context, got 2"):
        CheckpointInfo(model=config, modules_trained=1, n_context=3)


@pytest.mark.parametrize("kind", ["gan", None])
def test_another_kind_of_model_is_refused_by_name(folder: Path, kind: str | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["kind"] = kind
    (folder / "config.json").write_text(json.dumps(config))
    _reseal(folder)
    with pytest.raises(
        CheckpointError, match=r"config\.json: model: .*'ghvae', 'svg', 'hier_vrnn'|config\.json: model: .*kind"
    ):
        load(folder)


def test_invalid_shapes_are_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    config["model"]["pixel_channels"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=r"module_1\.safetensors: .*expected shape"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, folder: Path, value: float) -> None:
    model = small_model()
    with torch.no_grad():
        next(model.module(2).parameters()).fill_(value)
    with pytest.raises(CheckpointError, match="module 2 holds NaN or infinity; not written"):
        save(tmp_path / "bad", model, _info())
    assert not (tmp_path / "bad").exists()
    (folder / "module_2.safetensors").write_bytes(pack_tensors(model.module(2).state_dict()))
    _reseal(folder)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load(folder)


def test_unknown_configurations_and_versions_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "color": "blue"}))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: color"):
        load(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(CheckpointError, match="expected manifest version 1, got 2"):
        load(folder)


def test_a_write_error_keeps_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(folder).sha256

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(folder, small_model(), _info(modules_trained=1))
    assert load(folder).sha256 == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
