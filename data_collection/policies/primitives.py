"""Sequences that bring things to places: grasp what must vanish, and bring it to where it must appear.

A thing may be a tool: it is grasped, set down behind the other things that must move, drawn over them towards where
they must be, and lifted to where it must end. Or a thing is carried to its place, or pushed. The random policy makes up
what must move; the planner reads it from the goal. What of it makes sense is not decided here.
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

_HELD_PX = 40.0  # at most so far from the fingertips in an image of 240x320 is the thing that they hold; ours
USE_ON, CARRY_TO, PUSH_TO = "use", "bring", "shove"  # as a tool; to its place; to its place with closed fingers


class PrimitivesConfig(Config):
    """How the sequences vary. Lengths: ours, about half an object."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "use_share": "use_fraction",
        "shove_share": "push_to_fraction",
        "one_target_share": "one_target_fraction",
        "behind_tool_share": "behind_tool_fraction",
    }

    use_fraction: float = Field(default=0.9, ge=0, le=1)  # of the sequences, where something can be used on something
    push_to_fraction: float = Field(default=0.3, ge=0, le=1)  # of the rest, while nothing is held
    one_target_fraction: float = Field(default=0.2, ge=0, le=1)  # of uses that are meant for one thing, not for all
    behind_tool_fraction: float = Field(
        default=0.7, ge=0, le=1
    )  # of uses on things that the goal hides: behind the tool
    seen_height_m: Range = (0.01, 0.035)  # of a thing's centre above the table
    aim_sd_m: float = Field(default=0.006, ge=0)  # horizontal error of every place; grasps bear 1 cm
    turn_sd_rad: float = Field(default=0.1, ge=0)  # of the direction of a stroke
    grasp_height_m: Range = (0.015, 0.04)
    carry_height_m: Range = (0.1, 0.17)
    behind_m: Range = (0.045, 0.08)  # from the first thing to where the tool is set down
    short_m: Range = (0.02, 0.06)  # from the end of a stroke to where the last thing must be
    glide_m: Range = (0.0, 0.014)  # a tool is drawn this much higher than it was grasped
    hang_m: Range = (0.0, 0.03)  # a held thing's centre is this far below the hand
    stride_m: Range = (0.15, 0.2)  # longest step of a sequence, drawn from this range

    @model_validator(mode="after")
    def _check_stride(self) -> PrimitivesConfig:
        if not self.stride_m[0] > 0:
            raise ValueError("stride_m must be above 0")
        return self


class ObjectGoal(NamedTuple):
    """A thing that must go elsewhere."""

    pixel: NDArray[np.float64]  # (2,) of the camera image, x then y: its centre now
    goal_pixel: NDArray[np.float64] | None  # (2,) its centre in the goal; None: not known


class GoalDifference(NamedTuple):
    """All things that must move."""

    held: ObjectGoal | None  # the one between the fingers, wherever it must go
    others: list[ObjectGoal]  # the largest first


class _Move(NamedTuple):
    """A thing on the table, and where it must go."""

    here_m: NDArray[np.float64]  # (2,) base frame
    there_m: NDArray[np.float64]  # (2,)


