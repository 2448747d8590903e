"""Random scenes in the bin as MJCF text, with the data that success tests and scripted policy need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.simulation import objects, panda_mjcf
from robot_bridge.simulation.objects import Color, Container, Geom, Shape, Split, draw_color, draw_hue, draw_shape

SceneKind = Literal["bin", "pick_wipe", "pick_sweep"]

CENTER_M = (0.5, 0.0)  # centre of the bin, robot base frame
INNER_M = (0.19, 0.26)  # half size of the bin inside
WALL_HEIGHT_M = 0.04  # the palm clears it when the fingertips touch the floor
TIMESTEP_S = 0.004
_WALL_M = 0.006  # half thickness
_TRIES = 40  # to place an object before it is left out


@dataclass(frozen=True)
class PlacedObject:
    """An object and its start pose."""

    name: str
    shape: Shape
    at_m: tuple[float, float, float]
    yaw_rad: float


@dataclass(frozen=True)
class Fixture:
    """A container fixed to the floor of the bin."""

    container: Container
    at_m: tuple[float, float]
    yaw_rad: float

    def inside(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (N, 3) of the base frame in the container's frame."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        local = np.array(points_m, dtype=np.float64)
        local[:, :2] = (local[:, :2] - np.array(self.at_m)) @ np.array([[c, -s], [s, c]])
        return local


@dataclass(frozen=True)
class SceneTask:
    """Roles of the objects in a task scene."""

    tool: PlacedObject
    targets: tuple[str, ...]  # names of the objects to wipe off the container, or to sweep into it
    container: Fixture


@dataclass(frozen=True)
class Scene:
    """One scene in its start state."""

    kind: SceneKind
    xml: str
    objects: tuple[PlacedObject, ...]  # all movable objects; MuJoCo bodies of the same names
    task: SceneTask | None


class _Builder:
    """Collects the bodies of one scene."""

    def __init__(self, rng: np.random.Generator, split: Split) -> None:
        self.rng = rng
        self.split: Split = split
        self.hues: list[float] = []
        self.bodies: list[str] = []
        self.placed: list[PlacedObject] = []
        self.circles: list[tuple[float, float, float]] = []  # x, y, radius of the objects on the floor

    def colors(self) -> tuple[Color, Color]:
        hue = draw_hue(self.rng, self.split, self.hues)
        first = draw_color(self.rng, hue)
        if self.rng.random() < 0.5:
            return first, first
        second = draw_color(self.rng, hue)
        return first, (second[0] * 0.75, second[1] * 0.75, second[2] * 0.75)

    def free_spot(self, radius: float, half_area: tuple[float, float]) -> tuple[float, float] | None:
        """Return a centre within `half_area` of the bin's middle for a circle clear of all others, or None."""
        for _ in range(_TRIES):
            x, y = np.array(CENTER_M) + self.rng.uniform(-np.array(half_area), half_area)
            if all(np.hypot(x - cx, y - cy) > radius + r + 0.008 for cx, cy, r in self.circles):
                return float(x), float(y)
        return None

    def add(self, shape: Shape, at_m: tuple[float, float, float], yaw_rad: float, tool: bool = False) -> PlacedObject:
        """Add a movable object on the surface point `at_m`."""
        name = f"{'tool' if tool else 'object'}{len(self.placed)}"
        mass = self.rng.uniform(0.03, 0.05) if tool else self.rng.uniform(0.02, 0.08)
        friction = self.rng.uniform(0.5, 1.0)
        contact = (
            'condim="6" solref="0.016 1" solimp="0.9 0.95 0.003"'
            if tool
            else f'condim="{6 if shape.rolls else 4}" solref="0.01 1" solimp="0.95 0.99 0.001"'
        )
        rolling = "0.02 0.004" if shape.rolls else "0.01 0.0005"
        geoms = _geoms(shape.parts, self.colors(), f'friction="{friction:.4g} {rolling}" {contact}', mass)
        at = (at_m[0], at_m[1], at_m[2] + shape.rest_m + 0.001)
        self.bodies.append(
            f'<body name="{name}" pos="{_text(at)}" euler="0 0 {yaw_rad:.6g}"><freejoint/>{geoms}</body>'
        )
        placed = PlacedObject(name, shape, at, yaw_rad)
        self.placed.append(placed)
        if at_m[2] == 0:
            self.circles.append((at_m[0], at_m[1], shape.radius_m))
        return placed

    def fix(self, container: Container, at_m: tuple[float, float], yaw_rad: float) -> Fixture:
        """Add a container fixed to the floor."""
        # Smooth for every object: a rough one would jam between brush and lip.
        smooth = 'priority="1" condim="6" friction="0.3 0.01 0.0005" solref="0.01 1"'
        geoms = _geoms(container.parts, self.colors(), smooth, None)
        self.bodies.append(f'<body pos="{_text((*at_m, 0.0))}" euler="0 0 {yaw_rad:.6g}">{geoms}</body>')
        self.circles.append((*at_m, container.radius_m))
        return Fixture(container, at_m, yaw_rad)


