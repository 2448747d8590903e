from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference

from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.layers import Gaussian
from ghvae_core.models.ssim import ssim_map
from ghvae_core.models.svg import Svg
from ghvae_core.training.objective import (
    NO_WEIGHTS,
    Batch,
    ObjectiveConfig,
    Weights,
    kl_divergence,
    module_loss,
    prior_loss,
    rollout_loss,
    svg_loss,
)
from ghvae_core.training.stages import StageLoss, TrainingConfig, stages
from tests.ghvae_core.small import SVG, small_batch, small_model


def _only(model: Ghvae, k: int) -> Ghvae:
    model.requires_grad_(False)
    model.module(k).requires_grad_(True)
    return model


def _gradients(model: Ghvae) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_kl_is_the_closed_form() -> None:
    mean, prior_mean, log_variance = torch.randn(3, 5, 4).unbind()
    expected = reference(Normal(mean, 0.1), Normal(prior_mean, (0.5 * log_variance).exp()))
    torch.testing.assert_close(kl_divergence(mean, 2 * math.log(0.1), Gaussian(prior_mean, log_variance)), expected)


def test_kl_of_equal_distributions_is_zero() -> None:
    zero = torch.zeros(3)
    assert kl_divergence(zero, 0.0, Gaussian(zero, zero)).abs().max() == 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_gradients_reach_module_k_alone(k: int) -> None:
    model = _only(small_model(3), k)
    module_loss(model, k, small_batch(), Weights(1e-3, 1e-3), torch.Generator().manual_seed(0)).total.backward()  # type: ignore[no-untyped-call]
    reached = set(_gradients(model))
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(f"levels.{k - 1}.")}


def test_lower_priors_posteriors_and_projections_are_not_called() -> None:
    model = _only(small_model(3), 3)

    def refuse(*_: object) -> None:
        raise AssertionError("called")

    for k in (1, 2):
        for part in (model.module(k).prior, model.module(k).posterior, model.module(k).decoder.project):
            part.register_forward_hook(refuse)
    module_loss(model, 3, small_batch(), NO_WEIGHTS, None)


def test_the_likelihood_is_that_of_pixels_through_the_frozen_decoders() -> None:
    model, batch = _only(small_model(2), 2), small_batch()
    before = module_loss(model, 2, batch, NO_WEIGHTS, None)
    with torch.no_grad():
        for parameter in model.module(1).decoder.parameters():
            parameter.zero_()
    after = module_loss(model, 2, batch, NO_WEIGHTS, None)
    assert torch.isfinite(before.total)
    assert before.mse != after.mse


def test_cached_features_give_the_same_loss_and_gradients() -> None:
    model, batch = _only(small_model(3), 3), small_batch()
    with torch.no_grad():
        cached = replace(batch, lower=tuple(model.encode(batch.frames, 2)))
    results = []
    for each in (batch, cached):
        model.zero_grad()
        module_loss(model, 3, each, Weights(1e-3, 1e-3), torch.Generator().manual_seed(0)).total.backward()  # type: ignore[no-untyped-call]
        results.append(_gradients(model))
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name])


def _ssim(x: torch.Tensor, y: torch.Tensor, window_px: int) -> float:
    """Return the mean SSIM, window by window, straight from the definition."""
    values = []
    for i in range(x.shape[-2] - window_px + 1):
        for j in range(x.shape[-1] - window_px + 1):
            a, b = (each[..., i : i + window_px, j : j + window_px].flatten(-2).double() for each in (x, y))
            mean_a, mean_b = a.mean(-1), b.mean(-1)
            covariance = ((a - mean_a[..., None]) * (b - mean_b[..., None])).mean(-1)
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            structure = (2 * covariance + 9e-4) / (a.var(-1, correction=0) + b.var(-1, correction=0) + 9e-4)
            values.append(luminance * structure)
    return float(torch.stack(values).mean())


def test_the_ssim_term_is_that_of_the_definition_on_two_scales() -> None:
    model, batch = small_model(2), small_batch()
    plain, loss = (module_loss(model, 2, batch, Weights(0.0, 0.0, ssim), None) for ssim in (0.0, 0.5))
    assert plain.total == plain.mse == loss.mse
    predicted = _predicted_frames(model, batch)
    target = batch.frames[batch.n_sequences :]
    x, y = (torch.nn.functional.avg_pool2d(frames, 2) for frames in (predicted, target))
    expected = 0.5 * (1 - (_ssim(predicted, target, 5) + _ssim(x, y, min(5, x.shape[-1]))) / 2)
    assert float((loss.total - loss.mse).detach()) == pytest.approx(expected, rel=1e-4)


def _predicted_frames(model: Ghvae, batch: Batch) -> torch.Tensor:
    """Return what module 2 predicts from real frames and the posterior mean."""
    n = batch.n_sequences
    with torch.no_grad():
        features = model.encode(batch.frames)
        mean = model.module(2).posterior(features[-1][n:], batch.n_steps)
        return model.decode(mean, [each[:-n] for each in features], batch.sources(2))


def test_the_ssim_term_of_equal_frames_has_no_gradient_and_no_value() -> None:
    frames = torch.rand(2, 3, 16, 16, requires_grad=True)
    similarity = ssim_map(frames, frames.detach(), lambda moment: torch.nn.functional.avg_pool2d(moment, 5, 1))
    assert torch.allclose(similarity, torch.ones_like(similarity), atol=1e-5)
    similarity.mean().backward()  # type: ignore[no-untyped-call]
    assert frames.grad is not None
    assert frames.grad.abs().max() < 1e-4


