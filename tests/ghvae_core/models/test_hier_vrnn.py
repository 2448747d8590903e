from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from configs.loader import Config, load
from ghvae_core.models.hier_vrnn import HierVrnn, HierVrnnConfig, States
from ghvae_core.models.layers import Gaussian, RecurrentState
from ghvae_core.training.objective import NO_WEIGHTS, Batch, Weights, hier_vrnn_loss
from ghvae_core.training.validation import to_batch
from tests.ghvae_core.small import HIER_VRNN, PX, small_batch, small_windows


class _Section(Config):
    model: HierVrnnConfig


def _model(**changes: object) -> HierVrnn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HierVrnn(HIER_VRNN.model_copy(update=changes))


def _context(n: int = 1) -> Tensor:
    return torch.rand(n, 2, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def _actions(n: int = 2, length: int = 5) -> Tensor:
    return torch.rand(n, length, 4, generator=torch.Generator().manual_seed(2)) * 4 - 2


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _inputs_of(network: nn.Module) -> list[tuple[Tensor, ...]]:
    """Return a list that will hold the arguments of each call."""
    seen: list[tuple[Tensor, ...]] = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args))
    return seen


@pytest.mark.parametrize(("name", "millions"), [("hier_vrnn_tiny", 2.43), ("hier_vrnn_paper", 200.79)])
def test_sizes_have_the_documented_parameter_counts(name: str, millions: float) -> None:
    config = load(_Section, {"model": f"models/{name}.yaml"}).model
    with torch.device("meta"):
        assert sum(p.numel() for p in HierVrnn(config).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("px", [16, 48, 64])
def test_features_halve_from_stage_to_stage_down_to_one_pixel(px: int) -> None:
    features = _model(image_px=px).encoder(torch.rand(2, 3, px, px))
    sides = [px, px // 2, px // 4, px // 8, px // 16, 1]
    assert [tuple(each.shape) for each in features] == [
        (2, 2 * width, side, side) for width, side in zip((1, 2, 4, 8, 8, 8), sides, strict=True)
    ]


def test_latents_have_three_resolutions() -> None:
    model, shapes = _model(image_px=64), []
    model.prior.register_forward_hook(lambda *args: shapes.append([tuple(p.mean.shape) for p in args[2][0]]))
    model.rollout(torch.rand(1, 2, 3, 64, 64), _actions(2, 2))
    assert shapes == [[(2, 6, 1, 1), (2, 3, 8, 8), (2, 2, 32, 32)]]


@pytest.mark.parametrize("n_contexts", [1, 3])
def test_rollout_has_the_specified_shape_and_range(n_contexts: int) -> None:
    predicted = _model().rollout(_context(n_contexts), _actions(3), depth=1)
    assert predicted.shape == (3, 4, 3, PX, PX)
    assert 0 <= predicted.min() <= predicted.max() <= 1
    assert not predicted.requires_grad


def test_one_shared_context_is_encoded_once_and_equals_tiling_it() -> None:
    model, context, actions = _model(), _context(), _actions(7)
    tiled = model.rollout(context.expand(7, -1, -1, -1, -1), actions)
    encoded = _inputs_of(model.encoder)
    torch.testing.assert_close(model.rollout(context, actions), tiled, atol=1e-5, rtol=0)
    assert [len(frames) for (frames,) in encoded] == [2, 7, 7, 7]


def test_prediction_depends_on_past_and_present_actions_and_both_context_frames() -> None:
    model, context, actions = _model(), _context(), _actions(1, 6)
    before = model.rollout(context, actions)
    for t in range(1, 6):  # action 0 leads to the last context frame, which is known
        other = actions.clone()
        other[:, t] += 1
        same = (model.rollout(context, other) == before).flatten(2).all(-1)[0]  # of the 5 predicted frames
        assert same[: t - 1].all(), f"action {t} changed a frame before it"
        assert not same[t - 1 :].any(), f"action {t} changed nothing"
    for t in range(2):
        changed = context.clone()
        changed[:, t] = 1 - changed[:, t]
        assert not torch.equal(model.rollout(changed, actions), before)


def test_the_context_initialises_every_recurrent_state() -> None:
    model, frames = _model(), small_batch(2).frames[:4]

    def initial(context: Tensor) -> list[RecurrentState]:
        features = model.encoder(context)
        states = model.initial_states(features)
        return [*states.prior, *model.posterior.initial(features), *states.decoder]

    states, others = initial(frames), initial(1 - frames)
    assert len(states) == 3 + 3 + 6
    for state, other in zip(states, others, strict=True):
        assert not torch.equal(state.hidden, other.hidden)
        assert not torch.equal(state.cell, other.cell)


def test_a_longer_rollout_begins_with_the_shorter_one() -> None:
    model, context, actions = _model(), _context(2), _actions(2, 8)
    torch.testing.assert_close(model.rollout(context, actions)[:, :3], model.rollout(context, actions[:, :4]))


def test_latents_are_drawn_from_the_generator_and_are_the_mean_without() -> None:
    model, context, actions = _model(), _context(), _actions()
    first, again, other = (model.rollout(context, actions, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model.rollout(context, actions), model.rollout(context, actions))


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_latent_is_an_input_of_all_finer_levels_and_of_the_decoder(changed: int) -> None:
    model, batch = _model(), small_batch(2)
    features = model.encoder(batch.frames)
    context, present = [each[:4] for each in features], [each[2:-2] for each in features]
    actions, states = model.scaled(batch.actions[2:]), model.initial_states(context)

    def means(value: float) -> list[Tensor]:
        """Return the means of priors and posteriors and the frames, with a latent of constant value."""

        def choose(level: int, latent: Gaussian) -> Tensor:
            return torch.full_like(latent.mean, value if level == changed else 0.5)

        priors, latents, _ = model.prior(present, actions, choose, states=states.prior)
        posteriors, _, _ = model.posterior(present, actions, choose, states=model.posterior.initial(context))
        frames, _ = model.decoder(present, latents, actions, states=states.decoder)
        return [*(each.mean for each in (*priors, *posteriors)), frames]

    finer = [level > changed for level in range(3)]
    assert [not torch.equal(*pair) for pair in zip(means(0.0), means(1.0), strict=True)] == [*finer, *finer, True]


def test_each_stage_of_the_decoder_gets_the_latents_of_all_levels_so_far() -> None:
    model = _model()
    _backward(hier_vrnn_loss(model, small_batch(), NO_WEIGHTS, None).mse)
    learned = [name for name, p in model.decoder.named_parameters() if ".latents." in name and p.grad.any()]  # type: ignore[union-attr]
    counts = (1, 1, 2, 2, 3, 3)  # coarsest stage first
    assert learned == [f"recurrent.{s}.latents.{i}.weight" for s, n in enumerate(counts) for i in range(n)]


def test_a_later_frame_does_not_change_an_earlier_prediction_under_teacher_forcing() -> None:
    model, batch = _model(), small_batch(1)
    decoded: list[Tensor] = []
    model.decoder.register_forward_hook(lambda *args: decoded.append(args[2][0]))
    changed = batch.frames.clone()
    changed[3] = 1 - changed[3]
    for frames in (batch.frames, changed):
        hier_vrnn_loss(model, Batch(frames, batch.actions, batch.n_steps), NO_WEIGHTS, None)
    same = (decoded[0] == decoded[1]).flatten(1).all(1)
    assert same.tolist() == [True, False, False]  # frames 2, 3 (through its posterior) and 4


def test_prediction_does_not_use_the_posterior() -> None:
    model, calls = _model(), []
    model.posterior.register_forward_hook(lambda *_: calls.append(1))
    model.rollout(_context(), _actions())
    assert not calls


def test_an_action_free_model_takes_empty_actions() -> None:
    config = HierVrnnConfig.model_validate({**HIER_VRNN.model_dump(exclude={"action_scale"}), "action_dim": 0})
    model = HierVrnn(config)
    assert model.rollout(_context(), torch.empty(3, 5, 0)).shape == (3, 4, 3, PX, PX)
    batch = small_batch()
    free = Batch(batch.frames, batch.actions[:, :0], batch.n_steps)
    _backward(hier_vrnn_loss(model, free, Weights(1e-6, 1e-6), None).total)
    with pytest.raises(ValueError, match="expected actions of 0 numbers, got 4"):
        model.rollout(_context(), _actions())


def test_raw_actions_are_divided_by_their_scale() -> None:
    scaled = _model(action_scale=(0.5, 0.5, 0.5, 1.0))
    half = _actions() * torch.tensor([0.5, 0.5, 0.5, 1.0])
    torch.testing.assert_close(scaled.rollout(_context(), half), _model().rollout(_context(), _actions()))


def test_another_number_of_context_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 context frames, as in training, got 2"):
        _model(n_context=3).rollout(_context(), _actions())
    assert _model(n_context=1).rollout(_context()[:, :1], _actions()).shape == (2, 5, 3, PX, PX)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"image_px": 24}, "divisible by 16, got 24"), ({"latents": (8, 0, 8)}, "positive"), ({"n_hid": 0}, "than 0")],
)
def test_invalid_configurations_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        HierVrnnConfig.model_validate({**HIER_VRNN.model_dump(), **changes})


