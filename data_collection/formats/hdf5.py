"""Checked reading of untrusted HDF5 files: numbers and text, or an error in one line."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError

MAX_FILE_BYTES = 2**30  # an episode has about 0.1 to 0.5 MB; more than this is not one

_SEAL = b"\nsha256 "
_SEAL_BYTES = len(_SEAL) + 64 + 1

_Owner: TypeAlias = h5py.File | h5py.Group | h5py.Dataset


@contextmanager
def open_hdf5(path: Path) -> Iterator[tuple[h5py.File, bool]]:
    """Open a file that is read into memory; every HDF5 error becomes an `EpisodeError` with the path.

    Yields:
        The file, and whether it is sealed. A broken seal is refused before HDF5 sees the file: there is damage on
        which the library never returns.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise EpisodeError(f"expected an episode of at most {MAX_FILE_BYTES} bytes")
        data = path.read_bytes()
        is_sealed = _check_seal(data)
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file, is_sealed
    except EpisodeError as error:
        raise EpisodeError(f"{path}: {error}") from None
    # The exception of h5py on a damaged file depends on the damaged byte.
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EpisodeError(f"{path}: expected an intact RoboNet HDF5 file, got: {reason[:200]}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's path before the message of an `EpisodeError`."""
    try:
        yield
    except EpisodeError as error:
        raise EpisodeError(f"{path}: {error}") from None


def seal(data: bytes) -> bytes:
    """Return a file's bytes followed by a line with their SHA-256; HDF5 ignores bytes after its end."""
    return data + _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n"


def _check_seal(data: bytes) -> bool:
    body, mark = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if not mark.startswith(_SEAL):
        return False
    if seal(body) != data:
        raise EpisodeError("the file does not match the SHA-256 at its end: damaged, or changed after it was written")
    return True


def find(owner: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return the member at `name`, which must be stored in this file; external links are refused."""
    place = owner
    for part in name.strip("/").split("/"):
        if not has(place, part):
            raise EpisodeError(f"'{name}' is missing")
        place = place[part]
    return place


def has(group: h5py.Group | h5py.Dataset, name: str) -> bool:
    """Return whether a group has a member of this name, without following links out of the file, which are refused."""
    link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
    if link is not None and not isinstance(link, h5py.HardLink):
        raise EpisodeError(f"'{group.name}/{name}': expected a member of this file, got a link")
    return link is not None


def numbers(owner: h5py.Group, name: str, n_dims: int) -> NDArray[Any]:
    """Return a dataset of real numbers with `n_dims` dimensions."""
    value = read(find(owner, name))
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim != n_dims:
        raise EpisodeError(f"'{name}': expected an array of numbers with {n_dims} dimensions")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise EpisodeError(f"'{name}': expected finite numbers, got NaN or infinity")
    return value


def text(owner: h5py.Group, name: str) -> str:
    """Return a scalar dataset of text."""
    value = read(find(owner, name))
    if not isinstance(value, str):
        raise EpisodeError(f"'{name}': expected text")
    return value


def read(dataset: h5py.Group | h5py.Dataset) -> Any:
    """Return a dataset that is stored in this file as str, bool, int, float, array, or tuple of str."""
    if not isinstance(dataset, h5py.Dataset):
        raise EpisodeError(f"'{dataset.name}': expected a dataset, got a group or a type")
    if dataset.is_virtual or dataset.external:
        raise EpisodeError(f"'{dataset.name}' is stored in another file")
    _check_size(dataset.size or 0, dataset.dtype, dataset.file, dataset.name)
    return _plain(dataset[()])


def attribute(owner: _Owner, name: str) -> Any:
    """Return an attribute as str, bool, int, float, array, or tuple of str; None where it is missing."""
    if name not in owner.attrs:
        return None
    identity = owner.attrs.get_id(name)
    _check_size(int(np.prod(identity.shape, dtype=np.float64)), identity.dtype, owner.file, f"{owner.name}@{name}")
    return _plain(owner.attrs[name])


def _check_size(n_values: int, dtype: np.dtype[Any], file: h5py.File, name: str) -> None:
    """Check that a dataset is not larger than its file, before memory is allocated."""
    if n_values * dtype.itemsize > file.id.get_filesize():
        raise EpisodeError(f"'{name}': expected no more data than the file has bytes, got {n_values} values")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return tuple(str(_plain(item)) for item in value.ravel())
    return value
