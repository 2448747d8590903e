"""Cache of recordings decoded to model size, in memory-mapped files.

One folder per set of recordings, named by a hash of their names, sizes, times and of the options of decoding. It holds
shards of several recordings: `shard-<i>.frames` (uint8) and `shard-<i>.index` (an npz archive of all other data, with
the checksum of the frames). A shard is written completely or not at all, so an interrupted preparation is resumed; a
damaged shard is detected when it is opened, and rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from data_collection.atomic_io import replacing_file
from data_collection.episode import Episode, EpisodeError
from data_collection.formats.reader import Recording, read
from data_collection.formats.video import VideoReading
from ghvae_core.data.parallel import DatasetError, map_in_processes
from ghvae_core.data.selection import Refusals, merged
from robot_bridge.camera import Camera, Crop, model_image

_VERSION = 1  # of the files and of the decoding; another number rebuilds them
_MIN_RECORDINGS, _MAX_SHARDS = 8, 256  # per shard; per folder, as each shard keeps a file open; ours
_CHUNK_BYTES = 2**24  # read at once for a checksum
_ORPHAN_S = 3600.0  # age of a partial file without a writer; ours

_Vector = tuple[float, float, float]


class DecodeOptions(NamedTuple):
    """Options of decoding."""

    camera: int
    image_px: int
    action_free: bool
    video_stride: int


class EpisodeFacts(NamedTuple):
    """Properties of one usable recording."""

    number: int  # in the list of recordings
    n_frames: int
    n_action_dims: int
    action_space: str
    step_limit_m: float | None  # None: not in the file
    step_s: float | None
    camera: str  # calibration as JSON; empty: not in the file
    workspace_m: tuple[_Vector, _Vector] | None


@dataclass(frozen=True)
class PreparedEpisodes:
    """The decoded recordings of one folder."""

    parts: list[NDArray[np.uint8]]  # frames (F_i, px, px, 3), memory-mapped, of concatenated episodes
    actions: list[NDArray[np.float32]]  # of each episode, (n_frames - 1, A)
    facts: list[EpisodeFacts]  # of each episode
    refused: Refusals


class _Task(NamedTuple):
    """One shard to write."""

    place: Path  # without suffix
    first: int  # number of its first recording
    recordings: list[Recording]
    reading: DecodeOptions


class _Shard(NamedTuple):
    frames: NDArray[np.uint8]
    actions: list[NDArray[np.float32]]
    facts: list[EpisodeFacts]
    refused: Refusals


def prepare(
    recordings: Sequence[Recording], reading: DecodeOptions, cache: Path, notify: Callable[[int, int], None]
) -> PreparedEpisodes:
    """Return recordings at model size: intact shards from the cache, others decoded in parallel.

    Args:
        recordings: At least one.
        reading: Options of decoding.
        cache: Folder of the cache; may be shared by runs.
        notify: Called with the number of decoded recordings and of all, once one of them is usable.

    Raises:
        DatasetError: A process was killed, or the disk returns other data than were written.
        KeyboardInterrupt: A signal is due within `configs.interruption`.
    """
    tasks = list(_tasks(recordings, reading, cache))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        shards = dict(zip([task.place for task in tasks], threads.map(_open, tasks), strict=True))
    missing = [task for task in tasks if shards[task.place] is None]
    _sweep(tasks[0].place.parent)
    done = len(recordings) - sum(len(task.recordings) for task in missing)
    is_usable = any(shard is not None and shard.facts for shard in shards.values())
    for task, n_usable in zip(missing, map_in_processes(_make, missing), strict=True):
        done += len(task.recordings)
        is_usable = is_usable or n_usable > 0
        if is_usable:
            notify(done, len(recordings))
        shards[task.place] = _open(task)
    intact = [shard for shard in shards.values() if shard is not None]
    if len(intact) < len(tasks):
        raise DatasetError(f"{cache}: decoded episodes differ from what was written; check the disk")
    return PreparedEpisodes(
        parts=[shard.frames for shard in intact],
        actions=[actions for shard in intact for actions in shard.actions],
        facts=[facts for shard in intact for facts in shard.facts],
        refused=merged([shard.refused for shard in intact]),
    )


def model_frames(episode: Episode, image_px: int) -> NDArray[np.uint8]:
    """Return the frames (T + 1, px, px, 3) of an episode at model size, with the crop of its file.

    Raises:
        EpisodeError: The camera calibration is invalid, or its crop is for frames of another size.
    """
    calibration = episode.info.get("camera_calibration")
    crop = _crop(str(calibration), episode.frames.shape[1:3]) if calibration else None
    return np.stack([model_image(frame, crop, image_px) for frame in episode.frames])


def _crop(calibration: str, size_px: tuple[int, ...]) -> Crop | None:
    try:
        camera = Camera.model_validate_json(calibration)
    except ValidationError:
        raise EpisodeError("camera_calibration: expected a camera as run_collection writes it, got another") from None
    if camera.crop and size_px != (camera.height_px, camera.width_px):
        raise EpisodeError(
            f"camera_calibration: its crop is for frames of {camera.height_px}x{camera.width_px}, "
            f"got {size_px[0]}x{size_px[1]}"
        )
    return camera.crop


def _tasks(recordings: Sequence[Recording], reading: DecodeOptions, cache: Path) -> Iterator[_Task]:
    states = [(path, path.stat()) for path in dict.fromkeys(recording.path for recording in recordings)]
    stamps = {path: (state.st_size, state.st_mtime_ns) for path, state in states}
    named = [(recording.name, *stamps[recording.path]) for recording in recordings]
    key = hashlib.sha256(json.dumps([_VERSION, named, reading]).encode()).hexdigest()
    size = max(_MIN_RECORDINGS, math.ceil(len(recordings) / _MAX_SHARDS))
    bounds = [*range(0, len(recordings), size), len(recordings)]
    for i, (first, end) in enumerate(pairwise(bounds)):
        yield _Task(cache / key[:32] / f"shard-{i:04d}", first, list(recordings[first:end]), reading)


def _make(task: _Task) -> int:
    """Write a shard; return the number of usable recordings."""
    facts: list[EpisodeFacts] = []
    actions: list[NDArray[np.float32]] = []
    refused: Refusals = {}
    crc = 0
    task.place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(task.place.with_suffix(".frames")) as file:
        for number, recording in enumerate(task.recordings, start=task.first):
            try:
                episode = _read(recording, task.reading)
                fact = _facts(number, episode)
            except EpisodeError as error:
                reason = str(error).removeprefix(f"{recording.path}: ")
                refused.setdefault(re.sub(r"^record \d+: ", "", reason), []).append(recording.name)
                continue
            data = np.ascontiguousarray(episode.frames).data
            crc = zlib.crc32(data, crc)
            file.write(data)
            facts.append(fact)
            actions.append(episode.actions)
    flat = np.concatenate([np.empty(0, np.float32), *(part.reshape(-1) for part in actions)])
    text = json.dumps({"facts": facts, "refused": refused, "crc": crc})
    with replacing_file(task.place.with_suffix(".index")) as file:
        np.savez(file, actions=flat, text=np.frombuffer(text.encode(), np.uint8))
    return len(facts)


def _read(recording: Recording, reading: DecodeOptions) -> Episode:
    """Return an episode with frames of model size."""
    video = VideoReading(reading.video_stride, reading.image_px)
    episode = read(recording, reading.camera, reading.action_free, video)
    return Episode(
        **{name: getattr(episode, name) for name in Episode.__dataclass_fields__ if name != "frames"},
        frames=model_frames(episode, reading.image_px),
    )


def _facts(number: int, episode: Episode) -> EpisodeFacts:
    return EpisodeFacts(
        number,
        len(episode.frames),
        episode.actions.shape[1],
        episode.action_space,
        _positive("step_limit_m", episode),
        _positive("step_s", episode),
        str(episode.info.get("camera_calibration", "")),
        episode.workspace_m,
    )


def _positive(name: str, episode: Episode) -> float | None:
    value = episode.info.get(name)
    if value is None:
        return None
    if isinstance(value, str) or not 0 < value < math.inf:
        raise EpisodeError(f"{name}: expected a number above 0, got {value!r}")
    return float(value)


def _sweep(folder: Path) -> None:
    """Remove partial files of killed processes, but not of running ones."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # removed by another run
            if time.time() - part.stat().st_mtime > _ORPHAN_S:
                part.unlink()


