"""Rates, comparisons and tables of trials with known numbers."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_collection.reports.images import png_bytes
from planner.trials.page import trials_page
from planner.trials.statistics import (
    MEASURES,
    PairedOutcomes,
    SuccessRate,
    TrialGroup,
    as_json,
    notes,
    paired,
    paired_table,
    rates_table,
)
from planner.trials.trial import Trial
from planner.trials.variant import VariantName
from tests.planner.test_report import _Page


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (18, 20, 0.69897, 0.97213),
        (17, 20, 0.63958, 0.94763),
        (10, 20, 0.29930, 0.70070),
        (0, 20, 0.0, 0.16113),
        (20, 20, 0.83887, 1.0),
        (81, 263, 0.25527, 0.36621),  # Newcombe 1998, table 1
    ],
)
def test_the_interval_is_wilsons(count: int, of: int, low: float, high: float) -> None:
    success_rate = SuccessRate(count, of)
    assert success_rate.rate == count / of
    assert success_rate.interval == pytest.approx((low, high), abs=1e-4)


def test_a_rate_of_no_trials_is_unknown() -> None:
    assert SuccessRate(0, 0).rate is None and SuccessRate(0, 0).interval is None


def test_pairs_are_counted() -> None:
    pairs = [(True, True)] * 4 + [(True, False)] * 5 + [(False, True)] + [(False, False)] * 2
    assert PairedOutcomes.of(pairs) == PairedOutcomes(both=4, only_a=5, only_b=1, neither=2)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [(0, 0, 1.0), (3, 3, 1.0), (5, 1, 14 / 64), (1, 5, 14 / 64), (6, 0, 2 / 64), (10, 0, 2 / 1024)],
)
def test_the_p_value_is_binomial(only_a: int, only_b: int, p_value: float) -> None:
    assert PairedOutcomes(7, only_a, only_b, 9).p_value == pytest.approx(p_value)


NOTHING: dict[str, Any] = dict.fromkeys(MEASURES, False)
ALL: dict[str, Any] = dict.fromkeys(MEASURES, True)
BY_HAND: dict[str, Any] = {**NOTHING, "goal": True}


def trial(seed: int, variant: VariantName = "A", **values: Any) -> Trial:
    known: dict[str, Any] = {"task": "pick_wipe", "status": "counted", "reason": "", "steps": 50, "plans": 10}
    known |= {"ended": "steps used", "folder": f"pick_wipe/{variant}/seed{seed:04d}", "away_m": 0.1}
    return Trial(**{**known, "seed": seed, "variant": variant, **values})


A = TrialGroup(
    "pick_wipe",
    "A",
    5,
    [
        trial(0, **ALL, steps=10, plans=2, seconds_per_plan=1.0, away_m=0.0),
        trial(1, **BY_HAND, steps=20, plans=4, seconds_per_plan=4.0),
        trial(2, **NOTHING, steps=0, plans=0, seconds_per_plan=None, reason="a reflex", ended="failed"),
        trial(3, status="excluded", reason="no goal", steps=0, plans=0),
    ],
)
B = TrialGroup(
    "pick_wipe",
    "B",
    5,
    [
        trial(0, "B", **NOTHING),
        trial(1, "B", **BY_HAND),
        trial(2, "B", status="aborted", reason="no answer <in time>"),
        trial(4, "B", **ALL, away_m=0.0),
    ],
)


def test_rates_are_of_the_counted_trials() -> None:
    (numbers,) = as_json([A], "page").values()
    assert (numbers["trials"], numbers["planned"]) == (3, 5)
    assert numbers["success_rate"] == pytest.approx(2 / 3, abs=1e-4)  # objects in place, also by hand
    assert numbers["strict_success_rate"] == numbers["picked_rate"] == pytest.approx(1 / 3, abs=1e-4)
    assert numbers["interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)
    assert numbers["strict_success_interval"] == pytest.approx([0.0615, 0.7923], abs=1e-4)
    assert numbers["seconds_per_plan"] == 3.0  # (2 x 1 + 4 x 4) / 6: of plans, not of trials
    assert numbers["steps"] == 10.0 and numbers["excluded"] == [3] and numbers["report"] == "page"
    assert "compare" not in numbers and "paired" not in numbers


def test_two_variants_are_compared_on_the_seeds_counted_for_both() -> None:
    numbers = as_json([A, B], "page")["pick_wipe"]
    assert numbers["compare"]["trials"] == 3 and numbers["compare"]["aborted"] == [2]
    assert numbers["paired"]["success"] == {"both": 0, "only_a": 1, "only_b": 0, "neither": 1, "p_value": 1.0}
    assert numbers["paired"]["goal"] == {"both": 1, "only_a": 1, "only_b": 0, "neither": 0, "p_value": 1.0}
    assert paired(A, B, "goal") == paired(A, TrialGroup("pick_wipe", "B", 5, B.trials[::-1]), "goal")


def test_numbers_of_no_trials_are_null() -> None:
    numbers = as_json([TrialGroup("pick_sweep", "A", 5, [])], "page")["pick_sweep"]
    assert numbers["success_rate"] is None and numbers["interval"] is None and numbers["seconds_per_plan"] is None
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert ["pick_sweep", "A", "tool lifted", "0 of 0", "-", "-"] in rates_table([TrialGroup("pick_sweep", "A", 5, [])])


def test_the_tables_show_the_same_numbers() -> None:
    rates = rates_table([A, B])
    assert ["pick_wipe", "A", "done", "1 of 3", "33 %", "6 to 79 %"] in rates
    assert ["pick_wipe", "A", "seconds per plan", "3", "", ""] in rates and len({len(row) for row in rates}) == 1
    assert ["pick_wipe", "objects in place", "1", "1", "0", "0", "1"] in paired_table([A, B])
    assert len(paired_table([A])) == 1


def test_excluded_aborted_and_failed_trials_are_named() -> None:
    text = "\n".join(notes([A, B], range(0, 5)))
    for words in ("seed 3 excluded", "no goal", "B, seed 2 aborted", "seed 2 ended by a failure, which is counted"):
        assert words in text
    assert "below 1000 are for tuning" in text
    assert "tuning" not in "\n".join(notes([A, B], range(1000, 1005)))


def _recorded(folder: Path) -> None:
    """Write the files of a run that the page of all trials shows."""
    folder.mkdir(parents=True)
    (folder / "report.html").touch()
    for name, size in {"start": (240, 320, 3), "end": (240, 320, 3), "goal": (64, 64, 3)}.items():
        (folder / f"{name}.png").write_bytes(png_bytes(np.full(size, 90, np.uint8)))


def test_the_page_shows_all_trials_failures_first_with_images_and_links(tmp_path: Path) -> None:
    trials = [*A.trials, *B.trials]
    for each in trials:
        _recorded(tmp_path / each.folder)
    (tmp_path / "pick_wipe/A/seed0002/report.html").unlink()  # as after a process that died
    html = trials_page(tmp_path, [A, B], {"A": "oracle", "B": "server <model>"}, range(0, 5), b"strip")
    page = _Page(html)
    assert html.count("data:image/jpeg;base64,") == 3 * len(trials) and page.images == 3 * len(trials) + 1
    assert all(page.alts) and {"the goal image", "the scene at the start", "the scene at the end"} < set(page.alts)
    assert 'href="pick_wipe/A/seed0000/report.html"' in html and "A/seed0002/report.html" not in html
    assert "server &lt;model&gt;" in html and "no answer &lt;in time&gt;" in html and "A compared with B" in html
    badges = re.findall(r'class="badge \w+">([^<]*)<', html)
    n_failed = sum(each.status == "counted" and not each.success for each in trials)
    assert set(badges[:n_failed]) <= {"Not done", "Stopped by a failure"} and badges[-1] == "Success"
    assert len(badges) == len(trials) and badges.count("Success") == sum(each.success for each in trials)
    alone = trials_page(tmp_path, [A], {"A": "oracle"}, range(0, 5), b"")
    assert "A compared with B" not in alone and "Failed trials" not in alone and "Failed trials" in html


def test_the_page_says_what_the_task_and_each_column_mean(tmp_path: Path) -> None:
    html = trials_page(tmp_path, [A], {"A": "oracle"}, range(0, 5), b"")
    text = " ".join(" ".join(_Page(html).texts).split())
    assert "wipe the objects off the plate" in text and "A trial is one run of a task" in text
    for column in ("variant", "measure", "rate", "95 % interval", "object distance (cm)", "ended"):
        assert f">{column}</th>" in html
    assert "When Pick &amp; wipe is done" in html and "its centre lies beyond the rim" in text
    assert "3 trials of a task and variant are few" in text and "all actions used" in text
    assert "<th></th>" not in html and ">  </th>" not in html


def test_a_thumbnail_shows_what_the_model_sees(tmp_path: Path) -> None:
    run = tmp_path / A.trials[0].folder
    _recorded(run)
    crop = {"top_px": 0, "left_px": 80, "height_px": 240, "width_px": 160}
    (run / "config.yaml").write_text(yaml.safe_dump({"robot": {"camera": {"crop": crop}}}))
    source = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', trials_page(tmp_path, [A], {}, range(5), b""))
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in source}
    assert sizes == {(192, 288)}
