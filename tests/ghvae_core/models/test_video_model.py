from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ghvae_core.models.video_model import ModelConfig, VideoModel, draw


class Darker(VideoModel):
    """Each frame is half as bright as the one before; never stops."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.factor = nn.Parameter(torch.tensor(0.5))

    def module(self, k: int) -> nn.Module:
        return self

    def features(self, frames: Tensor) -> Tensor:
        return frames

    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        self.check_request(context, actions, depth)
        frame = context[:, -1].expand(len(actions), -1, -1, -1)
        for _ in range(actions.shape[1] - context.shape[1] + 1):
            frame = frame * self.factor
            yield frame


MODEL = Darker(ModelConfig(image_px=4))
CONTEXT = torch.ones(1, 2, 3, 4, 4)


def test_the_action_scale_is_one_for_each_number_of_an_action() -> None:
    assert ModelConfig().action_scale == (1.0, 1.0, 1.0, 1.0)
    assert ModelConfig(action_dim=2).action_scale == (1.0, 1.0)
    assert ModelConfig(action_dim=0).action_scale == ()
    assert Darker(ModelConfig(action_dim=0)).action_scale.shape == (0,)
    assert (ModelConfig(action_dim=1).takes_actions, ModelConfig(action_dim=0).takes_actions) == (True, False)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"action_scale": (1.0, 1.0)}, "action_scale needs 4 positive numbers"),
        ({"action_dim": 2, "action_scale": (1.0, 0.0)}, "action_scale needs 2 positive numbers"),
        ({"action_dim": 0, "action_scale": (1.0,)}, "action_scale needs 0 positive numbers"),
        ({"action_dim": -1}, "action_dim"),
        ({"image_px": 0}, "image_px"),
    ],
)
def test_invalid_configurations_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate(fields)


def test_the_action_scale_is_a_buffer_and_not_a_parameter() -> None:
    assert "action_scale" in dict(MODEL.named_buffers())
    assert "action_scale" not in MODEL.state_dict()


def test_a_rollout_stacks_all_predictions_without_gradient() -> None:
    predicted = MODEL.rollout(CONTEXT, torch.zeros(3, 5, 4))
    assert predicted.shape == (3, 4, 3, 4, 4)
    assert predicted[0, :, 0, 0, 0].tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert not predicted.requires_grad
    assert next(MODEL.unroll(CONTEXT, torch.zeros(3, 5, 4))).requires_grad


def test_prediction_can_stop_between_steps_and_leaves_gradients_on() -> None:
    steps = MODEL.predict(CONTEXT, torch.zeros(3, 9, 4))
    assert next(steps).shape == (3, 3, 4, 4)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("n_contexts", "shape", "depth", "reason"),
    [
        (2, (3, 5, 4), None, "expected 1 or 3 contexts and at least 2 actions per sequence, got 2 and 5"),
        (3, (3, 1, 4), None, "expected 1 or 3 contexts and at least 2 actions per sequence, got 3 and 1"),
        (1, (3, 5, 2), None, "expected actions of 4 numbers, got 2"),
        (1, (3, 5, 4), 2, "depth: expected 1 to 1 modules, got 2"),
        (1, (3, 5, 4), 0, "depth: expected 1 to 1 modules, got 0"),
    ],
)
def test_invalid_requests_are_refused(n_contexts: int, shape: tuple[int, ...], depth: int | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MODEL.rollout(CONTEXT.expand(n_contexts, -1, -1, -1, -1), torch.zeros(shape), depth=depth)


def test_draws_are_the_mean_without_a_generator_and_have_the_std_with_one() -> None:
    mean = torch.full((1000,), 3.0)
    assert draw(mean, 2.0, None) is mean
    drawn = draw(mean, torch.tensor(2.0), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, draw(mean, 2.0, torch.Generator().manual_seed(0)))
    assert float(drawn.mean()) == pytest.approx(3, abs=0.2)
    assert float(drawn.std()) == pytest.approx(2, abs=0.2)
