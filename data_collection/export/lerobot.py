"""Episodes as a LeRobotDataset v3.0, which LeRobot's `LeRobotDataset(repo_id, root=out)` loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from data_collection.atomic_io import new_folder
from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import read_episode_arrays
from data_collection.formats.hdf5 import naming


def export_lerobot(paths: Sequence[Path], out: Path, *, task: str, on_episode: Callable[[], None]) -> int:
    """Write episodes as one dataset.

    An episode of T actions becomes T frames: LeRobot wants an action with every frame, the last of ours has none, and
    none is invented. `action` is the applied one, `commanded_action` what was asked for. LeRobot's `timestamp` goes on
    by `step_s` from frame to frame (hence `fps`, which need not be whole; 1 where a file does not say how long a step
    takes), while `time_s` is when the frame was taken. Floats are float32, as LeRobot reads them. H.264 that stands in
    the files as ours does is copied, packet by packet; videos of others are encoded anew. Equal files give equal bytes
    with equal versions of pyarrow and FFmpeg. One episode is in memory at a time, and one column at the end.

    Args:
        paths: RoboNet files of one robot, in the order of the episodes.
        out: A new folder; it appears when it is whole.
        task: What LeRobot is told that the robot did, in words.
        on_episode: Called after each episode.

    Returns:
        The number of episodes.

    Raises:
        EpisodeError: There is none, one cannot be read or differs in robot, step or cameras (the message names it),
            `out` exists, or pyarrow is not installed. Nothing is left.
        ExportError: The disk is full, or does not allow it. Nothing is left.
    """
    try:
        from data_collection.export.dataset import FileSizes, LeRobotWriter  # noqa: PLC0415 - pyarrow, which only this needs
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise EpisodeError("expected pyarrow for LeRobot's files: pip install 'ghvae-foresight[lerobot]'") from error
    if not paths or not task.strip():
        raise EpisodeError(f"expected at least one episode and a task in words, got {len(paths)} and {task!r}")
    with new_folder(out) as folder, closing(LeRobotWriter(folder, task, FileSizes())) as dataset:
        for path in paths:
            take = read_episode_arrays(path)
            with naming(path):
                dataset.append(take)
            on_episode()
        dataset.finish()
    return len(paths)
