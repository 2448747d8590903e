"""The random policy: constant noise, sequences that stay within the limits, and grasps found in the image."""

from collections.abc import Iterator

import numpy as np
import pytest
from pydantic import ValidationError

from configs.loader import Config, load
from data_collection.policies.primitives import PrimitivesConfig
from data_collection.policies.random_policy import CARRY, GRASP, NOISE, PLAY, PUSH, PolicyConfig, RandomPolicy
from robot_bridge.robot import CLOSE, OPEN, Observation
from robot_bridge.safety import limit_actions
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka


class _Section(Config):
    robot: SimulationConfig


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedFranka]:
    arm = SimulatedFranka(load(_Section, {"robot": "robots/simulation.yaml"}).robot)
    yield arm
    arm.close()


@pytest.fixture(scope="module")
def seen(robot: SimulatedFranka) -> Observation:
    return robot.reset(np.random.default_rng(3))


def test_sequences_satisfy_the_limits(robot: SimulatedFranka, seen: Observation) -> None:
    drawn = RandomPolicy(PolicyConfig(), robot.spec).sequences(seen, 100, 10, np.random.default_rng(0))
    assert drawn.actions.shape == (100, 10, 4) and drawn.actions.dtype == np.float32
    again = limit_actions(drawn.actions, seen.state[:3], robot.spec.limits)
    np.testing.assert_allclose(again, drawn.actions, atol=1e-6)
    assert set(drawn.families) == {NOISE, GRASP, PUSH, PLAY}
    assert set(np.unique(drawn.actions[..., 3])) == {OPEN, CLOSE}


def test_the_same_seed_draws_the_same(robot: SimulatedFranka, seen: Observation) -> None:
    policy = RandomPolicy(PolicyConfig(), robot.spec)
    first, second = (policy.sequences(seen, 20, 10, np.random.default_rng(5)) for _ in range(2))
    assert first.families == second.families
    np.testing.assert_array_equal(first.actions, second.actions)


def test_noise_keeps_its_deviation_and_correlates_with_the_step_before_only(
    robot: SimulatedFranka, seen: Observation
) -> None:
    """Noise that decays or wraps around (both known faults of older stacks) would fail here."""
    wide = robot.spec.limits.model_copy(
        update={"workspace_low_m": (-9.0,) * 3, "workspace_high_m": (9.0,) * 3, "step_limit_m": 9.0}
    )
    spec = robot.spec.__class__(robot.spec.name, wide, robot.spec.camera, robot.spec.step_s)
    config = PolicyConfig(noise_fraction=1.0)
    actions = RandomPolicy(config, spec).sequences(seen, 4000, 10, np.random.default_rng(0)).actions
    np.testing.assert_allclose(actions[..., 0].std(axis=0), config.noise_sd_m[0], rtol=0.05)
    correlation = np.asarray(np.corrcoef(actions[..., 0].T))
    np.testing.assert_allclose(np.diag(correlation, 1), config.noise_correlation, atol=0.05)
    assert abs(correlation[0, 9]) < 0.05


def test_the_autograsp_reflex_closes_low_and_opens_only_high(robot: SimulatedFranka, seen: Observation) -> None:
    config = PolicyConfig(noise_fraction=1.0)
    actions = RandomPolicy(config, robot.spec).sequences(seen, 300, 10, np.random.default_rng(0)).actions
    heights = seen.state[2] + actions[..., 2].cumsum(axis=1)
    low = heights < config.autograsp_height_m - 1e-6
    assert low.any() and (actions[low, 3] == CLOSE).all()
    opened = (actions[:, 1:, 3] == OPEN) & (actions[:, :-1, 3] == CLOSE)
    assert opened.any() and not low[:, 1:][opened].any()


def test_primitives_lift_objects(robot: SimulatedFranka) -> None:
    """Grasps aimed at blobs of the image hold an object far more often than noise does."""
    config = PolicyConfig(noise_fraction=0.0, push_fraction=0.0, use_fraction=0.0)
    policy = RandomPolicy(config, robot.spec)
    held = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        observation = robot.reset(rng)
        for action in policy.sequences(observation, 1, 8, rng).actions[0]:
            observation = robot.step(action).observation
            if action[3] == CLOSE and 0.04 < observation.state[4] < 0.93:
                held += 1
                break
    assert held >= 5


def test_held_objects_are_mostly_carried(robot: SimulatedFranka, seen: Observation) -> None:
    holding = Observation(seen.image, np.array([*seen.state[:4], 0.5]), seen.time_s)
    drawn = RandomPolicy(PolicyConfig(), robot.spec).sequences(holding, 200, 10, np.random.default_rng(0))
    assert drawn.families.count(CARRY) > 50 and drawn.families.count(PLAY) > 30
    used = drawn.actions[[family == PLAY for family in drawn.families]]
    assert (used[:, 0, 3] == CLOSE).all()
    carried = drawn.actions[[family == CARRY for family in drawn.families]]
    assert (carried[:, 0, 3] == CLOSE).all()


def test_without_detected_objects_there_is_only_noise(robot: SimulatedFranka, seen: Observation) -> None:
    blank = Observation(np.zeros_like(seen.image), seen.state, seen.time_s)
    assert set(
        RandomPolicy(PolicyConfig(), robot.spec).sequences(blank, 50, 10, np.random.default_rng(0)).families
    ) == {NOISE}


@pytest.mark.parametrize("config", [PolicyConfig, PrimitivesConfig])
def test_a_stride_of_zero_is_refused(config: type[PolicyConfig | PrimitivesConfig]) -> None:
    with pytest.raises(ValidationError, match="stride_m must be above 0"):
        config(stride_m=(0.0, 0.2))


@pytest.mark.parametrize(
    ("config", "name"), [(PolicyConfig, "use_m"), (PolicyConfig, "stride_m"), (PrimitivesConfig, "behind_m")]
)
@pytest.mark.parametrize("lengths", [(0.08, 0.04), (-0.1, 0.2)])
def test_invalid_ranges_of_lengths_are_refused(
    config: type[PolicyConfig | PrimitivesConfig], name: str, lengths: tuple[float, float]
) -> None:
    with pytest.raises(ValidationError, match="expected two lengths"):
        config.model_validate({name: lengths})


def test_objects_are_used_as_tools(robot: SimulatedFranka) -> None:
    """A held object touches another one and moves it, as in wiping."""
    policy = RandomPolicy(PolicyConfig(noise_fraction=0.0, use_fraction=1.0, aim_sd_m=0.0), robot.spec)
    moved = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        observation = robot.reset(rng)
        before = {each.name: robot.position(each.name) for each in robot.scene.objects}
        drawn = policy.sequences(observation, 1, 12, rng)
        for action in drawn.actions[0]:
            robot.advance(action)
        if drawn.families == [PLAY]:
            ways = [np.linalg.norm(robot.position(name) - place) for name, place in before.items()]
            moved += int(np.sum(np.array(ways) > 0.03) >= 2)
    assert moved >= 2
