"""A folder of episode files. The files are the truth; there is no index to lose."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, ClassVar

import yaml

from configs.loader import Config, save
from data_collection.episode import EpisodeError
from data_collection.trajectory import read_trajectory

CONFIG_NAME = "collection.yaml"  # the configuration that the folder's episodes were made with
_FREE_KEYS = ("collection.free_disk_floor_gib", "collection.max_faults_in_row")  # change no episode
_LOCK_NAME = ".lock"
_HARMLESS = {_LOCK_NAME, f"{CONFIG_NAME}.part"}  # what a first start that failed may leave


class CollectionError(EpisodeError):
    """Collection cannot go on. Every closed episode stands."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, dropped: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.dropped = dict(dropped or {})  # attempts that failed before it and that no closed episode tells of


class EpisodeFolder:
    """Where one collection lives: `<stem>_traj<N>.hdf5`, flat, as RoboNet's reader wants it.

    Only files of such names are the collection's own; whatever else lies in the folder is left alone.
    """

    def __init__(self, path: Path, stem: str) -> None:
        self.path = path
        self._stem = stem

    def episode_path(self, number: int) -> Path:
        """Return the file of an episode."""
        return self.path / f"{self._stem}_traj{number}.hdf5"

    def check(self, resume: bool) -> None:
        """Refuse a folder that holds something else than what is asked for: nothing, or a collection to go on with.

        Raises:
            EpisodeError: It does, or it is not a folder, or not one that can be read. Nothing was changed.
        """
        with _refused(self.path):
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise EpisodeError(f"{self.path}: expected a folder, got a file")
            names = {item.name for item in self.path.iterdir()} - _HARMLESS
        if names and not resume:
            raise EpisodeError(f"{self.path}: expected a new or empty folder; go on in this one with --resume")
        if names and CONFIG_NAME not in names:
            raise EpisodeError(
                f"{self.path}: expected a collection to go on with, got a folder without {CONFIG_NAME};"
                " collect into a new folder"
            )

    @contextmanager
    def lock(self, exclusive: bool, timeout_s: float = 10.0) -> Iterator[IO[str]]:
        """Hold the folder: shared by the processes of one run, exclusive while a run tidies it.

        Raises:
            EpisodeError: Another run did not let go within the time, or the folder cannot be written.
        """
        with ExitStack() as stack:
            with _refused(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / _LOCK_NAME).open("a+"))
                self._acquire(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, timeout_s)
            yield file

    def _acquire(self, file: IO[str], kind: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EpisodeError(f"{self.path}: another run_collection is writing here; stop it") from None
                time.sleep(0.05)

    def share(self, lock: IO[str]) -> None:
        """Let the workers of this run in; Linux turns the lock over in one step, so no other run comes between."""
        with _refused(self.path):
            fcntl.flock(lock, fcntl.LOCK_SH)

    def keep_config(self, config: Config) -> None:
        """Write the configuration beside the episodes; where there are episodes, check that they were made with it.

        Raises:
            EpisodeError: The episodes were made with another one, or it cannot be read or written.
        """
        kept, new = self.path / CONFIG_NAME, self.path / f"{CONFIG_NAME}.part"
        with _refused(self.path):
            if kept.exists() and any(self.path.glob("*_traj*.hdf5")):
                _check_same(kept, config)
                return
            save(config, new)
            new.rename(kept)

    def tidy(self) -> dict[int, float]:
        """Set damaged episodes aside as `.damaged` and remove unfinished ones; call with the exclusive lock held.

        Returns:
            The number of each sound episode, with its recorded time in seconds.

        Raises:
            EpisodeError: A file cannot be read, or is not of this collection. Nothing was changed.
        """
        sound: dict[int, float] = {}
        damaged: list[Path] = []
        with _refused(self.path):
            for number, path in self._episodes():
                path.read_bytes()  # a disk that fails here says nothing of the file
                try:
                    sound[number] = _duration_s(path)
                except _DamagedError:
                    damaged.append(path)
            for path in damaged:
                path.rename(path.with_name(path.name + ".damaged"))
                (self.path / "meta_data.pkl").unlink(missing_ok=True)  # RoboNet's index, now stale
            self.discard_unfinished()
        return sound

    def _episodes(self) -> Iterator[tuple[int, Path]]:
        pattern = re.compile(re.escape(self._stem) + r"_traj(0|[1-9][0-9]*)\.hdf5")
        for path in sorted(self.path.iterdir()):
            if number := pattern.fullmatch(path.name):
                yield int(number[1]), path

    def discard_unfinished(self) -> None:
        """Remove what a killed writer left behind."""
        for part in self.path.glob("*_traj*.hdf5.part"):
            part.unlink()

    def check_space(self, floor_gib: float) -> None:
        """Refuse to begin an episode on a disk that is nearly full.

        Raises:
            CollectionError: Less than `floor_gib` GiB are free.
        """
        free_gib = shutil.disk_usage(self.path).free / 2**30
        if free_gib < floor_gib:
            raise CollectionError(
                f"{self.path}: expected {floor_gib:g} GiB of free disk, got {free_gib:.2f}; make room, then --resume"
            )


class _DamagedError(EpisodeError):
    """An episode that is no longer what was written."""


def _duration_s(path: Path) -> float:
    try:
        own = read_trajectory(path).own
    except EpisodeError as error:
        raise _DamagedError(str(error)) from error
    if own is None:
        raise EpisodeError(f"{path}: expected an episode of this collection, got a file of others; move it away")
    return float(own["env/timestamps"][-1] - own["env/timestamps"][0])


def _check_same(kept: Path, config: Config) -> None:
    """Refuse a configuration that would make other episodes than the kept one."""
    try:
        before = _flat(yaml.safe_load(kept.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise EpisodeError(f"{kept}: expected YAML, got: {' '.join(str(error).split())}") from None
    now = _flat(config.model_dump(mode="json"))
    changed = [
        f"'{key}: {before.get(key)}' is now '{key}: {now.get(key)}'"
        for key in {**before, **now}
        if key not in _FREE_KEYS and before.get(key) != now.get(key)
    ]
    if changed:
        raise EpisodeError(
            f"{kept}: expected the configuration of the episodes that are here, got another"
            f" ({'; '.join(changed[:3])}); collect into a new folder"
        )


def _flat(tree: object, name: str = "") -> dict[str, object]:
    """Return the leaves of a tree of mappings by their dotted keys."""
    if not isinstance(tree, dict):
        return {name: tree}
    return {
        key: leaf for part, branch in tree.items() for key, leaf in _flat(branch, f"{name}.{part}".strip(".")).items()
    }


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Say in one line what the operating system does not allow."""
    try:
        yield
    except OSError as error:
        raise EpisodeError(
            f"{error.filename or path}: expected a folder and files that can be read and written,"
            f" got: {error.strerror or error}"
        ) from error
