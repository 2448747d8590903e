"""Datasets: windows of context and horizon in the episodes of data folders, for training and validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config, former_names
from data_collection.episode import ROBOT_ACTIONS
from data_collection.formats.reader import Recording
from ghvae_core.data.augmentation import AugmentationConfig
from ghvae_core.data.cache import DecodeOptions, EpisodeFacts, PreparedEpisodes, model_frames, prepare
from ghvae_core.data.parallel import DatasetError
from ghvae_core.data.selection import Refusals, Selection, merged, select
from ghvae_core.data.windows import Windows, end_to_end
from robot_bridge.camera import Camera
from robot_bridge.robot import ACTION_DIM, CLOSE

__all__ = [
    "DataConfig",
    "Dataset",
    "DatasetError",
    "Windows",
    "digest_files",
    "held_out_mask",
    "load_dataset",
    "model_frames",
]

_PERCENTILE = 99.5  # of the absolute values of an action dimension; it becomes 1; ours

_Vector = tuple[float, float, float]
_Value = TypeVar("_Value")


class DataConfig(Config):
    """Selection and reading of episodes."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "validation_share": "validation_fraction",
        "shares": "folder_fractions",
    }

    n_context: int = Field(default=2, ge=1)  # paper E.1
    horizon: int = Field(default=10, ge=1)  # paper E.1
    camera: int = Field(default=0, ge=0)  # index, in a file with several cameras; ours
    validation_fraction: float = Field(default=0.05, gt=0, lt=1)  # of the episodes, by a hash of their names; ours
    step_limit_m: float | None = Field(default=None, gt=0)  # for files that do not contain it
    step_s: float | None = Field(default=None, gt=0)
    robots: tuple[str, ...] = ()  # of RoboNet files; empty: all
    only_names: str | None = None  # text file of file names, one per line; others are not used
    exclude_names: str | None = None  # text file of file names that are not used, such as the test set of RoboNet
    action_free: bool = False  # ignore actions, and use RoboNet files without usable actions
    video_stride: int = Field(default=1, ge=1)  # every n-th frame of video files
    # Fraction of each batch, one per data folder; empty: equal, as in RoboNet's recipe for new robots
    folder_fractions: tuple[float, ...] = ()
    prepared: str | None = None  # folder of decoded episodes, shared by runs; None: in the folder of the run
    augment: bool = False  # FitVid and RoboNet: on; off allows the feature cache; ours
    augmentation: AugmentationConfig = AugmentationConfig()

    @property
    def n_frames(self) -> int:
        """Number of frames of a window."""
        return self.n_context + self.horizon


_ALWAYS_NAMED = {"n_context", "horizon", "camera", "validation_fraction", "step_limit_m", "step_s"}
_NAMED_IF_SET = {"action_free", "video_stride"}


@dataclass(frozen=True)
class Dataset:
    """Training and validation windows, and properties of the data."""

    train: Windows
    validation: Windows
    action_scale: tuple[float, ...]  # (A,); actions are divided by it
    step_limit_m: float | None  # of the robot, from the files or the configuration; None: unknown
    step_s: float | None
    camera: Camera | None  # of all episodes with a calibration; None: unknown or different
    workspace_m: tuple[_Vector, _Vector] | None  # low and high corner, likewise
    n_episodes: int
    refused: Refusals
    warnings: tuple[str, ...]  # about data that are used
    sha256: str  # of file names, sizes and selection: identifies the data
    folder_sha256: tuple[str, ...]  # the same of each folder


@dataclass(frozen=True)
class _Folder:
    """The recordings of one data folder."""

    path: Path
    recordings: list[Recording]
    prepared: PreparedEpisodes
    usable: NDArray[np.bool_]  # of each decoded episode: long enough
    sha256: str

    def name(self, i: int) -> str:
        """Return the name of decoded episode i."""
        return self.recordings[self.prepared.facts[i].number].name


