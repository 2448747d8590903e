"""Videos alone teach how many steps lie between two of their images."""

import numpy as np
import torch

from ghvae_core.data.windows import Windows
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo
from ghvae_core.models.distance import Distance, DistanceConfig
from ghvae_core.training.distance import DistanceTraining, Lesson, measure, teach
from tests.ghvae_core.small import N_FRAMES, PX, small_config, small_model, small_windows

CONFIG = DistanceConfig(image_px=PX, channels=(8, 16), most_steps=N_FRAMES - 1)


def _marching(n_episodes: int) -> Windows:
    """Return windows of a square that goes two pixels to the right with every step, in a row of its own."""
    rows = np.random.default_rng(0).integers(0, PX - 4, n_episodes)
    frames = np.full((n_episodes, N_FRAMES, PX, PX, 3), 60, np.uint8)
    for episode, row in enumerate(rows):
        for t in range(N_FRAMES):
            frames[episode, t, row : row + 4, 2 * t : 2 * t + 4] = 220
    starts = np.arange(n_episodes) * N_FRAMES
    return Windows(frames.reshape(-1, PX, PX, 3), np.zeros((n_episodes * N_FRAMES, 4), np.float32), starts, N_FRAMES)


def _distance() -> Distance:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Distance(CONFIG)


def _go_on(step: int, loss: float) -> bool:
    assert np.isfinite(loss), step
    return False


def test_it_learns_more_than_a_constant_and_tells_the_order_of_goals() -> None:
    windows, distance = _marching(40), _distance()
    before = measure(distance, windows, np.random.default_rng(1))
    config = DistanceTraining(n_steps=200, strangers=0.1)
    assert teach(distance, Lesson(windows, None), config, np.random.default_rng(0), _go_on) == 200
    after = measure(distance, windows, np.random.default_rng(1))
    assert after.error < 0.8 * after.constant and after.error < before.error
    assert after.order > 0.9


def test_a_goal_of_another_episode_is_beyond() -> None:
    windows, distance = _marching(40), _distance()
    config = DistanceTraining(n_steps=200, strangers=0.5)
    teach(distance, Lesson(windows, None), config, np.random.default_rng(0), _go_on)
    frames = torch.from_numpy(windows.frames).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        own = distance.eval().steps(frames[:1], frames[4:5])
        places = [i for i in range(40) if not torch.equal(frames[i * N_FRAMES], frames[0])][:10]
        strange = distance.steps(frames[:1], frames[[i * N_FRAMES + 4 for i in places]].mean(0, keepdim=True))
    assert float(own) < 4.6 and float(strange) > float(own)


def test_it_stops_when_it_is_told_to_and_repeats_by_its_seed() -> None:
    weights = []
    for _ in range(2):
        distance = _distance()
        lesson, rng = Lesson(small_windows(), None), np.random.default_rng(3)
        assert teach(distance, lesson, DistanceTraining(n_steps=50), rng, lambda step, _: step == 4) == 4
        weights.append(next(distance.parameters()).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_imagined_images_are_those_of_the_model() -> None:
    """With every image imagined, what a model imagines decides what is learned."""
    config = small_config()
    info = CheckpointInfo(model=config, modules_trained=config.n_modules, n_context=2, horizon=N_FRAMES - 2)
    learned = []
    for brightness in (0.0, 9.0):
        model = small_model()
        pixels = model.module(1).pixels
        assert pixels is not None and pixels.bias is not None
        with torch.no_grad():
            pixels.bias.fill_(brightness)
        lesson = Lesson(small_windows(), Checkpoint(model, info, ""))
        distance = _distance()
        teach(distance, lesson, DistanceTraining(n_steps=3, imagined=1.0), np.random.default_rng(0), _go_on)
        learned.append(next(distance.parameters()).detach().clone())
    assert not torch.equal(learned[0], learned[1])
