"""Procedural objects for the bin: shape families and hue bands, each split into those for training and unseen ones."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "unseen"]
Color = tuple[float, float, float]
_Vector = tuple[float, float, float]

# Hue bands in turns (0 red, 1/3 green, 2/3 blue). Training never sees the unseen bands; a gap of 0.02 keeps them apart.
HUES: Mapping[Split, tuple[tuple[float, float], ...]] = {
    "train": ((0.0, 0.04), (0.14, 0.19), (0.36, 0.46), (0.60, 0.72), (0.88, 0.99)),
    "unseen": ((0.06, 0.12), (0.22, 0.34), (0.48, 0.57), (0.75, 0.85)),
}
DISTINCT_HUE = 0.10  # turns; two things this far apart are told from each other at a glance


@dataclass(frozen=True)
class Part:
    """One MuJoCo geom of an object, in the object's frame."""

    shape: Literal["box", "cylinder", "capsule", "ellipsoid", "sphere"]
    size_m: tuple[float, ...]  # MuJoCo's half sizes
    at_m: _Vector = (0.0, 0.0, 0.0)
    euler_rad: _Vector = (0.0, 0.0, 0.0)
    second_color: bool = False


@dataclass(frozen=True)
class Shape:
    """The parts of an object, its frame's height above the floor at rest, and its reach in the plane."""

    parts: tuple[Part, ...]
    rest_m: float
    radius_m: float
    rolls: bool = False


Family = Callable[[np.random.Generator, float], Shape]


def _box(rng: np.random.Generator, s: float) -> Shape:
    a, b, c = s * rng.uniform((0.85, 0.8, 0.7), (1.15, 1.1, 1.1)) / 2
    return Shape((Part("box", (a, b, c)),), c, float(np.hypot(a, b)))


def _cylinder(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.42, 0.35), (0.52, 0.55))
    return Shape((Part("cylinder", (r, h)),), h, r)


def _capsule(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.30, 0.4), (0.40, 0.6))
    return Shape((Part("capsule", (r, h), euler_rad=(np.pi / 2, 0.0, 0.0)),), r, r + h, rolls=True)


def _ellipsoid(rng: np.random.Generator, s: float) -> Shape:
    a, b, c = s * rng.uniform((0.5, 0.4, 0.3), (0.7, 0.5, 0.4))
    return Shape((Part("ellipsoid", (a, b, c)),), c, a, rolls=True)


def _ell(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.20, 0.3, 0.6), (0.26, 0.45, 0.75))
    parts = (Part("box", (arm, w, h)), Part("box", (w, arm * 0.6, h), (arm - w, arm * 0.6 + w, 0.0), (0, 0, 0), True))
    return Shape(parts, h, float(np.hypot(arm, arm * 1.2 + 2 * w)) * 0.9)


def _tee(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.20, 0.3, 0.6), (0.26, 0.45, 0.75))
    parts = (Part("box", (arm, w, h)), Part("box", (w, arm * 0.6, h), (0.0, arm * 0.6 + w, 0.0), (0, 0, 0), True))
    return Shape(parts, h, arm * 1.4 + w)


def _mug(rng: np.random.Generator, s: float) -> Shape:
    r, h = s * rng.uniform((0.42, 0.42), (0.52, 0.55))
    handle = Part("capsule", (r * 0.25, h * 0.45), (r * 1.2, 0.0, 0.0), (0.0, 0.0, 0.0), True)
    return Shape((Part("cylinder", (r, h)), handle), h, r * 1.5)


def _dumbbell(rng: np.random.Generator, s: float) -> Shape:
    r, reach = s * rng.uniform((0.34, 0.65), (0.42, 0.8))
    bar = Part("capsule", (r * 0.5, reach), (0, 0, 0), (0.0, np.pi / 2, 0.0), True)
    ends = (Part("box", (r, r, r), (-reach, 0, 0)), Part("box", (r, r, r), (reach, 0, 0)))
    return Shape((bar, *ends), r, reach + r * 1.4)


def _cross(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.2, 0.35, 0.6), (0.28, 0.5, 0.7))
    return Shape((Part("box", (arm, w, h)), Part("box", (w, arm, h * 0.98), (0, 0, 0), (0, 0, 0), True)), h, arm * 1.05)


def _star(rng: np.random.Generator, s: float) -> Shape:
    w, h, arm = s * rng.uniform((0.16, 0.35, 0.6), (0.22, 0.5, 0.7))
    bars = tuple(Part("box", (arm, w, h * (1 - 0.01 * i)), (0, 0, 0), (0, 0, i * np.pi / 3)) for i in range(3))
    return Shape(bars, h, arm * 1.05)


def _arch(rng: np.random.Generator, s: float) -> Shape:
    w, leg, span = s * rng.uniform((0.16, 0.3, 0.5), (0.2, 0.4, 0.6))
    depth = 0.45 * s
    legs = tuple(Part("box", (w, depth, leg), (x, 0.0, -w)) for x in (-span + w, span - w))
    return Shape(
        (*legs, Part("box", (span, depth, w), (0, 0, leg), (0, 0, 0), True)), leg + w, float(np.hypot(span, depth))
    )


def _stair(rng: np.random.Generator, s: float) -> Shape:
    a, b, h = s * rng.uniform((0.5, 0.4, 0.2), (0.6, 0.5, 0.28))
    low, high = Part("box", (a, b, h), (0, 0, -h)), Part("box", (a * 0.5, b, h), (-a * 0.5, 0, h), (0, 0, 0), True)
    return Shape((low, high), 2 * h, float(np.hypot(a, b)))


def _ball(rng: np.random.Generator, s: float) -> Shape:
    r = s * rng.uniform(0.42, 0.55)
    return Shape((Part("sphere", (r,)),), r, r, rolls=True)


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
    "unseen": {"cross": _cross, "star": _star, "arch": _arch, "stair": _stair, "ball": _ball},
}


def draw_shape(rng: np.random.Generator, split: Split, size_m: float, rolling: bool = True) -> Shape:
    """Return a random object about `size_m` across; with `rolling` False one that stays where it is put."""
    while True:
        families = FAMILIES[split]
        shape = families[str(rng.choice(list(families)))](rng, size_m)
        if rolling or not shape.rolls:
            return shape


def draw_hue(rng: np.random.Generator, split: Split, taken: list[float]) -> float:
    """Return a hue in turns from the bands of `split`, as distinct from those `taken` as the bands allow."""
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
    """Return a saturated colour (r, g, b) in [0, 1] of this hue: arm and bin are grey, so hue tells things apart."""
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0))
