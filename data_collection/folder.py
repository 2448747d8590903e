"""A folder of episode files. The files are the truth; there is no index to lose."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.loader import Config, save
from data_collection.episode import EpisodeError
from data_collection.trajectory import read_trajectory

CONFIG_NAME = "collection.yaml"  # the configuration that the folder's episodes were made with
_LOCK_NAME = ".lock"
_NUMBER = re.compile(r"_traj(\d+)\.hdf5$")


class CollectionError(EpisodeError):
    """Collection cannot go on. Every closed episode stands."""

    exit_code = 1


class EpisodeFolder:
    """Where one collection lives: `<lab>_<robot>_<note>_traj<N>.hdf5`, flat, as RoboNet's reader wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_new(self) -> None:
        """Refuse a folder that holds anything.

        Raises:
            EpisodeError: It does, or it is not a folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise EpisodeError(f"{self.path}: expected a folder, got a file")
        if self.path.is_dir() and any(item.name != _LOCK_NAME for item in self.path.iterdir()):
            raise EpisodeError(f"{self.path}: expected a new or empty folder; go on in this one with --resume")

    @contextmanager
    def lock(self, exclusive: bool, timeout_s: float = 10.0) -> Iterator[None]:
        """Hold the folder: shared by the processes of one run, exclusive while a run tidies it.

        Raises:
            EpisodeError: Another run did not let go within the time.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout_s
        with (self.path / _LOCK_NAME).open("a+") as file:
            while True:
                try:
                    fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EpisodeError(f"{self.path}: another run_collection is writing here; stop it") from None
                    time.sleep(0.05)
            yield

    def keep_config(self, config: Config) -> None:
        """Write the configuration beside the episodes, or check that it is the one they were made with.

        Raises:
            EpisodeError: The folder has another one.
        """
        kept, new = self.path / CONFIG_NAME, self.path / f"{CONFIG_NAME}.part"
        save(config, new)
        if not kept.exists():
            new.rename(kept)
            return
        before, now = kept.read_text(encoding="utf-8").splitlines(), new.read_text(encoding="utf-8").splitlines()
        new.unlink()
        changed = [f"'{a.strip()}' is now '{b.strip()}'" for a, b in zip(before, now, strict=False) if a != b]
        if before != now:
            raise EpisodeError(
                f"{kept}: expected the configuration of the episodes that are here, got another"
                f" ({'; '.join(changed[:3])}); collect into a new folder"
            )

    def tidy(self) -> dict[int, float]:
        """Remove unfinished files and set damaged ones aside as `.damaged`; call with the exclusive lock held.

        Returns:
            The number of each sound episode, with its recorded time in seconds.
        """
        self.discard_unfinished()
        sound: dict[int, float] = {}
        for path in sorted(self.path.glob("*.hdf5")):
            number = _NUMBER.search(path.name)
            if number is None:
                continue
            try:
                sound[int(number[1])] = _duration_s(path)
            except EpisodeError:
                path.rename(path.with_name(path.name + ".damaged"))
                (self.path / "meta_data.pkl").unlink(missing_ok=True)  # RoboNet's index, now stale
        return sound

    def discard_unfinished(self) -> None:
        """Remove what a killed writer left behind."""
        for part in self.path.glob("*.part"):
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


def _duration_s(path: Path) -> float:
    own = read_trajectory(path).own
    if own is None:
        raise EpisodeError(f"{path}: expected an episode of our own")
    return float(own["env/timestamps"][-1] - own["env/timestamps"][0])
