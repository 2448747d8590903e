"""Export of episodes as WebDataset shards: tar files with consecutive members per sample."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_collection.atomic_io import new_folder
from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import EpisodeArrays, read_episode_arrays
from data_collection.formats.hdf5 import naming
from data_collection.formats.video import VideoConfig, encode_video

SHARD_BYTES = 2**28  # ours: about 3000 episodes; large for sequential reads, small for shuffling
INDEX_NAME = "index.json"


def export_shards(
    paths: Sequence[Path], out: Path, *, on_episode: Callable[[], None], shard_bytes: int = SHARD_BYTES
) -> int:
    """Write episodes as `out/shard-000000.tar` and so on, for `webdataset.WebDataset`, and `out/index.json`.

    A sample is an episode, with its number as the key: `cam0.mp4` and so on (T + 1 frames, RGB; the original bytes
    if they are RGB), `states.npy` (T + 1, 5) float64, `actions.npy` and `commanded.npy` (T, 4)
    float32, `times_s.npy` (T + 1,) float64, and `json`: the file's name and metadata. The index
    has the size and the SHA-256 of every shard. Equal files give equal bytes. One episode is in memory at a time.

    Args:
        paths: RoboNet files, in the order of the samples.
        out: New folder; it appears once it is complete.
        on_episode: Called after each episode.
        shard_bytes: Limit of a shard with more than one episode.

    Returns:
        The number of episodes.

    Raises:
        EpisodeError: There is none, one cannot be read (the message names it), or `out` exists. Nothing is left.
        ExportError: The disk is full, or does not allow it. Nothing is left.
    """
    if not paths:
        raise EpisodeError("expected at least one episode to export, got none")
    with new_folder(out) as folder:
        with closing(_Shards(folder, shard_bytes)) as shards:
            for number, path in enumerate(paths):
                arrays = read_episode_arrays(path)
                with naming(path):
                    shards.append(f"{number:06d}", _members(arrays))
                on_episode()
        index = {"episodes": len(paths), "shards": shards.entries}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return len(paths)


def _members(arrays: EpisodeArrays) -> dict[str, bytes]:
    episode = arrays.episode
    values: dict[str, NDArray[Any]] = {
        "states": episode.states,
        "actions": episode.actions,
        "commanded": episode.commanded,
        "times_s": episode.times_s,
    }
    members = {f"cam{camera}.mp4": _video(arrays, camera) for camera in range(len(arrays.videos))}
    members |= {f"{name}.npy": _npy(array) for name, array in values.items()}
    return {**members, "json": arrays.description().encode()}


def _video(arrays: EpisodeArrays, camera: int) -> bytes:
    """Return the video of a camera; encoded again where the colour order or frame count differs."""
    video, frames = arrays.videos[camera], arrays.frames(camera)
    if video.is_bgr or video.shape[0] != len(frames):
        return encode_video(frames, VideoConfig())
    return video.data


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class _Shards:
    """Tar files in a folder; a new one starts where the limit would be exceeded."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._tar: tarfile.TarFile | None = None
        self._n_samples = 0  # in the open file
        self.entries: list[dict[str, str | int]] = []  # of closed files

    def append(self, key: str, members: Mapping[str, bytes]) -> None:
        """Write one sample; names in the tar are `<key>.<member>`, without user or time."""
        n_bytes = sum(len(data) + 2 * tarfile.BLOCKSIZE for data in members.values()) + tarfile.RECORDSIZE
        if self._tar is not None and self._tar.offset + n_bytes > self._limit_bytes:
            self.close()
        if self._tar is None:
            path = self._folder / f"shard-{len(self.entries):06d}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`
        for name, data in members.items():
            entry = tarfile.TarInfo(f"{key}.{name}")
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
        self._n_samples += 1

    def close(self) -> None:
        """Close the open file, if any."""
        if self._tar is None:
            return
        tar, self._tar = self._tar, None
        tar.close()
        data = Path(str(tar.name)).read_bytes()
        self.entries.append(
            {
                "name": Path(str(tar.name)).name,
                "episodes": self._n_samples,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
        self._n_samples = 0
