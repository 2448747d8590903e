"""Videos alone teach how many steps lie between two of their images."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ghvae_core.data.windows import Windows
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig
from ghvae_core.training.temporal_distance import Lesson, TemporalDistanceTrainingConfig, draw_pairs, measure, teach
from tests.ghvae_core.small import N_FRAMES, PX, small_config, small_windows

CONFIG = TemporalDistanceConfig(image_px=PX, channels=(8, 16), max_steps=N_FRAMES - 1)


def _marching(n_episodes: int) -> Windows:
    """Return windows of a square that goes two pixels to the right with every step, in a row of its own."""
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


def _go_on(step: int, loss: float) -> bool:
    assert np.isfinite(loss), step
    return False


def test_it_learns_more_than_a_constant_and_tells_the_order_of_goals() -> None:
    windows, distance = _marching(40), _distance()
    before = measure(distance, windows, np.random.default_rng(1))
    config = TemporalDistanceTrainingConfig(n_steps=200, strangers=0.1)
    assert teach(distance, Lesson(windows, None), config, np.random.default_rng(0), _go_on) == 200
    after = measure(distance, windows, np.random.default_rng(1))
    assert after.error < 0.8 * after.constant and after.error < before.error
    assert after.order > 0.9


def _labelled(n_episodes: int) -> Windows:
    """Return windows of plain images whose red tells the episode and whose green tells the time."""
    frames = np.zeros((n_episodes, N_FRAMES, PX, PX, 3), np.uint8)
    frames[..., 0] = np.arange(n_episodes)[:, None, None, None]
    frames[..., 1] = np.arange(N_FRAMES)[:, None, None]
    starts = np.arange(n_episodes) * N_FRAMES
    return Windows(frames.reshape(-1, PX, PX, 3), np.zeros((n_episodes * N_FRAMES, 4), np.float32), starts, N_FRAMES)


def _labels(images: torch.Tensor) -> list[NDArray[np.int64]]:
    """Return episode, time and blue of each image."""
    return [(images[:, channel, 0, 0] * 255).round().numpy().astype(int) for channel in range(3)]


def test_pairs_lie_as_far_apart_as_they_say_and_strangers_beyond() -> None:
    config = TemporalDistanceTrainingConfig(batch_windows=64, pairs=4, strangers=0.3)
    pairs = draw_pairs(_distance(), Lesson(_labelled(100), None), config, np.random.default_rng(0))
    (here, now, _), (there, then, _) = _labels(pairs.frames), _labels(pairs.goals)
    strange, steps = here != there, pairs.steps.numpy()
    assert strange.mean() == pytest.approx(0.3, abs=0.1)
    np.testing.assert_array_equal(steps[strange], CONFIG.max_steps + 1)
    np.testing.assert_array_equal(steps[~strange], (then - now)[~strange])
    assert set(steps[~strange].tolist()) == set(range(N_FRAMES))


def test_imagined_images_are_of_the_step_that_they_stand_for() -> None:
    class Imagines:
        """Imagines the right images, but all blue."""

        def rollout(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            n, n_context = context.shape[:2]
            frames = torch.zeros(n, actions.shape[1] + 1 - n_context, 3, PX, PX)
            frames[:, :, 0] = context[:, :1, 0]
            frames[:, :, 1] = torch.arange(n_context, actions.shape[1] + 1)[:, None, None] / 255
            frames[:, :, 2] = 1.0
            return frames

    info = CheckpointInfo(model=small_config(), modules_trained=2, n_context=2, horizon=N_FRAMES - 2)
    lesson = Lesson(_labelled(100), Checkpoint(Imagines(), info, ""))  # type: ignore[arg-type]
    config = TemporalDistanceTrainingConfig(batch_windows=64, pairs=4, strangers=0.0, imagined=0.5)
    pairs = draw_pairs(_distance(), lesson, config, np.random.default_rng(0))
    (here, now, blue), (there, then, real) = _labels(pairs.frames), _labels(pairs.goals)
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(pairs.steps.numpy(), then - now)
    assert (real == 0).all() and set(now[blue == 255].tolist()) == set(range(2, N_FRAMES))
    assert (blue[now >= 2] == 255).mean() == pytest.approx(0.5, abs=0.12)


def test_it_stops_when_it_is_told_to_and_repeats_by_its_seed() -> None:
    weights = []
    for _ in range(2):
        distance = _distance()
        lesson, rng = Lesson(small_windows(), None), np.random.default_rng(3)
        assert teach(distance, lesson, TemporalDistanceTrainingConfig(n_steps=50), rng, lambda step, _: step == 4) == 4
        weights.append(next(distance.parameters()).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
