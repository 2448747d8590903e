"""A disk of 8 MiB that fills up during collection: closed episodes remain, and the message is correct."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_collection.collection.status import read_status
from data_collection.formats.robonet import read_episode
from data_collection.storage import index, journal
from tests.data_collection.test_run_collection import TINY, collect, summary


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, of which 1 MiB is free."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        (place / "ballast").write_bytes(bytes(7 * 2**20))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_damages_nothing(disk: Path, workers: str) -> None:
    out = disk / "episodes"
    done = collect(out, "--episodes", "10000", "--workers", workers, *TINY)
    assert done.returncode == 1 and "No space left on device" in done.stderr.splitlines()[-1]
    counts = json.loads(done.stdout.splitlines()[-1])
    paths = index.episodes(out)
    assert len(paths) >= 5 and counts["episodes"] <= len(paths) <= counts["episodes"] + int(workers)
    for path in paths:
        read_episode(path)
    assert not list(out.rglob("*_traj*.part"))
    assert {row.file for row in index.read(out)} == {path.name for path in paths}
    (disk / "ballast").unlink()  # space is freed
    more = summary(collect(out, "--episodes", str(len(paths) + 1), "--resume", *TINY))
    assert more["episodes"] == 1 and more["episodes_in_folder"] == len(paths) + 1
    assert index.listed(out) == index.read(out)


def test_with_a_floor_the_run_ends_between_episodes_with_free_space(disk: Path) -> None:
    out = disk / "episodes"
    floor = [*TINY[:-1], f"collection.free_disk_floor_gib={512 / 2**20}"]
    done = collect(out, "--episodes", "10000", *floor)
    assert done.returncode == 1 and "make room, then continue with --resume" in done.stderr.splitlines()[-1]
    assert shutil.disk_usage(out).free > 400 * 2**10
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["episodes"] == len(index.episodes(out)) >= 3 and counts["attempts"] == counts["episodes"]
    assert "free disk" in read_status(out)["ended"]
    assert "free disk" in str(journal.read(out)[-1]["why"])
