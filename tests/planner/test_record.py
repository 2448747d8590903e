"""The record of an episode: prediction errors, deviations, and its conversion to an episode file."""

import math
from dataclasses import replace

import numpy as np

from planner.plan import Plan
from planner.record import EpisodeHistory, PlanRecord
from robot_bridge.robot import Step
from tests.planner.doubles import GOAL, FakeRobot


def _plan(level: int, horizon: int = 3) -> Plan:
    return Plan(
        actions=np.zeros((horizon, 4), np.float32),
        cost=0.5,
        index=0,
        families=["hold"],
        costs=np.array([0.5], np.float32),
        best=[0],
        videos=np.full((1, horizon, 64, 64, 3), level, np.uint8),
        timing_s={"propose": 0.1, "predict": 0.2},
        predictor_timing_s={},
    )


def _history(levels: list[int]) -> EpisodeHistory:
    """Return an episode that starts at grey 0 and observes one grey level after each action."""
    observation = FakeRobot().observe()
    history = EpisodeHistory(GOAL, None, replace(observation, image=np.zeros_like(observation.image)))
    for i, level in enumerate(levels):
        seen = replace(observation, image=np.full_like(observation.image, level), time_s=i + 1.0)
        applied = np.array([0.03, 0.0, 0.0, 1.0], np.float32)
        history.add_step(np.array([0.0, 0.04, 0.0, 1.0], np.float32), Step(applied, seen), 0.6)
    return history


def test_the_prediction_error_compares_observed_and_predicted_frames() -> None:
    history = _history([10, 20, 30])
    history.plans += [PlanRecord(0, _plan(10), {}), PlanRecord(2, _plan(33), {})]
    assert history.prediction_errors() == [0.0, 10.0, 3.0]
    assert history.observed_after(0)[:, 0, 0, 0].tolist() == [10, 20]
    assert history.observed_after(1)[:, 0, 0, 0].tolist() == [30]


def test_steps_without_a_prediction_have_no_prediction_error() -> None:
    history = _history([10, 20])
    history.plans.append(PlanRecord(0, replace(_plan(10), best=[], videos=np.zeros((0, 3, 64, 64, 3), np.uint8)), {}))
    assert all(math.isnan(error) for error in history.prediction_errors())


def test_a_plan_without_executed_actions_has_no_frames() -> None:
    history = _history([10])
    history.plans += [PlanRecord(0, _plan(10), {}), PlanRecord(1, _plan(10), {})]
    assert history.observed_after(1).shape == (0, 64, 64, 3) and len(history.prediction_errors()) == 1


def test_the_deviation_is_the_distance_of_commanded_and_applied_translation() -> None:
    np.testing.assert_allclose(_history([1]).deviations_m(), [0.05], atol=1e-7)


def test_the_episode_has_one_frame_more_than_actions_and_both_kinds_of_action() -> None:
    episode = _history([1, 2]).episode({"task": "pick_wipe"})
    assert episode is not None
    assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2] and episode.frames.shape[1:] == (240, 320, 3)
    assert episode.actions[0, 0] == np.float32(0.03) and episode.commanded[0, 1] == np.float32(0.04)
    assert episode.times_s.tolist() == [0.0, 1.0, 2.0] and episode.info == {"task": "pick_wipe"}
    assert _history([]).episode({}) is None
