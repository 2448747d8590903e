"""Rates, comparisons and tables of trials with known numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.trials.report import trials_page
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
    assert ["pick_wipe", "A", "done with the tool", "1 of 3", "33 %", "6 to 79 %"] in rates
    assert ["pick_wipe", "A", "seconds per plan", "3", "", ""] in rates and len({len(row) for row in rates}) == 1
    assert ["pick_wipe", "objects in place", "1", "1", "0", "0", "1"] in paired_table([A, B])
    assert len(paired_table([A])) == 1


def test_trials_are_ranked_best_first() -> None:
    far, near = trial(5, **NOTHING, away_m=0.2), trial(6, **NOTHING, away_m=0.05)
    lifted, slow, fast = trial(7, **{**NOTHING, "picked": True}), trial(8, **ALL), trial(9, **ALL, steps=12)
    group = TrialGroup("pick_wipe", "A", 9, [far, near, lifted, slow, fast, trial(4, **BY_HAND)])
    assert [each.seed for each in group.ranked()] == [9, 8, 4, 7, 6, 5]


def test_excluded_aborted_and_failed_trials_are_named() -> None:
    text = "\n".join(notes([A, B], range(0, 5)))
    for words in ("seed 3 excluded", "no goal", "B, seed 2 aborted", "seed 2 ended by a failure, which is counted"):
        assert words in text
    assert "below 1000 are for tuning" in text
    assert "tuning" not in "\n".join(notes([A, B], range(1000, 1005)))


def test_the_page_shows_the_extremes_with_images_and_links(tmp_path: Path) -> None:
    for group in (A, B):
        for each in group.trials:
            folder = tmp_path / each.folder
            folder.mkdir(parents=True)
            (folder / "report.html").touch()
            for name in ("start", "goal", "end"):
                (folder / f"{name}.png").write_bytes(b"png")
    (tmp_path / "pick_wipe/A/seed0002/report.html").unlink()  # as after a process that died
    page = trials_page(tmp_path, [A, B], {"A": "oracle", "B": "server <model>"}, range(0, 5), b"strip")
    assert page.count('alt="the goal"') == 6 and page.count("data:image/png;base64,") == 19
    assert 'href="pick_wipe/A/seed0000/report.html"' in page and "seed0002/report.html" not in page.split("B/seed")[0]
    assert "server &lt;model&gt;" in page and "no answer &lt;in time&gt;" in page and "A compared with B" in page
    assert "pick_wipe, A: best" in page and "pick_wipe, B: worst" in page
    assert len(_Page(page).addresses) == 19 + 5 + 7  # images, links above them and in the list
    alone = trials_page(tmp_path, [A], {"A": "oracle"}, range(0, 5), b"")
    assert "A compared with B" not in alone and "Failed trials" not in alone and "Failed trials" in page