def load_dataset(
    folders: Sequence[Path], config: DataConfig, image_px: int, cache: Path, notify: Callable[[int, int], None]
) -> Dataset:
    """Read all episodes of data folders, in parallel, and split them into training and validation.

    Args:
        folders: Searched recursively for recordings of all known kinds.
        config: Selection and reading.
        image_px: Side of the model image.
        cache: Folder of decoded episodes, unless `config.prepared` is set; existing ones are used.
        notify: Called with the number of read episodes and of all of a folder, once one is usable.

    Raises:
        DatasetError: No usable episode; or episodes with different actions, step limits or step durations.
        EpisodeError: A list of names cannot be read.
    """
    if config.folder_fractions and len(config.folder_fractions) != len(folders):
        raise DatasetError(
            f"data.folder_fractions: expected {len(folders)} numbers, one a data folder, got {config.folder_fractions}"
        )
    if any(fraction < 0 for fraction in config.folder_fractions) or (
        config.folder_fractions and not sum(config.folder_fractions) > 0
    ):
        raise DatasetError(
            f"data.folder_fractions: expected fractions of 0 and more, not all of them 0, got {config.folder_fractions}"
        )
    selection = Selection(config.robots, config.only_names, config.exclude_names)
    selected = select(folders, selection)
    place = cache if config.prepared is None else Path(config.prepared)
    first_new = next((path for path in (*reversed(place.parents), place) if not path.exists()), None)
    reading = DecodeOptions(config.camera, image_px, config.action_free, config.video_stride)
    read = []
    try:
        for folder, (recordings, refused) in zip(folders, selected, strict=True):
            prepared = prepare(recordings, reading, place, notify)
            everything = replace(prepared, refused=merged([prepared.refused, refused]))
            read.append(_folder(folder, recordings, everything, config))
        _check_alike(read, config)
        return _dataset(read, config)
    except DatasetError:
        if config.prepared is None and first_new is not None:
            _remove_new(place, first_new)
        raise


def digest_files(paths: Sequence[Path], folder: Path, config: DataConfig) -> str:
    """Return a sha256 of the names and sizes of files and of the selection: identifies the episodes."""
    files = [(str(path.relative_to(folder)), path.stat().st_size) for path in paths]
    used = config.model_dump(include=_ALWAYS_NAMED) | config.model_dump(include=_NAMED_IF_SET, exclude_defaults=True)
    used = former_names(DataConfig, used)  # stored digests use the former names
    return hashlib.sha256(json.dumps([files, used]).encode()).hexdigest()