class Primitives:
    """Draws sequences that move what must move."""

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
        """Draw `n` sequences of `horizon` actions; none where nothing must move.

        Args:
            difference: What must move.
            state: (5,) of the observation.
            n: How many.
            horizon: Actions of each.
            rng: Draws them.
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
        n_things = len(difference.others) + (difference.held is not None)
        if n_things > 1 and rng.random() < self._config.use_fraction:
            return USE_ON
        return PUSH_TO if difference.held is None and rng.random() < self._config.push_to_fraction else CARRY_TO

    def route(
        self, family: str, difference: GoalDifference, hand_m: NDArray[np.float64], rng: np.random.Generator
    ) -> list[Waypoint]:
        """Draw one way to do one kind of thing with what must move; `USE_ON` needs two things."""
        things = list(difference.others)
        thing = difference.held or things.pop(int(rng.integers(len(things))))
        if family == PUSH_TO:
            return self._shove(thing, rng)
        grasp_m = rng.uniform(*self._config.grasp_height_m)
        route = self._lift(hand_m, rng) if difference.held else self._grasp(thing, grasp_m, rng)
        if family == USE_ON:
            targets = (
                [things[int(rng.integers(len(things)))]] if rng.random() < self._config.one_target_fraction else things
            )
            return route + self._stroke(thing, targets, grasp_m, rng)
        return route + self._bring(thing, grasp_m, rng)

    def _grasp(self, thing: ObjectGoal, height_m: float, rng: np.random.Generator) -> list[Waypoint]:
        """Approach from above, close at the bottom, and lift."""
        place = self._aim(self._locate(thing.pixel, rng), rng)
        return [
            Waypoint(np.array([*place, rng.uniform(*self._config.carry_height_m)]), OPEN),
            Waypoint(np.array([*place, height_m]), OPEN, CLOSE),
            Waypoint(np.array([*place, rng.uniform(*self._config.carry_height_m)]), CLOSE),
        ]

    def _lift(self, hand_m: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Raise what is held, or, half of the time, go on from where it is."""
        up = np.array([*hand_m[:2], rng.uniform(*self._config.carry_height_m)])
        return [Waypoint(up, CLOSE)] if up[2] > hand_m[2] and rng.random() < 0.5 else []

    def _stroke(
        self, tool: ObjectGoal, targets: Sequence[ObjectGoal], grasp_m: float, rng: np.random.Generator
    ) -> list[Waypoint]:
        """Set the tool down behind the targets, draw it over them, and lift it to where the goal shows it."""
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
        set_down, lift_off = line * across + start * ahead, line * across + max(stop, start) * ahead
        low_m = grasp_m + rng.uniform(*config.glide_m)
        up = lift_off if final is None else final
        return [
            Waypoint(np.array([*set_down, rng.uniform(*config.carry_height_m)]), CLOSE),
            Waypoint(np.array([*set_down, low_m]), CLOSE),
            Waypoint(np.array([*lift_off, low_m]), CLOSE),
            Waypoint(np.array([*up, end_m]), CLOSE),
        ]

    def _bring(self, thing: ObjectGoal, grasp_m: float, rng: np.random.Generator) -> list[Waypoint]:
        """Carry a thing to where the goal shows it: in the air, or on the table and let go."""
        end_m = rng.uniform(*self._config.carry_height_m)
        final = self._goal_place(thing, end_m, rng)
        if final is not None and rng.random() < 0.5:
            return [Waypoint(np.array([*final, end_m]), CLOSE)]
        place = self._aim(self._moves([thing], rng)[0].there_m, rng)
        return [
            Waypoint(np.array([*place, end_m]), CLOSE),
            Waypoint(np.array([*place, grasp_m]), CLOSE, OPEN),
            Waypoint(np.array([*place, end_m]), OPEN),
        ]

    def _shove(self, thing: ObjectGoal, rng: np.random.Generator) -> list[Waypoint]:
        """Set the closed fingers down behind a thing and push it to its place."""
        config = self._config
        (move,) = self._moves([thing], rng)
        ahead = self._direction(move.there_m - move.here_m, rng)
        height_m, end_m = rng.uniform(*config.grasp_height_m), rng.uniform(*config.carry_height_m)
        behind = self._aim(move.here_m - ahead * rng.uniform(*config.behind_m), rng)
        stop = self._aim(move.there_m - ahead * rng.uniform(0, config.short_m[0]), rng)
        return [
            Waypoint(np.array([*behind, end_m]), CLOSE),
            Waypoint(np.array([*behind, height_m]), CLOSE),
            Waypoint(np.array([*stop, height_m]), CLOSE),
            Waypoint(np.array([*stop, end_m]), CLOSE),
        ]

    def _moves(
        self, things: Sequence[ObjectGoal], rng: np.random.Generator, behind_m: NDArray[np.float64] | None = None
    ) -> list[_Move]:
        """Return where things are and must go.

        One that the goal hides goes along with the others. Where it hides them all, they go to `behind_m` (2,), in
        front of which something is held, or anywhere.
        """
        here = [self._locate(thing.pixel, rng) for thing in things]
        there = [None if thing.goal_pixel is None else self._locate(thing.goal_pixel, rng) for thing in things]
        known = [b - a for a, b in zip(here, there, strict=True) if b is not None]
        low, high = np.array(self._limits.workspace_low_m[:2]), np.array(self._limits.workspace_high_m[:2])
        guess = rng.uniform(low, high) if behind_m is None else behind_m
        along = np.mean(known, axis=0) if known else guess - here[0]
        return [_Move(a, a + along if b is None else b) for a, b in zip(here, there, strict=True)]

    def _goal_place(self, thing: ObjectGoal, hand_m: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """Return where the hand (2,) holds a thing at a height so that it is seen where the goal shows it."""
        if thing.goal_pixel is None:
            return None
        hangs_m = hand_m - rng.uniform(*self._config.hang_m)
        return self._aim(self._camera.unproject(thing.goal_pixel[None], hangs_m)[0, :2], rng)

    def _locate(self, pixel: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return where (2,) a thing on the table stands; how high its centre is, is drawn."""
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
    """Return which of the things seen at pixels (M, 2) is nearest to the fingertips in the image, if one is near."""
    if not len(pixels):
        return None
    distances = np.linalg.norm(pixels - camera.project(hand_m[None])[0], axis=1)
    nearest = int(np.argmin(distances))
    return nearest if distances[nearest] <= _HELD_PX * camera.scale else None
