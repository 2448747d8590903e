"""Procedural objects for the bin: shapes, tools and containers, with separate sizes and hues for training and test."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
Color = tuple[float, float, float]
_Vector = tuple[float, float, float]

# Hue bands in turns (0 red, 1/3 green, 2/3 blue). The bands of the splits are at least 0.02 apart.
HUES: Mapping[Split, tuple[tuple[float, float], ...]] = {
    "train": ((0.0, 0.04), (0.14, 0.19), (0.36, 0.46), (0.60, 0.72), (0.88, 0.99)),
    "test": ((0.06, 0.12), (0.22, 0.34), (0.48, 0.57), (0.75, 0.85)),
}
DISTINCT_HUE = 0.10  # turns; hues this far apart are clearly different; ours

# Half lengths in metres, low and high; the ranges of the splits do not overlap. All sizes are ours.
_SPONGE_LENGTH: Mapping[Split, tuple[float, float]] = {"train": (0.034, 0.042), "test": (0.045, 0.051)}
_BRUSH_LENGTH: Mapping[Split, tuple[float, float]] = {"train": (0.040, 0.047), "test": (0.050, 0.056)}
_PLATE_RADIUS: Mapping[Split, tuple[float, float]] = {"train": (0.068, 0.080), "test": (0.083, 0.092)}
_PAN_HALF_WIDTH: Mapping[Split, tuple[float, float]] = {"train": (0.058, 0.066), "test": (0.069, 0.076)}
_GRIP_M = 0.011  # half height of a tool's grip
_WALL_M = 0.005  # half thickness of a container wall


@dataclass(frozen=True)
class Geom:
    """One MuJoCo geom of an object, in the object's frame."""

    shape: Literal["box", "cylinder", "capsule", "ellipsoid", "sphere"]
    size_m: tuple[float, ...]  # MuJoCo's half sizes
    at_m: _Vector = (0.0, 0.0, 0.0)
    euler_rad: _Vector = (0.0, 0.0, 0.0)
    second_color: bool = False


@dataclass(frozen=True)
class Shape:
    """Geometry of an object: its geoms, the rest height of its frame above the floor, and its radius in the plane."""

    parts: tuple[Geom, ...]
    rest_m: float
    radius_m: float
    rolls: bool = False


@dataclass(frozen=True)
class Container:
    """A fixed plate, tray or dustpan, in its own frame: x across, an open side (if any) towards -y, floor at z = 0."""

    parts: tuple[Geom, ...]
    half_size_m: tuple[float, float]  # of the inside along x and y; for a plate its radius, twice
    round: bool
    height_m: float  # of the upper face of its floor

    @property
    def radius_m(self) -> float:
        """Radius of the circumscribed circle in the plane."""
        return self.half_size_m[0] if self.round else float(np.hypot(*self.half_size_m)) + _WALL_M


Family = Callable[[np.random.Generator, float], Shape]


def _box(rng: np.random.Generator, s: float) -> Shape:
    a, b, c = s * rng.uniform((0.85, 0.8, 0.7), (1.15, 1.1, 1.1)) / 2
    return Shape((Geom("box", (a, b, c)),), c, float(np.hypot(a, b)))


def _cylinder(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.42, 0.35), (0.52, 0.55))
    return Shape((Geom("cylinder", (r, h)),), h, r)


def _capsule(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.30, 0.4), (0.40, 0.6))
    return Shape((Geom("capsule", (r, h), euler_rad=(np.pi / 2, 0.0, 0.0)),), r, r + h, rolls=True)


def _ellipsoid(rng: np.random.Generator, s: float) -> Shape:
    a, b, c = s * rng.uniform((0.5, 0.4, 0.3), (0.7, 0.5, 0.4))
    return Shape((Geom("ellipsoid", (a, b, c)),), c, a, rolls=True)


