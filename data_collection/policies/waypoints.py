"""Places to go to one after another, and the actions that lead there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from robot_bridge.safety import MotionLimits


def _rising(lengths: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= lengths[0] <= lengths[1]:
        raise ValueError("expected two lengths from 0 on, of which the second is not below the first")
    return lengths


Range = Annotated[tuple[float, float], AfterValidator(_rising)]  # lengths in metres between which one is drawn


@dataclass(frozen=True)
class Sequences:
    """Open-loop action sequences from one observation."""

    actions: NDArray[np.float32]  # (n, horizon, 4)
    families: list[str]  # n of them: what kind each is


def follow(
    paths_m: NDArray[np.float64], gripper: NDArray[np.float32], start_m: NDArray[np.float64], limits: MotionLimits
) -> NDArray[np.float32]:
    """Return the actions (n, T, 4) that keep as near to paths as the limits let them.

    A step that the limits shorten is made up for by later ones; it does not move the rest of the path.

    Args:
        paths_m: (n, T, 3) where the hand should be after each step, base frame.
        gripper: (T,) its commands.
        start_m: (3,) the hand.
        limits: Of the robot.
    """
    actions = np.empty((*paths_m.shape[:2], 4))
    actions[..., 3] = gripper
    places = np.clip(paths_m, limits.workspace_low_m, limits.workspace_high_m)
    hands = np.broadcast_to(start_m, (len(paths_m), 3))
    for t in range(paths_m.shape[1]):
        steps = places[:, t] - hands
        length_m = np.linalg.norm(steps, axis=1, keepdims=True)
        steps = steps * np.minimum(1.0, limits.step_limit_m / np.maximum(length_m, 1e-12))
        actions[:, t, :3] = steps
        hands = hands + steps
    return actions.astype(np.float32)


class Waypoint(NamedTuple):
    """A place to go to, and what the gripper does on the way and there."""

    place_m: NDArray[np.float64]  # (3,) base frame
    gripper: float  # the command on the way
    there: float | None = None  # the command of the last step, after whose motion the gripper moves; None: the same


def walk(
    route: Sequence[Waypoint],
    start_m: NDArray[np.float64],
    horizon: int,
    stride_m: float,
    limits: MotionLimits,
    *,
    onward: Callable[[], NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """Return the actions (horizon, 4) along a route in straight steps of equal length between its places.

    Args:
        route: At least one place; those outside the workspace are moved to its boundary.
        start_m: (3,) the hand, base frame.
        horizon: Number of actions. A longer route is cut off.
        stride_m: Longest step; the step limit where that is shorter.
        limits: Of the robot.
        onward: Draws a place to go on to when a route ends early, asked once a place; None: the hand stays.
    """
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    longest_m = min(stride_m, limits.step_limit_m)
    actions: list[NDArray[np.float64]] = []
    hand, waypoints = start_m, iter(route)
    gripper = route[0].gripper
    while len(actions) < horizon:
        further = hand if onward is None else onward()
        place, on_the_way, there = next(waypoints, Waypoint(further, gripper))
        place = np.clip(place, low, high)
        pieces = max(1, int(np.ceil(np.linalg.norm(place - hand) / longest_m)))
        actions += [np.array([*(place - hand) / pieces, on_the_way])] * (pieces - 1)
        gripper = on_the_way if there is None else there
        actions.append(np.array([*(place - hand) / pieces, gripper]))
        hand = place
    return np.stack(actions[:horizon])
