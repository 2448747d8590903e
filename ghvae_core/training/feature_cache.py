"""Cache of the features of frozen encoders (paper 2): each frame is encoded once, not at every step.

Cached features equal computed ones bit for bit: they are encoded in the precision of training and in chunks of the
size of a batch, as the kernels of a library, and so the last bits, depend on the size.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from configs.loader import Config
from data_collection.atomic_io import flush, write_file
from ghvae_core.data.windows import FrameArray
from ghvae_core.models.checkpoint import module_sha256
from ghvae_core.models.checkpoint_files import CheckpointWriteError
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.stages import autocast

# Of a file that is read to measure a rate, and of one read, about the features of a frame; ours
_PROBE_BYTES, _PROBE_ROW = 32_000_000, 64_000
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class FeatureKey(Config):
    """Identifies the features of one level."""

    weights: tuple[str, ...]  # sha256 of encoders 1 .. k
    data: str  # sha256 that identifies the frames
    shape: tuple[int, ...]  # (F, H, W, C)
    type: str  # of a number: float32 or bfloat16

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of a number."""
        return _TYPES[self.type]

    @property
    def n_bytes(self) -> int:
        """Size of all features in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class FeatureFile:
    """File of one level. Its manifest is written last, so a level with a manifest is complete."""

    def __init__(self, folder: Path, k: int, origin: FeatureKey) -> None:
        """Open nothing yet."""
        self.path, self._manifest, self._origin = folder / f"level_{k}.bin", folder / f"level_{k}.json", origin

    @property
    def is_there(self) -> bool:
        """Whether there is a manifest, valid or not."""
        return self._manifest.exists()

    @property
    def fits(self) -> bool:
        """Whether the features are complete and of the same weights and data."""
        try:
            found = FeatureKey.model_validate_json(self._manifest.read_bytes())
            return found == self._origin and self.path.stat().st_size == self._origin.n_bytes
        except (FileNotFoundError, ValidationError):
            return False

    def allocate(self) -> None:
        """Reserve the disk space before writing.

        Raises:
            CheckpointWriteError: There is not enough space.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._manifest.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)  # processes that map the old one keep it
            with self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._origin.n_bytes)
        except OSError as error:
            raise CheckpointWriteError(
                f"{self.path}: no space for {self._origin.n_bytes / 1e9:.1f} GB of features ({error.strerror}); free "
                "some, or set training.feature_cache=off"
            ) from None

    def map(self) -> Tensor:
        """Return the features (F, H, W, C), mapped from the file for reading and writing."""
        size = math.prod(self._origin.shape)
        return torch.from_file(str(self.path), shared=True, size=size, dtype=self._origin.dtype).view(
            self._origin.shape
        )

    def sync(self) -> None:
        """Flush the data that this process wrote to disk."""
        flush(self.path)

    def seal(self) -> None:
        """Write the manifest, which marks the features as complete."""
        write_file(self._manifest, self._origin.model_dump_json(indent=2))


@dataclass(frozen=True)
class FeatureLevel:
    """h^k of all frames."""

    values: Tensor  # (F, H, W, C), in memory or mapped from a file
    origin: FeatureKey


@dataclass(frozen=True)
class FeatureSource:
    """The frames, and the settings of their encoding."""

    frames: FrameArray  # (F, px, px, 3)
    data_sha256: str  # identifies the frames
    n_chunk: int  # frames per call of an encoder: as many as in a step
    is_half: bool  # bfloat16, else float32

    def key(self, model: Ghvae, k: int) -> FeatureKey:
        """Return the key of h^k of all frames."""
        return FeatureKey(
            weights=tuple(module_sha256(model.module(j).encoder.state_dict()) for j in range(1, k + 1)),
            data=self.data_sha256,
            shape=(len(self.frames), model.config.px(k), model.config.px(k), model.config.modules[k - 1].channels),
            type="bfloat16" if self.is_half else "float32",
        )

    def frame_bytes(self, model: Ghvae, levels: range) -> int:
        """Return the size in bytes of `levels` of one frame."""
        sizes = (model.config.modules[k - 1].channels * model.config.px(k) ** 2 for k in levels)
        return (2 if self.is_half else 4) * sum(sizes)

    def size_gb(self, model: Ghvae, levels: range) -> float:
        """Return the size in GB of `levels` of all frames."""
        return len(self.frames) * self.frame_bytes(model, levels) / 1e9


