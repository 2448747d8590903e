"""Validation metrics of checkpoints."""

import cv2
import numpy as np
import pytest
import torch

from ghvae_core.training.validation import comparison_png, spread, to_batch, val_rmse_p95
from tests.ghvae_core.small import small_model, small_windows


def test_the_rmse_is_the_95th_percentile_of_windows_per_step() -> None:
    model, data = small_model(), small_windows()
    indices = spread(data, 20)
    rmse = val_rmse_p95(model, 2, data, indices, 2)
    assert rmse is not None and len(rmse) == data.n_frames - 2
    with torch.no_grad():
        frames, actions = to_batch(data, indices).sequences()
        errors = ((model.rollout(frames[:, :2], actions) - frames[:, 2:]) ** 2).mean((2, 3, 4)).sqrt().numpy()
    np.testing.assert_allclose(rmse, np.quantile(errors.astype(np.float64), 0.95, axis=0), rtol=1e-5)


def test_without_finite_frames_there_is_no_rmse() -> None:
    model, data = small_model(), small_windows()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    assert val_rmse_p95(model, 2, data, spread(data, 4), 2) is None


@pytest.mark.parametrize(("copies", "n_rows"), [(0, 2), (2, 3)])
def test_the_image_of_a_stage_shows_where_pixels_are_copied(copies: int, n_rows: int) -> None:
    model, data = small_model(copies=copies), small_windows()
    heights = []
    for n_windows in (1, 2):
        png = comparison_png(model, 2, data, spread(data, n_windows), 2)
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        heights.append(image.shape[0])
    plain = comparison_png(small_model(copies=0), 2, data, spread(data, 1), 2)
    image = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert heights[0] == n_rows * image.shape[0] // 2 and heights[1] == 2 * heights[0]
