from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ghvae_core.data.augmentation import AugmentationConfig, augment

NOTHING = AugmentationConfig(min_side_fraction=1.0, brightness=0, contrast=0, saturation=0, hue=0)
ZOOM = NOTHING.model_copy(update={"min_side_fraction": 0.8})


def _clips(n_clips: int = 5, n_frames: int = 3) -> NDArray[np.uint8]:
    """Smooth clips without motion."""
    ramp = np.linspace(40, 200, 64)
    image = np.stack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], np.full((64, 64), 90)], axis=-1)
    return np.tile(image.astype(np.uint8), (n_frames, n_clips, 1, 1, 1))


def test_zero_ranges_change_nothing() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment(clips, NOTHING, np.random.default_rng(0)), clips)


@pytest.mark.parametrize("config", [AugmentationConfig(), ZOOM, NOTHING.model_copy(update={"hue": 0.1})])
def test_the_frames_of_a_clip_change_equally_and_clips_differently(config: AugmentationConfig) -> None:
    clips = _clips()
    before = clips.copy()
    found = augment(clips, config, np.random.default_rng(1))
    assert found.shape == clips.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(clips, before)
    np.testing.assert_array_equal(found[0], found[-1])
    assert len({clip.tobytes() for clip in found[0]}) == found.shape[1]
    np.testing.assert_array_equal(found, augment(clips, config, np.random.default_rng(1)))
    assert not np.array_equal(found, augment(clips, config, np.random.default_rng(2)))


def test_a_crop_has_at_least_the_minimal_side() -> None:
    """Over a ramp of 160 levels a crop of 0.8 of the side spans at least 128 of them, and stretches them."""
    spans = np.ptp(augment(_clips(200, 1), ZOOM, np.random.default_rng(0))[0, ..., 0].astype(int), axis=(1, 2))
    assert 0.76 * 160 < spans.min() < 0.85 * 160 and spans.max() == 160


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_within_their_range(name: str) -> None:
    clips = _clips(100, 1)
    config = NOTHING.model_copy(update={name: 0.1})
    found = augment(clips, config, np.random.default_rng(0)).astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    grey_before, grey_after = clips @ luma, found @ luma
    gain = found.mean(axis=(0, 2, 3, 4)) / clips.mean()
    if name == "brightness":
        assert 0.89 < gain.min() < 0.92 and 1.08 < gain.max() < 1.11
    elif name == "contrast":
        spread = grey_after.std(axis=(0, 2, 3)) / grey_before.std()
        assert 0.89 < spread.min() < 0.92 and 1.08 < spread.max() < 1.11
        assert np.abs(grey_after.mean(axis=(0, 2, 3)) - grey_before.mean()).max() < 1
    else:  # the grey of every pixel stays, its colour does not
        inside = (found > 0).all(axis=-1) & (found < 255).all(axis=-1)
        assert np.abs(grey_after - grey_before)[inside].max() < 2
        assert np.abs(found - clips).max() > 5


def test_ranges_out_of_bounds_are_refused() -> None:
    for name, value in {"min_side_fraction": 0.0, "brightness": 1.0, "hue": 0.6}.items():
        with pytest.raises(ValidationError):
            AugmentationConfig.model_validate({name: value})
