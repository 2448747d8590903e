"""Renderers: agreement with the calibration and with each other; ray casting without OpenGL."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_bridge.camera import model_image
from robot_bridge.robot import RobotError
from robot_bridge.simulation import renderer as render
from robot_bridge.simulation.config import RendererName
from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.scene import build
from tests.patience import patience
from tests.robot_bridge.simulated import config, franka

CAMERA = config().camera
RENDERERS = ["ray"] if render.choose("auto") == "ray" else ["ray", render.choose("auto")]


def image_of(xml: str, name: RendererName) -> NDArray[np.float64]:
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = render.make(name, model, CAMERA)
    image = renderer.render(data).astype(np.float64)
    renderer.close()
    return image


@pytest.mark.parametrize("name", RENDERERS)
def test_points_project_as_calibrated(name: RendererName) -> None:
    xml = build(np.random.default_rng(0), "bin", "train", CAMERA, jitter=0.0).xml
    empty = image_of(xml, name)
    points = np.array([[0.5, 0.0, 0.12], [0.62, 0.2, 0.02], [0.4, -0.2, 0.05], [0.66, -0.2, 0.15]])
    for point, pixel in zip(points, CAMERA.project(points), strict=True):
        ball = f'<geom type="sphere" size="0.012" pos="{point[0]} {point[1]} {point[2]}" rgba="1 0 0 1"/></worldbody>'
        changed = np.abs(image_of(xml.replace("</worldbody>", ball), name) - empty).sum(axis=2) > 10
        y, x = np.nonzero(changed)
        np.testing.assert_allclose([x.mean(), y.mean()], pixel, atol=1.0)


def test_camera_jitter_moves_the_image_by_little() -> None:
    exact = build(np.random.default_rng(0), "bin", "train", CAMERA, jitter=0.0).xml
    jittered = build(np.random.default_rng(0), "bin", "train", CAMERA, jitter=1.0).xml
    cameras = [mujoco.MjModel.from_xml_string(xml).camera("camera") for xml in (exact, jittered)]
    assert 0 < np.linalg.norm(cameras[0].pos - cameras[1].pos) <= 0.01
    turn = 2 * np.arccos(np.clip(abs(cameras[0].quat @ cameras[1].quat), 0, 1))
    assert 0 < turn <= np.deg2rad(1.0) * 1.01


def test_renderers_agree() -> None:
    if len(RENDERERS) == 1:
        pytest.skip("no OpenGL on this machine")
    images = []
    for name in RENDERERS:
        robot = franka(renderer=name)
        images.append(model_image(robot.reset(np.random.default_rng(0)).image).astype(float))
        robot.close()
    assert np.abs(images[0] - images[1]).mean() < 8.0


def test_only_objects_are_saturated() -> None:
    robot = franka(scene="pick_wipe", split="test")
    image = robot.reset(np.random.default_rng(0)).image.astype(float)
    saturation = (image.max(axis=2) - image.min(axis=2)) / np.maximum(image.max(axis=2), 1)
    fraction = (saturation > 0.5).mean()
    assert 0.01 < fraction < 0.2


def test_ray_is_always_available() -> None:
    assert render.choose("ray") == "ray"
    assert set(get_args(RendererName)) == {"auto", "egl", "osmesa", "ray"}


@pytest.mark.parametrize("changes", [{"MUJOCO_GL": "disable"}, {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "none"}])
def test_without_opengl_ray_casting_is_used_with_one_warning(changes: dict[str, str]) -> None:
    program = (
        "import logging; logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "import numpy as np\n"
        "from tests.robot_bridge.simulated import franka\n"
        "for _ in range(2): print(franka(renderer='auto').reset(np.random.default_rng(0)).image.shape)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=os.environ | changes, capture_output=True, text=True, timeout=patience(60), check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(240, 320, 3)"] * 2
    assert done.stderr.count("WARNING") == 1
    assert "ray casting" in done.stderr


def test_unavailable_requested_renderer_is_refused() -> None:
    missing: RendererName = "osmesa" if os.environ.get("MUJOCO_GL") == "egl" else "egl"
    with pytest.raises(RobotError, match=f"MUJOCO_GL={missing}"):
        render.choose(missing)
