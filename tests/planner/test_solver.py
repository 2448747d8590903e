"""Random shooting and its refinements: the least finite cost wins, reproducibly."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ghvae_core.predictor import Context, NonFiniteError, Prediction, PredictorError
from planner.plan import HOLD, PlanError
from planner.solver import SolverConfig
from robot_bridge.safety import limit_actions
from tests.planner.doubles import SPEC, StubPredictor, planning_state, solver, towards_goal, with_rest


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_candidate_of_least_cost_is_chosen_with_its_scored_actions() -> None:
    predictor = StubPredictor(towards_goal)
    plan = solver().plan(planning_state(), predictor, _rng())
    ((_, candidates),) = predictor.requests
    assert plan.cost == plan.costs.min() == plan.costs[plan.index]
    np.testing.assert_array_equal(plan.actions, candidates[plan.index])
    assert plan.family == plan.families[plan.index] and plan.best[0] == plan.index
    assert plan.predicted_frames.shape == (5, 64, 64, 3)
    assert plan.n_non_finite == 0 and set(plan.timing_s) == {"propose", "predict"}


def test_equal_seeds_give_equal_plans() -> None:
    plans = [solver().plan(planning_state(), StubPredictor(towards_goal), _rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)
    assert plans[0].families == plans[1].families and plans[0].cost == plans[1].cost
    assert not np.array_equal(plans[0].actions, plans[2].actions)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite_never_win(bad: float) -> None:
    def costs(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        values = np.arange(len(candidates), 0, -1).astype(np.float32)
        values[[0, 7, len(values) - 1]] = bad
        return values

    plan = solver(n_candidates=20).plan(planning_state(), StubPredictor(costs), _rng())
    assert plan.index == 18 and plan.cost == 2.0 and plan.n_non_finite == 3
    assert all(np.isfinite(plan.costs[best]) for best in plan.best)


class _Equal(StubPredictor):
    """Predicts the same video for the best 8 candidates, and another for each of the others."""

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        prediction = super().predict(context, candidates, goal, n_videos)
        videos = (
            prediction.videos * 0 + np.maximum(0, np.arange(n_videos, dtype=np.uint8) - 7)[:, None, None, None, None]
        )
        return replace(prediction, videos=videos)


def test_the_videos_to_show_differ_and_begin_with_the_chosen_one() -> None:
    plan = solver(n_candidates=40, n_videos=4).plan(planning_state(), _Equal(towards_goal), _rng(0))
    assert plan.best[0] == plan.index and len(plan.videos) == len(plan.best) == 4
    assert len({video.tobytes() for video in plan.videos}) == 4
    assert list(plan.costs[plan.best]) == sorted(plan.costs[plan.best])


def test_other_families_are_shown_before_more_of_the_same() -> None:
    plan = solver(n_candidates=40, n_videos=4).plan(planning_state(), StubPredictor(towards_goal), _rng(0))
    ranked = np.argsort(plan.costs, kind="stable")[:32]
    families = {plan.families[i] for i in ranked}
    assert len({plan.families[i] for i in plan.best}) == min(4, len(families))


@pytest.mark.parametrize(
    ("n_videos", "horizon", "n", "asked"), [(4, 10, 100, 32), (4, 10, 20, 20), (4, 100, 50, 4), (1, 10, 50, 8)]
)
def test_long_videos_are_few_in_one_message(n_videos: int, horizon: int, n: int, asked: int) -> None:
    config = SolverConfig(n_videos=n_videos, horizon=horizon)
    assert config.videos_of(n) == asked


def test_videos_of_candidates_without_a_finite_cost_are_left_out() -> None:
    def costs(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        values = np.full(len(candidates), np.nan, np.float32)
        values[5] = 1.0
        return values

    plan = solver().plan(planning_state(), StubPredictor(costs), _rng())
    assert plan.index == 5 and plan.best == [5] and plan.videos.shape == (1, 5, 64, 64, 3)


def test_no_finite_cost_at_all_is_an_error() -> None:
    predictor = StubPredictor(lambda candidates: np.full(len(candidates), np.nan, np.float32))
    with pytest.raises(PlanError, match="all 40 candidates"):
        solver().plan(planning_state(), predictor, _rng())
    assert PlanError.exit_code == 1


def test_equal_costs_hold_the_arm_still() -> None:
    predictor = StubPredictor(lambda candidates: np.zeros(len(candidates), np.float32))
    plan = solver().plan(planning_state(), predictor, _rng())
    assert plan.family == HOLD and not plan.actions[:, :3].any()


class _Wrong(StubPredictor):
    def __init__(self, **changes: object) -> None:
        super().__init__(towards_goal)
        self._changes = changes

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        return replace(super().predict(context, candidates, goal, n_videos), **self._changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"costs": np.zeros(39, np.float32)},
        {"costs": np.zeros((40, 1), np.float32)},
        {"videos": np.zeros((4, 9, 64, 64, 3), np.uint8)},
        {"videos": np.zeros((3, 5, 64, 64, 3), np.uint8)},
        {"best": np.array([0, 1, 2, 40])},
        {"best": np.array([0, 1, 2, -1])},
    ],
    ids=["too few costs", "costs 2-D", "videos too long", "too few videos", "index too high", "index below 0"],
)
def test_a_prediction_of_invalid_shape_is_a_predictor_error(wrong: dict[str, object]) -> None:
    with pytest.raises(PredictorError, match="expected"):
        solver().plan(planning_state(), _Wrong(**wrong), _rng())


def test_a_chosen_candidate_without_video_has_no_predicted_frames() -> None:
    predictor = _Wrong(best=np.array([0]), videos=np.zeros((1, 5, 64, 64, 3), np.uint8))
    plan = solver().plan(planning_state(), predictor, _rng())
    assert plan.index != 0 and plan.predicted_frames.shape == (0, 64, 64, 3)


def test_no_more_steps_are_executed_or_scored_than_planned() -> None:
    with pytest.raises(ValidationError, match="replan_every"):
        SolverConfig(horizon=4, replan_every=5)
    with pytest.raises(ValidationError, match="final_frames"):
        SolverConfig.model_validate({"horizon": 5, "cost": {"final_frames": 6}})


SOLVERS: list[Any] = ["shooting", "cem", "icem", "mppi"]


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_keeps_to_its_candidates_and_to_the_limits(name: Any) -> None:
    predictor = StubPredictor(towards_goal)
    plan = solver(60, solver=name).plan(planning_state(), predictor, _rng())
    assert sum(len(candidates) for _, candidates in predictor.requests) == len(plan.costs) == len(plan.families) == 60
    assert len(predictor.requests) == (1 if name == "shooting" else 4)
    assert plan.cost == plan.costs.min() and plan.best[0] == plan.index and len(plan.videos) == len(plan.best) == 4
    hand_m = planning_state().observation.state[:3]
    for _, candidates in predictor.requests:
        np.testing.assert_allclose(limit_actions(candidates, hand_m, SPEC.limits), candidates, atol=1e-6)
    chosen = np.concatenate([candidates for _, candidates in predictor.requests])[plan.index]
    np.testing.assert_array_equal(plan.actions, chosen)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("rest", [np.empty((0, 4), np.float32), np.array([[0.01, 0, 0, 1]], np.float32)])
def test_the_fewest_candidates_are_enough(name: Any, rest: NDArray[np.float32]) -> None:
    plan = solver(4, solver=name).plan(with_rest(rest), StubPredictor(towards_goal), _rng())
    assert 2 <= len(plan.costs) <= 4 and np.isfinite(plan.cost)


@pytest.mark.parametrize("name", SOLVERS[1:])
def test_refinement_ends_nearer_the_goal_than_shooting(name: Any) -> None:
    def mean(each: str) -> float:
        plans = [
            solver(80, solver=each).plan(planning_state(), StubPredictor(towards_goal), _rng(seed)) for seed in range(8)
        ]
        return float(np.mean([plan.cost for plan in plans]))

    assert mean(name) < 0.9 * mean("shooting")


@pytest.mark.parametrize("name", SOLVERS)
def test_no_solver_chooses_costs_that_are_not_finite(name: Any) -> None:
    def costs(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        values = towards_goal(candidates)
        values[::3] = np.nan
        values[1::3] = -np.inf
        return values

    plan = solver(60, solver=name).plan(planning_state(), StubPredictor(costs), _rng())
    assert np.isfinite(plan.cost) and plan.n_non_finite >= 35
    with pytest.raises(PlanError, match="NaN or infinity"):
        nothing = StubPredictor(lambda candidates: np.full(len(candidates), np.inf, np.float32))
        solver(60, solver=name).plan(planning_state(), nothing, _rng())


@dataclass
class Clock:
    """A clock that advances on request only."""

    now_s: float = 0.0

    def monotonic(self) -> float:
        return self.now_s


class Slow(StubPredictor):
    """Takes a fixed time for each candidate."""

    def __init__(self, clock: Clock, candidate_s: float) -> None:
        super().__init__(towards_goal)
        self._clock, self._candidate_s = clock, candidate_s

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        self._clock.now_s += self._candidate_s * len(candidates)
        return super().predict(context, candidates, goal, n_videos)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("planner.solver.time", clock)
    return clock


@pytest.mark.parametrize("name", SOLVERS)
def test_a_time_limit_is_used_up_and_not_exceeded(name: Any, clock: Clock) -> None:
    plan = solver(400, solver=name, budget_s=0.45, batch_size=20).plan(planning_state(), Slow(clock, 0.004), _rng())
    assert clock.now_s <= 0.45 + 1e-9 and 105 <= len(plan.costs) <= 112


def test_a_plan_of_several_requests_holds_still_in_one_candidate(clock: Clock) -> None:
    plan = solver(400, budget_s=0.4, batch_size=20).plan(planning_state(), Slow(clock, 0.004), _rng())
    assert plan.families.count(HOLD) == 1 and len(plan.costs) == 100


@pytest.mark.parametrize("name", SOLVERS[1:])
def test_each_round_of_a_refinement_has_its_part_of_the_time_limit(name: Any, clock: Clock) -> None:
    """Half of 0.4 s is for proposals, the rest for three rounds."""
    predictor = Slow(clock, 0.004)
    plan = solver(400, solver=name, budget_s=0.4, batch_size=10).plan(planning_state(), predictor, _rng())
    early, late = plan.costs[:50], plan.costs[50:]
    assert len(plan.costs) == 100 and late.mean() < 0.8 * early.mean()


@pytest.mark.parametrize("name", SOLVERS)
def test_there_is_a_plan_under_any_time_limit(name: Any, clock: Clock) -> None:
    plan = solver(400, solver=name, budget_s=1e-6, batch_size=10).plan(planning_state(), Slow(clock, 0.004), _rng())
    assert len(plan.costs) == 10


@pytest.mark.parametrize("name", SOLVERS)
def test_a_request_without_any_finite_cost_leaves_the_others(name: Any, clock: Clock) -> None:
    class Broken(StubPredictor):
        def predict(self, *arguments: Any) -> Prediction:
            prediction = super().predict(*arguments)
            if len(self.requests) == 2:
                raise NonFiniteError("not one of them")
            return prediction

    plan = solver(60, solver=name, budget_s=9.0, batch_size=20).plan(planning_state(), Broken(towards_goal), _rng())
    assert len(plan.costs) == 60 and np.isfinite(plan.cost) and plan.n_non_finite in {10, 20}
    assert len(plan.videos) == len(plan.best) == 4


def test_the_largest_request() -> None:
    assert SolverConfig(n_candidates=400).largest_request() == 400
    assert SolverConfig(n_candidates=400, budget_s=1).largest_request() == 50
    assert SolverConfig(n_candidates=400, solver="cem").largest_request() == 200
