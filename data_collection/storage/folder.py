"""Collection folder: episode files, configuration, lock and quarantine. The index can be rebuilt from the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ClassVar

import yaml
from pydantic import ValidationError

from configs.interruption import check
from configs.loader import Config, migrate, to_yaml
from data_collection.atomic_io import PART, move, write_file
from data_collection.episode import EpisodeError
from data_collection.folder_lock import LOCK, locked_folder, share_lock
from data_collection.formats.robonet import ASIDE
from data_collection.storage.index import INDEX_NAME, DamagedError, Row, describe, episodes, write
from data_collection.storage.journal import JOURNAL_NAME, Journal

CONFIG_NAME = "collection.yaml"  # configuration of the episodes in the folder
STATUS_NAME = "run.json"  # last status of the run
QUARANTINE_NAME = "quarantine"  # holds one folder of episodes per reason
DAMAGED = "damaged"  # reason for episodes found damaged at a start
# Keys that do not change an episode.
_FREE_KEYS = (
    "collection.free_disk_floor_gib",
    "collection.max_faults_in_row",
    "supervision.",
    "robot.fault_injection.",
    "robot.recovery.",
)
_HARMLESS = {  # files that a failed first start may leave
    LOCK,
    f"{CONFIG_NAME}{PART}",
    STATUS_NAME,
    f"{STATUS_NAME}{PART}",
    JOURNAL_NAME,
    INDEX_NAME,
}


class CollectionError(EpisodeError):
    """Collection cannot continue. All closed episodes are stored."""

    exit_code: ClassVar[int] = 1


class EpisodeFolder:
    """The folder of one collection: files `<stem>_traj<N>.hdf5` without subfolders, as RoboNet's reader requires.

    Files with other names are not touched.
    """

    def __init__(self, path: Path, stem: str) -> None:
        self.path = path
        self._stem = stem

    def episode_path(self, number: int) -> Path:
        """Return the path of an episode."""
        return self.path / f"{self._stem}_traj{number}.hdf5"

    def attempt_path(self, number: int, attempt: int, reason: str) -> Path:
        """Return an unused path in quarantine for a complete attempt that is not usable."""
        return _quarantine_path(self.path, f"{self._stem}_traj{number}_attempt{attempt}.hdf5", reason)

    def check(self, resume: bool) -> None:
        """Check that the folder is new or empty, or, with `resume`, a collection.

        Raises:
            EpisodeError: It has other content, is not a folder, or cannot be read. Nothing was changed.
        """
        with _reported(self.path):
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise EpisodeError(f"{self.path}: expected a folder, got a file")
            names = {item.name for item in self.path.iterdir()} - _HARMLESS
        if names and not resume:
            raise EpisodeError(f"{self.path}: expected a new or empty folder; continue this one with --resume")
        if names and CONFIG_NAME not in names:
            raise EpisodeError(
                f"{self.path}: expected a collection to continue, got a folder without {CONFIG_NAME};"
                " collect into a new folder"
            )

    @contextmanager
    def lock(self, exclusive: bool, timeout_s: float = 10.0) -> Iterator[IO[str]]:
        """Lock the folder: shared for the processes of one run, exclusive for the clean-up at the start.

        Raises:
            EpisodeError: Another run holds the lock, or the folder cannot be written.
        """
        with locked_folder(self.path, is_shared=not exclusive, timeout_s=timeout_s) as file:
            yield file

    def share(self, lock: IO[str]) -> None:
        """Change an exclusive lock to a shared one for the workers."""
        with _reported(self.path):
            share_lock(lock)

    def store_config(self, config: Config) -> None:
        """Write the configuration to the folder; if it has episodes, check that the configuration is the same.

        Raises:
            EpisodeError: The episodes have another configuration, or it cannot be read or written.
        """
        stored = self.path / CONFIG_NAME
        with _reported(self.path):
            if stored.exists() and any(self.path.glob("*_traj*.hdf5")):
                _check_same(stored, config)
                return
            write_file(stored, to_yaml(config))

    def clean_up(self) -> list[Row]:
        """Quarantine damaged episodes, remove unfinished files, rebuild the index; needs the exclusive lock.

        Returns:
            A row for each intact episode of this collection, by number.

        Raises:
            EpisodeError: A file cannot be read or belongs to another collection. Nothing was changed.
        """
        intact: list[Row] = []
        damaged: dict[Path, str] = {}
        with _reported(self.path):
            for path in episodes(self.path):
                check()
                if path.name.rpartition("_traj")[0] != self._stem:
                    continue  # of another collection
                try:
                    intact.append(describe(path))
                except DamagedError as error:
                    damaged[path] = str(error)
            for path, reason in damaged.items():
                file = str(set_aside(path, DAMAGED).relative_to(self.path))
                Journal(self.path).note("quarantined", {"kind": DAMAGED, "reason": reason, "file": file})
            self.discard_unfinished()
            write(self.path, intact)
        return sorted(intact, key=lambda row: row.number)

    def discard_unfinished(self) -> None:
        """Remove the temporary files of killed writers."""
        for part in self.path.rglob(f"*_traj*{PART}"):
            part.unlink()

    def check_space(self, floor_gib: float) -> None:
        """Check the free disk space.

        Raises:
            CollectionError: It is less than `floor_gib` GiB.
        """
        free_gib = shutil.disk_usage(self.path).free / 2**30
        if free_gib < floor_gib:
            raise CollectionError(
                f"{self.path}: expected {floor_gib:g} GiB of free disk, got {free_gib:.2f};"
                " make room, then continue with --resume"
            )


def set_aside(path: Path, reason: str) -> Path:
    """Move a closed episode to quarantine and return its new path; its number is free again.

    Raises:
        OSError: It cannot be moved.
    """
    to = _quarantine_path(path.parent, path.name, reason)
    move(path, to)
    (path.parent / "meta_data.pkl").unlink(missing_ok=True)  # RoboNet's index, now stale
    return to


def _quarantine_path(folder: Path, name: str, reason: str) -> Path:
    """Return an unused path in quarantine."""
    path, n = folder / QUARANTINE_NAME / reason / f"{name}{ASIDE}", 0
    while path.exists():
        n += 1
        path = path.with_name(f"{name}.{n}{ASIDE}")
    return path


def _check_same(stored: Path, config: Config) -> None:
    """Check that a configuration has the same keys that affect episodes as the stored one."""
    try:
        tree = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise EpisodeError(f"{stored}: expected YAML, got: {' '.join(str(error).split())}") from None
    tree = migrate(type(config), tree)
    with suppress(ValidationError):  # keys that an earlier version did not have get their defaults
        tree = type(config).model_validate_json(json.dumps(tree)).model_dump(mode="json")
    before, now = _flat(tree), _flat(config.model_dump(mode="json"))
    changed = [
        f"'{key}: {before.get(key)}' is now '{key}: {now.get(key)}'"
        for key in {**before, **now}
        if not key.startswith(_FREE_KEYS) and before.get(key) != now.get(key)
    ]
    if changed:
        raise EpisodeError(
            f"{stored}: expected the configuration of the existing episodes, got another one"
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
def _reported(path: Path) -> Iterator[None]:
    """Report an error of the operating system in one line."""
    try:
        yield
    except OSError as error:
        raise EpisodeError(
            f"{error.filename or path}: expected a readable and writable folder, got: {error.strerror or error}"
        ) from error
