"""What is shown: episodes that chance draws, and what was set aside, with words also where there is no picture."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_collection.atomic_io import make_folder
from data_collection.reports.gallery import drawn_episodes, set_aside
from data_collection.storage import index
from data_collection.storage.folder import QUARANTINE_NAME
from tests.data_collection.folders import episode_path, make_collection


def _size(uri: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as opened:
        assert opened.format == "JPEG"
        return opened.size


def _aside(folder: Path, number: int, kind: str) -> Path:
    to = folder / QUARANTINE_NAME / kind / f"{episode_path(folder, number).name}.aside"
    make_folder(to.parent)
    return episode_path(folder, number).rename(to)


@pytest.mark.parametrize(("n", "n_shown"), [(0, 0), (2, 2), (9, 4)])
def test_as_many_are_drawn_as_asked_for_and_there_are_in_order(tmp_path: Path, n: int, n_shown: int) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    shown = drawn_episodes(tmp_path, rows, n, np.random.default_rng(1))
    labels = [each.label for each in shown]
    assert len(shown) == n_shown and labels == sorted(set(labels))
    assert shown == drawn_episodes(tmp_path, rows, n, np.random.default_rng(1))
    assert all(_size(each.strip) == (8 + 4 * 162, 122) for each in shown)  # all of 4 frames


def test_the_words_say_what_the_index_says(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    first, _, _, last = drawn_episodes(tmp_path, rows, 4, np.random.default_rng(0))
    assert first[:2] == ("episode 0", "push · 2 objects seen · nothing moved")
    assert last[:2] == ("episode 3", "push, grasp · 5 objects seen · an object went 3 cm · lifted")


def test_an_episode_whose_video_is_damaged_is_told_of(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 1))
    path = episode_path(tmp_path, 0)
    path.write_bytes(path.read_bytes().replace(b"mdat", b"mdaT", 1))
    (shown,) = drawn_episodes(tmp_path, rows, 1, np.random.default_rng(0))
    assert shown.strip == "" and "cannot be shown: " in shown.words and str(tmp_path) not in shown.words


def test_without_a_quarantine_nothing_was_set_aside(tmp_path: Path) -> None:
    assert set_aside(tmp_path, {}) == []


def test_what_was_set_aside_is_shown_by_kind_the_first_of_each_with_its_reason(tmp_path: Path) -> None:
    make_collection(tmp_path, 6)
    files = [_aside(tmp_path, number, "bad_light") for number in range(5)]
    (_aside(tmp_path, 5, "damaged")).write_bytes(b"nothing")
    (tmp_path / QUARANTINE_NAME / "empty").mkdir()
    dark, damaged = set_aside(tmp_path, {str(files[1].relative_to(tmp_path)): "too dark"})
    assert (dark.reason, dark.n, damaged.reason, damaged.n) == ("bad_light", 5, "damaged", 1)
    assert [each.words for each in dark.shown] == ["", "too dark", ""] and all(_size(each.strip) for each in dark.shown)
    assert damaged.shown[0].strip == "" and damaged.shown[0].words.startswith("cannot be shown: ")