def build(rng: np.random.Generator, kind: SceneKind, split: Split, camera: Camera, jitter: float) -> Scene:
    """Return a random scene.

    Args:
        rng: Source of all randomness; equal states give equal scenes.
        kind: `bin` (free play) or a task scene.
        split: Which shapes, sizes and hues may appear.
        camera: The nominal calibration.
        jitter: Largest deviation of the true camera from the calibration: 1.0 is 1 cm and 1 degree.
    """
    builder = _Builder(rng, split)
    task = {"bin": _bin, "pick_wipe": _wipe, "pick_sweep": _sweep}[kind](builder)
    xml = _model(rng, camera, _camera(rng, camera, jitter), "".join(builder.bodies))
    return Scene(kind, xml, tuple(builder.placed), task)


def _bin(builder: _Builder) -> None:
    """Add three to five objects and tools; in half of the scenes a container, sometimes with an object on it."""
    rng, fixture = builder.rng, None
    if rng.random() < 0.5:
        draw = (objects.plate, objects.tray, objects.pan)[int(rng.integers(3))]
        container = draw(rng, builder.split)
        spot = builder.free_spot(container.radius_m, (0.08, 0.14))
        if spot is not None:
            fixture = builder.fix(container, spot, float(rng.choice([0.0, np.pi])) + float(rng.uniform(-0.3, 0.3)))
    for i in range(int(rng.integers(3, 6))):
        if i > 0 and rng.random() < 0.45:
            draw_tool = (objects.sponge, objects.brush)[int(rng.integers(2))]
            shape, yaw, tool = draw_tool(rng, builder.split), float(rng.uniform(-0.5, 0.5)), True
        else:
            shape = draw_shape(rng, builder.split, float(rng.uniform(0.034, 0.048)))
            yaw, tool = float(rng.uniform(-np.pi, np.pi)), False
        if i == 0 and fixture is not None and rng.random() < 0.6:
            builder.add(shape, (*fixture.at_m, fixture.container.height_m), yaw)
        elif (spot := builder.free_spot(shape.radius_m, (0.145, 0.205))) is not None:
            builder.add(shape, (*spot, 0.0), yaw, tool)


def _wipe(builder: _Builder) -> SceneTask:
    """Add one to three objects on a plate, and a sponge next to it."""
    rng = builder.rng
    side = float(rng.choice([-1.0, 1.0]))
    center = (CENTER_M[0] + rng.uniform(-0.05, 0.05), side * rng.uniform(0.055, 0.085))
    fixture = builder.fix(objects.plate(rng, builder.split), center, 0.0)
    radius = fixture.container.radius_m
    spot = (CENTER_M[0] + rng.uniform(-0.09, 0.09), -side * rng.uniform(0.10, 0.16))
    tool = builder.add(objects.sponge(rng, builder.split), (*spot, 0.0), float(rng.uniform(-0.45, 0.45)), tool=True)
    # All within the width of one stroke, and beyond the near rim of the plate, where the sponge touches down.
    across = np.array([0.0]) if (n := int(rng.integers(1, 4))) == 1 else np.linspace(-0.027, 0.027, n)
    targets = []
    for offset in across + rng.uniform(-0.004, 0.004, n):
        shape = draw_shape(rng, builder.split, float(rng.uniform(0.030, 0.035)) * (1.15 if n < 3 else 0.8), False)
        at = (center[0] + float(offset), center[1] + side * float(rng.uniform(-0.15, 0.45)) * radius)
        targets.append(builder.add(shape, (*at, fixture.container.height_m), float(rng.uniform(-np.pi, np.pi))).name)
    return SceneTask(tool, tuple(targets), fixture)


def _sweep(builder: _Builder) -> SceneTask:
    """Add one or two objects in front of a dustpan, and a brush."""
    rng = builder.rng
    side = float(rng.choice([-1.0, 1.0]))  # the side of the pan; its lip faces the middle
    center = (CENTER_M[0] + rng.uniform(-0.05, 0.05), side * rng.uniform(0.135, 0.15))
    fixture = builder.fix(objects.pan(rng, builder.split), center, 0.0 if side > 0 else np.pi)
    lip = center[1] - side * fixture.container.half_size_m[1]
    n = int(rng.integers(1, 3))
    targets = []
    for offset in [0.0] if n == 1 else [-0.02, 0.02]:
        shape = draw_shape(rng, builder.split, float(rng.uniform(0.027, 0.033)), False)
        at = (center[0] + offset + rng.uniform(-0.004, 0.004), lip - side * rng.uniform(0.045, 0.065))
        targets.append(builder.add(shape, (float(at[0]), float(at[1]), 0.0), float(rng.uniform(-np.pi, np.pi))).name)
    spot = (CENTER_M[0] + rng.uniform(-0.09, 0.09), -side * rng.uniform(0.13, 0.18))
    tool = builder.add(objects.brush(rng, builder.split), (*spot, 0.0), float(rng.uniform(-0.45, 0.45)), tool=True)
    return SceneTask(tool, tuple(targets), fixture)


