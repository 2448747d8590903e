from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from configs.loader import Config, load
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig, rollout_with_sources
from ghvae_core.models.layers import compose, copy_masks
from ghvae_core.training.objective import NO_WEIGHTS, module_loss
from tests.ghvae_core.small import PX, small_batch, small_config, small_model


class _Section(Config):
    model: GhvaeConfig


def _parameters(name: str) -> int:
    config = load(_Section, {"model": f"models/{name}.yaml"}).model
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Ghvae(config).parameters())


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.51), ("tiny", 2.52), ("base", 36.9), ("paper", 599), ("paper_x0.6", 217.8)]
)
def test_sizes_have_the_published_parameter_counts(name: str, millions: float) -> None:
    assert _parameters(name) / 1e6 == pytest.approx(millions, rel=0.05)


def test_downsizing_by_40_percent_keeps_36_percent_of_the_parameters() -> None:
    assert _parameters("paper_x0.6") / _parameters("paper") == pytest.approx(0.36, abs=0.02)


def test_features_halve_and_grow() -> None:
    features = small_model(3).encode(torch.rand(2, 3, PX, PX))
    assert [tuple(h.shape) for h in features] == [(2, 8, 8, 8), (2, 12, 4, 4), (2, 16, 2, 2)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_rollout_has_the_specified_shape_and_range(depth: int) -> None:
    predicted = small_model(3).rollout(torch.rand(2, 2, 3, PX, PX), torch.rand(2, 5, 4), depth=depth)
    assert predicted.shape == (2, 4, 3, PX, PX)
    assert 0 <= predicted.min() <= predicted.max() <= 1
    assert not predicted.requires_grad


def test_prediction_depends_on_past_and_present_actions_and_both_context_frames() -> None:
    model = small_model()
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(1, 6, 4)
    before = model.rollout(context, actions)
    for t in range(6):
        other = actions.clone()
        other[:, t] += 1
        same = (model.rollout(context, other) == before).flatten(2).all(-1)[0]  # of the 5 predicted frames
        changed_from = max(0, t - 1)  # action 1 leads to predicted frame 0
        assert same[:changed_from].all(), f"action {t} changed a frame before it"
        assert not same[changed_from:].any(), f"action {t} changed nothing"
    for t in range(2):
        other = context.clone()
        other[:, t] = 1 - other[:, t]
        assert not torch.equal(model.rollout(other, actions), before)


def test_one_shared_context_equals_tiling_it() -> None:
    model = small_model()
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(7, 5, 4)
    shared = torch.stack(list(model.predict(context, actions)), 1)
    torch.testing.assert_close(shared, model.rollout(context.expand(7, -1, -1, -1, -1), actions), atol=1e-5, rtol=0)


def test_a_longer_rollout_begins_with_the_shorter_one() -> None:
    model = small_model()
    context, actions = torch.rand(2, 2, 3, PX, PX), torch.rand(2, 8, 4)
    torch.testing.assert_close(model.rollout(context, actions)[:, :3], model.rollout(context, actions[:, :4]))


def test_prediction_can_stop_between_steps_and_leaves_gradients_on() -> None:
    steps = small_model().predict(torch.rand(1, 2, 3, PX, PX), torch.rand(3, 9, 4))
    assert next(steps).shape == (3, 3, PX, PX)
    assert torch.is_grad_enabled()


def test_latents_are_drawn_from_the_generator() -> None:
    model = small_model()
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(2, 5, 4)
    first, again, other = (model.rollout(context, actions, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_raw_actions_are_divided_by_their_scale() -> None:
    plain, scaled = small_model(), small_model(action_scale=(0.5, 0.5, 0.5, 1.0))
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(1, 4, 4)
    half = actions * torch.tensor([0.5, 0.5, 0.5, 1.0])
    torch.testing.assert_close(scaled.rollout(context, half), plain.rollout(context, actions))


def test_with_the_uniform_prior_actions_are_ignored() -> None:
    model = small_model(prior="uniform")
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(1, 4, 4)
    assert torch.equal(model.rollout(context, actions), model.rollout(context, -actions))
    assert not model.config.takes_actions


def test_an_action_free_model_has_no_action_weights_and_takes_empty_actions() -> None:
    model = small_model(action_dim=0, action_scale=())
    assert not any(".action" in name for name in model.state_dict())
    assert model.rollout(torch.rand(1, 2, 3, PX, PX), torch.empty(3, 4, 0)).shape == (3, 3, 3, PX, PX)
    assert not model.config.takes_actions


@pytest.mark.parametrize(("n_modules", "px"), [(1, 2), (1, 6), (3, 24), (5, 32), (4, 16), (7, 128)])
def test_any_number_of_modules_and_any_divisible_image_size(n_modules: int, px: int) -> None:
    sizes = [small_config().modules[0].model_copy(update={"channels": 8 + 4 * k}) for k in range(n_modules)]
    model = Ghvae(GhvaeConfig(modules=tuple(sizes), pixel_channels=8, image_px=px))
    predicted = model.rollout(torch.rand(1, 2, 3, px, px), torch.rand(2, 3, 4))
    assert predicted.shape == (2, 2, 3, px, px)
    assert model.encode(torch.rand(1, 3, px, px))[-1].shape[-1] == px // 2**n_modules
    kernels = {c.kernel_size for c in model.module(n_modules).prior.modules() if isinstance(c, torch.nn.Conv2d)}
    assert ((3, 3) in kernels) == (px > 2**n_modules)


def test_only_the_deepest_prior_is_used_in_prediction() -> None:
    model = small_model(3)

    def refuse(*_: object) -> None:
        raise AssertionError("called")

    for k in (1, 2):
        model.module(k).prior.register_forward_hook(refuse)
        model.module(k).decoder.project.register_forward_hook(refuse)
    for k in (1, 2, 3):
        model.module(k).posterior.register_forward_hook(refuse)
    model.rollout(torch.rand(1, 2, 3, PX, PX), torch.rand(1, 4, 4))


@pytest.mark.parametrize("frames", ["context", "all"])
def test_the_inputs_of_the_prior_in_training_are_those_in_a_rollout(frames: str) -> None:
    model, context, actions = small_model(2, prior_frames=frames), torch.rand(3, 2, 3, PX, PX), torch.rand(3, 5, 4)
    seen: list[torch.Tensor] = []

    def record(_network: object, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    hook = model.module(2).prior.register_forward_pre_hook(record)
    predicted = model.rollout(context, actions)
    hook.remove()
    shown = torch.cat([context, predicted[:, :-1]], 1).transpose(0, 1).flatten(0, 1)
    h = model.encode(shown)[-1]
    torch.testing.assert_close(torch.cat(seen), model.prior_features(h, 5))
    assert torch.equal(seen[-1], seen[1]) == (frames == "context")


def test_the_prior_gets_each_action_and_their_sum_since_the_last_context_frame() -> None:
    model, actions = small_model(action_scale=(0.5, 1.0, 1.0, 1.0)), torch.rand(2, 5, 4)
    scaled = actions / torch.tensor([0.5, 1.0, 1.0, 1.0])
    given = model.prior_actions(actions.transpose(0, 1).flatten(0, 1), 5).view(5, 2, 8).transpose(0, 1)
    torch.testing.assert_close(given[..., :4], scaled)
    for t in range(5):
        torch.testing.assert_close(given[:, t, 4:], 0.3 * scaled[:, 1 : t + 1].sum(1))
    longer = model.prior_actions(actions.transpose(0, 1).flatten(0, 1), 5, n_context=3).view(5, 2, 8)
    torch.testing.assert_close(longer[2, :, 4:], 0.3 * scaled[:, 2])
    paper = small_model(prior_frames="all")
    assert torch.equal(paper.prior_actions(actions[0], 5), actions[0])
    assert not any("action_sum" in name for name in paper.state_dict())


@pytest.mark.parametrize(("n_contexts", "n_actions"), [(2, 5), (3, 1)])
def test_contexts_and_actions_that_do_not_fit_are_refused(n_contexts: int, n_actions: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or 3 contexts and at least 2 actions"):
        small_model().rollout(torch.rand(n_contexts, 2, 3, PX, PX), torch.rand(3, n_actions, 4))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_px": 18}, r"divisible by 2\^2 = 4, as each of 2 modules halves the image, got 18"),
        ({"action_scale": (1.0, 1.0)}, "action_scale"),
        ({"action_scale": (1.0, 1.0, 0.0, 1.0)}, "action_scale"),
    ],
)
def test_invalid_configurations_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GhvaeConfig.model_validate({**small_config().model_dump(), **changes})


def _copying(index: int) -> Ghvae:
    """Return a model whose masks take every pixel from one place: drawn (0), or copied from source 1 or 2."""
    model = small_model(2)
    pixels = model.module(1).pixels
    assert pixels is not None and pixels.bias is not None
    with torch.no_grad():
        pixels.weight[3:].zero_()
        pixels.bias[3:] = torch.tensor([-100.0] * 3)
        pixels.bias[3 + index] = 100.0
    return model


@pytest.mark.parametrize(("index", "frame"), [(1, 1), (2, 0)])
def test_still_pixels_are_copied_exactly_for_any_number_of_steps(index: int, frame: int) -> None:
    context, actions = torch.rand(2, 2, 3, PX, PX), torch.rand(2, 9, 4)
    predicted = _copying(index).rollout(context, actions)
    assert torch.equal(predicted, context[:, frame, None].expand_as(predicted))


@pytest.mark.parametrize("n_context", [1, 3])
def test_the_second_source_of_the_context_is_the_frame_before_the_last_if_there_is_one(n_context: int) -> None:
    context, actions = torch.rand(1, n_context, 3, PX, PX), torch.rand(2, n_context + 2, 4)
    predicted = _copying(2).rollout(context, actions)
    assert torch.equal(predicted, context[:, max(0, n_context - 2), None].expand_as(predicted))


def test_the_pixels_of_the_sources_decide_what_is_copied() -> None:
    model, context, actions = small_model(1), torch.rand(1, 2, 3, PX, PX), torch.rand(1, 2, 4)
    masks = model.module(1).masks
    assert masks is not None
    other = context.clone()
    other[:, 0] = torch.rand(3, PX, PX)  # not an input of the first step after the context but as a source

    def shares() -> list[torch.Tensor]:
        sources = [rollout_with_sources(model, each, actions)[1] for each in (context, other)]
        return [source for source in sources if source is not None]

    state = model.module(1).prior.body.lstm.from_hidden.weight
    with torch.no_grad():
        state.zero_()
        before = shares()
        masks.output.weight.normal_()
        after = shares()
    assert len(before) == len(after) == 2
    assert not torch.equal(after[0], after[1])


def test_a_pixel_that_is_drawn_is_that_of_the_literal_model() -> None:
    model, literal = _copying(0), small_model(2, copies=0)
    state = {name: tensor for name, tensor in model.state_dict().items() if ".masks." not in name}
    weights = {name: tensor[:3] if ".pixels." in name else tensor for name, tensor in state.items()}
    literal.load_state_dict(weights)
    context, actions = torch.rand(1, 2, 3, PX, PX), torch.rand(3, 5, 4)
    torch.testing.assert_close(model.rollout(context, actions), literal.rollout(context, actions))


@pytest.mark.parametrize(("index", "sources"), [(1, [0, 1, 1, 1]), (2, [0, 0, 0, 0])])
def test_teacher_forced_frames_copy_one_of_two_context_frames(index: int, sources: list[int]) -> None:
    batch, model = small_batch(), _copying(index)
    frames = batch.sequences()[0]
    expected = ((frames[:, sources] - frames[:, 1:]) ** 2).mean()
    torch.testing.assert_close(module_loss(model, 2, batch, NO_WEIGHTS, None).mse, expected)


@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_the_shares_of_a_pixel_add_up_and_the_frame_is_their_mixture(threshold: float) -> None:
    head, sources = torch.randn(2, 6, 4, 4), [torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)]
    masks = copy_masks(head, threshold)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 4, 4))
    parts = [torch.sigmoid(head[:, :3]), *(source.expand(2, -1, -1, -1) for source in sources)]
    mixture = sum(mask[:, None] * part for mask, part in zip(masks.unbind(1), parts, strict=True))
    torch.testing.assert_close(compose(head, sources, threshold), mixture)


