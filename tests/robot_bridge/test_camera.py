"""Camera model: crop, resize and projection."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from robot_bridge.camera import MODEL_IMAGE_PX, Camera, Crop, camera_image, crop_and_resize, model_image

CAMERA = Camera(
    height_px=240, width_px=320, position_m=(0.9, 0.1, 0.5), target_m=(0.45, 0.0, 0.05), fovy_rad=0.84
)  # fmt: skip


def test_model_image_is_the_area_resize_of_the_whole_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    expected = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(model_image(image), expected)


def test_model_image_contains_only_the_crop() -> None:
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    image[40:168, 100:228] = 200
    model = model_image(image, Crop(top_px=40, left_px=100, height_px=128, width_px=128))
    assert model.shape == (MODEL_IMAGE_PX, MODEL_IMAGE_PX, 3)
    assert (model == 200).all()


def test_image_of_model_size_is_returned_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(model_image(image, Crop(top_px=0, left_px=0, height_px=9, width_px=9)), image)


def test_model_image_has_the_requested_side() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = np.asarray(cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), np.uint8)
    np.testing.assert_array_equal(model_image(image, image_px=32), expected)
    assert model_image(expected, image_px=32) is expected


def test_enlargement_is_bilinear() -> None:
    ramp = np.tile(np.linspace(0, 250, 16, dtype=np.uint8)[:, None], (1, 16, 3)).reshape(16, 16, 3)
    found = crop_and_resize(ramp, Crop(top_px=0, left_px=0, height_px=16, width_px=16), 64).astype(int)
    assert np.abs(np.diff(found[..., 0], axis=0)).max() < 10  # not 4 equal rows and then a jump of 16


def test_projection_follows_the_axes() -> None:
    here = CAMERA.project(np.array([[0.5, 0.0, 0.0]]))[0]
    left_of_robot = CAMERA.project(np.array([[0.5, 0.1, 0.0]]))[0]
    higher = CAMERA.project(np.array([[0.5, 0.0, 0.1]]))[0]
    nearer = CAMERA.project(np.array([[0.6, 0.0, 0.0]]))[0]
    assert left_of_robot[0] > here[0] + 10  # the camera faces the robot, whose left is on the right of the image
    assert higher[1] < here[1] - 10
    assert nearer[1] > here[1] + 10


def test_target_projects_to_the_image_center() -> None:
    np.testing.assert_allclose(CAMERA.project(np.array([CAMERA.target_m])), [[159.5, 119.5]], atol=1e-9)


def test_axes_are_orthonormal_with_a_level_horizon() -> None:
    axes = CAMERA.axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert axes[0, 2] == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)


@pytest.mark.parametrize("height_m", [0.0, 0.03, 0.2])
def test_unproject_inverts_project(height_m: float) -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(0.3, 0.7, 20), rng.uniform(-0.25, 0.25, 20), np.full(20, height_m)])
    np.testing.assert_allclose(CAMERA.unproject(CAMERA.project(points), height_m), points, atol=1e-9)


@pytest.mark.parametrize(
    "crop",
    [
        {"top_px": 200, "left_px": 0, "height_px": 41, "width_px": 10},
        {"top_px": 0, "left_px": 311, "height_px": 10, "width_px": 10},
    ],
)
def test_crop_exceeding_the_image_is_refused(crop: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="exceeds"):
        Camera.model_validate({**CAMERA.model_dump(), "crop": crop})


@pytest.mark.parametrize(("height_px", "width_px"), [(239, 320), (240, 304), (250, 320)])
def test_sizes_not_supported_by_robonet_are_refused(height_px: int, width_px: int) -> None:
    with pytest.raises(ValidationError, match="_px"):
        Camera.model_validate({**CAMERA.model_dump(), "height_px": height_px, "width_px": width_px})


@pytest.mark.parametrize("crop", [None, Crop(top_px=40, left_px=100, height_px=128, width_px=160)])
def test_enlarged_model_image_keeps_positions(crop: Crop | None) -> None:
    camera = CAMERA.model_copy(update={"crop": crop})
    image = np.full((240, 320, 3), 40, np.uint8)
    cv2.circle(image, (170, 110), 12, (200, 60, 90), -1)
    again = camera_image(model_image(image, crop), camera)
    assert again.shape == image.shape
    rows, columns = np.nonzero(again[..., 0] > 120)
    np.testing.assert_allclose([columns.mean(), rows.mean()], [170, 110], atol=0.7)
    if crop is not None:
        assert not again[:40].any() and not again[:, :100].any() and not again[168:].any() and not again[:, 260:].any()