def _ell(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.20, 0.3, 0.6), (0.26, 0.45, 0.75))
    parts = (Geom("box", (arm, w, h)), Geom("box", (w, arm * 0.6, h), (arm - w, arm * 0.6 + w, 0.0), (0, 0, 0), True))
    return Shape(parts, h, float(np.hypot(arm, arm * 1.2 + 2 * w)) * 0.9)


def _tee(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.20, 0.3, 0.6), (0.26, 0.45, 0.75))
    parts = (Geom("box", (arm, w, h)), Geom("box", (w, arm * 0.6, h), (0.0, arm * 0.6 + w, 0.0), (0, 0, 0), True))
    return Shape(parts, h, arm * 1.4 + w)


def _mug(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.42, 0.42), (0.52, 0.55))
    handle = Geom("capsule", (r * 0.25, h * 0.45), (r * 1.2, 0.0, 0.0), (0.0, 0.0, 0.0), True)
    return Shape((Geom("cylinder", (r, h)), handle), h, r * 1.5)


def _dumbbell(rng: np.random.Generator, s: float) -> Shape:
    r, reach = s * rng.uniform((0.34, 0.65), (0.42, 0.8))
    bar = Geom("capsule", (r * 0.5, reach), (0, 0, 0), (0.0, np.pi / 2, 0.0), True)
    ends = (Geom("box", (r, r, r), (-reach, 0, 0)), Geom("box", (r, r, r), (reach, 0, 0)))
    return Shape((bar, *ends), r, reach + r * 1.4)


def _cross(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.2, 0.35, 0.6), (0.28, 0.5, 0.7))
    return Shape((Geom("box", (arm, w, h)), Geom("box", (w, arm, h * 0.98), (0, 0, 0), (0, 0, 0), True)), h, arm * 1.05)


def _star(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.16, 0.35, 0.6), (0.22, 0.5, 0.7))
    bars = tuple(Geom("box", (arm, w, h * (1 - 0.01 * i)), (0, 0, 0), (0, 0, i * np.pi / 3)) for i in range(3))
    return Shape(bars, h, arm * 1.05)


def _arch(rng: np.random.Generator, s: float) -> Shape:
    w, leg, span = s * rng.uniform((0.16, 0.3, 0.5), (0.2, 0.4, 0.6))
    depth = 0.45 * s
    legs = tuple(Geom("box", (w, depth, leg), (x, 0.0, -w)) for x in (-span + w, span - w))
    return Shape(
        (*legs, Geom("box", (span, depth, w), (0, 0, leg), (0, 0, 0), True)), leg + w, float(np.hypot(span, depth))
    )


def _stair(rng: np.random.Generator, s: float) -> Shape:
    a, b, h = s * rng.uniform((0.5, 0.4, 0.2), (0.6, 0.5, 0.28))
    low, high = Geom("box", (a, b, h), (0, 0, -h)), Geom("box", (a * 0.5, b, h), (-a * 0.5, 0, h), (0, 0, 0), True)
    return Shape((low, high), 2 * h, float(np.hypot(a, b)))


def _ball(rng: np.random.Generator, s: float) -> Shape:
    r = s * rng.uniform(0.42, 0.55)
    return Shape((Geom("sphere", (r,)),), r, r, rolls=True)


FAMILIES: Mapping[Split, Mapping[str, Family]] = {
    "train": {
        "box": _box,
        "cylinder": _cylinder,
        "capsule": _capsule,
        "ellipsoid": _ellipsoid,
        "ell": _ell,
        "tee": _tee,
        "mug": _mug,
        "dumbbell": _dumbbell,
    },
    "test": {"cross": _cross, "star": _star, "arch": _arch, "stair": _stair, "ball": _ball},
}


def draw_shape(rng: np.random.Generator, split: Split, size_m: float, rolling: bool = True) -> Shape:
    """Draw a shape about `size_m` across; with `rolling` False one that does not roll."""
    while True:
        families = FAMILIES[split]
        shape = families[str(rng.choice(list(families)))](rng, size_m)
        if rolling or not shape.rolls:
            return shape


