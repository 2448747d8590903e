"""Episodes in NumPy archives: BAIR and MetaWorld."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode, EpisodeError
from data_collection.formats.hdf5 import naming

MAX_BYTES = 2**31  # of all arrays of one episode, unpacked; a BAIR episode has 6 MB

# The exception on a damaged archive depends on the damaged byte.
_DAMAGE: Final = (
    *(OSError, ValueError, LookupError, EOFError, RuntimeError, MemoryError, SyntaxError, TypeError),
    *(zipfile.BadZipFile, zlib.error),
)
_MAX_COLUMNS = 256  # numbers of an action or a state; known robots have at most 14
_STATE_NAMES = ("state", "states", "endeffector_pos")
BAIR_ACTIONS = "BAIR: dx, dy in metres, steps to lift, gripper"
METAWORLD_ACTIONS = "MetaWorld: x, y, z and gripper in [-1, 1]"


def read_archive(path: Path, camera: int = 0) -> Episode:
    """Read one episode of BAIR or MetaWorld; the names of the arrays decide which.

    Raises:
        EpisodeError: Damaged, or of another layout; the message names the file.
    """
    arrays = _arrays(path)
    with naming(path):
        if {"image", "action"} <= arrays.keys():
            return _bair(arrays, camera)
        if {"observation", "action"} <= arrays.keys():
            return _metaworld(arrays, camera)
        raise EpisodeError(
            "expected arrays 'image' and 'action' (BAIR) or 'observation' and 'action' (MetaWorld), got "
            f"{', '.join(sorted(arrays)[:8]) or 'none'}"
        )


def _bair(arrays: Mapping[str, NDArray[Any]], camera: int) -> Episode:
    """Return an episode of the BAIR pushing data: action t belongs to image t; the last one has no next frame."""
    views = ["image", *sorted(name for name in arrays if name.startswith("aux") and name.endswith("_image"))]
    frames = _images(arrays, _view(views, camera))
    actions = _actions(arrays, len(frames))[:-1]
    states = next((_table(arrays, name) for name in _STATE_NAMES if name in arrays), np.empty((len(frames), 0)))
    info = {"robot": "sawyer", "policy_desc": "BAIR pushing"}
    times_s = np.arange(len(frames), dtype=np.float64)
    return Episode(frames, states, actions, actions.copy(), times_s, info, BAIR_ACTIONS)


def _metaworld(arrays: Mapping[str, NDArray[Any]], camera: int) -> Episode:
    """Return an episode of stacked frames: the newest is last, and action t led to observation t."""
    _view(["observation"], camera)
    stacks = arrays["observation"]
    if stacks.ndim != 4 or stacks.dtype != np.uint8 or stacks.shape[1] % 3 or not stacks.shape[1]:
        raise EpisodeError(f"'observation': expected uint8 (T, 3 x stacked, H, W), got {stacks.dtype} {stacks.shape}")
    frames = np.ascontiguousarray(stacks[:, -3:].transpose(0, 2, 3, 1))
    commanded = _actions(arrays, len(frames))[1:]
    applied = np.clip(commanded, -1, 1)  # as MetaWorld does; its scripted policies command up to 30 times as much
    times_s, states = np.arange(len(frames), dtype=np.float64), np.empty((len(frames), 0))
    return Episode(frames, states, applied, commanded, times_s, {"robot": "metaworld"}, METAWORLD_ACTIONS)


def _view(views: list[str], camera: int) -> str:
    if not 0 <= camera < len(views):
        raise EpisodeError(f"expected a camera from 0 to {len(views) - 1}, got {camera}")
    return views[camera]


def _images(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.uint8]:
    images = arrays[name]
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype.kind not in "iu" or not images.size:
        raise EpisodeError(f"'{name}': expected whole numbers (T, H, W, 3), got {images.dtype} {images.shape}")
    if images.min() < 0 or images.max() > 255:
        raise EpisodeError(f"'{name}': expected colours from 0 to 255, got {images.min()} to {images.max()}")
    return images.astype(np.uint8)


def _actions(arrays: Mapping[str, NDArray[Any]], n_frames: int) -> NDArray[np.float32]:
    actions = _table(arrays, "action")
    if len(actions) != n_frames:
        raise EpisodeError(f"'action': expected {n_frames} rows, one a frame, got {len(actions)}")
    return actions.astype(np.float32)


def _table(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    table = arrays[name]
    if table.ndim != 2 or table.dtype.kind not in "fiu" or table.shape[1] > _MAX_COLUMNS:
        raise EpisodeError(f"'{name}': expected numbers (T, N), got {table.dtype} {table.shape}")
    return table.astype(np.float64)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an archive; its declared size is checked before memory is allocated."""
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as members:
                n_bytes = sum(member.file_size for member in members.infolist())
            if n_bytes > MAX_BYTES:
                raise EpisodeError(f"{path}: expected an episode of at most {MAX_BYTES} bytes, got {n_bytes}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: np.asarray(archive[name]) for name in archive.files}
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EpisodeError(f"{path}: expected an intact NumPy archive, got: {reason[:200]}") from None