def _open(task: _Task) -> _Shard | None:
    """Map a shard; None if it is missing or damaged."""
    path, side = task.place.with_suffix(".frames"), task.reading.image_px
    try:
        index = task.place.with_suffix(".index")
        with index.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            flat, text = archive["actions"], json.loads(archive["text"].tobytes())
        facts = [_restored(each) for each in text["facts"]]
        n_frames = sum(each.n_frames for each in facts)
        if path.stat().st_size != n_frames * side * side * 3 or _crc(path) != text["crc"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None
    shape = (n_frames, side, side, 3)
    # Copy on write, although nothing is written: torch warns about read-only arrays.
    frames = np.asarray(np.memmap(path, np.uint8, "c", shape=shape)) if n_frames else np.empty(shape, np.uint8)
    shapes = [(each.n_frames - 1, each.n_action_dims) for each in facts]
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    actions = [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=bool(facts))]
    return _Shard(frames, actions, facts, {reason: _names(value) for reason, value in text["refused"].items()})


def _names(value: list[str] | int) -> list[str]:
    """Return the names of refused recordings; shards of earlier versions hold their number only."""
    return ["unnamed"] * value if isinstance(value, int) else value


def _restored(values: list[Any]) -> EpisodeFacts:
    """Return facts from JSON, which has no tuples."""
    facts = EpisodeFacts(*values)
    if facts.workspace_m is None:
        return facts
    low, high = facts.workspace_m
    return facts._replace(workspace_m=((low[0], low[1], low[2]), (high[0], high[1], high[2])))


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(piece, crc)
    return crc
