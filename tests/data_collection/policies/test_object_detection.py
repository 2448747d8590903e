"""Objects are detected at the positions at which they were drawn."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_collection.policies.object_detection import ObjectDetectionConfig, _is_clear, _peaks, detect_objects
from robot_bridge.camera import Camera

CAMERA = Camera(
    height_px=240, width_px=320, position_m=(0.885, 0.0, 0.495), target_m=(0.445, 0.0, 0.055), fovy_rad=0.84
)
RED, ORANGE, GREEN, WHITE = (220, 20, 20), (230, 120, 10), (10, 200, 40), (240, 240, 240)


def _image(*discs: tuple[tuple[float, float], tuple[int, int, int]]) -> NDArray[np.uint8]:
    image = np.full((240, 320, 3), 45, np.uint8)
    rows, columns = np.mgrid[:240, :320]
    for (x, y), colour in discs:
        column, row = CAMERA.project(np.array([[x, y, ObjectDetectionConfig().height_m]]))[0]
        image[(columns - column) ** 2 + (rows - row) ** 2 < 6**2] = colour
    return image


def test_coloured_discs_are_located_to_the_millimetre() -> None:
    places = [(0.45, -0.1), (0.55, 0.12)]
    found = detect_objects(_image((places[0], RED), (places[1], GREEN)), CAMERA, ObjectDetectionConfig()).places_m
    assert found.shape == (2, 3)
    for place in places:
        assert np.linalg.norm(found[:, :2] - place, axis=1).min() < 0.002


def test_touching_objects_of_two_hues_are_two() -> None:
    found = detect_objects(_image(((0.5, 0.0), RED), ((0.5, 0.025), GREEN)), CAMERA, ObjectDetectionConfig())
    assert len(found.places_m) == 2


def test_red_is_one_colour_although_its_hue_wraps_around() -> None:
    found = detect_objects(
        _image(((0.5, 0.0), (220, 20, 30)), ((0.4, 0.1), (220, 30, 20))), CAMERA, ObjectDetectionConfig()
    )
    assert len(found.places_m) == 2
    halves = _image(((0.5, 0.0), (220, 20, 26)))
    halves[:, :160][halves[:, :160, 0] == 220] = (220, 26, 20)
    assert len(detect_objects(halves, CAMERA, ObjectDetectionConfig()).places_m) == 1


@pytest.mark.parametrize("image", [_image(), _image(((0.5, 0.0), WHITE)), np.zeros((240, 320, 3), np.uint8)])
def test_grey_white_and_black_are_no_objects(image: NDArray[np.uint8]) -> None:
    found = detect_objects(image, CAMERA, ObjectDetectionConfig())
    assert found.places_m.shape == (0, 3) and found.masks.shape == (0, 240, 320)


def test_specks_are_no_objects() -> None:
    image = _image()
    image[100:103, 100:103] = ORANGE
    assert len(detect_objects(image, CAMERA, ObjectDetectionConfig()).places_m) == 0


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_detection_is_independent_of_the_resolution(factor: int) -> None:
    """A disc with a radius of 3 of 240 rows is detected, one of 2.5 is not."""
    camera = CAMERA.model_copy(update={"height_px": 240 * factor, "width_px": 320 * factor})
    image = np.full((240 * factor, 320 * factor, 3), 45, np.uint8)
    for radius, column in ((3.0, 100), (2.5, 200)):
        cv2.circle(image, (column * factor, 120 * factor), round(radius * factor), GREEN, -1)
    (pixel,) = detect_objects(image, camera, ObjectDetectionConfig(min_area_px=30)).pixels
    np.testing.assert_allclose(pixel, [100 * factor, 120 * factor], atol=1)


def test_objects_have_their_hue_and_pixels() -> None:
    found = detect_objects(_image(((0.5, 0.0), GREEN), ((0.4, 0.1), (220, 20, 26))), CAMERA, ObjectDetectionConfig())
    green = int(np.argmin(np.abs(found.hues - 65)))
    assert abs(found.hues[green] - 65) < 2
    assert min(abs(found.hues[1 - green] - 179), found.hues[1 - green]) < 2
    x, y = found.pixels[green].round().astype(int)
    assert found.masks[green, y, x] and not found.masks[1 - green, y, x]


def test_stacked_objects_of_near_hues_are_separated_despite_a_blended_edge() -> None:
    plate, block = (20, 200, 200), (20, 200, 110)
    column, row = (int(v) for v in CAMERA.project(np.array([[0.5, 0.0, 0.02]]))[0])
    image = _image()
    cv2.circle(image, (column, row), 40, plate, -1, cv2.LINE_AA)
    cv2.circle(image, (column + 5, row), 8, block, -1, cv2.LINE_AA)
    found = detect_objects(cv2.GaussianBlur(image, (5, 5), 0).astype(np.uint8), CAMERA, ObjectDetectionConfig())
    assert len(found.places_m) == 2
    np.testing.assert_allclose(found.pixels[1], [column + 5, row], atol=1)


@settings(deadline=None)  # the first case loads scipy
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_peaks_are_those_of_scipy(values: list[int]) -> None:
    from scipy.signal import find_peaks  # each process that collects the tests would load it

    counts = np.array(values, np.int64)
    peaks, found = find_peaks(counts, height=1, prominence=1)
    clear = peaks[found["prominences"] >= 0.75 * found["peak_heights"]].tolist()
    assert _peaks(counts) == find_peaks(counts)[0].tolist()
    assert [i for i in _peaks(counts) if counts[i] >= 1 and _is_clear(counts, i)] == clear
