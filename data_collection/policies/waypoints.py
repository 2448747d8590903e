"""Waypoints and the actions that follow them."""

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
        raise ValueError("expected two lengths, 0 or more, in rising order")
    return lengths


Range = Annotated[tuple[float, float], AfterValidator(_rising)]  # bounds in metres of a random length


@dataclass(frozen=True)
class Sequences:
    """Open-loop action sequences from one observation."""

    actions: NDArray[np.float32]  # (n, horizon, 4)
    families: list[str]  # n names


def follow(
    paths_m: NDArray[np.float64], gripper: NDArray[np.float32], start_m: NDArray[np.float64], limits: MotionLimits
) -> NDArray[np.float32]:
    """Return the actions (n, T, 4) that follow paths as closely as the limits allow.

    Later steps compensate for a step that the limits shorten; the rest of the path does not move.

    Args:
        paths_m: (n, T, 3) hand position after each step, base frame.
        gripper: (T,) commands.
        start_m: (3,) hand position.
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
    """A hand position, and the gripper commands on the way and at the end."""

    place_m: NDArray[np.float64]  # (3,) base frame
    gripper: float  # the command on the way
    there: float | None = None  # command of the last step; None: the same


def walk(
    route: Sequence[Waypoint],
    start_m: NDArray[np.float64],
    horizon: int,
    stride_m: float,
    limits: MotionLimits,
    *,
    onward: Callable[[], NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """Return the actions (horizon, 4) along waypoints, in straight steps of equal length between two.

    Args:
        route: At least one waypoint; positions outside the workspace are moved to its boundary.
        start_m: (3,) hand position, base frame.
        horizon: Number of actions. A longer route is cut off.
        stride_m: Longest step; limited by the step limit.
        limits: Of the robot.
        onward: Draws a further position after the last waypoint, called once per waypoint; None: the hand stays.
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
