from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import metrics as skimage_metrics
from torch import Tensor

from ghvae_core.evaluation.metrics import MetricError, psnr, ssim
from tests.reference_data import DATA

torch.set_num_threads(1)
REFERENCE = DATA / "metric_reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference values in {REFERENCE}")


def video(frames: NDArray[np.uint8]) -> Tensor:
    """Return (..., 3, H, W) in [0, 1] of frames (..., H, W, 3)."""
    return torch.tensor(frames).movedim(-1, -3).float() / 255


def noise(n_videos: int, n_frames: int, seed: int, px: int = 64) -> Tensor:
    return torch.rand(n_videos, n_frames, 3, px, px, generator=torch.Generator().manual_seed(seed))


def smooth(seed: int) -> Tensor:
    """Return (2, 3, 3, 64, 64) of coarse blocks, which have structure for SSIM."""
    coarse = noise(2, 3, seed, px=8)
    return coarse.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)


def test_psnr_of_a_known_error() -> None:
    real = torch.full((2, 3, 3, 16, 16), 0.5)
    predicted = real.clone()
    predicted[0, 1] += 0.1
    predicted[1, 2, 0] += 0.1  # one channel of three: a third of the squared error
    expected = torch.full((2, 3), 100.0, dtype=torch.float64)
    expected[0, 1] = 20
    expected[1, 2] = 20 + 10 * math.log10(3)
    torch.testing.assert_close(psnr(real, predicted), expected, atol=1e-5, rtol=0)


def test_identical_frames_have_the_maximal_psnr_and_ssim() -> None:
    real = noise(2, 3, 0)
    torch.testing.assert_close(psnr(real, real), torch.full((2, 3), 100.0, dtype=torch.float64))
    torch.testing.assert_close(ssim(real, real), torch.ones(2, 3, dtype=torch.float64))


def test_the_maximal_psnr_exceeds_that_of_the_smallest_8_bit_difference() -> None:
    frames = np.full((1, 1, 64, 64, 3), 100, np.uint8)
    other = frames.copy()
    other[0, 0, 0, 0, 0] += 1
    assert 89 < float(psnr(video(frames), video(other))) < 100


def test_ssim_of_constant_frames_is_wangs_luminance_term() -> None:
    real, predicted = torch.full((1, 1, 3, 16, 16), 0.4), torch.full((1, 1, 3, 16, 16), 0.6)
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert float(ssim(real, predicted)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_symmetric_and_negative_for_inverted_structure() -> None:
    real, predicted = smooth(1), noise(2, 3, 2)
    torch.testing.assert_close(ssim(real, predicted), ssim(predicted, real))
    high_contrast = (real > 0.5).float()
    assert (ssim(high_contrast, 1 - high_contrast) < 0).all()


def test_ssim_uses_only_complete_windows_at_the_border() -> None:
    real = torch.full((1, 1, 3, 11, 11), 0.5)
    corner, center = real.clone(), real.clone()
    corner[..., 0, 0] = 1
    center[..., 5, 5] = 1
    assert float(ssim(real, center)) < float(ssim(real, corner)) < 1


@pytest.mark.parametrize("shape", [(2, 3, 3, 64, 64), (1, 1, 3, 11, 30)])
def test_both_metrics_agree_with_scikit_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    real = rng.random(shape)
    predicted = np.clip(real + rng.normal(0, 0.1, shape), 0, 1)
    values = {f: f(torch.tensor(real), torch.tensor(predicted)) for f in (psnr, ssim)}
    settings = {
        "data_range": 1,
        "channel_axis": 0,
        "sigma": 1.5,
        "gaussian_weights": True,
        "use_sample_covariance": False,
    }
    for index in np.ndindex(shape[:2]):
        x, y = real[index], predicted[index]
        expected = skimage_metrics.peak_signal_noise_ratio(x, y, data_range=1)  # type: ignore[no-untyped-call]
        assert float(values[psnr][index]) == pytest.approx(expected, abs=1e-9)
        expected = skimage_metrics.structural_similarity(x, y, **settings)  # type: ignore[no-untyped-call]
        assert float(values[ssim][index]) == pytest.approx(expected, abs=1e-9)


@needs_reference
@pytest.mark.parametrize(("metric", "name"), [(psnr, "psnr_skimage"), (ssim, "ssim_wang_skimage")])
def test_reference_arrays(metric: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
    arrays = np.load(REFERENCE / "fixed_arrays_reference.npz")
    values = metric(video(arrays["a"])[None], video(arrays["b"])[None])
    np.testing.assert_allclose(values, arrays[name], atol=1e-4, rtol=0)


@needs_reference
@pytest.mark.parametrize(("metric", "name"), [(psnr, "psnr_skimage"), (ssim, "ssim_wang_skimage")])
def test_reference_of_copied_frames_of_robot_video(metric: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
    clips = video(np.load(REFERENCE / "robonet_clips_shared.npz")["gt"][:16])
    real, copy = clips[:, 2:], clips[:, 1:2].expand(-1, 10, -1, -1, -1)
    expected = np.load(REFERENCE / "robonet_reference_shared.npz")[f"copy_last/{name}"][:16]
    np.testing.assert_allclose(metric(real, copy), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_nan_is_returned(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    real, predicted = noise(1, 2, 0), noise(1, 2, 1)
    predicted[0, 1, 0, 5, 5] = float("nan")
    values = metric(real, predicted)
    assert values[0, 0].isfinite()
    assert values[0, 1].isnan()


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("real", "predicted"),
    [
        ((1, 2, 3, 16, 16), (1, 1, 3, 16, 16)),
        ((2, 3, 16, 16), (2, 3, 16, 16)),
        ((1, 2, 16, 16, 3), (1, 2, 16, 16, 3)),
        ((0, 2, 3, 16, 16), (0, 2, 3, 16, 16)),
    ],
    ids=["broadcast", "images", "channels last", "empty"],
)
def test_other_shapes_are_refused(
    metric: Callable[[Tensor, Tensor], Tensor], real: tuple[int, ...], predicted: tuple[int, ...]
) -> None:
    with pytest.raises(MetricError, match=r"expected two videos \(B, T, 3, H, W\)"):
        metric(torch.zeros(real), torch.zeros(predicted))


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(MetricError, match="at least 11x11"):
        ssim(torch.zeros(1, 1, 3, 10, 64), torch.zeros(1, 1, 3, 10, 64))