def test_the_loss_is_the_error_plus_beta_times_the_kl_per_sequence() -> None:
    model, batch = _model(), small_batch(3)
    loss = hier_vrnn_loss(model, batch, Weights(0.5, 0.5), None)
    torch.testing.assert_close(loss.total, loss.mse + 0.5 * loss.kl)
    twice = to_batch(small_windows(), np.array([0, 1, 2, 0, 1, 2]))
    for whole, half in zip(hier_vrnn_loss(model, twice, Weights(0.5, 0.5), None), loss, strict=True):
        torch.testing.assert_close(whole, half)
    drawn = [
        hier_vrnn_loss(model, batch, Weights(0.5, 0.5), torch.Generator().manual_seed(seed)).mse for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_all_steps_at_once_equal_one_step_after_another() -> None:
    model, batch = _model(), small_batch(2)
    features, actions = model.encoder(batch.frames), model.scaled(batch.actions)
    states = model.initial_states([each[:4] for each in features])

    def predict(first: int, last: int, before: States) -> tuple[Tensor, States]:
        chosen, given = [each[2 * first : 2 * last] for each in features], actions[2 * first : 2 * last]
        _, latents, prior = model.prior(chosen, given, lambda _, latent: latent.mean, states=before.prior)
        frames, decoder = model.decoder(chosen, latents, given, states=before.decoder)
        return frames, States(prior, decoder)

    whole, _ = predict(1, 4, states)
    steps = []
    for t in range(1, 4):
        frame, states = predict(t, t + 1, states)
        steps.append(frame)
    torch.testing.assert_close(whole, torch.cat(steps), atol=1e-5, rtol=0)


def test_every_weight_learns_and_the_prior_by_the_kl_alone() -> None:
    model = _model(encoder_blocks=2, decoder_blocks=2)
    _backward(hier_vrnn_loss(model, small_batch(), Weights(1e-3, 1e-3), torch.Generator().manual_seed(0)).total)
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    model.zero_grad()
    _backward(hier_vrnn_loss(model, small_batch(), NO_WEIGHTS, torch.Generator().manual_seed(0)).total)
    assert not any(p.grad is not None and p.grad.any() for p in model.prior.parameters())


def test_half_precision_gives_nearly_the_same_loss_and_full_precision_gradients() -> None:
    model, batch = _model(), small_batch()
    with torch.autocast("cpu", torch.bfloat16):
        half = hier_vrnn_loss(model, batch, Weights(1e-6, 1e-6), None)
    assert half.total.dtype == half.kl.dtype == torch.float32
    torch.testing.assert_close(half.mse, hier_vrnn_loss(model, batch, Weights(1e-6, 1e-6), None).mse, rtol=0.02, atol=0)
    _backward(half.total)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
