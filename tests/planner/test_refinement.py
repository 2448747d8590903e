"""New candidates stay with their kind, vary places and not steps, and follow the costs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from data_collection.policies.waypoints import Sequences
from planner.plan import HOLD
from planner.refinement import Method, Refinement, RefinementConfig, ScoredCandidates
from robot_bridge.safety import MotionLimits, limit_actions

METHODS: list[Method] = ["cem", "icem", "mppi"]
HORIZON = 6
HAND_M = np.array([0.5, 0.0, 0.1])
WIDE = MotionLimits(workspace_low_m=(-9, -9, -9), workspace_high_m=(9, 9, 9), step_limit_m=9)


def _scored(costs: list[float], families: list[str], spread_m: float = 0.0) -> ScoredCandidates:
    """Return straight walks, those of family b the other way and with the gripper closed."""
    rng = np.random.default_rng(0)
    actions = np.zeros((len(costs), HORIZON, 4), np.float32)
    for i, family in enumerate(families):
        actions[i, :, 0] = 0.05 if family == "a" else -0.05
        actions[i, :, 3] = -1.0 if family == "a" else 1.0
    actions[:, 0, :3] += rng.normal(0, spread_m, (len(costs), 3))
    return ScoredCandidates(Sequences(actions, families), np.array(costs, np.float32))


def _refined(
    method: Method,
    scored: ScoredCandidates,
    n: int,
    n_round: int = 0,
    *,
    limits: MotionLimits = WIDE,
    **changes: object,
) -> Sequences:
    config = RefinementConfig.model_validate(changes)
    return Refinement(method, config, limits).candidates(scored, HAND_M, n, n_round, np.random.default_rng(1))


def _paths(sequences: Sequences) -> NDArray[np.float64]:
    return sequences.actions[..., :3].astype(np.float64).cumsum(1)


@pytest.mark.parametrize("method", METHODS)
def test_kinds_are_refined_side_by_side_and_keep_their_gripper(method: Method) -> None:
    found = _refined(method, _scored([1, 2, 3, 4], ["a", "b", "a", "b"]), 9)
    assert found.families == ["a"] * 5 + ["b"] * 4 and found.actions.shape == (9, HORIZON, 4)
    np.testing.assert_array_equal(found.actions[:5, :, 3], -1)
    np.testing.assert_array_equal(found.actions[5:, :, 3], 1)
    assert (_paths(found)[:5, -1, 0] > 0.2).all() and (_paths(found)[5:, -1, 0] < -0.2).all()


@pytest.mark.parametrize("method", METHODS)
def test_only_the_best_kinds_are_refined(method: Method) -> None:
    scored = _scored([5, 1, 6, 2], ["a", "b", "a", "b"])
    assert set(_refined(method, scored, 6, n_kinds=1).families) == {"b"}


@pytest.mark.parametrize("method", METHODS)
def test_a_cost_that_is_not_finite_leads_nowhere(method: Method) -> None:
    nothing = _refined(method, _scored([np.nan, np.inf], ["a", "b"]), 6)
    assert nothing.families == [] and nothing.actions.shape == (0, HORIZON, 4)
    assert set(_refined(method, _scored([np.nan, 3.0], ["a", "b"]), 6).families) == {"b"}


@pytest.mark.parametrize("method", METHODS)
def test_to_hold_still_is_not_refined(method: Method) -> None:
    assert set(_refined(method, _scored([0.0, 1.0], [HOLD, "b"]), 6).families) == {"b"}


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_the_limits_shorten_does_not_move_the_rest_of_the_path(method: Method) -> None:
    """The way of candidate a is 30 cm, in steps of 5 cm that may be no longer than 7 cm."""
    box = MotionLimits(workspace_low_m=(0.3, -0.2, 0.0), workspace_high_m=(0.9, 0.2, 0.3), step_limit_m=0.07)
    scored = _scored([1.0, 1.0], ["a", "a"])
    found = _refined(method, scored, 200, limits=box, sd_m=0.02, min_sd_m=0.02, colour=0.0)
    np.testing.assert_allclose(limit_actions(found.actions, HAND_M, box), found.actions, atol=1e-6)
    ends = _paths(found)[:, -1]
    assert np.linalg.norm(found.actions[..., :3], axis=2).max() > 0.0699
    assert np.abs(ends[:, 1:]).max() < 0.1 and ends[:, 0].mean() == pytest.approx(0.3, abs=0.01)


def test_the_mean_of_cem_is_that_of_the_elites_and_its_deviation_does_not_vanish() -> None:
    scored = _scored([1, 1.1, 9], ["a"] * 3, spread_m=0.05)
    paths = _paths(_refined("cem", scored, 4000, n_elites=2, min_sd_m=0.002))
    elites = _paths(scored.candidates)[:2]
    np.testing.assert_allclose(paths.mean(0), elites.mean(0), atol=0.003)
    np.testing.assert_allclose(paths.std(0), np.maximum(elites.std(0), 0.002), rtol=0.1)
    alone = _paths(_refined("cem", _scored([1], ["a"]), 4000, min_sd_m=0.002))
    np.testing.assert_allclose(alone.std(0), 0.002, rtol=0.1)


def test_the_noise_of_icem_has_its_deviation_at_every_place_and_shrinks_by_round() -> None:
    scored = _scored([1], ["a"])
    for n_round, expected in ((0, 0.01), (2, 0.01 * 0.5**2)):
        paths = _paths(_refined("icem", scored, 4000, n_round, sd_m=0.01, decay=0.5))
        np.testing.assert_allclose(paths.std(0), expected, rtol=0.08)
        np.testing.assert_allclose(paths.mean(0), _paths(scored.candidates)[0], atol=expected / 10)


@pytest.mark.parametrize(("colour", "low", "high"), [(0.0, -0.1, 0.1), (3.0, 0.4, 1.0)])
def test_coloured_noise_is_alike_from_step_to_step_and_white_noise_is_not(
    colour: float, low: float, high: float
) -> None:
    paths = _paths(_refined("icem", _scored([1], ["a"]), 4000, colour=colour))
    first, second = (paths[:, t, 1] for t in (2, 3))
    assert low < np.corrcoef(first, second)[0, 1] < high


def test_mppi_tries_its_mean_which_is_drawn_to_the_least_cost() -> None:
    scored = _scored([1.0, 1.5, 9.0], ["a"] * 3, spread_m=0.05)
    elites = _paths(scored.candidates)
    sharp = _paths(_refined("mppi", scored, 3, temperature=1e-3))[0]
    np.testing.assert_allclose(sharp, elites[0], atol=1e-6)
    flat = _paths(_refined("mppi", scored, 3, temperature=1e6))[0]
    np.testing.assert_allclose(flat, elites.mean(0), atol=1e-5)


def test_equal_costs_have_equal_weights() -> None:
    scored = _scored([2.0, 2.0], ["a", "a"], spread_m=0.05)
    np.testing.assert_allclose(_paths(_refined("mppi", scored, 1))[0], _paths(scored.candidates).mean(0), atol=1e-6)