def draw_hue(rng: np.random.Generator, split: Split, taken: list[float]) -> float:
    """Return a hue in turns from the bands of `split`, as different from those `taken` as the bands allow."""
    best, best_gap = 0.0, -1.0
    for _ in range(12):
        low, high = HUES[split][int(rng.integers(len(HUES[split])))]
        hue = float(rng.uniform(low, high))
        gap = min((abs((hue - other + 0.5) % 1 - 0.5) for other in taken), default=1.0)
        if gap > best_gap:
            best, best_gap = hue, gap
        if gap >= DISTINCT_HUE:
            break
    taken.append(best)
    return best


def draw_color(rng: np.random.Generator, hue: float) -> Color:
    """Return a saturated colour (r, g, b) in [0, 1] of a hue."""
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0))


def sponge(rng: np.random.Generator, split: Split) -> Shape:
    """Draw a thick sponge in a holder with a narrow grip."""
    return _gripped(rng.uniform(*_SPONGE_LENGTH[split]), rng.uniform((0.028, 0.0115), (0.031, 0.0130)), 0.0145)


def brush(rng: np.random.Generator, split: Split) -> Shape:
    """Draw a long, narrow brush with a narrower grip."""
    return _gripped(rng.uniform(*_BRUSH_LENGTH[split]), rng.uniform((0.0225, 0.0105), (0.024, 0.0120)), 0.0110)


def _gripped(length: float, block: NDArray[np.float64], grip: float) -> Shape:
    """Return a block, long in x, with a grip along it; fingers holding the grip stay within the outline of the block.

    Args:
        length: Half length of the block.
        block: (2,) half width and half height of the block.
        grip: Half width of the grip.
    """
    width, height = float(block[0]), float(block[1])
    base = Geom("box", (length, width, height), (0.0, 0.0, -_GRIP_M))
    handle = Geom("box", (length * 0.7, grip, _GRIP_M), (0.0, 0.0, height), (0.0, 0.0, 0.0), True)
    return Shape((base, handle), height + _GRIP_M, float(np.hypot(length, width)))


def plate(rng: np.random.Generator, split: Split) -> Container:
    """Draw a flat round plate."""
    radius, half = rng.uniform(*_PLATE_RADIUS[split]), 0.003
    disc = Geom("cylinder", (radius, half), (0.0, 0.0, half))
    inner = Geom("cylinder", (radius * 0.72, half), (0.0, 0.0, half + 0.0004), (0, 0, 0), True)
    return Container((disc, inner), (float(radius), float(radius)), True, 2 * half + 0.0004)


def pan(rng: np.random.Generator, split: Split) -> Container:
    """Draw a dustpan: a thin floor with a sloping lip, and walls on the other three sides."""
    a, b = rng.uniform(*_PAN_HALF_WIDTH[split]), rng.uniform(0.055, 0.062)
    wall = rng.uniform(0.010, 0.013)
    floor = Geom("box", (a, b, 0.0015), (0.0, 0.0, 0.0015))
    lip = Geom("box", (a, 0.008, 0.0005), (0.0, -b - 0.0076, 0.0014), (0.16, 0.0, 0.0))
    return Container((floor, lip, *_walls(a, b, wall, closed=False)), (float(a), float(b)), False, 0.003)


def tray(rng: np.random.Generator, split: Split) -> Container:
    """Draw a square tray with four low walls."""
    a = rng.uniform(*_PAN_HALF_WIDTH[split])
    floor = Geom("box", (a, a, 0.002), (0.0, 0.0, 0.002))
    return Container((floor, *_walls(a, a, 0.008, closed=True)), (float(a), float(a)), False, 0.004)


def _walls(a: float, b: float, height: float, closed: bool) -> tuple[Geom, ...]:
    sides = tuple(Geom("box", (_WALL_M, b, height), (x, 0.0, height), (0, 0, 0), True) for x in (-a, a))
    ends = (b, -b) if closed else (b,)
    return (*sides, *(Geom("box", (a + _WALL_M, _WALL_M, height), (0.0, y, height), (0, 0, 0), True) for y in ends))
