"""The candidates of one plan: mostly the random policy's sequences, and a few that are always worth comparing with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_collection.policy import RandomPolicy, Sequences
from planner.plan import Situation
from robot_bridge.safety import Limits, limit_actions

HOLD, PREVIOUS = "hold", "previous"  # the families beside the policy's own


class Proposals:
    """Draws candidates from the policy that the model's training data came from, and adds what experience knows.

    The first candidate holds still, so that with equal costs everywhere the arm stays where it is. The second, when
    there is a previous plan, is what that plan left undone.
    """

    def __init__(self, policy: RandomPolicy, limits: Limits) -> None:
        self._policy = policy
        self._limits = limits

    def draw(self, situation: Situation, n: int, horizon: int, rng: np.random.Generator) -> Sequences:
        """Return `n` candidates of `horizon` actions, limited from the measured hand position.

        What is scored is therefore what would be executed.
        """
        known = [(HOLD, _hold(situation.gripper, horizon))]
        if len(situation.rest):
            known.append((PREVIOUS, _continue(situation.rest, horizon)))
        random = self._policy.sequences(situation.observation, n - len(known), horizon, rng)
        actions = np.concatenate([np.stack([actions for _, actions in known]), random.actions])
        limited = limit_actions(actions, situation.observation.state[:3], self._limits)
        return Sequences(limited, [family for family, _ in known] + random.families)


def _hold(gripper: float, horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): no translation, the gripper as it is."""
    return np.tile(np.array([0.0, 0.0, 0.0, gripper], np.float32), (horizon, 1))


def _continue(rest: NDArray[np.float32], horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): what is left of a plan, then hold."""
    return np.concatenate([rest, _hold(float(rest[-1, 3]), horizon)])[:horizon]
