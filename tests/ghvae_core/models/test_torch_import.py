from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ghvae_core.models import torch_import
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.torch_import import flatten, load_torch_file, read_torch_file
from tests.ghvae_core.small import small_config, small_model

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class _Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_an_intact_file_is_read(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save({"epoch": 3, "state_dict": TENSORS}, path, _use_new_zipfile_serialization=is_zip)
    read = read_torch_file(path)
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(
    "tree",
    [
        TENSORS,
        {"model": TENSORS, "optimizer": {"state": [torch.zeros(1)]}},
        {"model": {"state_dict": TENSORS}},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {"a": {"weight": TENSORS["a.weight"], "bias": TENSORS["a.bias"]}, "epoch": 3},
    ],
)
def test_wrappers_are_removed(tree: dict[str, Any]) -> None:
    assert set(dict(flatten(tree))) == set(TENSORS)


def test_a_file_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, witness = tmp_path / "model.pt", tmp_path / "ran"
    torch.save({"state_dict": {**TENSORS, "b": _Exploit(f"touch {witness}")}}, path)
    with pytest.raises(CheckpointError, match=r"model\.pt: refused: it refers to posix\.system") as error:
        read_torch_file(path)
    assert not witness.exists()
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.pt"
    torch.save(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"model\.pt: refused") as error:
        read_torch_file(path)
    assert "\n" not in str(error.value)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: a holds NaN or infinity"):
        read_torch_file(tmp_path / "model.pt")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e8m0fnu], ids=str)
def test_dtypes_other_than_of_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"a": torch.ones(2).to(dtype)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"model\.pt: refused: .*expected common number types, got a of {dtype}"):
        read_torch_file(tmp_path / "model.pt")


def test_a_small_file_with_a_large_expanded_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**34)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="needs more memory"):
        read_torch_file(tmp_path / "model.pt")


def test_missing_files_and_files_without_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="expected 1 to 100000 tensors, got 0"):
        read_torch_file(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="got none"):
        read_torch_file(tmp_path / "nowhere.pt")
    monkeypatch.setattr(torch_import, "_LARGEST_BYTES", 100)
    with pytest.raises(CheckpointError, match="expected at most 100 bytes"):
        read_torch_file(tmp_path / "model.pt")


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "model.pt")
    monkeypatch.setattr(torch_import, "_TIMEOUT_S", 0.01)
    with pytest.raises(CheckpointError, match="could not be read within"):
        read_torch_file(tmp_path / "model.pt")


def test_fitting_tensors_are_loaded_and_the_others_reported(tmp_path: Path) -> None:
    theirs = small_model(3).state_dict()
    scaled = {name: tensor * 2 for name, tensor in theirs.items()}
    scaled["levels.0.prior.head.bias"] = torch.zeros(99)
    del scaled["levels.1.encoder.blocks.0.conv_1.weight"]
    torch.save({"model": {f"module.{name}": tensor.half() for name, tensor in scaled.items()}}, tmp_path / "model.pt")
    model = small_model(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_torch_file(tmp_path / "model.pt", model)
    assert report.new == ("levels.0.prior.head.bias", "levels.1.encoder.blocks.0.conv_1.weight")
    assert report.changed == {"levels.0.prior.head.bias": "was (99,), is (6,): not loaded"}
    assert "levels.2.encoder.blocks.0.conv_1.weight" in report.unused
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, before[name] * (1 if name in report.new else 2), rtol=1e-3, atol=1e-5)


def test_a_file_of_another_model_is_refused_and_the_model_unchanged(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.pt")
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"none of its 2 tensors .* its first is a\.\w+ .*, ours levels\.0\."):
        load_torch_file(tmp_path / "model.pt", model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert small_config() == model.config
