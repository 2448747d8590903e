"""Intervals and tests against values that others have published or that can be counted by hand."""

import pytest

from planner.trials.proportion import Paired, Proportion


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
    proportion = Proportion(count, of)
    assert proportion.rate == count / of
    assert proportion.interval == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_nothing_is_known() -> None:
    assert Proportion(0, 0).rate is None and Proportion(0, 0).interval is None


def test_pairs_are_counted() -> None:
    pairs = [(True, True)] * 4 + [(True, False)] * 5 + [(False, True)] + [(False, False)] * 2
    assert Paired.of(pairs) == Paired(both=4, only_a=5, only_b=1, neither=2)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [(0, 0, 1.0), (3, 3, 1.0), (5, 1, 14 / 64), (1, 5, 14 / 64), (6, 0, 2 / 64), (10, 0, 2 / 1024)],
)
def test_the_p_value_is_that_of_fair_coins(only_a: int, only_b: int, p_value: float) -> None:
    assert Paired(7, only_a, only_b, 9).p_value == pytest.approx(p_value)
