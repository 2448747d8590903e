"""Folders of synthetic collections."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from data_collection.formats.robonet import write_episode
from data_collection.storage.index import Row
from data_collection.storage.journal import JOURNAL_NAME, Value
from tests.data_collection.episodes import SPEC, make_episode

BEGAN_S = 1_750_000_000.0


def make_collection(folder: Path, n: int, every_s: float = 90.0, n_steps: int = 3) -> Path:
    """Write `n` episodes in order of time; the objects of episode i moved i cm."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        path = episode_path(folder, number)
        info: dict[str, str | int | float | bool] = {
            **{"episode": number, "families": "push,grasp" if number % 2 else "push", "attempt": number % 2},
            **{"objects_seen": 2 + number, "objects_moved_m": 0.01 * number, "lifted": number % 2 == 1},
        }
        episode = make_episode(n_steps, seed=number)
        write_episode(dataclasses.replace(episode, info={**episode.info, **info}), path, SPEC)
        os.utime(path, (BEGAN_S + every_s * number,) * 2)
    return folder


def episode_path(folder: Path, number: int) -> Path:
    return folder / f"lab_franka_play_traj{number}.hdf5"


def write_journal(folder: Path, *events: tuple[float, str, dict[str, Value]]) -> None:
    """Write a journal of events, with times in seconds after the first episode."""
    lines = [json.dumps({"time_s": BEGAN_S + at_s, "event": name, **fields}) for at_s, name, fields in events]
    (folder / JOURNAL_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def row(number: int, closed_s: float, **changes: object) -> Row:
    """Return the row of an episode closed `closed_s` seconds after the first."""
    plain = Row(
        number,
        f"lab_franka_play_traj{number}.hdf5",
        1000,
        "0" * 64,
        BEGAN_S + closed_s,
        30,
        18.0,
        "push",
        0,
        3,
        0.0,
        False,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]
