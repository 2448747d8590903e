"""Export of episodes as a LeRobotDataset v3.0, which LeRobot's `LeRobotDataset(repo_id, root=out)` loads.

Needs pyarrow: `pip install 'ghvae-foresight[lerobot]'`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_collection.atomic_io import new_folder
from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import ACTION_NAMES, STATE_NAMES, EpisodeArrays, read_episode_arrays
from data_collection.export.lerobot_files import (
    FILES_PER_CHUNK,
    FileLocation,
    TableWriter,
    VideoSpan,
    VideoWriter,
    is_copyable,
    read_column,
)
from data_collection.export.statistics import PixelHistogram, summarize
from data_collection.formats.hdf5 import naming
from data_collection.formats.video import VideoConfig, encode_video

MIB: Final = 2**20
_FILE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_GROUP_FRAMES, _GROUP_EPISODES = 10_000, 100  # compressed together; ours: few enough to hold in memory

# Every feature but the images: its type and the names of its numbers. Those that do not begin with "action" or
# "observation" are no input and no output of LeRobot's policies.
_FEATURES: Final[dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "observation.state": ("float32", STATE_NAMES),
    "action": ("float32", ACTION_NAMES),
    "commanded_action": ("float32", ACTION_NAMES),
    "time_s": ("float32", None),
    "timestamp": ("float32", None),
    "frame_index": ("int64", None),
    "episode_index": ("int64", None),
    "index": ("int64", None),
    "task_index": ("int64", None),
}


class FileSizes(NamedTuple):
    """Size limits of files with more than one episode; LeRobot's defaults."""

    data_mib: float = 100  # before compression
    video_mib: float = 200


def export_lerobot(paths: Sequence[Path], out: Path, *, task: str, on_episode: Callable[[], None]) -> int:
    """Write episodes as one dataset.

    An episode of T actions becomes T frames: LeRobot needs an action with every frame, and the last frame has none.
    `action` is the applied action, `commanded_action` the commanded one. LeRobot's `timestamp` increases by `step_s`
    per frame (hence `fps`, which need not be an integer; 1 for files without `step_s`), `time_s` is the measured time.
    Floats are float32, as LeRobot reads them. H.264 packets of our files are copied; other videos are encoded again.
    Equal files give equal bytes with equal versions of pyarrow and FFmpeg. One episode is in memory at a time, and one
    column at the end.

    Args:
        paths: RoboNet files of one robot, in the order of the episodes.
        out: New folder; it appears once it is complete.
        task: Task description.
        on_episode: Called after each episode.

    Returns:
        The number of episodes.

    Raises:
        EpisodeError: There is none, one cannot be read or differs in robot, step or cameras (the message names it),
            or `out` exists. Nothing is left.
        ExportError: The disk is full, or does not allow it. Nothing is left.
    """
    if not paths or not task.strip():
        raise EpisodeError(f"expected at least one episode and a task as text, got {len(paths)} and {task!r}")
    with new_folder(out) as folder, closing(LeRobotWriter(folder, task, FileSizes())) as dataset:
        for path in paths:
            arrays = read_episode_arrays(path)
            with naming(path):
                dataset.append(arrays)
            on_episode()
        dataset.finish()
    return len(paths)


class _EpisodeKind(NamedTuple):
    """Properties that all episodes of one dataset share."""

    robot: str
    step: Fraction  # seconds; rational, so that times in files of any length are exact
    sizes_px: tuple[tuple[int, int], ...]  # height and width, one a camera

    @classmethod
    def of(cls, arrays: EpisodeArrays) -> _EpisodeKind:
        step = Fraction(arrays.step_s).limit_denominator(1000)
        if step <= 0:
            raise EpisodeError(f"expected a step_s of at least 0.001, got {arrays.step_s:g}")
        sizes = tuple((height, width) for _, height, width in (video.shape for video in arrays.videos))
        return cls(str(arrays.episode.info.get("robot", "unknown")), step, sizes)

    def check(self, other: _EpisodeKind) -> None:
        """Check that an episode fits into the same dataset."""
        for name, mine, its in zip(("robot", "step_s", "camera sizes"), self, other, strict=True):
            if mine != its:
                expected, got = (float(value) if isinstance(value, Fraction) else value for value in (mine, its))
                raise EpisodeError(f"expected {name} {expected} as in earlier episodes, got {got}; export separately")


