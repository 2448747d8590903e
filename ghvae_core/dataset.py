"""Episodes as the model sees them: all in memory, cut into windows of context and horizon."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from configs.command import ReportedError
from configs.loader import Config
from data_collection.episode import Episode, EpisodeError
from robot_bridge.camera import Camera, Crop, model_image

_FEW = 8  # episodes, which are read sooner than other processes have started; ours


class DatasetError(ReportedError):
    """Episodes that cannot be trained on. Nothing was written."""

    exit_code: ClassVar[int] = 2


class DataConfig(Config):
    """Which part of the episodes is used, and how."""

    n_context: int = Field(default=2, ge=1)  # paper E.1
    horizon: int = Field(default=10, ge=1)  # paper E.1
    camera: int = Field(default=0, ge=0)  # of a file with several
    validation_share: float = Field(default=0.05, gt=0, lt=1)  # of the episodes, chosen by a hash of their names; ours
    # For files of others, which do not say it; ours do.
    step_limit_m: float | None = Field(default=None, gt=0)
    step_s: float | None = Field(default=None, gt=0)

    @property
    def n_frames(self) -> int:
        """Frames of a window."""
        return self.n_context + self.horizon


class _Clip(NamedTuple):
    """One episode at model size, or the reason why it is not usable."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    step_limit_m: float
    step_s: float
    refusal: str


class Stored(NamedTuple):
    """Usable episodes as they stand in the cache."""

    frames: NDArray[np.uint8]  # (F, 64, 64, 3)
    actions: NDArray[np.float32]  # (F, 4)
    lengths: NDArray[np.int64]  # (E,) frames of each episode
    names: list[str]  # E
    step_limit_m: float
    step_s: float
    refused: dict[str, int]


