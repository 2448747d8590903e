"""A folder of episode files. The files are the truth; the index beside them is a copy that can be made anew."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, ClassVar

import yaml
from pydantic import ValidationError

from configs.interruption import check, sleep
from configs.loader import Config, migrate, to_yaml
from data_collection.atomic_io import PART, make_folder, move, write_file
from data_collection.episode import EpisodeError
from data_collection.formats.robonet import ASIDE
from data_collection.storage.index import INDEX_NAME, DamagedError, Row, describe, episodes, write
from data_collection.storage.journal import JOURNAL_NAME, Journal

CONFIG_NAME = "collection.yaml"  # the configuration that the folder's episodes were made with
STATUS_NAME = "run.json"  # what the run is doing, or did last
QUARANTINE_NAME = "quarantine"  # a folder for each reason, in each the episodes that were set aside for it
DAMAGED = "damaged"  # the reason why a closed episode is set aside at the next start
# What changes no episode.
_FREE_KEYS = (
    "collection.free_disk_floor_gib",
    "collection.max_faults_in_row",
    "supervision.",
    "robot.fault_injection.",
    "robot.recovery.",
)
_LOCK_NAME = ".lock"
_HARMLESS = {  # what a first start that failed may leave
    _LOCK_NAME,
    f"{CONFIG_NAME}{PART}",
    STATUS_NAME,
    f"{STATUS_NAME}{PART}",
    JOURNAL_NAME,
    INDEX_NAME,
}


class CollectionError(EpisodeError):
    """Collection cannot go on. Every closed episode stands."""

    exit_code: ClassVar[int] = 1


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

    def attempt_path(self, number: int, attempt: int, reason: str) -> Path:
        """Return a free name in quarantine for a whole attempt that is not to be learned from."""
        return _quarantine_path(self.path, f"{self._stem}_traj{number}_attempt{attempt}.hdf5", reason)

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
                make_folder(self.path)
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
                sleep(0.05)

    def share(self, lock: IO[str]) -> None:
        """Let the workers of this run in; Linux turns the lock over in one step, so no other run comes between."""
        with _refused(self.path):
            fcntl.flock(lock, fcntl.LOCK_SH)

    def store_config(self, config: Config) -> None:
        """Write the configuration beside the episodes; where there are episodes, check that they were made with it.

        Raises:
            EpisodeError: The episodes were made with another one, or it cannot be read or written.
        """
        kept = self.path / CONFIG_NAME
        with _refused(self.path):
            if kept.exists() and any(self.path.glob("*_traj*.hdf5")):
                _check_same(kept, config)
                return
            write_file(kept, to_yaml(config))

    def clean_up(self) -> list[Row]:
        """Set damaged episodes aside, remove unfinished ones, and make the index anew; with the exclusive lock held.

        Returns:
            A row for each sound episode of this collection, by number.

        Raises:
            EpisodeError: A file cannot be read, or is not of this collection. Nothing was changed.
        """
        sound: list[Row] = []
        damaged: dict[Path, str] = {}
        with _refused(self.path):
            for path in episodes(self.path):
                check()
                if path.name.rpartition("_traj")[0] != self._stem:
                    continue  # left alone
                try:
                    sound.append(describe(path))
                except DamagedError as error:
                    damaged[path] = str(error)
            for path, reason in damaged.items():
                file = str(set_aside(path, DAMAGED).relative_to(self.path))
                Journal(self.path).note("quarantined", {"kind": DAMAGED, "reason": reason, "file": file})
            self.discard_unfinished()
            write(self.path, sound)
        return sorted(sound, key=lambda row: row.number)

    def discard_unfinished(self) -> None:
        """Remove what a killed writer left behind."""
        for part in self.path.rglob(f"*_traj*{PART}"):
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


def set_aside(path: Path, reason: str) -> Path:
    """Move a closed episode into quarantine, and return where it is now; its number is free again.

    Raises:
        OSError: It cannot be moved.
    """
    to = _quarantine_path(path.parent, path.name, reason)
    move(path, to)
    (path.parent / "meta_data.pkl").unlink(missing_ok=True)  # RoboNet's index, now stale
    return to


def _quarantine_path(folder: Path, name: str, reason: str) -> Path:
    """Return a name in quarantine that is not taken."""
    path, n = folder / QUARANTINE_NAME / reason / f"{name}{ASIDE}", 0
    while path.exists():
        n += 1
        path = path.with_name(f"{name}.{n}{ASIDE}")
    return path


def _check_same(kept: Path, config: Config) -> None:
    """Refuse a configuration that would make other episodes than the kept one."""
    try:
        tree = yaml.safe_load(kept.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise EpisodeError(f"{kept}: expected YAML, got: {' '.join(str(error).split())}") from None
    tree = migrate(type(config), tree)
    with suppress(ValidationError):  # what an earlier version did not know yet had the value that it now has if unasked
        tree = type(config).model_validate_json(json.dumps(tree)).model_dump(mode="json")
    before, now = _flat(tree), _flat(config.model_dump(mode="json"))
    changed = [
        f"'{key}: {before.get(key)}' is now '{key}: {now.get(key)}'"
        for key in {**before, **now}
        if not key.startswith(_FREE_KEYS) and before.get(key) != now.get(key)
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
