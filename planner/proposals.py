"""The candidates of one plan: what the goal suggests, what the random policy does, and a few that experience adds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.primitives import Directed
from data_collection.policies.random_policy import PolicyConfig, RandomPolicy
from data_collection.policies.waypoints import Sequences
from planner.difference import DifferenceConfig, find_difference
from planner.plan import HOLD, PREVIOUS, Situation
from robot_bridge.robot import RobotSpec
from robot_bridge.safety import Limits, limit_actions


class Proposals:
    """Draws candidates from the difference to the goal and from the policy that the model's training data came from.

    The first candidate of a plan holds still, so that with equal costs everywhere the arm stays where it is. When there
    is a previous plan, the second is what that plan left undone.
    """

    def __init__(self, policy: PolicyConfig, difference: DifferenceConfig, spec: RobotSpec) -> None:
        self._policy_config = policy
        self._difference_config = difference
        self._policy = RandomPolicy(policy, spec)
        self._directed = Directed(policy.directed, spec)
        self._spec = spec

    @property
    def limits(self) -> Limits:
        """What every candidate keeps to."""
        return self._spec.limits

    def draw(
        self, situation: Situation, n: int, horizon: int, rng: np.random.Generator, *, is_first: bool = True
    ) -> Sequences:
        """Return `n` candidates of `horizon` actions, limited from the measured hand position.

        What is scored is therefore what would be executed.

        Args:
            situation: What they start from, and the goal.
            n: How many; at least 2 of the first.
            horizon: Actions of each.
            rng: Draws them.
            is_first: Whether those that are not drawn, to hold still and the previous plan, are among them.
        """
        known = self._known(situation, horizon) if is_first else Sequences(np.empty((0, horizon, 4), np.float32), [])
        n -= len(known.families)
        directed = self._draw_directed(situation, n, horizon, rng)
        random = self._policy.sequences(situation.observation, n - len(directed.families), horizon, rng)
        actions = np.concatenate([known.actions, directed.actions, random.actions])
        return self.limited(situation, Sequences(actions, known.families + directed.families + random.families))

    def limited(self, situation: Situation, candidates: Sequences) -> Sequences:
        """Return candidates as they would be applied from the measured hand position."""
        hand_m = situation.observation.state[:3]
        return Sequences(limit_actions(candidates.actions, hand_m, self._spec.limits), candidates.families)

    def _known(self, situation: Situation, horizon: int) -> Sequences:
        hold = _hold(situation.gripper, horizon)
        if not len(situation.rest):
            return Sequences(hold[None], [HOLD])
        return Sequences(np.stack([hold, _continue(situation.rest, horizon)]), [HOLD, PREVIOUS])

    def _draw_directed(self, situation: Situation, n: int, horizon: int, rng: np.random.Generator) -> Sequences:
        config, observation = self._difference_config, situation.observation
        difference = find_difference(observation, situation.goal, self._spec, self._policy_config.blobs, config)
        return self._directed.sequences(difference, observation.state, round(config.share * n), horizon, rng)


def _hold(gripper: float, horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): no translation, the gripper as it is."""
    return np.tile(np.array([0.0, 0.0, 0.0, gripper], np.float32), (horizon, 1))


def _continue(rest: NDArray[np.float32], horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): what is left of a plan, then hold."""
    return np.concatenate([rest, _hold(float(rest[-1, 3]), horizon)])[:horizon]