class FeatureCache:
    """h^first .. h^last of all frames, in memory or in files that all processes of a group share."""

    def __init__(self, source: FeatureSource, folder: Path, group: ProcessGroup, notify: Callable[[str], None]) -> None:
        """Start empty.

        Args:
            source: The frames.
            folder: Of the files; created when needed.
            group: Its processes share the encoding into files.
            notify: Called with a warning about files that cannot be used.
        """
        self._source, self._folder, self._group, self._notify = source, folder, group, notify
        self._levels: dict[int, FeatureLevel] = {}

    @property
    def levels(self) -> range:
        """The levels in the cache."""
        return range(min(self._levels), max(self._levels) + 1) if self._levels else range(0)

    def missing(self, model: Ghvae, levels: range) -> list[int]:
        """Return which of `levels` are not in the cache, or are of other weights."""
        kept = self._levels
        return [k for k in levels if k not in kept or kept[k].origin != self._source.key(model, k)]

    def fill(self, model: Ghvae, levels: range, in_files: bool) -> None:
        """Cache exactly `levels`; compute those that are missing or of other weights.

        Raises:
            CheckpointWriteError: No space for a file.
        """
        missing = self.missing(model, levels)
        self._levels = {k: level for k, level in self._levels.items() if k in levels and k not in missing}
        for k in missing:
            self._levels[k] = self._in_file(model, k) if in_files else self._in_memory(model, k)

    def gather(self, rows: NDArray[np.int64], device: str) -> tuple[Tensor, ...]:
        """Return the cached levels of frames `rows`, flattened to (N,); each (N, C, H, W), channels last in memory."""
        index = torch.from_numpy(rows.reshape(-1))
        return tuple(
            self._levels[k].values[index].to(device, non_blocking=True).permute(0, 3, 1, 2) for k in self.levels
        )

    def discard(self) -> None:
        """Empty the cache and remove its files."""
        self._levels = {}
        if self._group.is_first:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _in_memory(self, model: Ghvae, k: int) -> FeatureLevel:
        origin = self._source.key(model, k)
        values = torch.empty(origin.shape, dtype=origin.dtype)
        for chunk, h in self._encoded(model, k, rank=0, size=1):
            values[chunk] = h
        return FeatureLevel(values, origin)

    def _in_file(self, model: Ghvae, k: int) -> FeatureLevel:
        """Return a level mapped from its file, which all processes write together if it does not fit."""
        origin = self._source.key(model, k)
        file = FeatureFile(self._folder, k, origin)
        (is_new,) = self._group.largest(not file.fits)
        if is_new and self._group.is_first:
            if file.is_there:
                self._notify(f"{file.path}: features are incomplete or of other weights or data; rebuilt")
            file.allocate()
        self._group.wait()
        values = file.map()
        if is_new:
            for chunk, h in self._encoded(model, k, self._group.rank, self._group.size):
                values[chunk] = h
            file.sync()
            self._group.wait()
            if self._group.is_first:
                file.seal()
        return FeatureLevel(values, origin)

    def _encoded(self, model: Ghvae, k: int, rank: int, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the part of h^k of this process in chunks: slice of frames, and features (n, H, W, C)."""
        n, n_chunk = len(self._source.frames), self._source.n_chunk
        for first in range(rank * n_chunk, n, size * n_chunk):
            chunk = slice(first, min(first + n_chunk, n))
            yield chunk, self.encode(model, k, np.arange(first, first + n_chunk).clip(max=n - 1))[: n - first].cpu()

    def encode(self, model: Ghvae, k: int, rows: NDArray[np.int64]) -> Tensor:
        """Return h^k (n, H, W, C) of frames `rows`, computed from the deepest cached level below it."""
        device = model.action_scale.device
        below = max((held for held in self._levels if held < k), default=0)
        with torch.no_grad(), autocast(model, self._source.is_half):
            if below:
                h = self._levels[below].values[torch.from_numpy(rows)].to(device).permute(0, 3, 1, 2)
            else:
                h = torch.from_numpy(self._source.frames[rows]).to(device).permute(0, 3, 1, 2).float().div_(255)
            for j in range(below + 1, k + 1):
                h = model.module(j).encoder(h)
            return h.permute(0, 2, 3, 1)


def read_rate(folder: Path | None) -> float:
    """Return the measured rate of random reads in bytes per second, from memory (None) or from the disk of a folder."""
    rng, size = np.random.default_rng(0), _PROBE_BYTES // _PROBE_ROW
    rows = rng.permutation(size)[: size // 4]
    values = torch.zeros(size, _PROBE_ROW, dtype=torch.uint8)
    if folder is None:
        started_s = time.perf_counter()
        values[torch.from_numpy(rows)]
        return len(rows) * _PROBE_ROW / (time.perf_counter() - started_s)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(values.numpy().tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started_s = time.perf_counter()
        for row in rows:
            os.pread(file.fileno(), _PROBE_ROW, int(row) * _PROBE_ROW)
    return len(rows) * _PROBE_ROW / (time.perf_counter() - started_s)
