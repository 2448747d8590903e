"""Each cost term is zero at the goal, grows with the distance from it, and assigns a NaN to its candidate only."""

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
from tests.ghvae_core.small import HIER_VRNN, small_model
from tests.reference_data import DATA

WEIGHTS = DATA / "weights/lpips_alex_v0.1_torchvision.safetensors"
PIXEL, FEATURES = GoalCost(), GoalCost(pixel=0.0, features=1.0)


def _frames(n: int = 3, horizon: int = 2, px: int = 16) -> tuple[Tensor, Tensor]:
    """Return candidates (n, horizon, 3, px, px) at increasing distances from the goal, starting at 0, and the goal."""
    generator = torch.Generator().manual_seed(0)
    goal = torch.rand(3, px, px, generator=generator)
    noise = torch.rand(n, horizon, 3, px, px, generator=generator) - 0.5
    return (goal + noise * torch.arange(n)[:, None, None, None, None] * 0.2).clamp(0, 1), goal


def test_the_pixel_term_equals_pixel_cost() -> None:
    frames, goal = _frames()
    cost = GoalCost(final_frames=2, brightness=0.3)
    np.testing.assert_allclose(
        GoalCostEvaluator(small_model()).costs(frames, goal, cost), pixel_cost(frames, goal, cost)
    )


@pytest.mark.parametrize("kind", ["ghvae", "svg", "hier_vrnn"])
def test_the_feature_term_is_zero_at_the_goal_and_grows_with_distance(kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        svg = build(SvgConfig(image_px=16, hidden=8, features=8, latent=2, stage_channels=(8, 8, 8)))
        hier_vrnn = build(HIER_VRNN)
    model = {"ghvae": small_model(), "svg": svg, "hier_vrnn": hier_vrnn}[kind]
    frames, goal = _frames()
    with torch.no_grad():
        costs = GoalCostEvaluator(model).costs(frames, goal, FEATURES)
    assert float(costs[0]) == pytest.approx(0.0, abs=1e-6)
    assert 0 < float(costs[1]) < float(costs[2]) < 4  # the feature vectors have length 1


def test_the_cost_is_the_weighted_sum_of_terms_over_the_final_frames() -> None:
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
def test_a_nan_affects_its_candidate_only(cost: GoalCost) -> None:
    frames, goal = _frames()
    frames[1, -1, 0, 0, 0] = torch.nan
    with torch.no_grad():
        assert GoalCostEvaluator(small_model()).costs(frames, goal, cost).isnan().tolist() == [False, True, False]


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no file {WEIGHTS}")
def test_lpips_is_a_term_if_its_weights_are_given() -> None:
    frames, goal = _frames(px=64)
    evaluator = GoalCostEvaluator(small_model(), Lpips(WEIGHTS))
    assert evaluator.terms == ("pixel", "features", "lpips")
    with torch.no_grad():
        costs = evaluator.costs(frames, goal, GoalCost(pixel=0.0, lpips=2.0))
        distance = Lpips(WEIGHTS)(goal.expand(3, 1, -1, -1, -1), frames[:, -1:])[:, 0]
    np.testing.assert_allclose(costs, 2 * distance, rtol=1e-5)


def test_steps_are_a_term_if_a_distance_network_is_given() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distance = TemporalDistance(TemporalDistanceConfig(image_px=16, channels=(8, 8), max_steps=5)).eval()
    frames, goal = _frames(horizon=3)
    evaluator = GoalCostEvaluator(small_model(), distance=distance)
    assert evaluator.terms == ("pixel", "features", "steps")
    with torch.no_grad():
        costs = evaluator.costs(frames, goal, GoalCost(final_frames=2, pixel=0.0, steps=0.5))
        steps = torch.stack([distance.steps(frames[:, t], goal[None]) for t in (1, 2)])
    np.testing.assert_allclose(costs, 0.5 * steps.mean(0), rtol=1e-5)


def test_the_error_for_an_unavailable_term_names_it() -> None:
    assert GoalCostEvaluator(small_model()).terms == ("pixel", "features")
    valid = request()
    with pytest.raises(MismatchError, match=r"cost\.lpips: expected only terms among pixel"):
        type(valid)(**{**vars(valid), "cost": GoalCost(lpips=1.0)}).check(SPEC)
    with pytest.raises(ValueError, match=r"expected terms among \('pixel', 'features'\), got \('pixel', 'lpips'\)"):
        GoalCostEvaluator(small_model()).costs(*_frames(), GoalCost(lpips=1.0))


def test_a_cost_without_terms_is_refused() -> None:
    with pytest.raises(ValidationError, match="weight above 0"):
        GoalCost(pixel=0.0)


def test_costs_of_uint8_images_equal_those_of_float_frames() -> None:
    frames, goal = _frames()
    frames, goal = (frames * 255).round() / 255, (goal * 255).round() / 255
    evaluator, cost = GoalCostEvaluator(small_model()), GoalCost(brightness=0.3, features=1.0)
    with torch.no_grad():
        expected = evaluator.costs(frames, goal, cost)
    ends, goal_image = (
        np.asarray((images * 255).round().movedim(-3, -1).numpy(), np.uint8) for images in (frames, goal)
    )
    np.testing.assert_allclose(evaluator.costs_of_images(ends, goal_image, cost), expected, rtol=1e-4, atol=1e-6)
