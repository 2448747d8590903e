"""What the tasks use: sponges, brushes, plates, trays and dustpans; training and unseen instances differ in size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.simulation.objects import Part, Shape, Split

# Half lengths in metres, low and high: a training instance and an unseen one are never the same.
_SPONGE_LENGTH: Mapping[Split, tuple[float, float]] = {"train": (0.034, 0.042), "unseen": (0.045, 0.051)}
_BRUSH_LENGTH: Mapping[Split, tuple[float, float]] = {"train": (0.040, 0.047), "unseen": (0.050, 0.056)}
_PLATE_RADIUS: Mapping[Split, tuple[float, float]] = {"train": (0.068, 0.080), "unseen": (0.083, 0.092)}
_PAN_HALF_WIDTH: Mapping[Split, tuple[float, float]] = {"train": (0.058, 0.066), "unseen": (0.069, 0.076)}
_GRIP_M = 0.011  # half height of a tool's grip
_WALL_M = 0.005  # half thickness of a wall


@dataclass(frozen=True)
class Container:
    """A fixed plate, tray or dustpan, in its own frame: x across, an open side (if any) towards -y, floor at z = 0."""

    parts: tuple[Part, ...]
    half_size_m: tuple[float, float]  # of its inside, x and y; a plate's radius twice
    round: bool
    height_m: float  # of its floor's upper face

    @property
    def radius_m(self) -> float:
        """The reach in the plane."""
        return self.half_size_m[0] if self.round else float(np.hypot(*self.half_size_m)) + _WALL_M


def sponge(rng: np.random.Generator, split: Split) -> Shape:
    """Return a thick sponge in a holder with a narrow grip."""
    return _gripped(rng.uniform(*_SPONGE_LENGTH[split]), rng.uniform((0.028, 0.0115), (0.031, 0.0130)), 0.0145)


def brush(rng: np.random.Generator, split: Split) -> Shape:
    """Return a long and narrow brush with a narrower grip."""
    return _gripped(rng.uniform(*_BRUSH_LENGTH[split]), rng.uniform((0.0225, 0.0105), (0.024, 0.0120)), 0.0110)


def _gripped(length: float, block: NDArray[np.float64], grip: float) -> Shape:
    """Return a block, long in x, with a grip along it: the fingers that hold the grip stay within the block's outline.

    Args:
        length: Half length of the block.
        block: (2,) half width and half height of the block.
        grip: Half width of the grip.
    """
    width, height = float(block[0]), float(block[1])
    base = Part("box", (length, width, height), (0.0, 0.0, -_GRIP_M))
    handle = Part("box", (length * 0.7, grip, _GRIP_M), (0.0, 0.0, height), (0.0, 0.0, 0.0), True)
    return Shape((base, handle), height + _GRIP_M, float(np.hypot(length, width)))


def plate(rng: np.random.Generator, split: Split) -> Container:
    """Return a flat round plate."""
    radius, half = rng.uniform(*_PLATE_RADIUS[split]), 0.003
    disc = Part("cylinder", (radius, half), (0.0, 0.0, half))
    inner = Part("cylinder", (radius * 0.72, half), (0.0, 0.0, half + 0.0004), (0, 0, 0), True)
    return Container((disc, inner), (float(radius), float(radius)), True, 2 * half + 0.0004)


def pan(rng: np.random.Generator, split: Split) -> Container:
    """Return a dustpan: a thin floor with a sloping lip, and walls on all sides but the lip's."""
    a, b = rng.uniform(*_PAN_HALF_WIDTH[split]), rng.uniform(0.055, 0.062)
    wall = rng.uniform(0.010, 0.013)
    floor = Part("box", (a, b, 0.0015), (0.0, 0.0, 0.0015))
    lip = Part("box", (a, 0.008, 0.0005), (0.0, -b - 0.0076, 0.0014), (0.16, 0.0, 0.0))
    return Container((floor, lip, *_walls(a, b, wall, closed=False)), (float(a), float(b)), False, 0.003)


def tray(rng: np.random.Generator, split: Split) -> Container:
    """Return a square tray with four low walls."""
    a = rng.uniform(*_PAN_HALF_WIDTH[split])
    floor = Part("box", (a, a, 0.002), (0.0, 0.0, 0.002))
    return Container((floor, *_walls(a, a, 0.008, closed=True)), (float(a), float(a)), False, 0.004)


def _walls(a: float, b: float, height: float, closed: bool) -> tuple[Part, ...]:
    sides = tuple(Part("box", (_WALL_M, b, height), (x, 0.0, height), (0, 0, 0), True) for x in (-a, a))
    ends = (b, -b) if closed else (b,)
    return (*sides, *(Part("box", (a + _WALL_M, _WALL_M, height), (0.0, y, height), (0, 0, 0), True) for y in ends))
