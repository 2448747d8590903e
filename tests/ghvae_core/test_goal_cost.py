"""Every term of a cost is nothing at the goal, grows away from it, and keeps a NaN with its candidate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.goal_cost import GoalCost, GoalCostEvaluator, pixel_cost
from ghvae_core.models.checkpoint import build
from ghvae_core.models.svg import SvgConfig
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig
from ghvae_core.predictor import MismatchError
from tests.ghvae_core.serving.example import SPEC, request
from tests.ghvae_core.small import small_model

WEIGHTS = Path(__file__).parents[4] / "shared/data/weights/lpips_alex_v0.1_torchvision.safetensors"
PIXEL, FEATURES = GoalCost(), GoalCost(pixel=0.0, features=1.0)


def _frames(n: int = 3, horizon: int = 2, px: int = 16) -> tuple[Tensor, Tensor]:
    """Return candidates (n, horizon, 3, px, px), the first at the goal and each further one farther, and the goal."""
    generator = torch.Generator().manual_seed(0)
    goal = torch.rand(3, px, px, generator=generator)
    noise = torch.rand(n, horizon, 3, px, px, generator=generator) - 0.5
    return (goal + noise * torch.arange(n)[:, None, None, None, None] * 0.2).clamp(0, 1), goal


def test_pixels_alone_cost_what_they_cost_everywhere() -> None:
    frames, goal = _frames()
    cost = GoalCost(final_frames=2, brightness=0.3)
    np.testing.assert_allclose(
        GoalCostEvaluator(small_model()).costs(frames, goal, cost), pixel_cost(frames, goal, cost)
    )


@pytest.mark.parametrize("kind", ["ghvae", "svg"])
def test_features_are_alike_at_the_goal_and_less_so_away_from_it(kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        svg = build(SvgConfig(image_px=16, hidden=8, features=8, latent=2, stage_channels=(8, 8, 8)))
    model = small_model() if kind == "ghvae" else svg
    frames, goal = _frames()
    with torch.no_grad():
        costs = GoalCostEvaluator(model).costs(frames, goal, FEATURES)
    assert float(costs[0]) == pytest.approx(0.0, abs=1e-6)
    assert 0 < float(costs[1]) < float(costs[2]) < 4  # of vectors of length 1


def test_terms_add_up_by_their_weights_over_the_final_frames() -> None:
    frames, goal = _frames(horizon=3)
    evaluator = GoalCostEvaluator(small_model())
    with torch.no_grad():
        parts = [
            evaluator.costs(frames, goal, cost.model_copy(update={"final_frames": 2})) for cost in (PIXEL, FEATURES)
        ]
        both = evaluator.costs(frames, goal, GoalCost(final_frames=2, pixel=0.5, features=3.0))
        last = evaluator.costs(frames, goal, GoalCost(final_frames=1, pixel=0.5, features=3.0))
    np.testing.assert_allclose(both, 0.5 * parts[0] + 3 * parts[1], rtol=1e-5)
    assert not np.allclose(both, last)


@pytest.mark.parametrize("cost", [PIXEL, FEATURES, GoalCost(features=1.0)])
def test_a_nan_stays_with_its_candidate(cost: GoalCost) -> None:
    frames, goal = _frames()
    frames[1, -1, 0, 0, 0] = torch.nan
    with torch.no_grad():
        assert GoalCostEvaluator(small_model()).costs(frames, goal, cost).isnan().tolist() == [False, True, False]


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is not there")
def test_lpips_is_a_term_where_its_weights_are() -> None:
    frames, goal = _frames(px=64)
    evaluator = GoalCostEvaluator(small_model(), Lpips(WEIGHTS))
    assert evaluator.terms == ("pixel", "features", "lpips")
    with torch.no_grad():
        costs = evaluator.costs(frames, goal, GoalCost(pixel=0.0, lpips=2.0))
        distance = Lpips(WEIGHTS)(goal.expand(3, 1, -1, -1, -1), frames[:, -1:])[:, 0]
    np.testing.assert_allclose(costs, 2 * distance, rtol=1e-5)


def test_steps_to_go_are_a_term_where_a_network_tells_them() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distance = TemporalDistance(TemporalDistanceConfig(image_px=16, channels=(8, 8), max_steps=5)).eval()
    frames, goal = _frames(horizon=3)
    evaluator = GoalCostEvaluator(small_model(), distance=distance)
    assert evaluator.terms == ("pixel", "features", "steps")
    with torch.no_grad():
        costs = evaluator.costs(frames, goal, GoalCost(final_frames=2, pixel=0.0, steps=0.5))
        told = torch.stack([distance.steps(frames[:, t], goal[None]) for t in (1, 2)])
    np.testing.assert_allclose(costs, 0.5 * told.mean(0), rtol=1e-5)


def test_a_term_that_cannot_be_weighed_is_refused_by_name() -> None:
    assert GoalCostEvaluator(small_model()).terms == ("pixel", "features")
    asked = request()
    with pytest.raises(MismatchError, match=r"cost\.lpips: expected only terms among pixel"):
        type(asked)(**{**vars(asked), "cost": GoalCost(lpips=1.0)}).check(SPEC)
    with pytest.raises(ValueError, match=r"expected terms among \('pixel', 'features'\), got \('pixel', 'lpips'\)"):
        GoalCostEvaluator(small_model()).costs(*_frames(), GoalCost(lpips=1.0))


def test_a_cost_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="weight above 0"):
        GoalCost(pixel=0.0)


def test_images_of_bytes_cost_as_much() -> None:
    frames, goal = _frames()
    frames, goal = (frames * 255).round() / 255, (goal * 255).round() / 255
    evaluator, cost = GoalCostEvaluator(small_model()), GoalCost(brightness=0.3, features=1.0)
    with torch.no_grad():
        expected = evaluator.costs(frames, goal, cost)
    ends, aim = (np.asarray((images * 255).round().movedim(-3, -1).numpy(), np.uint8) for images in (frames, goal))
    np.testing.assert_allclose(evaluator.costs_of_images(ends, aim, cost), expected, rtol=1e-4, atol=1e-6)
