"""Finds and reads the recordings of all supported formats in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from data_collection.episode import Episode, EpisodeError, video_episode
from data_collection.formats.bridge import read_bridge
from data_collection.formats.npz import read_archive
from data_collection.formats.robonet import read_episode
from data_collection.formats.robonet_file import read_metadata
from data_collection.formats.tfrecord import find_records
from data_collection.formats.video import SUFFIXES, VideoReading, read_video

KINDS = "*.hdf5 (RoboNet), *.npz (BAIR, MetaWorld), *.tfrecord* (BridgeData) or video files"

_AS_VIDEO = VideoReading()


@dataclass(frozen=True)
class Recording:
    """One episode in a file."""

    path: Path
    index: int  # in a file of several
    name: str  # relative to the folder, followed by "#index" where a file may hold several; unique and stable

    def is_in(self, names: frozenset[str]) -> bool:
        """Return whether names, as from `read_names`, contain this recording's file, with or without suffix."""
        return self.path.name in names or self.path.stem in names


def find(folder: Path) -> list[Recording]:
    """Return the recordings in a folder and its subfolders, sorted by name of file.

    Nothing is opened but TFRecord files, which hold several. Hidden files are ignored. Video files next
    to recordings of other kinds are assumed to show them and are not used.

    Raises:
        EpisodeError: A TFRecord file cannot be read at all.
    """
    paths = sorted(path for path in folder.rglob("*") if not _is_hidden(path, folder) and path.is_file())
    recordings = [recording for path in paths for recording in _recordings(path, folder)]
    return recordings or [Recording(path, 0, _name(path, folder)) for path in paths if path.suffix.lower() in SUFFIXES]


def read(recording: Recording, camera: int = 0, action_free: bool = False, video: VideoReading = _AS_VIDEO) -> Episode:
    """Read a recording.

    Args:
        recording: As `find` gave it.
        camera: Of a recording with several.
        action_free: Leave actions and states out; also of RoboNet files whose actions cannot be used.
        video: How video files are read; other kinds keep all frames at camera size.

    Raises:
        EpisodeError: Unreadable, damaged or not usable; the message names the file and the reason.
    """
    path = recording.path
    if path.suffix == ".hdf5":
        return read_episode(path, camera, action_free)
    if path.suffix.lower() in SUFFIXES:
        if camera:
            raise EpisodeError(f"{path}: expected camera 0 of a video file, got {camera}")
        return read_video(path, video)
    episode = read_archive(path, camera) if path.suffix == ".npz" else read_bridge(path, recording.index, camera)
    return video_episode(episode.frames, episode.info) if action_free else episode


def robot(recording: Recording) -> str | None:
    """Return the robot that a RoboNet file names, empty where it names none; None for other kinds.

    Nothing is decoded.

    Raises:
        EpisodeError: Unreadable or damaged.
    """
    if recording.path.suffix != ".hdf5":
        return None
    return str(read_metadata(recording.path).get("robot", ""))


def read_names(path: Path) -> frozenset[str]:
    """Read a text file of file names, one a line, as RoboNet publishes its test set; folders before them are left out.

    Raises:
        EpisodeError: Unreadable, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EpisodeError(f"{path}: expected a text file of file names, got: {error}") from None
    names = frozenset(PurePath(line.strip().replace("\\", "/")).name for line in lines) - {""}
    if not names:
        raise EpisodeError(f"{path}: expected a file name a line, got none")
    return names


def _recordings(path: Path, folder: Path) -> Iterator[Recording]:
    name = _name(path, folder)
    if path.suffix in {".hdf5", ".npz"}:
        yield Recording(path, 0, name)
    elif ".tfrecord" in path.name:
        for index in range(len(find_records(path))):
            yield Recording(path, index, f"{name}#{index}")


def _name(path: Path, folder: Path) -> str:
    """Return a file's name as valid Unicode text, whatever bytes it has on disk."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