@pytest.mark.parametrize("emphasis", [1.0, 5.0])
def test_the_total_is_the_bound_for_any_emphasis(emphasis: float) -> None:
    loss = module_loss(_only(small_model(2), 2), 2, small_batch(), Weights(1e-3, emphasis * 1e-3), None)
    torch.testing.assert_close(loss.total, loss.mse + 1e-3 * loss.kl)


def test_without_emphasis_the_gradient_is_that_of_the_plain_bound() -> None:
    model, batch = _only(small_model(1), 1), small_batch()
    module_loss(model, 1, batch, Weights(1e-3, 1e-3), None).total.backward()  # type: ignore[no-untyped-call]
    ours = _gradients(model)
    model.zero_grad()
    frames, actions = batch.frames, batch.actions
    h = model.module(1).encoder(frames)
    mean = model.module(1).posterior(h[3:], 4)
    seen = torch.cat([h[:6], h[3:6], h[3:6]])  # after the two context frames, the features of the second one
    prior, _ = model.prior(seen, model.prior_actions(actions, 4), 1, 4)
    mse = ((model.decode(mean, [h[:-3]], batch.sources(2)) - frames[3:]) ** 2).mean()
    (mse + 1e-3 * kl_divergence(mean, 2 * math.log(0.1), prior).sum() / 3).backward()  # type: ignore[no-untyped-call]
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("n_modules", [1, 2])
def test_prior_finetuning_moves_the_prior_alone_and_lowers_the_kl(n_modules: int) -> None:
    model, batch = small_model(n_modules), small_batch()
    model.requires_grad_(False)
    prior = model.module(n_modules).prior.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = prior_loss(model, n_modules, batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(loss.kl))
    assert values[-1] < values[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(f"levels.{n_modules - 1}.prior.") for name in changed)


@pytest.mark.parametrize("copies", [0, 2])
def test_the_error_of_some_decoded_steps_is_that_of_all_on_average(copies: int) -> None:
    model, batch = _only(small_model(2, copies=copies), 2), small_batch()
    part = replace(batch, n_decoded=1)
    generator = torch.Generator().manual_seed(0)
    errors = torch.stack([module_loss(model, 2, part, NO_WEIGHTS, generator).mse.detach() for _ in range(200)])
    whole = module_loss(model, 2, batch, NO_WEIGHTS, generator).mse.detach()
    assert errors.std() > 0
    assert abs(float(errors.mean() - whole)) < 4 * float(errors.std()) / len(errors) ** 0.5
    model.zero_grad()
    module_loss(model, 2, part, Weights(1e-3, 1e-3), generator).total.backward()  # type: ignore[no-untyped-call]
    assert {name for name, p in model.module(2).named_parameters() if p.grad is None} == set()


def test_decoded_steps_do_not_depend_on_the_division_of_a_batch_and_hold_each_sequence_equally_often() -> None:
    batch = replace(small_batch(4), n_decoded=2)
    n, n_steps = 4, batch.n_steps
    places = torch.arange(n_steps * n).view(n_steps, n)  # of the transitions of the whole batch

    def decoded(first: int, last: int) -> set[int]:
        frames, actions = (
            each.view(-1, n, *each.shape[1:])[:, first:last].flatten(0, 1) for each in (batch.frames, batch.actions)
        )
        part = replace(batch, frames=frames, actions=actions, first=first, n_total=n)
        own = places[:, first:last].reshape(-1, 1, 1, 1)
        return {int(place) for place in part.decoded(torch.Generator().manual_seed(3), [own])[0]}

    whole = decoded(0, 4)
    assert decoded(0, 1) | decoded(1, 4) == whole
    assert sorted(place % n for place in whole) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({place // n for place in whole}) > 2, "each sequence has its own steps"


def test_without_a_generator_all_steps_are_decoded() -> None:
    model, batch = small_model(1), small_batch()
    losses = [module_loss(model, 1, each, NO_WEIGHTS, None).mse for each in (batch, replace(batch, n_decoded=1))]
    assert losses[0] == losses[1]


def test_svg_decodes_some_steps_too() -> None:
    model, batch = Svg(SVG), small_batch()
    calls: list[int] = []
    model.decoder.register_forward_hook(lambda _module, args, _out: calls.append(len(args[0])))
    for n_decoded in (0, 1):
        svg_loss(model, replace(batch, n_decoded=n_decoded), NO_WEIGHTS, torch.Generator().manual_seed(0))
    assert calls == [len(batch.actions), batch.n_sequences]


def test_rollouts_of_the_deepest_module_leave_all_others_unchanged() -> None:
    model, batch = small_model(3), small_batch()
    (stage,) = stages(TrainingConfig(module_steps=(0,), rollout_steps=1), 3)
    loss = StageLoss(model, stage, TrainingConfig(module_steps=(0,), rollout_steps=1), ObjectiveConfig(), 2)
    loss(batch, 0, torch.Generator()).total.backward()
    reached = set(_gradients(model))
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in reached} == {"2"}
    assert any(".encoder." in name for name in reached) and any(".decoder.blocks." in name for name in reached)


def test_rollout_loss_is_the_error_of_the_rollout_and_reaches_all_encoders() -> None:
    model, batch = small_model(2), small_batch()
    frames, actions = batch.sequences()
    loss = rollout_loss(model, 2, batch, 2)
    predicted = model.rollout(frames[:, :2], actions)
    torch.testing.assert_close(loss.mse.detach(), ((predicted - frames[:, 2:]) ** 2).mean())
    loss.total.backward()  # type: ignore[no-untyped-call]
    reached = _gradients(model)
    assert all(any(name.startswith(f"levels.{k}.encoder") for name in reached) for k in (0, 1))
    assert not any("posterior" in name or "levels.0.prior" in name for name in reached)
