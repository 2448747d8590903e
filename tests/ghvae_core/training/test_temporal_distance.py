"""Training of the temporal distance from videos alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ghvae_core.data.windows import Windows
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig
from ghvae_core.training.temporal_distance import PairSource, TemporalDistanceTrainingConfig, draw_pairs, fit, measure
from tests.ghvae_core.small import N_FRAMES, PX, small_config, small_windows

CONFIG = TemporalDistanceConfig(image_px=PX, channels=(8, 16), max_steps=N_FRAMES - 1)


def _moving_square(n_episodes: int) -> Windows:
    """Return windows of a square that moves two pixels to the right with every step, in one row per episode."""
    rows = np.random.default_rng(0).integers(0, PX - 4, n_episodes)
    frames = np.full((n_episodes, N_FRAMES, PX, PX, 3), 60, np.uint8)
    for episode, row in enumerate(rows):
        for t in range(N_FRAMES):
            frames[episode, t, row : row + 4, 2 * t : 2 * t + 4] = 220
    starts = np.arange(n_episodes) * N_FRAMES
    return Windows(frames.reshape(-1, PX, PX, 3), np.zeros((n_episodes * N_FRAMES, 4), np.float32), starts, N_FRAMES)


def _distance() -> TemporalDistance:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TemporalDistance(CONFIG)


def _continue(step: int, loss: float) -> bool:
    assert np.isfinite(loss), step
    return False


def test_training_beats_the_median_baseline_and_orders_goals() -> None:
    windows, distance = _moving_square(40), _distance()
    before = measure(distance, windows, np.random.default_rng(1))
    config = TemporalDistanceTrainingConfig(n_steps=200, unrelated_fraction=0.1)
    assert fit(distance, PairSource(windows, None), config, np.random.default_rng(0), _continue) == 200
    after = measure(distance, windows, np.random.default_rng(1))
    assert after.mean_error_steps < 0.8 * after.median_error_steps and after.mean_error_steps < before.mean_error_steps
    assert after.order_accuracy > 0.9


def _labelled(n_episodes: int) -> Windows:
    """Return windows of uniform images; red is the episode, green the time."""
    frames = np.zeros((n_episodes, N_FRAMES, PX, PX, 3), np.uint8)
    frames[..., 0] = np.arange(n_episodes)[:, None, None, None]
    frames[..., 1] = np.arange(N_FRAMES)[:, None, None]
    starts = np.arange(n_episodes) * N_FRAMES
    return Windows(frames.reshape(-1, PX, PX, 3), np.zeros((n_episodes * N_FRAMES, 4), np.float32), starts, N_FRAMES)


def _labels(images: torch.Tensor) -> list[NDArray[np.int64]]:
    """Return episode, time and blue of each image."""
    return [(images[:, channel, 0, 0] * 255).round().numpy().astype(int) for channel in range(3)]


def test_pairs_have_the_stated_number_of_steps_and_unrelated_goals_are_unreachable() -> None:
    config = TemporalDistanceTrainingConfig(batch_windows=64, pairs_per_window=4, unrelated_fraction=0.3)
    pairs = draw_pairs(_distance(), PairSource(_labelled(100), None), config, np.random.default_rng(0))
    (here, now, _), (there, then, _) = _labels(pairs.frames), _labels(pairs.goals)
    unrelated, steps = here != there, pairs.steps.numpy()
    assert unrelated.mean() == pytest.approx(0.3, abs=0.1)
    np.testing.assert_array_equal(steps[unrelated], CONFIG.max_steps + 1)
    np.testing.assert_array_equal(steps[~unrelated], (then - now)[~unrelated])
    assert set(steps[~unrelated].tolist()) == set(range(N_FRAMES))


def test_predicted_images_have_the_correct_step() -> None:
    class BluePredictor:
        """Predicts the true images, with full blue."""

        def rollout(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            n, n_context = context.shape[:2]
            frames = torch.zeros(n, actions.shape[1] + 1 - n_context, 3, PX, PX)
            frames[:, :, 0] = context[:, :1, 0]
            frames[:, :, 1] = torch.arange(n_context, actions.shape[1] + 1)[:, None, None] / 255
            frames[:, :, 2] = 1.0
            return frames

    info = CheckpointInfo(model=small_config(), modules_trained=2, n_context=2, horizon=N_FRAMES - 2)
    source = PairSource(_labelled(100), Checkpoint(BluePredictor(), info, ""))  # type: ignore[arg-type]
    config = TemporalDistanceTrainingConfig(
        batch_windows=64, pairs_per_window=4, unrelated_fraction=0.0, predicted_fraction=0.5
    )
    pairs = draw_pairs(_distance(), source, config, np.random.default_rng(0))
    (here, now, blue), (there, then, real) = _labels(pairs.frames), _labels(pairs.goals)
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(pairs.steps.numpy(), then - now)
    assert (real == 0).all() and set(now[blue == 255].tolist()) == set(range(2, N_FRAMES))
    assert (blue[now >= 2] == 255).mean() == pytest.approx(0.5, abs=0.12)


def test_training_stops_on_request_and_is_reproducible() -> None:
    weights = []
    for _ in range(2):
        distance = _distance()
        source, rng = PairSource(small_windows(), None), np.random.default_rng(3)
        assert fit(distance, source, TemporalDistanceTrainingConfig(n_steps=50), rng, lambda step, _: step == 4) == 4
        weights.append(next(distance.parameters()).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
