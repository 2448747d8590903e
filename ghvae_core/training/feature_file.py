"""Features in a file that is mapped into memory, with a manifest that says which weights and data made it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from configs.loader import Config
from ghvae_core.models.checkpoint_files import CheckpointWriteError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Origin(Config):
    """What made the features of one level."""

    weights: tuple[str, ...]  # sha256 of encoders 1 .. k
    data: str  # sha256 that names the frames
    shape: tuple[int, ...]  # (F, H, W, C)
    type: str  # of a number: float32 or bfloat16

    @property
    def dtype(self) -> torch.dtype:
        """The type of a number, as torch has it."""
        return _TYPES[self.type]

    @property
    def n_bytes(self) -> int:
        """Return the size of all features."""
        return math.prod(self.shape) * self.dtype.itemsize


class FeatureFile:
    """One level. Its numbers are written first and its manifest last, so what has a manifest is whole."""

    def __init__(self, folder: Path, k: int, origin: Origin) -> None:
        """Touch nothing yet."""
        self.path, self._manifest, self._origin = folder / f"level_{k}.bin", folder / f"level_{k}.json", origin

    @property
    def is_there(self) -> bool:
        """Whether there is a manifest, whatever it says."""
        return self._manifest.exists()

    @property
    def fits(self) -> bool:
        """Whether the features are there, whole, and of the very weights and data."""
        try:
            found = Origin.model_validate_json(self._manifest.read_bytes())
            return found == self._origin and self.path.stat().st_size == self._origin.n_bytes
        except (FileNotFoundError, ValidationError):
            return False

    def allocate(self) -> None:
        """Take the space on the disk now, and not in the middle of writing.

        Raises:
            CheckpointWriteError: There is none.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._manifest.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)  # whoever maps the old one keeps it
            with self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._origin.n_bytes)
        except OSError as error:
            raise CheckpointWriteError(
                f"{self.path}: no room for {self._origin.n_bytes / 1e9:.1f} GB of features ({error.strerror}); free "
                "some, or set training.feature_cache=off"
            ) from None

    def map(self) -> Tensor:
        """Return the features (F, H, W, C); what is written into them goes to the file."""
        size = math.prod(self._origin.shape)
        return torch.from_file(str(self.path), shared=True, size=size, dtype=self._origin.dtype).view(
            self._origin.shape
        )

    def sync(self) -> None:
        """Wait until what this process wrote is on the disk."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def seal(self) -> None:
        """Say that the features are whole."""
        part = self._manifest.with_suffix(".part")
        part.write_text(self._origin.model_dump_json(indent=2))
        part.rename(self._manifest)