class LeRobotWriter:
    """Writes Parquet and mp4 files; `finish` adds the info.json that makes the dataset loadable."""

    def __init__(self, folder: Path, task: str, sizes: FileSizes) -> None:
        self._folder, self._task, self._sizes = folder, task, sizes
        self._kind: _EpisodeKind | None = None
        data_bytes = round(sizes.data_mib * MIB)
        self._rows = TableWriter(folder / "data", data_bytes, _GROUP_FRAMES)
        self._episodes = TableWriter(folder / "meta/episodes", data_bytes, _GROUP_EPISODES)
        self._videos: dict[str, VideoWriter] = {}  # by the name of the feature
        self._pixels: dict[str, PixelHistogram] = {}
        self._n_episodes = self._n_frames = 0

    def append(self, arrays: EpisodeArrays) -> None:
        """Write an episode of T actions as T frames.

        Raises:
            EpisodeError: It has another robot, step or camera than those before.
        """
        kind = _EpisodeKind.of(arrays)
        if self._kind is None:
            self._kind = kind
            for key in (f"observation.images.cam{camera}" for camera in range(len(kind.sizes_px))):
                self._videos[key] = VideoWriter(
                    self._folder / "videos" / key, kind.step, round(self._sizes.video_mib * MIB)
                )
                self._pixels[key] = PixelHistogram.none()
        self._kind.check(kind)
        columns = self._columns(arrays, kind)
        stats = {name: summarize(values) for name, values in columns.items()}
        places: dict[str, Any] = {}
        for camera, (key, writer) in enumerate(self._videos.items()):
            span, pixels = _append_video(arrays, camera, writer)
            self._pixels[key] = self._pixels[key].plus(pixels)
            stats[key] = pixels.summarize()
            places |= _span(key, span)
        table = pa.table({name: _array(values) for name, values in columns.items()})
        places |= _place("data", self._rows.place(table.nbytes))
        self._rows.append(table)
        self._note(arrays, places, stats)

    def finish(self) -> None:
        """Write the tasks, the statistics, and last the info.json."""
        self.close()
        meta = self._folder / "meta"
        _write_tasks(self._task, meta / "tasks.parquet")
        stats = {name: summarize(_values(self._folder / "data", name)) for name in _FEATURES}
        stats |= {key: pixels.summarize() for key, pixels in self._pixels.items()}
        _write_json(stats, meta / "stats.json")
        _write_json(self._info(), meta / "info.json")

    def close(self) -> None:
        """Close all files."""
        files: list[TableWriter | VideoWriter] = [self._rows, self._episodes, *self._videos.values()]
        for file in files:
            file.close()

    def _columns(self, arrays: EpisodeArrays, kind: _EpisodeKind) -> dict[str, NDArray[Any]]:
        """Return the columns of an episode, one row per frame."""
        episode = arrays.episode
        n = len(episode.actions)
        frame = np.arange(n)
        columns = {
            "observation.state": episode.states[:n],
            "action": episode.actions,
            "commanded_action": episode.commanded,
            "time_s": (episode.times_s - episode.times_s[0])[:n],
            "timestamp": frame * kind.step.numerator / kind.step.denominator,
            "frame_index": frame,
            "episode_index": np.full(n, self._n_episodes),
            "index": self._n_frames + frame,
            "task_index": np.zeros(n),
        }
        return {name: columns[name].astype(dtype) for name, (dtype, _) in _FEATURES.items()}

    def _note(self, arrays: EpisodeArrays, places: dict[str, Any], stats: dict[str, dict[str, list[Any]]]) -> None:
        """Write the episode's row: locations and statistics."""
        n = len(arrays.episode.actions)
        row = {
            "episode_index": self._n_episodes,
            "tasks": [self._task],
            "length": n,
            "dataset_from_index": self._n_frames,
            "dataset_to_index": self._n_frames + n,
            **places,
            "source": arrays.path.name,
            "description": arrays.description(),
            **{f"stats/{key}/{name}": value for key, parts in stats.items() for name, value in parts.items()},
        }
        place = self._episodes.place(pa.Table.from_pylist([row]).nbytes)
        self._episodes.append(pa.Table.from_pylist([{**row, **_place("meta/episodes", place)}]))
        self._n_episodes += 1
        self._n_frames += n

    def _info(self) -> dict[str, Any]:
        if self._kind is None:
            raise EpisodeError("expected at least one episode to export, got none")
        fps = 1 / self._kind.step
        rate = fps.numerator if fps.denominator == 1 else float(fps)
        features = {
            key: _camera_feature(size, rate) for key, size in zip(self._videos, self._kind.sizes_px, strict=True)
        }
        for name, (dtype, names) in _FEATURES.items():
            features[name] = {"dtype": dtype, "shape": [len(names) if names else 1], "names": names}
        return {
            "codebase_version": "v3.0",
            "robot_type": self._kind.robot,
            "total_episodes": self._n_episodes,
            "total_frames": self._n_frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": max(1, round(self._sizes.data_mib)),
            "video_files_size_in_mb": max(1, round(self._sizes.video_mib)),
            "fps": rate,
            "splits": {"train": f"0:{self._n_episodes}"},
            "data_path": f"data/{_FILE}.parquet",
            "video_path": f"videos/{{video_key}}/{_FILE}.mp4",
            "features": features,
        }


def _append_video(arrays: EpisodeArrays, camera: int, videos: VideoWriter) -> tuple[VideoSpan, PixelHistogram]:
    """Append the frames with an action to a camera's video: copied where possible, otherwise encoded again."""
    n = len(arrays.episode.actions)
    video, frames = arrays.videos[camera], arrays.frames(camera)[:n]
    data = video.data if not video.is_bgr and is_copyable(video.data) else encode_video(frames, VideoConfig())
    return videos.append(data, n), PixelHistogram.of(frames)


def _camera_feature(size_px: tuple[int, int], rate: float) -> dict[str, Any]:
    height, width = size_px
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": rate,
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}


def _place(prefix: str, place: FileLocation) -> dict[str, int]:
    return {f"{prefix}/chunk_index": place.chunk, f"{prefix}/file_index": place.file}


def _span(key: str, span: VideoSpan) -> dict[str, int | float]:
    times_s = {f"videos/{key}/from_timestamp": span.from_s, f"videos/{key}/to_timestamp": span.to_s}
    return {**_place(f"videos/{key}", span.place), **times_s}


def _array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _values(folder: Path, name: str) -> NDArray[Any]:
    """Return a feature of all frames, (N,) or (N, D)."""
    array = read_column(folder, name).combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        values: NDArray[Any] = array.flatten().to_numpy()
        return values.reshape(len(array), -1)
    return np.asarray(array.to_numpy())


def _write_tasks(task: str, path: Path) -> None:
    """Write the table of tasks, which LeRobot reads with pandas; its index is the text of the task."""
    index = "task"
    schema = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), (index, "unicode", "object"))
        ],
        "pandas_version": "2.3.0",
    }
    table = pa.table({"task_index": pa.array([0], pa.int64()), index: [task]})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(schema)}), path)


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
