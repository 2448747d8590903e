"""Rendering of camera images: by OpenGL where it is available, else by ray casting."""

from __future__ import annotations

import functools
import logging
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.robot import RobotError
from robot_bridge.simulation.config import RendererName
from robot_bridge.simulation.mujoco_import import gl_error, mujoco

_LOG = logging.getLogger(__name__)


class Renderer(Protocol):
    """Renders the state of one scene."""

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """Return the camera image (H, W, 3) uint8 RGB."""
        ...

    def close(self) -> None:
        """Free the resources of the renderer."""
        ...


class GlRenderer:
    """MuJoCo's OpenGL renderer."""

    def __init__(self, model: mujoco.MjModel, camera: Camera) -> None:
        self._renderer = mujoco.Renderer(model, camera.height_px, camera.width_px, max_geom=model.ngeom + 8)

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """Return the camera image, as `Renderer.render` does."""
        self._renderer.update_scene(data, camera="camera")
        return np.asarray(self._renderer.render(), dtype=np.uint8)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


class RayRenderer:
    """Ray casting at half resolution, with the scene's lights and without shadows; needs no OpenGL."""

    def __init__(self, model: mujoco.MjModel, camera: Camera) -> None:
        self._model = model
        self._camera_id = model.camera("camera").id
        height, width = camera.height_px // 2, camera.width_px // 2
        x, y = np.meshgrid((np.arange(width) - (width - 1) / 2), (np.arange(height) - (height - 1) / 2))
        focal = height / 2 / np.tan(camera.fovy_rad / 2)
        rays = np.stack([x / focal, -y / focal, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        self._rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)  # in MuJoCo's camera frame: x right, y up
        self._shape = (height, width, 3)
        self._geoms = np.zeros(len(rays), dtype=np.int32)
        self._distances = np.zeros(len(rays))
        self._normals = np.zeros((len(rays), 3))
        self._colors = np.vstack([model.geom_rgba[:, :3], np.zeros(3)])  # the last row is for rays that hit nothing
        light, headlight = model.light_diffuse[0], model.vis.headlight
        self._ambient, self._head, self._diffuse = np.array(headlight.ambient), np.array(headlight.diffuse), light

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """Return the camera image, as `Renderer.render` does."""
        origin = np.array(data.cam_xpos[self._camera_id])
        rays = self._rays @ data.cam_xmat[self._camera_id].reshape(3, 3).T
        mujoco.mj_multiRay(
            self._model, data, origin, rays.ravel(), None, 1, -1,
            self._geoms, self._distances, self._normals.ravel(), len(rays), 10.0,
        )  # fmt: skip
        points = origin + rays * self._distances[:, None]
        to_light = data.light_xpos[0] - points
        to_light /= np.linalg.norm(to_light, axis=1, keepdims=True)
        spot = np.clip(-to_light @ data.light_xdir[0], 0, 1) ** self._model.light_exponent[0]
        lit = (np.clip((self._normals * to_light).sum(1), 0, 1) * spot)[:, None] * self._diffuse
        facing = np.clip(-(self._normals * rays).sum(1), 0, 1)[:, None] * self._head
        shade = self._colors[self._geoms] * (self._ambient + lit + facing)
        image: NDArray[np.uint8] = (np.clip(shade, 0, 1) * 255).astype(np.uint8).reshape(self._shape)
        return image.repeat(2, axis=0).repeat(2, axis=1)

    def close(self) -> None:
        """Do nothing: there are no resources to free."""


@functools.cache
def choose(name: RendererName) -> RendererName:
    """Return the renderer to use in this process: the requested one, or for `auto` the best available one.

    Probes once; a fallback logs one warning.

    Raises:
        RobotError: The requested OpenGL is not available.
    """
    if name == "ray":
        return name
    requested = os.environ.get("MUJOCO_GL", "").lower()
    kind: RendererName = "osmesa" if requested == "osmesa" else "egl"  # egl: the OpenGL of the system
    reason = f"MUJOCO_GL={requested} is set" if name not in ("auto", kind) else _probe()
    if reason is None:
        return kind
    if name == "auto":
        _LOG.warning(
            "OpenGL is not available (%s): rendering by ray casting, slower and at half resolution; to fix: apt install"
            " libegl1 libgl1",
            reason,
        )
        return "ray"
    raise RobotError(f"renderer {name}: {reason}; set MUJOCO_GL={name} before starting, or use renderer: ray")


def _probe() -> str | None:
    """Return why OpenGL is not available, or None."""
    if gl_error:
        return gl_error
    try:
        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        mujoco.Renderer(model, 16, 16).close()
    except (mujoco.FatalError, ImportError, AttributeError, RuntimeError, ValueError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def make(name: RendererName, model: mujoco.MjModel, camera: Camera) -> Renderer:
    """Return a renderer of a name returned by `choose`."""
    return RayRenderer(model, camera) if name == "ray" else GlRenderer(model, camera)
