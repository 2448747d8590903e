"""The control loop: its requests, replanning, its end, and the held arm after a failure."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ghvae_core.predictor import Context, MismatchError, Prediction, PredictorError
from planner.config import load_run
from planner.goal import GoalError
from planner.plan import PREVIOUS, PlanError
from planner.record import FAILED, GOAL_SEEN, INTERRUPTED, SETTLED, STEPS_USED, SUCCESS, PlanRecord
from planner.task import TaskConfig, TaskController
from robot_bridge.camera import model_image
from robot_bridge.factory import RobotName
from robot_bridge.robot import RobotFault
from robot_bridge.simulation.success import TaskSuccess
from tests.planner.doubles import GOAL, PREDICTOR_SPEC, FakeRobot, StubPredictor, camera_view, solver, towards_goal


class _Failing(StubPredictor):
    """Raises after some requests."""

    def __init__(self, error: BaseException, after: int) -> None:
        super().__init__(towards_goal)
        self._error, self._after = error, after

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        if len(self.requests) == self._after:
            raise self._error
        return super().predict(context, candidates, goal, n_videos)


def _task(robot: FakeRobot, predictor: StubPredictor | None = None, n_steps: int = 6) -> TaskController:
    config = TaskConfig(scene="pick_wipe", n_steps=n_steps)
    task = TaskController(config, robot, predictor or StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    return task


def _finish(task: TaskController) -> None:
    with task:
        while not task.ended:
            task.advance()


def test_it_replans_every_two_actions_and_ends_after_the_last_step() -> None:
    robot, predictor = FakeRobot(), StubPredictor(towards_goal)
    task = _task(robot, predictor, n_steps=5)
    _finish(task)
    history = task.history
    assert history.ended == STEPS_USED and len(robot.steps) == 5 and not robot.closed
    assert [record.step for record in history.plans] == [0, 2, 4]
    for record, end in history.spans():
        for act, planned in zip(history.steps[record.step : end], record.plan.actions, strict=False):
            np.testing.assert_array_equal(act.commanded, planned)
    for record in history.plans:
        assert set(record.latency_s) == {"observe", "propose", "predict"}


def test_the_first_context_is_the_start_at_rest_and_later_ones_are_observed() -> None:
    robot, predictor = FakeRobot(), StubPredictor(towards_goal)
    task = _task(robot, predictor)
    _finish(task)
    frames = task.history.frames
    (first, _), (second, _), _ = predictor.requests
    np.testing.assert_array_equal(first.frames, [frames[0], frames[0]])
    np.testing.assert_array_equal(first.actions, [[0, 0, 0, -1]])
    np.testing.assert_array_equal(second.frames, frames[1:3])
    np.testing.assert_array_equal(second.actions, [robot.steps[1]])


@pytest.mark.parametrize("n_context", [1, 3, 4])
def test_the_context_has_the_length_of_the_predictor(n_context: int) -> None:
    robot = FakeRobot()
    predictor = StubPredictor(towards_goal, replace(PREDICTOR_SPEC, n_context=n_context))
    task = _task(robot, predictor, n_steps=3)
    _finish(task)
    for context, _ in predictor.requests:
        assert context.frames.shape == (n_context, 64, 64, 3) and context.frames.dtype == np.uint8
        assert context.actions.shape == (n_context - 1, 4) and context.actions.dtype == np.float32
    np.testing.assert_array_equal(predictor.requests[1][0].frames[-1], task.history.frames[2])


def test_the_rest_of_a_plan_is_a_candidate_of_the_next_plan() -> None:
    robot, predictor = FakeRobot(), StubPredictor(towards_goal)
    task = _task(robot, predictor)
    _finish(task)
    first, second, _ = task.history.plans
    assert second.plan.families[1] == PREVIOUS
    np.testing.assert_allclose(predictor.requests[1][1][1, :3], first.plan.actions[2:], atol=1e-6)


def test_candidates_keep_the_gripper_that_was_commanded_last() -> None:
    def closing(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(-candidates[:, :2, 3].sum(1), np.float32)

    predictor = StubPredictor(closing)
    _finish(_task(FakeRobot(), predictor, n_steps=4))
    assert predictor.requests[0][1][0, 0, 3] == -1.0 and predictor.requests[1][1][0, 0, 3] == 1.0


def test_it_ends_when_the_image_matches_the_goal() -> None:
    rehearsal = _task(FakeRobot(), n_steps=3)
    _finish(rehearsal)
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), rehearsal.history.frames[-1], np.random.default_rng(0))
    _finish(task)
    assert task.history.ended == GOAL_SEEN and len(task.history.steps) == 3
    assert task.history.goal_distances[-1] == 0 and min(task.history.goal_distances[:-1]) > 2


def test_success_ends_it_and_replaces_the_step_limit() -> None:
    task = _task(FakeRobot(), n_steps=1)
    task.advance()
    assert task.history.ended == STEPS_USED
    task.add_outcome(TaskSuccess(goal=True, goal_now=True, picked=False, touched=True, strict=False, distance_m=0.0))
    assert task.history.ended == STEPS_USED
    task.add_outcome(TaskSuccess(goal=True, goal_now=True, picked=True, touched=True, strict=True, distance_m=0.0))
    assert task.history.ended == SUCCESS


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (PredictorError("the server does not reply"), FAILED),
        (PlanError("all NaN"), FAILED),
        (KeyboardInterrupt(), INTERRUPTED),
        (ZeroDivisionError("a bug"), FAILED),
    ],
)
def test_a_failure_while_planning_holds_the_arm_and_keeps_the_record(error: BaseException, ended: str) -> None:
    robot = FakeRobot()
    task = _task(robot, _Failing(error, after=1))
    with pytest.raises(type(error)):
        _finish(task)
    assert robot.closed and len(robot.steps) == 2
    assert task.history.ended == ended and task.history.error
    episode = task.history.episode({})
    assert episode is not None and len(episode.actions) == 2


def test_a_fault_of_the_arm_ends_it_with_what_was_executed_before() -> None:
    robot = FakeRobot(fault_at_step=3)
    task = _task(robot)
    with pytest.raises(RobotFault, match="reflex"):
        _finish(task)
    assert robot.closed and task.history.ended == FAILED and task.history.error == "reflex"
    assert len(task.history.steps) == 3 and len(task.history.plans) == 2


def test_a_plan_without_finite_costs_is_not_executed() -> None:
    robot = FakeRobot()
    task = _task(robot, StubPredictor(lambda c: np.full(len(c), np.nan, np.float32)))
    with pytest.raises(PlanError):
        _finish(task)
    assert not robot.steps and robot.closed and task.history.episode({}) is None


def test_a_mismatch_and_a_goal_like_the_start_are_refused_before_anything_moves() -> None:
    robot = FakeRobot()
    config = TaskConfig(scene="pick_wipe")
    wrong = StubPredictor(towards_goal, replace(PREDICTOR_SPEC, step_s=1.0))
    with pytest.raises(MismatchError, match="step_s"):
        TaskController(config, robot, wrong, solver())
    task = TaskController(config, robot, StubPredictor(towards_goal), solver())
    present = model_image(camera_view(robot.observe().state[:3]))
    with pytest.raises(GoalError, match="differs from the present"):
        task.begin(robot.observe(), present, np.random.default_rng(0))
    assert not robot.steps


def _far_or_near(gain: float, after: int) -> StubPredictor:
    """Return a predictor that finds acting better than holding still by `gain` after some requests, by half before."""

    def costs(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        least = 1 - (gain if len(predictor.requests) > after else 0.5)
        acting = np.abs(candidates[:, :, :3]).sum((1, 2)) > 0.05
        return np.where(acting, least, 1.0).astype(np.float32)

    predictor = StubPredictor(costs)
    return predictor


def _settling(predictor: StubPredictor, n_holds: int, gain: float = 0.2) -> TaskController:
    robot = FakeRobot()
    config = TaskConfig(scene="pick_wipe", n_steps=20, stop_after_holds=n_holds, stop_gain=gain)
    task = TaskController(config, robot, predictor, solver())  # a new plan after every second action
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    _finish(task)
    return task


@pytest.mark.parametrize(("n_holds", "n_steps"), [(1, 4), (2, 6), (3, 8)])
def test_it_ends_after_plans_that_gain_little_over_holding_still(n_holds: int, n_steps: int) -> None:
    task = _settling(_far_or_near(0.1, after=2), n_holds)
    assert (task.history.ended, len(task.history.steps)) == (SETTLED, n_steps)
    assert len(task.history.plans) == n_steps / 2 + 1  # the last plan is not executed


@pytest.mark.parametrize(("n_holds", "gain"), [(0, 0.0), (2, 0.3)])
def test_it_goes_on_where_the_rule_is_off_or_acting_gains_more(n_holds: int, gain: float) -> None:
    task = _settling(_far_or_near(gain, after=2), n_holds)
    assert (task.history.ended, len(task.history.steps)) == (STEPS_USED, 20)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_hold_without_a_finite_cost_never_ends_it(value: float) -> None:
    def costs(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        still = np.abs(candidates[:, :, :3]).sum((1, 2)) == 0
        return np.where(still, value, 1.0).astype(np.float32)

    assert _settling(StubPredictor(costs), 2).history.ended == STEPS_USED


def test_it_does_not_end_before_the_hand_has_moved() -> None:
    task = _settling(StubPredictor(lambda candidates: np.ones(len(candidates), np.float32)), 2)
    assert (task.history.ended, len(task.history.steps)) == (STEPS_USED, 20)


@pytest.mark.parametrize(
    ("robot", "overrides", "n_holds"),
    [("simulation", [], 0), ("franka_ros", [], 2), ("franka_ros", ["task.stop_after_holds=0"], 0)],
)
def test_it_ends_by_itself_on_a_real_robot_only(robot: RobotName, overrides: list[str], n_holds: int) -> None:
    assert load_run("tasks/pick_wipe.yaml", overrides, robot).task.stop_after_holds == n_holds


ERRORS = (0.01, 0.02, 0.03, 0.04, 0.05)  # of five predicted steps


class WithErrors(StubPredictor):
    """Predicts that nothing moves, with a known error in every pixel of each step."""

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        prediction = super().predict(context, candidates, goal, n_videos)
        error = np.array(ERRORS)[None, : candidates.shape[1], None, None, None] * 255
        return replace(prediction, videos=np.clip(prediction.videos + error, 0, 255).astype(np.uint8))


def _plans_with_ratio(ratio: float | None, usual: tuple[float, ...], replan_every: int = 5) -> list[PlanRecord]:
    """Return the plans of five actions that move nothing."""
    robot = FakeRobot()
    spec = replace(PREDICTOR_SPEC, val_rmse_p95=usual)
    predictor = WithErrors(lambda candidates: np.abs(candidates[..., :3]).sum((1, 2)), spec)
    config = TaskConfig(scene="pick_wipe", n_steps=5, max_error_ratio=ratio)
    task = TaskController(config, robot, predictor, solver(replan_every=replan_every))
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    _finish(task)
    return task.history.plans


@pytest.mark.parametrize(("wrong_step", "replanned_at"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (4, [0, 4])])
def test_it_replans_at_once_after_a_large_prediction_error(wrong_step: int, replanned_at: list[int]) -> None:
    """One step has a much smaller validation error than prediction error."""
    usual = tuple(0.001 if t == wrong_step else error for t, error in enumerate(ERRORS, 1))
    plans = _plans_with_ratio(1.5, usual)
    assert [record.step for record in plans] == replanned_at
    assert [record.is_early for record in plans] == [False] + [True] * (len(plans) - 1)
    if replanned_at[1] < 4:
        assert plans[1].plan.families[1] == PREVIOUS  # the rest of the interrupted plan is still a candidate


@pytest.mark.parametrize(("replan_every", "wrong_step"), [(1, 1), (2, 2), (4, 4)])
def test_a_plan_that_was_due_is_not_early(replan_every: int, wrong_step: int) -> None:
    usual = tuple(0.001 if t == wrong_step else error for t, error in enumerate(ERRORS, 1))
    assert not any(record.is_early for record in _plans_with_ratio(1.5, usual, replan_every))


@pytest.mark.parametrize(("factor", "usual"), [(None, (0.001,) * 5), (1.5, ERRORS), (1.0, ())])
def test_it_continues_when_the_ratio_is_off_or_unknown_or_not_exceeded(
    factor: float | None, usual: tuple[float, ...]
) -> None:
    plans = _plans_with_ratio(factor, usual)
    assert [record.step for record in plans] == [0] and not plans[0].is_early


def test_the_error_ratio_needs_a_predictor_with_a_validation_error() -> None:
    with pytest.raises(MismatchError, match=r"task\.max_error_ratio: expected .* got 'stub'"):
        TaskController(
            TaskConfig(scene="pick_wipe", max_error_ratio=1.0), FakeRobot(), StubPredictor(towards_goal), solver()
        )