def _geoms(parts: tuple[Geom, ...], colors: tuple[Color, Color], contact: str, mass_kg: float | None) -> str:
    mass = "" if mass_kg is None else f'mass="{mass_kg / len(parts):.6g}"'
    return "".join(
        f'<geom type="{part.shape}" size="{_text(part.size_m)}" pos="{_text(part.at_m)}" '
        f'euler="{_text(part.euler_rad)}" rgba="{_text(colors[part.second_color])} 1" {contact} {mass}/>'
        for part in parts
    )


def _camera(rng: np.random.Generator, camera: Camera, jitter: float) -> str:
    """Return the true camera: the calibration with random jitter."""
    position = np.array(camera.position_m) + jitter * 0.01 * rng.uniform(-1, 1, 3) / np.sqrt(3)
    right, down, forward = camera.axes()
    roll, yaw, pitch = jitter * np.deg2rad(1.0) * rng.uniform(-1, 1, 3) / np.sqrt(3)
    axes = (*(right + roll * down + yaw * forward), *(-down + roll * right + pitch * forward))
    fovy_deg = np.rad2deg(camera.fovy_rad)
    return f'<camera name="camera" pos="{_text(position)}" xyaxes="{_text(axes)}" fovy="{fovy_deg:.8g}"/>'


def _bin_geoms(grey: float) -> str:
    """Return the floor and the four walls."""
    (cx, cy), (hx, hy), h, w = CENTER_M, INNER_M, WALL_HEIGHT_M / 2, _WALL_M
    boxes = (
        ((hx + 2 * w, hy + 2 * w, 0.05), (cx, cy, -0.05), grey),
        ((w, hy + 2 * w, h), (cx - hx - w, cy, h), grey * 1.25),
        ((w, hy + 2 * w, h), (cx + hx + w, cy, h), grey * 1.25),
        ((hx, w, h), (cx, cy - hy - w, h), grey * 1.25),
        ((hx, w, h), (cx, cy + hy + w, h), grey * 1.25),
    )
    return "".join(
        f'<geom type="box" size="{_text(size)}" pos="{_text(at)}" rgba="{_text((shade,) * 3)} 1" '
        f'friction="0.8 0.01 0.0005" solref="0.01 1"/>'
        for size, at, shade in boxes
    )


def _model(rng: np.random.Generator, camera: Camera, camera_xml: str, bodies: str) -> str:
    light = np.array([0.75, 0.0, 1.3]) + rng.uniform(-0.3, 0.3, 3)
    power, ambient = rng.uniform(0.5, 0.7), rng.uniform(0.36, 0.48)
    tint = rng.uniform(-1, 1, 3)
    table = rng.uniform(0.3, 0.5) * (1 + 0.06 * (tint - tint.mean()))  # grey, unlike any object
    # Shadows would make rendering seven times slower. Model images have 64 pixels: finer meshes or antialiasing would
    # change them by 0.2 of 255, at three times the time.
    # Table and bin have bodies of their own: mj_multiRay (4.0.0) misses distant parts of geoms in the world body.
    return f"""<mujoco>
<compiler angle="radian" autolimits="true"/>
<option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="30">
  <flag autoreset="disable"/>
</option>
<statistic extent="1"/>
<visual>
  <global offwidth="{camera.width_px}" offheight="{camera.height_px}"/>
  <quality shadowsize="256" offsamples="0" numslices="20" numstacks="8" numquads="2"/>
  <headlight ambient="{_text((ambient,) * 3)}" diffuse="0.18 0.18 0.18" specular="0 0 0"/>
  <map znear="0.05" zfar="6"/>
</visual>
<default>{panda_mjcf.defaults_xml()}</default>
<worldbody>
  <light pos="{_text(light)}" dir="{_text(np.array([0.45, 0.0, 0.0]) - light)}" castshadow="false"
         cutoff="90" exponent="2" diffuse="{_text((power,) * 3)}" specular="0 0 0"/>
  {camera_xml}
  <body name="table">
    <geom type="plane" size="3 3 0.1" pos="0 0 -0.002" rgba="{_text(table)} 1" contype="0" conaffinity="0"/>
  </body>
  <body name="bin">{_bin_geoms(rng.uniform(0.16, 0.22))}</body>
  {panda_mjcf.body_xml()}
  {bodies}
</worldbody>
{panda_mjcf.actuation_xml()}
</mujoco>"""


def _text(numbers: Iterable[float]) -> str:
    return " ".join(f"{float(number):.6g}" for number in numbers)
