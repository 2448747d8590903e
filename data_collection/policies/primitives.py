"""Motion primitives: pick up, set down and push; and sequences that move objects to goal positions with them.

An object is used as a tool on other objects, carried to its goal, or pushed there. The random policy draws the goals;
the planner reads them from the goal image. The table reset uses the same primitives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.policies.waypoints import Range, Sequences, Waypoint, walk
from robot_bridge.camera import Camera
from robot_bridge.robot import CLOSE, OPEN, RobotSpec
from robot_bridge.safety import limit_actions

_HELD_PX = 40.0  # largest distance of a held object from the fingertips in an image of 240x320; ours
USE_ON, CARRY_TO, PUSH_TO = "use", "bring", "shove"  # names in recorded files


class PrimitivesConfig(Config):
    """Ranges from which sequences are drawn. Lengths: ours, about half an object."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "use_share": "use_fraction",
        "shove_share": "push_to_fraction",
        "one_target_share": "one_target_fraction",
        "behind_tool_share": "behind_tool_fraction",
    }

    use_fraction: float = Field(default=0.9, ge=0, le=1)  # of sequences with two or more objects
    push_to_fraction: float = Field(default=0.3, ge=0, le=1)  # of the others, while no object is held
    one_target_fraction: float = Field(default=0.2, ge=0, le=1)  # of tool uses: on one target instead of all
    behind_tool_fraction: float = Field(default=0.7, ge=0, le=1)  # of targets hidden in the goal: beyond the tool
    seen_height_m: Range = (0.01, 0.035)  # of an object's centre above the table
    aim_sd_m: float = Field(default=0.006, ge=0)  # horizontal error of every position; grasps tolerate 1 cm
    turn_sd_rad: float = Field(default=0.1, ge=0)  # error of the direction of a stroke
    grasp_height_m: Range = (0.015, 0.04)
    carry_height_m: Range = (0.1, 0.17)
    behind_m: Range = (0.045, 0.08)  # from the first target to where the tool is set down
    short_m: Range = (0.02, 0.06)  # from the end of a stroke to the goal of the last target
    glide_m: Range = (0.0, 0.014)  # height of a tool in a stroke above its grasp height
    hang_m: Range = (0.0, 0.03)  # centre of a held object below the hand
    stride_m: Range = (0.15, 0.2)  # longest step of a sequence

    @model_validator(mode="after")
    def _check_stride(self) -> PrimitivesConfig:
        if not self.stride_m[0] > 0:
            raise ValueError("stride_m must be above 0")
        return self


class ObjectGoal(NamedTuple):
    """An object and its goal."""

    pixel: NDArray[np.float64]  # (2,) current centre in the camera image, x then y
    goal_pixel: NDArray[np.float64] | None  # (2,) centre in the goal image; None: hidden


class GoalDifference(NamedTuple):
    """All objects that must move."""

    held: ObjectGoal | None  # the object in the gripper
    others: list[ObjectGoal]  # the largest first


class _Move(NamedTuple):
    """An object on the table and its goal position."""

    here_m: NDArray[np.float64]  # (2,) base frame
    there_m: NDArray[np.float64]  # (2,)


def pick_up(
    place_m: NDArray[np.float64], approach_m: float, grasp_m: float, lift_m: float
) -> tuple[Waypoint, Waypoint, Waypoint]:
    """Approach a place (2,) from above, descend, close the gripper, and lift. Heights are those of the hand."""
    return (
        Waypoint(np.array([*place_m, approach_m]), OPEN),
        Waypoint(np.array([*place_m, grasp_m]), OPEN, CLOSE),
        Waypoint(np.array([*place_m, lift_m]), CLOSE),
    )


def set_down(
    place_m: NDArray[np.float64], approach_m: float, release_m: float, leave_m: float
) -> tuple[Waypoint, Waypoint, Waypoint]:
    """Carry a held object above a place (2,), descend, open the gripper, and leave upwards."""
    return (
        Waypoint(np.array([*place_m, approach_m]), CLOSE),
        Waypoint(np.array([*place_m, release_m]), CLOSE, OPEN),
        Waypoint(np.array([*place_m, leave_m]), OPEN),
    )


