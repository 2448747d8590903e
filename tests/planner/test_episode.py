"""The lines that an episode shows while it runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.episode import _describe_plan, _describe_step
from planner.plan import FAMILY_MEANINGS
from planner.record import EpisodeHistory
from planner.task import TaskConfig, TaskController
from tests.planner.doubles import GOAL, FakeRobot, StubPredictor, solver, towards_goal


def _after(n_actions: int) -> EpisodeHistory:
    """Return the history after some actions, with a new plan after every second one."""
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    for _ in range(n_actions):
        task.advance()
    return task.history


@pytest.mark.parametrize("family", FAMILY_MEANINGS)
def test_the_line_of_a_plan_says_what_it_does(family: str) -> None:
    history = _after(1)
    record = history.plans[0]
    plan = replace(record.plan, families=[family] * len(record.plan.families), cost=0.00431)
    history.plans[0] = replace(record, plan=plan, latency_s={"observe": 0.1, "propose": 0.2, "predict": 1.0})
    assert _describe_plan(history) == (
        f"step 0: {FAMILY_MEANINGS[family]} ({family}); predicted cost 0.00431, the least of 40 candidates, "
        "planned in 1.30 s"
    )


def test_the_time_left_follows_from_the_mean_time_of_an_action_and_its_plans() -> None:
    history = _after(2)
    assert "left" not in _describe_step(history, 50)  # after the first plan alone
    history = _after(4)
    history.seconds = 20.0
    assert _describe_step(history, 50).endswith("from the goal image, arm included, at most 3 min left")
    assert _describe_step(history, 4).endswith("at most 0 s left")
