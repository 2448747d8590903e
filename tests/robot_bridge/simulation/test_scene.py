"""Scenes and objects: the differences between the splits."""

from __future__ import annotations

import colorsys
from typing import Literal

import numpy as np
import pytest

from robot_bridge.simulation import objects
from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.objects import FAMILIES, HUES, Split, draw_color, draw_hue
from robot_bridge.simulation.scene import CENTER_M, INNER_M, Scene, build
from tests.robot_bridge.simulated import config

SPLITS: tuple[Split, Split] = ("train", "test")
CAMERA = config().camera


def scenes(kind: Literal["bin", "pick_wipe", "pick_sweep"], split: Split, n: int = 12) -> list[Scene]:
    return [build(np.random.default_rng(seed), kind, split, CAMERA, 1.0) for seed in range(n)]


def hues(scene: Scene) -> list[float]:
    """Return the hues in turns of every saturated geom."""
    colors = mujoco.MjModel.from_xml_string(scene.xml).geom_rgba[:, :3]
    found = [colorsys.rgb_to_hsv(*color) for color in colors.tolist()]
    return [hue for hue, saturation, _ in found if saturation > 0.4]


def in_bands(hue: float, split: Split) -> bool:
    return any(low - 1e-4 <= hue <= high + 1e-4 for low, high in HUES[split])


def test_shape_families_of_the_splits_are_disjoint() -> None:
    assert not set(FAMILIES["train"]) & set(FAMILIES["test"])
    assert not set(FAMILIES["train"].values()) & set(FAMILIES["test"].values())


def test_hue_bands_of_the_splits_are_disjoint() -> None:
    for hue in np.linspace(0, 1, 1001):
        assert not (in_bands(float(hue), "train") and in_bands(float(hue), "test"))


def test_tools_and_containers_of_the_splits_differ_in_size() -> None:
    rng = np.random.default_rng(0)
    for draw in (objects.sponge, objects.brush):
        lengths = {split: [draw(rng, split).parts[0].size_m[0] for _ in range(30)] for split in SPLITS}
        assert max(lengths["train"]) < min(lengths["test"])
    for draw_container in (objects.plate, objects.pan, objects.tray):
        sizes = {split: [draw_container(rng, split).half_size_m[0] for _ in range(30)] for split in SPLITS}
        assert max(sizes["train"]) < min(sizes["test"])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["bin", "pick_wipe", "pick_sweep"])
def test_scenes_use_the_hues_of_their_split(kind: Literal["bin", "pick_wipe", "pick_sweep"], split: Split) -> None:
    for scene in scenes(kind, split):
        found = hues(scene)
        assert found
        assert all(in_bands(hue, split) for hue in found)


@pytest.mark.parametrize("split", SPLITS)
def test_colours_are_saturated(split: Split) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        hue = draw_hue(rng, split, [])
        assert in_bands(hue, split)
        assert colorsys.rgb_to_hsv(*draw_color(rng, hue))[1] >= 0.7


def test_free_play_has_three_to_five_objects() -> None:
    drawn = scenes("bin", "train", 40)
    counts = {len(scene.objects) for scene in drawn}
    assert counts <= {2, 3, 4, 5}  # one is left out of a full bin
    assert {3, 4, 5} <= counts
    assert all(scene.task is None for scene in drawn)
    assert 5 < sum(any(placed.name.startswith("tool") for placed in scene.objects) for scene in drawn) <= 40


@pytest.mark.parametrize("kind", ["pick_wipe", "pick_sweep"])
def test_task_scenes_fit_the_bin_and_have_a_graspable_tool(
    kind: Literal["pick_wipe", "pick_sweep"],
) -> None:
    for scene in scenes(kind, "test", 30):
        assert scene.task is not None
        tool = scene.task.tool
        assert abs(tool.yaw_rad) <= np.deg2rad(30)
        assert 2 * tool.shape.parts[1].size_m[1] < 0.05
        assert 1 <= len(scene.task.targets) <= 3
        for placed in scene.objects:
            assert (np.abs(np.array(placed.at_m[:2]) - CENTER_M) < INNER_M).all()


def test_fingers_on_the_grip_stay_within_the_block() -> None:
    finger_m = 0.012
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for draw in (objects.sponge, objects.brush):
            block, grip = draw(rng, split).parts
            assert grip.size_m[1] + finger_m < block.size_m[1] + 0.001