def test_shares_of_the_drawn_colour_below_the_threshold_are_zero_and_have_finite_gradients() -> None:
    logits = torch.tensor([[-2.0, 0.0, 1.0], [1.0, 0.0, 0.0], [200.0, 0.0, -200.0], [-200.0, 0.0, 0.0]])
    head = torch.cat([torch.zeros(4, 3), logits], 1)[:, :, None, None].requires_grad_()
    before, masks = (copy_masks(head, threshold)[:, :, 0, 0] for threshold in (0.0, 0.15))
    assert masks[0, 0] == 0 < before[0, 0] < 0.15
    assert masks[1, 0].item() == pytest.approx((before[1, 0].item() - 0.15) / 0.85)
    assert masks[2, 0] == 1
    torch.testing.assert_close(masks[0, 1] / masks[0, 2], before[0, 1] / before[0, 2])
    (masks * torch.rand(4, 3)).sum().backward()  # type: ignore[no-untyped-call]
    assert head.grad is not None and head.grad.isfinite().all()


def test_copies_cost_3121_parameters_at_tiny_and_the_literal_model_has_none() -> None:
    config = load(_Section, {"model": "models/tiny.yaml"}).model
    literal = config.model_copy(update={"copies": 0})
    with torch.device("meta"):
        sizes = [sum(each.numel() for each in Ghvae(one).parameters()) for one in (config, literal)]
    assert sizes[0] - sizes[1] == 3121