def held_out_mask(names: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Return which episodes of a folder are held out for validation, by a hash of their names.

    Added episodes do not change the split of the others. RoboNet file names are unique, so their folder is ignored; for
    other kinds it counts. If none or all of several episodes would be held out, the last one is; a single one never is.

    Args:
        names: Of the usable episodes of the folder, in order.
        fraction: To hold out; 1: all.

    Returns:
        (N,) True for validation.
    """
    if fraction >= 1:
        return np.ones(len(names), bool)
    kept = np.array([_draw(name) < fraction for name in names], bool)
    if len(names) == 1:
        return np.zeros(1, bool)
    return np.arange(len(names)) == len(names) - 1 if kept.all() or not kept.any() else kept


def _draw(name: str) -> float:
    hashed = Path(name).name if name.endswith(".hdf5") else name
    return int.from_bytes(hashlib.sha256(hashed.encode()).digest()[:4], "big") / 2**32


def _folder(path: Path, recordings: list[Recording], prepared: PreparedEpisodes, config: DataConfig) -> _Folder:
    usable = np.array([facts.n_frames >= config.n_frames for facts in prepared.facts], bool)
    if not usable.all():
        short = [recordings[prepared.facts[i].number].name for i in np.flatnonzero(~usable)]
        refused = merged([prepared.refused, {f"fewer than {config.n_frames} frames": short}])
        prepared = replace(prepared, refused=refused)
    if not usable.any():
        reasons = "; ".join(f"{len(names)} x {reason}" for reason, names in prepared.refused.items())
        raise DatasetError(f"{path}: no usable episode among {sum(map(len, prepared.refused.values()))}: {reasons}")
    digest = digest_files([*dict.fromkeys(each.path for each in recordings)], path, config)
    return _Folder(path, recordings, prepared, usable, digest)


def _check_alike(folders: Sequence[_Folder], config: DataConfig) -> None:
    """Refuse episodes with different actions, step limits or step durations."""
    first_of: dict[str, tuple[Path, float]] = {}
    for folder in folders:
        for i in np.flatnonzero(folder.usable).tolist():
            facts, path = folder.prepared.facts[i], folder.path / folder.name(i)
            properties: dict[str, float | None] = {
                "action dimensions": facts.n_action_dims,
                "step_limit_m": facts.step_limit_m or config.step_limit_m,
                "step_s": facts.step_s or config.step_s,
            }
            if not facts.n_action_dims:
                properties["step_limit_m"] = properties["step_s"] = None
            for name, value in properties.items():
                if value is None:
                    continue
                other, expected = first_of.setdefault(name, (path, value))
                if value != expected:
                    hint = "; or data.action_free=true" if name == "action dimensions" else ""
                    raise DatasetError(
                        f"{path}: expected {name} {expected:g} as in {other}, got {value:g}; train on one kind{hint}"
                    )


def _dataset(folders: Sequence[_Folder], config: DataConfig) -> Dataset:
    of_folder = np.repeat(np.arange(len(folders)), [len(folder.usable) for folder in folders])
    usable = np.concatenate([folder.usable for folder in folders])
    kept = np.concatenate([_validation(folder, config) for folder in folders])
    if not kept.any() or not (usable & ~kept).any():
        raise DatasetError("expected at least two usable episodes, one of them to validate with, got 1")
    facts = [each for folder in folders for each in folder.prepared.facts]
    actions = [each for folder in folders for each in folder.prepared.actions]
    taken = [facts[i] for i in np.flatnonzero(usable)]
    firsts = np.cumsum([each.n_frames for each in facts]) - [each.n_frames for each in facts]
    rows = np.zeros((sum(each.n_frames for each in facts), taken[0].n_action_dims), np.float32)
    for i in np.flatnonzero(usable):
        rows[firsts[i] : firsts[i] + len(actions[i])] = actions[i]
    frames = end_to_end([part for folder in folders for part in folder.prepared.parts])
    parts = []
    for chosen in (usable & ~kept, kept):
        starts = [firsts[i] + np.arange(facts[i].n_frames - config.n_frames + 1) for i in np.flatnonzero(chosen)]
        sizes = np.bincount(of_folder[chosen], [len(each) for each in starts], len(folders)).astype(int)
        fractions = config.folder_fractions or (1.0,) * len(folders)
        parts.append(Windows(frames, rows, np.concatenate(starts), config.n_frames, tuple(sizes.tolist()), fractions))
    learned = np.concatenate([actions[i] for i in np.flatnonzero(usable & ~kept)])
    step_limit_m = _common({each.step_limit_m for each in taken if each.n_action_dims}, config.step_limit_m)
    spaces = {each.action_space for each in taken}
    return Dataset(
        train=parts[0],
        validation=parts[1],
        action_scale=_scale(learned, step_limit_m if spaces == {ROBOT_ACTIONS} else None),
        step_limit_m=step_limit_m if learned.shape[1] else None,
        step_s=_common({each.step_s for each in taken if each.n_action_dims}, config.step_s),
        camera=_camera(taken),
        workspace_m=_common({each.workspace_m for each in taken}, None),
        n_episodes=len(taken),
        refused=merged(folder.prepared.refused for folder in folders),
        warnings=_warnings(spaces),
        sha256=_combined([folder.sha256 for folder in folders]),
        folder_sha256=tuple(folder.sha256 for folder in folders),
    )


def _validation(folder: _Folder, config: DataConfig) -> NDArray[np.bool_]:
    """Return which episodes are usable and held out for validation."""
    usable = np.flatnonzero(folder.usable)
    kept = np.zeros(len(folder.usable), bool)
    kept[usable] = held_out_mask([folder.name(i) for i in usable.tolist()], config.validation_fraction)
    return kept


def _scale(actions: NDArray[np.float32], step_limit_m: float | None) -> tuple[float, ...]:
    """Return the scale of actions (N, A): the limits of the robot if known, else from the data.

    From the data: the 99.5th percentile of absolute values; if that is 0, the largest one; if that is 0, 1.
    """
    if step_limit_m is not None and actions.shape[1] == ACTION_DIM:
        return (step_limit_m, step_limit_m, step_limit_m, CLOSE)
    sizes = np.abs(actions)
    if not sizes.size:
        return ()
    scale = np.percentile(sizes, _PERCENTILE, axis=0)
    scale = np.where(scale > 0, scale, sizes.max(axis=0))
    return tuple(float(each) if each > 0 else 1.0 for each in scale)


def _common(values: set[_Value | None], otherwise: _Value | None) -> _Value | None:
    """Return the common value of all that are not None; None if they differ, `otherwise` if there is none."""
    known = values - {None}
    if not known:
        return otherwise
    return known.pop() if len(known) == 1 else None


def _camera(taken: Sequence[EpisodeFacts]) -> Camera | None:
    calibration = _common({facts.camera or None for facts in taken}, None)
    return None if calibration is None else Camera.model_validate_json(calibration)


def _warnings(spaces: set[str]) -> tuple[str, ...]:
    if len(spaces) == 1:
        return ()
    return (f"actions of several kinds are trained on as one kind: {'; '.join(sorted(spaces))}",)


def _combined(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _remove_new(place: Path, first_new: Path | None) -> None:
    """Remove the new files of a refused start."""
    if first_new is None:
        return
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    while place.is_relative_to(first_new):
        if place.exists():
            place.rmdir()
        place = place.parent
