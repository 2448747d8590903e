"""HTML report of a collection: self-contained, for any folder with episodes, consistent with its files."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_collection.atomic_io import make_folder
from data_collection.collection.episode_filter import _CHECKS
from data_collection.episode import EpisodeError
from data_collection.formats.robonet import write_episode
from data_collection.policies.families import MEANINGS
from data_collection.reports import chart
from data_collection.reports import collection_report as module
from data_collection.reports.collection_report import collection_report
from data_collection.storage import index
from data_collection.storage.folder import QUARANTINE_NAME
from tests.data_collection.episodes import SPEC, make_episode
from tests.data_collection.folders import episode_path, make_collection, write_journal


class _Page(HTMLParser):
    """The texts, images and charts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.charts = 0
        self._texts: list[str] = []
        self._skips = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skips += tag in ("style", "svg")
        self.charts += tag == "svg"
        self.images += [value or "" for name, value in attrs if (tag, name) == ("img", "src")]

    def handle_endtag(self, tag: str) -> None:
        self._skips -= tag in ("style", "svg")

    def handle_data(self, data: str) -> None:
        if not self._skips:
            self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())


def _page(folder: Path, n_shown: int = 2, seed: int = 0) -> _Page:
    return _Page(collection_report(folder, n_shown, seed))


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    html = collection_report(make_collection(tmp_path, 3), 2, 0)
    page = _Page(html)
    assert len(page.images) == 2 and all(each.startswith("data:image/jpeg;base64,") for each in page.images)
    assert "http" not in html and "<script" not in html and not re.search(r"@import|url\(", html)
    assert "nan" not in page.text and "None" not in page.text and page.charts == 15


def test_the_legend_has_every_family_and_every_image_a_text(tmp_path: Path) -> None:
    html = collection_report(make_collection(tmp_path, 3), 2, 0)
    families = {name for row in index.read(tmp_path) for name in row.families.split(",") if name}
    assert families and all(f"<td>{name}</td><td>{MEANINGS[name]}</td>" in html for name in families)
    assert not re.search(r"<img(?![^>]*alt=\"[^\"]+\")", html) and not re.search(
        r"<svg(?![^>]*aria-label=\"[^\"]+)", html
    )


def test_a_single_episode_has_a_page(tmp_path: Path) -> None:
    page = _page(make_collection(tmp_path, 1), 24)
    assert "Episodes 1 Hours recorded" in page.text and "1 random episode " in page.text
    assert "Failed attempts" not in page.text and "Quarantine:" not in page.text and "Restarts" not in page.text
    assert len(page.images) == 1 and page.charts == 15


def test_the_numbers_are_those_of_the_folder(tmp_path: Path) -> None:
    text = _page(make_collection(tmp_path, 5)).text
    assert "Episodes 5 " in text and "Attempts 7 " in text and "Longest gap 90.0 s" in text
    assert "moved by 3 cm or more in 40 % of the episodes and was lifted in 40 %" in text
    assert "2 of 7 attempts failed" in text and "15 steps of 5 episodes" in text
    assert "7 sequences: an episode has one or more." in text and "Episodes per minute" in text


def test_the_seed_determines_the_shown_episodes(tmp_path: Path) -> None:
    make_collection(tmp_path, 6)
    first = collection_report(tmp_path, 2, 0)
    assert first == collection_report(tmp_path, 2, 0)
    shown, others = (re.findall(r"<h3>(episode \d)", html) for html in (first, collection_report(tmp_path, 2, 1)))
    assert len(shown) == len(others) == 2 and shown != others


def test_failures_and_quarantined_episodes_are_shown(tmp_path: Path) -> None:
    make_collection(tmp_path, 4)
    path = tmp_path / QUARANTINE_NAME / "bad_light" / "lab_franka_play_traj3_attempt0.hdf5.aside"
    make_folder(path.parent)
    episode_path(tmp_path, 3).rename(path)
    write_journal(
        tmp_path,
        (-60.0, "started", {"seed": 0, "present": 0}),
        (10.0, "dropped", {"kind": "RobotFault", "reason": "it stopped", "file": None}),
        (20.0, "quarantined", {"kind": "bad_light", "reason": "too <dark>", "file": str(path.relative_to(tmp_path))}),
        (30.0, "lost", {"number": 2, "given_up": False}),
        (30.0, "restarted", {"reason": "a process died"}),
        (3540.0, "ended", {"why": "done"}),
    )
    page = _page(tmp_path)
    assert (
        "RobotFault 1 0 0 bad_light the images are too dark or too bright 0 1 1 lost the process died or hung 1 0 0"
        in page.text
    )
    assert "Restarts 1 " in page.text and "Interventions in 24 h 0 " in page.text and "Attempts 6 " in page.text
    assert "Quarantine: bad_light 1 episode." in page.text and "too <dark>" in page.text
    assert len(page.images) == 3