def stroke(
    start_m: NDArray[np.float64],
    stop_m: NDArray[np.float64],
    height_m: float,
    *,
    approach_m: float,
    leave_m: float,
    end_m: NDArray[np.float64] | None = None,
) -> tuple[Waypoint, Waypoint, Waypoint, Waypoint]:
    """Descend at a place (2,), move to another at constant height, and leave upwards; the gripper stays closed.

    Args:
        start_m: (2,) base frame.
        stop_m: (2,) base frame.
        height_m: Of the hand, in the stroke.
        approach_m: Height above `start_m` at first.
        leave_m: Height at last.
        end_m: (2,) where the motion ends at that height; None: above `stop_m`.
    """
    return (
        Waypoint(np.array([*start_m, approach_m]), CLOSE),
        Waypoint(np.array([*start_m, height_m]), CLOSE),
        Waypoint(np.array([*stop_m, height_m]), CLOSE),
        Waypoint(np.array([*(stop_m if end_m is None else end_m), leave_m]), CLOSE),
    )


class Primitives:
    """Draws action sequences that move objects to their goals."""

    def __init__(self, config: PrimitivesConfig, spec: RobotSpec) -> None:
        self._config = config
        self._camera: Camera = spec.camera
        self._limits = spec.limits

    def sequences(
        self,
        difference: GoalDifference,
        state: NDArray[np.float64],
        n: int,
        horizon: int,
        rng: np.random.Generator,
    ) -> Sequences:
        """Draw `n` sequences of `horizon` actions; none where no object must move.

        Args:
            difference: The objects that must move.
            state: (5,) of the observation.
            n: Number of sequences.
            horizon: Actions per sequence.
            rng: Source of randomness.
        """
        if difference.held is None and not difference.others:
            return Sequences(np.empty((0, horizon, 4), np.float32), [])
        families = [self._family(difference, rng) for _ in range(n)]
        actions = np.empty((n, horizon, 4))
        for i, family in enumerate(families):
            route = self.route(family, difference, state[:3], rng)
            stride_m = rng.uniform(*self._config.stride_m)
            actions[i] = walk(route, state[:3], horizon, stride_m, self._limits)
        return Sequences(limit_actions(actions, state[:3], self._limits), families)

    def _family(self, difference: GoalDifference, rng: np.random.Generator) -> str:
        n_objects = len(difference.others) + (difference.held is not None)
        if n_objects > 1 and rng.random() < self._config.use_fraction:
            return USE_ON
        return PUSH_TO if difference.held is None and rng.random() < self._config.push_to_fraction else CARRY_TO

    def route(
        self, family: str, difference: GoalDifference, hand_m: NDArray[np.float64], rng: np.random.Generator
    ) -> list[Waypoint]:
        """Draw the waypoints of one sequence of a family; `USE_ON` needs two objects."""
        objects = list(difference.others)
        target = difference.held or objects.pop(int(rng.integers(len(objects))))
        if family == PUSH_TO:
            return self._push_to(target, rng)
        grasp_m = rng.uniform(*self._config.grasp_height_m)
        route = self._lift(hand_m, rng) if difference.held else self._grasp(target, grasp_m, rng)
        if family == USE_ON:
            is_single = rng.random() < self._config.one_target_fraction
            targets = [objects[int(rng.integers(len(objects)))]] if is_single else objects
            return route + self._use_on(target, targets, grasp_m, rng)
        return route + self._carry_to(target, grasp_m, rng)

    def _grasp(self, target: ObjectGoal, height_m: float, rng: np.random.Generator) -> list[Waypoint]:
        """Pick up an object."""
        place = self._aim(self._locate(target.pixel, rng), rng)
        approach_m, lift_m = rng.uniform(*self._config.carry_height_m), rng.uniform(*self._config.carry_height_m)
        return list(pick_up(place, approach_m, height_m, lift_m))

    def _lift(self, hand_m: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Lift a held object in half of the cases, or continue from the current height."""
        up = np.array([*hand_m[:2], rng.uniform(*self._config.carry_height_m)])
        return [Waypoint(up, CLOSE)] if up[2] > hand_m[2] and rng.random() < 0.5 else []

    def _use_on(
        self, tool: ObjectGoal, targets: Sequence[ObjectGoal], grasp_m: float, rng: np.random.Generator
    ) -> list[Waypoint]:
        """Set the tool down behind the targets, move it over them, and lift it to its position in the goal."""
        config = self._config
        end_m = rng.uniform(*config.carry_height_m)
        final = self._goal_place(tool, end_m, rng)
        moves = self._moves(targets, rng, final if rng.random() < config.behind_tool_fraction else None)
        here, there = np.stack([move.here_m for move in moves]), np.stack([move.there_m for move in moves])
        ahead = self._direction((there - here).mean(0), rng)
        across = np.array([-ahead[1], ahead[0]])
        line = (np.min(here @ across) + np.max(here @ across)) / 2 + rng.normal(0, config.aim_sd_m)
        start = np.min(here @ ahead) - rng.uniform(*config.behind_m)
        stop = float(np.max(there @ ahead)) - rng.uniform(*config.short_m)
        if final is not None and rng.random() < 0.5:
            stop = float(final @ ahead)
        set_down_m, lift_off_m = line * across + start * ahead, line * across + max(stop, start) * ahead
        low_m = grasp_m + rng.uniform(*config.glide_m)
        approach_m = rng.uniform(*config.carry_height_m)
        return list(stroke(set_down_m, lift_off_m, low_m, approach_m=approach_m, leave_m=end_m, end_m=final))

    def _carry_to(self, target: ObjectGoal, grasp_m: float, rng: np.random.Generator) -> list[Waypoint]:
        """Carry an object to its goal: held in the air, or set down on the table."""
        end_m = rng.uniform(*self._config.carry_height_m)
        final = self._goal_place(target, end_m, rng)
        if final is not None and rng.random() < 0.5:
            return [Waypoint(np.array([*final, end_m]), CLOSE)]
        place = self._aim(self._moves([target], rng)[0].there_m, rng)
        return list(set_down(place, end_m, grasp_m, end_m))

    def _push_to(self, target: ObjectGoal, rng: np.random.Generator) -> list[Waypoint]:
        """Push an object to its goal with closed fingers."""
        config = self._config
        (move,) = self._moves([target], rng)
        ahead = self._direction(move.there_m - move.here_m, rng)
        height_m, end_m = rng.uniform(*config.grasp_height_m), rng.uniform(*config.carry_height_m)
        behind = self._aim(move.here_m - ahead * rng.uniform(*config.behind_m), rng)
        stop = self._aim(move.there_m - ahead * rng.uniform(0, config.short_m[0]), rng)
        return list(stroke(behind, stop, height_m, approach_m=end_m, leave_m=end_m))

    def _moves(
        self, objects: Sequence[ObjectGoal], rng: np.random.Generator, behind_m: NDArray[np.float64] | None = None
    ) -> list[_Move]:
        """Return the positions of objects and their goals.

        An object hidden in the goal moves with the others. If all are hidden, they move to `behind_m` (2,), behind the
        held tool, or to a random position.
        """
        here = [self._locate(target.pixel, rng) for target in objects]
        there = [None if target.goal_pixel is None else self._locate(target.goal_pixel, rng) for target in objects]
        known = [b - a for a, b in zip(here, there, strict=True) if b is not None]
        low, high = np.array(self._limits.workspace_low_m[:2]), np.array(self._limits.workspace_high_m[:2])
        guess = rng.uniform(low, high) if behind_m is None else behind_m
        along = np.mean(known, axis=0) if known else guess - here[0]
        return [_Move(a, a + along if b is None else b) for a, b in zip(here, there, strict=True)]

    def _goal_place(self, target: ObjectGoal, hand_m: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """Return the hand position (2,) at a height that shows a held object where the goal image does."""
        if target.goal_pixel is None:
            return None
        hangs_m = hand_m - rng.uniform(*self._config.hang_m)
        return self._aim(self._camera.unproject(target.goal_pixel[None], hangs_m)[0, :2], rng)

    def _locate(self, pixel: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the position (2,) of an object on the table; the height of its centre is drawn."""
        place: NDArray[np.float64] = self._camera.unproject(pixel[None], rng.uniform(*self._config.seen_height_m))[
            0, :2
        ]
        return place

    def _aim(self, place_m: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        return place_m + rng.normal(0, self._config.aim_sd_m, 2)

    def _direction(self, way_m: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        angle = np.arctan2(way_m[1], way_m[0]) + rng.normal(0, self._config.turn_sd_rad)
        return np.array([np.cos(angle), np.sin(angle)])


def at_fingertips(pixels: NDArray[np.float64], hand_m: NDArray[np.float64], camera: Camera) -> int | None:
    """Return the index of the object at pixels (M, 2) nearest to the fingertips in the image; None if none is near."""
    if not len(pixels):
        return None
    distances = np.linalg.norm(pixels - camera.project(hand_m[None])[0], axis=1)
    nearest = int(np.argmin(distances))
    return nearest if distances[nearest] <= _HELD_PX * camera.scale else None
