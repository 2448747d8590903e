"""How far imagined frames end from the goal picture: the same few operations on the GPU and on plain arrays."""

from __future__ import annotations

from typing import Any, TypeVar

from ghvae_core.predictor import GoalCost

_Array = TypeVar("_Array", bound=Any)  # a NumPy array or a torch tensor; naming the latter would import it


def goal_costs(frames: _Array, goal: _Array, cost: GoalCost) -> _Array:
    """Return each candidate's mean squared error to the goal over the last `cost.final_frames` frames.

    With one final frame and full brightness it ranks as the l2 pixel distance to the goal image does. The squared error
    of a pixel is that of its mean over the colours, its brightness, and what is left, its colour; with less weight on
    the former a white or grey arm counts for less against the coloured things that it moves.

    Args:
        frames: (N, T, C, H, W) imagined frames in [0, 1], NumPy or torch; the last three axes in any order, C is 3.
        goal: Like one frame, and on the same device.
        cost: How many of the last frames count, at most T, and how much their brightness does.

    Returns:
        (N,) of the kind of `frames`, lower is better. A NaN in a candidate's frames makes its cost NaN.
    """
    difference = frames[:, -cost.final_frames :] - goal
    brightness = difference.mean(2 + tuple(goal.shape).index(3))
    error: _Array = (difference * difference).mean((1, 2, 3, 4))
    error -= (1 - cost.brightness) * (brightness * brightness).mean((1, 2, 3))
    return error