def test_other_episodes_are_shown_if_one_is_unreadable(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 3))
    path = episode_path(tmp_path, 1)
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    index.write(tmp_path, rows)
    page = _page(tmp_path, 3)
    assert f"{path.name} cannot be read" in page.text and "6 steps of 2 episodes" in page.text and len(page.images) == 2


def test_the_page_reports_that_only_some_of_many_episodes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_READ", 2)
    page = _page(make_collection(tmp_path, 4))
    assert "6 steps of 2 episodes, drawn at random" in page.text and "Episodes 4 " in page.text


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder, message in {tmp_path: "got none", tmp_path / "none": "No such", tmp_path / "file": "Not a dir"}.items():
        with pytest.raises(EpisodeError, match=message) as refused:
            collection_report(folder, 3, 0)
        assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_the_error_for_a_folder_of_damaged_files_names_a_file(tmp_path: Path) -> None:
    episode_path(tmp_path, 7).write_bytes(b"nothing")
    with pytest.raises(EpisodeError, match="traj7"):
        collection_report(tmp_path, 3, 0)


def test_the_name_of_a_folder_is_escaped(tmp_path: Path) -> None:
    html = collection_report(make_collection(tmp_path / "<b>&", 1), 0, 0)
    assert "<b>" not in html and "Collection &lt;b&gt;&amp;" in html


def _charts(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> list[tuple[Any, ...]]:
    """Return the arguments of the charts of one kind on a page."""
    calls: list[tuple[Any, ...]] = []
    real = getattr(chart, kind)

    def draw(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(chart, kind, draw)
    collection_report(folder, 0, 0)
    return calls


def test_the_episodes_of_each_minute_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_collection(tmp_path, 5, every_s=25.0)  # the first one 40 s after a full minute
    counts = np.array(_charts(folder, monkeypatch, "columns")[0][0])
    assert counts[:, 1].astype(float).tolist() == [1, 3, 1]


def test_the_map_has_the_left_side_of_the_arm_on_the_left_and_near_positions_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = make_episode(3).states.copy()
    states[:, :2] = [[0.5, 0.0], [0.35, 0.15], [0.35, 0.15], [0.65, -0.15]]  # twice near and to the left, then far
    write_episode(make_episode(3, states=states), episode_path(tmp_path, 0), SPEC)
    ((counts, across, up, _),) = _charts(tmp_path, monkeypatch, "heat_map")
    cells = np.argwhere(np.asarray(counts) > 0)
    (near_x, near_y), (far_x, far_y) = sorted(cells.tolist(), key=lambda cell: -np.asarray(counts)[tuple(cell)])
    assert np.asarray(counts)[near_x, near_y] == 2 and np.asarray(counts)[far_x, far_y] == 1
    assert near_x < far_x and near_y < far_y  # cells from left to right, and from below
    assert np.all(np.diff(np.asarray(across)) < 0) and np.all(np.diff(np.asarray(up)) > 0)


def test_the_page_says_which_robot_and_what_the_numbers_mean(tmp_path: Path) -> None:
    make_collection(tmp_path, 2)
    assert "Recorded from" not in _page(tmp_path).text
    (tmp_path / "collection.yaml").write_text("robot:\n  kind: simulation\n")
    write_journal(tmp_path, (-60.0, "started", {"seed": 0, "present": 0}), (100.0, "ended", {"why": "done"}))
    text = _page(tmp_path).text
    assert "Recorded from a simulated arm (MuJoCo), " in text and "Hours on the clock 0.0" in text
    assert "Hours recorded: by the clock of the robot" in text


def test_every_reason_of_the_episode_filter_is_explained() -> None:
    assert set(module._REASONS) == {name for name, _ in _CHECKS} | {"not_finite"}
