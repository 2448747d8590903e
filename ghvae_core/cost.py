"""How far imagined frames end from the goal picture: the same few operations on the GPU and on plain arrays."""

from __future__ import annotations

from typing import Any, TypeVar

from ghvae_core.predictor import GoalCost

_Array = TypeVar("_Array", bound=Any)  # a NumPy array or a torch tensor; naming the latter would import it


def goal_costs(frames: _Array, goal: _Array, cost: GoalCost) -> _Array:
    """Return each candidate's mean squared error to the goal over the last `cost.final_frames` frames.

    With one final frame it ranks as the l2 pixel distance to the goal image does.

    Args:
        frames: (N, T, C, H, W) imagined frames in [0, 1], NumPy or torch; the last three axes in any order.
        goal: Like one frame, and on the same device.
        cost: How many of the last frames count, at most T.

    Returns:
        (N,) of the kind of `frames`, lower is better. A NaN in a candidate's frames makes its cost NaN.
    """
    difference = frames[:, -cost.final_frames :] - goal
    mean: _Array = (difference * difference).mean((1, 2, 3, 4))
    return mean