@dataclass(frozen=True)
class Windows:
    """Episodes laid end to end, and where the windows start that lie within one episode each."""

    frames: NDArray[np.uint8]  # (F, 64, 64, 3) RGB
    actions: NDArray[np.float32]  # (F, 4) applied, raw; row f leads from frame f to f + 1; an episode's last row is 0
    starts: NDArray[np.int64]  # (W,) first frames
    n_frames: int  # of a window

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Return windows, time first: frames (n_frames, B, 64, 64, 3), actions (n_frames - 1, B, 4), and their rows."""
        rows = self.starts[indices] + np.arange(self.n_frames)[:, None]  # (n_frames, B)
        return self.frames[rows], self.actions[rows[:-1]], rows


@dataclass(frozen=True)
class Dataset:
    """What there is to train on."""

    train: Windows
    validation: Windows
    n_episodes: int
    step_limit_m: float
    step_s: float
    refused: dict[str, int]  # reason to number of episodes
    sha256: str  # of file names and sizes: names the data
    stored: Stored

    def keep(self, cache: Path) -> None:
        """Write the decoded episodes to a file, whole or not at all, so that the next start is quick."""
        _write_cache(cache, self.sha256, self.stored)


def load_dataset(folder: Path, config: DataConfig, cache: Path, notify: Callable[[int, int], None]) -> Dataset:
    """Read every episode of a folder into memory, in parallel, and split them into training and validation.

    Args:
        folder: Searched for `*.hdf5`, subfolders too.
        config: What to use of it.
        cache: File in which `Dataset.keep` left the decoded episodes; used when it was made of the same files.
        notify: Called with the number of episodes read so far, and of all.

    Raises:
        DatasetError: No usable episode, or episodes of robots with different step limits or step durations.
    """
    paths = sorted(folder.rglob("*.hdf5"))
    if not paths:
        raise DatasetError(f"{folder}: expected *.hdf5 episodes, found none; record some with run_collection")
    digest = digest_files(paths, folder, config)
    stored = _read_cache(cache, digest)
    if stored is None:
        names = [str(path.relative_to(folder)) for path in paths]
        stored = _pack([*_read_all(paths, config, notify)], names, folder)
    return _split(stored, config, digest)


def digest_files(paths: Sequence[Path], folder: Path, config: DataConfig) -> str:
    """Return the sha256 that names episodes: of their names and sizes, and of what is used of them."""
    files = [(str(path.relative_to(folder)), path.stat().st_size) for path in paths]
    return hashlib.sha256(json.dumps([files, config.model_dump()]).encode()).hexdigest()


def is_validation(name: str, share: float) -> bool:
    """Tell whether an episode is kept for validation; by its file name, so that new episodes move no old one."""
    return int.from_bytes(hashlib.sha256(Path(name).name.encode()).digest()[:4], "big") < share * 2**32


def model_frames(episode: Episode) -> NDArray[np.uint8]:
    """Return an episode's frames (T + 1, 64, 64, 3) as the model sees them, with the crop that its file names.

    Raises:
        EpisodeError: The file's camera is none of ours, or its crop is of frames of another size.
    """
    calibration = episode.info.get("camera_calibration")
    crop = _crop(str(calibration), episode.frames.shape[1:3]) if calibration else None
    return np.stack([model_image(frame, crop) for frame in episode.frames])


def _crop(calibration: str, size_px: tuple[int, ...]) -> Crop | None:
    try:
        camera = Camera.model_validate_json(calibration)
    except ValidationError:
        raise EpisodeError("camera_calibration: expected a camera as run_collection writes it, got another") from None
    if camera.crop and size_px != (camera.height_px, camera.width_px):
        raise EpisodeError(
            f"camera_calibration: its crop is of frames of {camera.height_px}x{camera.width_px}, "
            f"got {size_px[0]}x{size_px[1]}"
        )
    return camera.crop


def _read_all(paths: list[Path], config: DataConfig, notify: Callable[[int, int], None]) -> Iterator[_Clip]:
    clips = map(_read, paths, repeat(config)) if len(paths) <= _FEW else _read_in_parallel(paths, config)
    for done, clip in enumerate(clips, start=1):
        notify(done, len(paths))
        yield clip


def _read_in_parallel(paths: list[Path], config: DataConfig) -> Iterator[_Clip]:
    workers = min(len(os.sched_getaffinity(0)), len(paths))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_read, paths, repeat(config), chunksize=4)
    except BrokenProcessPool:
        raise DatasetError(
            "a process that reads episodes was killed, probably for want of memory; free some, or take fewer episodes"
        ) from None


def _read(path: Path, config: DataConfig) -> _Clip:
    from data_collection.robonet import read_episode  # noqa: PLC0415 - the reader's libraries in the workers only

    try:
        episode = read_episode(path, config.camera)
        if len(episode.frames) < config.n_frames:
            raise EpisodeError(f"fewer than {config.n_frames} frames")
        step_limit_m, step_s = _positive("step_limit_m", episode, config), _positive("step_s", episode, config)
        return _Clip(model_frames(episode), episode.actions, step_limit_m, step_s, "")
    except EpisodeError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return _Clip(np.empty((0, 0, 0, 0), np.uint8), np.empty((0, 0), np.float32), 0, 0, reason)


def _positive(name: str, episode: Episode, config: DataConfig) -> float:
    """Return what a file says of its robot, or the configuration where the file is silent."""
    value = episode.info.get(name, getattr(config, name))
    if value is None:
        raise EpisodeError(f"the file does not say {name}; give it with --set data.{name}=...")
    if isinstance(value, str) or not 0 < value < math.inf:
        raise EpisodeError(f"{name}: expected a number above 0, got {value!r}")
    return float(value)


def _pack(clips: list[_Clip], names: list[str], folder: Path) -> Stored:
    usable = [(clip, name) for clip, name in zip(clips, names, strict=True) if not clip.refusal]
    refused = dict(Counter(clip.refusal for clip in clips if clip.refusal))
    if not usable:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in refused.items())
        raise DatasetError(f"{folder}: no usable episode among {len(clips)}: {reasons}")
    first = usable[0][0]
    for clip, name in usable:
        if (clip.step_limit_m, clip.step_s) != (first.step_limit_m, first.step_s):
            raise DatasetError(
                f"{folder / name}: expected a limit of {first.step_limit_m:g} m and steps of {first.step_s:g} s as in "
                f"{usable[0][1]}, got {clip.step_limit_m:g} m and {clip.step_s:g} s; train on one kind"
            )
    actions = [np.concatenate([clip.actions, np.zeros((1, clip.actions.shape[1]), np.float32)]) for clip, _ in usable]
    return Stored(
        frames=np.concatenate([clip.frames for clip, _ in usable]),
        actions=np.concatenate(actions),
        lengths=np.array([len(clip.frames) for clip, _ in usable]),
        names=[name for _, name in usable],
        step_limit_m=first.step_limit_m,
        step_s=first.step_s,
        refused=refused,
    )


def _split(stored: Stored, config: DataConfig, digest: str) -> Dataset:
    kept = np.array([is_validation(name, config.validation_share) for name in stored.names])
    if kept.all() or not kept.any():  # few episodes: the last one validates
        kept = np.arange(len(kept)) == len(kept) - 1
    if len(kept) < 2:
        raise DatasetError("expected at least two usable episodes, one of them to validate with, got 1")
    firsts = np.cumsum(stored.lengths) - stored.lengths
    parts = []
    for part in (~kept, kept):
        windows = [
            first + np.arange(length - config.n_frames + 1)
            for first, length in zip(firsts[part], stored.lengths[part], strict=True)
        ]
        parts.append(Windows(stored.frames, stored.actions, np.concatenate(windows), config.n_frames))
    train, validation = parts
    return Dataset(
        train, validation, len(stored.names), stored.step_limit_m, stored.step_s, stored.refused, digest, stored
    )


def _read_cache(cache: Path, digest: str) -> Stored | None:
    """Return what the cache holds; None when there is none, it is of other files, or it is damaged."""
    try:
        with cache.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            if facts.pop("digest") != digest:
                return None
            return Stored(file["frames"], file["actions"], file["lengths"], **facts)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _write_cache(cache: Path, digest: str, stored: Stored) -> None:
    facts = {name: getattr(stored, name) for name in ("names", "step_limit_m", "step_s", "refused")}
    cache.parent.mkdir(parents=True, exist_ok=True)
    beside = cache.with_name(f".{cache.name}.part")
    with beside.open("wb") as file:
        np.savez(
            file,
            frames=stored.frames,
            actions=stored.actions,
            lengths=stored.lengths,
            facts=json.dumps({"digest": digest, **facts}),
        )
    beside.rename(cache)
