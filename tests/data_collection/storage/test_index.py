"""The index is a copy: a missing, truncated or outdated index is rebuilt from the files."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.robonet import write_episode
from data_collection.storage import index
from data_collection.storage.index import DamagedError, Row, append, describe, read, write
from tests.data_collection.episodes import SPEC, make_episode

INFO = {"families": "grasp,push", "attempt": 2, "objects_seen": 3, "objects_moved_m": 0.25, "lifted": True}


def make(folder: Path, number: int, **info: object) -> Path:
    path = folder / f"lab_franka_play_traj{number}.hdf5"
    write_episode(make_episode(seed=number, info={**INFO, **info}), path, SPEC)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    found = [describe(make(tmp_path, number)) for number in (0, 1, 2, 10)]
    write(tmp_path, found)
    return found


def test_a_row_equals_the_attributes_of_its_file(tmp_path: Path) -> None:
    path = make(tmp_path, 7)
    row, times_s = describe(path), make_episode(seed=7).times_s
    assert (row.number, row.file, row.n_bytes, row.n_steps) == (7, path.name, path.stat().st_size, 6)
    assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert row.recorded_s == pytest.approx(times_s[-1] - times_s[0], abs=1e-6)
    assert row.closed_s == pytest.approx(path.stat().st_mtime, abs=1e-3)
    assert {name: getattr(row, name) for name in INFO} == INFO


def test_the_index_equals_a_rescan_and_is_in_order(tmp_path: Path, rows: list[Row]) -> None:
    text = (tmp_path / "index.jsonl").read_text()
    assert [json.loads(line)["number"] for line in text.splitlines()] == [0, 1, 2, 10]
    (tmp_path / "index.jsonl").unlink()
    assert read(tmp_path) == rows
    write(tmp_path, read(tmp_path))
    assert (tmp_path / "index.jsonl").read_text() == text


def test_closed_episodes_are_found_despite_a_damaged_index(tmp_path: Path, rows: list[Row]) -> None:
    file = tmp_path / "index.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    for text in ("", lines[0], "".join(lines)[:-30], "\x00\xff nonsense\n[1]\n{}\n" + lines[2], '{"number": "x"}\n'):
        file.write_text(text)
        assert read(tmp_path) == rows
    new = describe(make(tmp_path, 3))
    file.write_text("".join(lines)[:-30])  # truncated; the next line is appended to a partial one
    append(tmp_path, new)
    assert read(tmp_path) == sorted([*rows, new], key=lambda row: row.number)


def test_rows_of_missing_or_changed_files_are_not_used(tmp_path: Path, rows: list[Row]) -> None:
    (tmp_path / rows[0].file).unlink()
    (tmp_path / rows[1].file).unlink()
    path = make(tmp_path, 1, attempt=0)
    assert [(row.number, row.attempt) for row in read(tmp_path)] == [(1, 0), (2, 2), (10, 2)]
    assert read(tmp_path)[0] == describe(path)


def test_indexed_files_are_not_read_again(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "describe", lambda path: pytest.fail(f"{path} was read"))
    assert read(tmp_path) == rows


def test_damaged_files_are_reported(tmp_path: Path) -> None:
    path = make(tmp_path, 0)
    whole, chance = path.read_bytes(), random.Random(0)
    assert describe(path)
    for i in range(600):
        if i < 200:
            damaged = whole[: chance.randrange(len(whole))]
        else:
            at = chance.randrange(len(whole))
            damaged = whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"traj0\.hdf5: "):
            describe(path)
    path.write_bytes(whole)
    assert describe(path)


def test_invalid_file_names_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path, 0)
    other = path.rename(tmp_path / "episode.hdf5")
    with pytest.raises(EpisodeError, match="_traj<number>"):
        describe(other)
    assert index.episodes(tmp_path) == []
