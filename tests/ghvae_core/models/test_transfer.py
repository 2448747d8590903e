from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.models.checkpoint import AnyConfig, Checkpoint, CheckpointInfo, build
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.transfer import TransferReport, adapt
from ghvae_core.models.video_model import VideoModel
from tests.ghvae_core.small import HIER_VRNN, PX, SVG, small_config


def _start(config: AnyConfig) -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = build(config)
    info = CheckpointInfo(model=config, step_limit_m=0.1, step_s=0.5, modules_trained=config.n_modules)
    return Checkpoint(model.requires_grad_(False).eval(), info, "0" * 64)


def _adapt(start: Checkpoint, config: AnyConfig) -> tuple[VideoModel, TransferReport]:
    return adapt(start, config, np.random.default_rng(0))


def _of_actions(config: AnyConfig, *scale: float) -> Any:
    return config.model_copy(update={"action_dim": len(scale), "action_scale": scale})


def _rollout(model: VideoModel, actions: Tensor, px: int = PX) -> Tensor:
    context = torch.rand(1, 2, 3, px, px, generator=torch.Generator().manual_seed(1))
    return model.rollout(context, actions)


def _actions(n: int = 4) -> Tensor:
    return torch.rand(3, 4, n, generator=torch.Generator().manual_seed(2)) - 0.5


def _names(model: VideoModel) -> set[str]:
    return set(model.state_dict())


CONFIGS = pytest.mark.parametrize("config", [small_config(), SVG, HIER_VRNN], ids=["ghvae", "svg", "hier_vrnn"])


@CONFIGS
def test_equal_settings_load_all_weights_bit_for_bit(config: AnyConfig) -> None:
    start = _start(config)
    model, report = _adapt(start, config)
    assert set(report.loaded) == _names(model)
    assert (report.adapted, report.new, report.unused, report.changed) == ({}, (), (), {})
    for name, tensor in start.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert all(parameter.requires_grad for parameter in model.parameters())


@CONFIGS
def test_another_action_scale_keeps_the_effect_of_a_movement(config: AnyConfig) -> None:
    start = _start(_of_actions(config, 0.2, 0.2, 0.2, 1.0))
    model, report = _adapt(start, _of_actions(config, 0.05, 0.1, 0.2, 1.0))
    torch.testing.assert_close(_rollout(model, _actions()), _rollout(start.model, _actions()))
    assert set(report.adapted.values()) == {"scaled to the new action_scale"}
    assert report.changed == {"action_scale": "was (0.2, 0.2, 0.2, 1.0), is (0.05, 0.1, 0.2, 1.0)"}
    assert set(report.loaded) | set(report.adapted) == _names(model)


@CONFIGS
def test_added_action_numbers_keep_the_others_and_the_gripper_last(config: AnyConfig) -> None:
    start = _start(_of_actions(config, 0.2, 0.2, 0.2, 1.0))
    model, report = _adapt(start, _of_actions(config, 0.1, 0.1, 0.1, 0.5, 1.0))
    old = _actions()
    new = torch.cat([old[..., :3], torch.randn(3, 4, 1), old[..., 3:]], -1)  # the fourth has no effect yet
    torch.testing.assert_close(_rollout(model, new), _rollout(start.model, old))
    assert set(report.adapted.values()) == {"action numbers 1->1, 2->2, 3->3, 4->5 kept, 4 new and 0"}
    assert report.changed["action_dim"] == "was 4, is 5"


@CONFIGS
def test_fewer_action_numbers_keep_the_others(config: AnyConfig) -> None:
    start = _start(_of_actions(config, *(1.0,) * 7))
    model, _ = _adapt(start, _of_actions(config, *(1.0,) * 4))
    new = _actions()
    old = torch.cat([new[..., :3], torch.zeros(3, 4, 3), new[..., 3:]], -1)
    torch.testing.assert_close(_rollout(model, new), _rollout(start.model, old))


def test_a_plane_has_no_gripper() -> None:
    start = _start(_of_actions(SVG, 1.0, 1.0))
    model, report = _adapt(start, _of_actions(SVG, *(1.0,) * 4))
    new = _actions()
    torch.testing.assert_close(_rollout(model, new), _rollout(start.model, new[..., :2]))
    assert set(report.adapted.values()) == {"action numbers 1->1, 2->2 kept, 3, 4 new and 0"}


@CONFIGS
def test_new_actions_start_without_effect_and_are_learnable(config: AnyConfig) -> None:
    start = _start(_of_actions(config))
    model, report = _adapt(start, _of_actions(config, *(1.0,) * 4))
    torch.testing.assert_close(_rollout(model, _actions()), _rollout(start.model, _actions(4)[..., :0]))
    assert report.adapted
    assert "new" in next(iter(report.adapted.values()))
    frames = torch.stack(list(model.unroll(torch.rand(1, 2, 3, PX, PX), _actions())))
    frames.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = model.get_parameter([*report.adapted][-1]).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_removed_actions_are_reported_as_unused() -> None:
    start = _start(small_config())
    model, report = _adapt(start, _of_actions(small_config()))
    assert report.unused
    assert all(".action" in name for name in report.unused)
    assert _rollout(model, _actions()[..., :0]).isfinite().all()


def test_modules_are_added_and_removed() -> None:
    start = _start(small_config(2))
    more, report = _adapt(start, small_config(3))
    assert report.new == tuple(name for name in more.state_dict() if name.startswith("levels.2."))
    assert report.changed == {"modules": "was 2, is 3"}
    fewer, report = _adapt(start, small_config(1))
    assert report.unused == tuple(name for name in start.model.state_dict() if name.startswith("levels.1."))
    torch.testing.assert_close(
        _rollout(fewer, _actions()), start.model.rollout(_context(), _actions(), depth=1), rtol=0, atol=0
    )


def _context() -> Tensor:
    return torch.rand(1, 2, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def test_another_image_size_adapts_the_kernels() -> None:
    at_one = small_config(4)  # the deepest features are 1x1
    start = _start(at_one)
    larger, report = _adapt(start, at_one.model_copy(update={"image_px": 2 * PX}))
    assert report.adapted
    assert all(name.startswith("levels.3.") for name in report.adapted)
    assert report.changed == {"image_px": f"was {PX}, is {2 * PX}"}
    assert _rollout(larger, _actions(), 2 * PX).isfinite().all()
    back = Checkpoint(larger, replace_model(start.info, larger), start.sha256)
    again, _ = _adapt(back, at_one)
    torch.testing.assert_close(_rollout(again, _actions()), _rollout(start.model, _actions()))


def replace_model(info: CheckpointInfo, model: VideoModel) -> CheckpointInfo:
    return info.model_copy(update={"model": model.config})


def test_a_uniform_prior_is_reported_as_new() -> None:
    start = _start(small_config(prior="uniform"))
    model, report = _adapt(start, small_config())
    assert report.new
    assert all(".prior." in name for name in report.new)
    assert report.new == report.unused
    name = "levels.1.prior.head.weight"
    assert not torch.equal(model.state_dict()[name], start.model.state_dict()[name])
    assert report.changed == {"prior": "was uniform, is learned"}


def test_new_weights_use_the_rng_and_not_the_global_one() -> None:
    start, config = _start(small_config(1)), small_config(2)
    before = torch.random.get_rng_state()
    first, second = (_adapt(start, config)[0].state_dict() for _ in range(2))
    other = adapt(start, config, np.random.default_rng(1))[0].state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("start", "config", "reason"),
    [
        (SVG, small_config(), "expected a model of kind ghvae"),
        (small_config(), small_config(pixel_channels=16), "pixel_channels: the checkpoint has 8, this run 16"),
        (small_config(), small_config(refine_latent=False), "refine_latent: the checkpoint has True, this run False"),
        (SVG, SVG.model_copy(update={"hidden": 16}), "hidden: the checkpoint has 8, this run 16"),
        (
            small_config(),
            small_config(modules=(small_config().modules[1],) * 2),
            "module 1: channels: the checkpoint has 8, this run 12",
        ),
    ],
)
def test_other_sizes_are_refused_by_name(start: AnyConfig, config: AnyConfig, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        _adapt(_start(start), config)


def test_context_frames_keep_the_weights_of_the_latest() -> None:
    start = _start(HIER_VRNN)
    context = torch.rand(1, 3, 3, PX, PX)
    longer, report = _adapt(start, HIER_VRNN.model_copy(update={"n_context": 3}))
    assert set(report.adapted.values()) == {"earlier context frames have no effect yet"}
    assert report.changed == {"n_context": "was 2, is 3"}
    actions = torch.randn(3, 5, 4)
    expected = start.model.rollout(context[:, 1:], actions[:, 1:])
    torch.testing.assert_close(longer.rollout(context, actions), expected)
    shorter, report = _adapt(start, HIER_VRNN.model_copy(update={"n_context": 1}))
    assert set(report.adapted.values()) == {"weights of earlier context frames left out"}
    assert shorter.rollout(context[:, 2:], actions).shape == (3, 5, 3, PX, PX)


def test_sums_of_actions_start_without_effect_and_are_left_out_for_the_prior_of_the_paper() -> None:
    paper, ours = small_config(prior_frames="all"), small_config()
    model, report = _adapt(_start(paper), ours)
    assert report.changed["prior_frames"] == "was all, is context"
    assert {name.split(".")[-2] for name in report.adapted} == {"2"}
    assert all(".prior.body.action_sum." in name for name in (*report.adapted, *report.new))
    assert _rollout(model, _actions()).isfinite().all()
    assert all(not model.state_dict()[name].any() for name in report.adapted)
    _, back = _adapt(_start(ours), paper)
    assert back.unused and all(".prior.body.action_sum." in name for name in back.unused)
    assert not back.new and not back.adapted


def test_a_literal_model_gets_masks_that_draw_nearly_every_pixel() -> None:
    start = _start(small_config(copies=0))
    model, report = _adapt(start, small_config())
    assert report.changed["copies"] == "was 0, is 2"
    assert set(report.adapted) == {"levels.0.pixels.weight", "levels.0.pixels.bias"}
    assert {name.rsplit(".", 2)[0] for name in report.new} == {"levels.0.masks"}
    before, after = _rollout(start.model, _actions()), _rollout(model, _actions())
    assert 0 < float((before - after).abs().mean()) < 0.02


def test_masks_are_left_out_of_a_literal_model() -> None:
    model, report = _adapt(_start(small_config()), small_config(copies=0))
    assert report.adapted["levels.0.pixels.weight"] == "masks of copied frames left out"
    assert model.state_dict()["levels.0.pixels.weight"].shape[0] == 3


def test_the_text_of_the_report_is_complete() -> None:
    start = _start(small_config(2))
    _, report = _adapt(start, _of_actions(small_config(3), 0.5, 0.5, 0.5, 1.0))
    text = "\n".join(report.lines())
    assert "action_scale: was (1.0, 1.0, 1.0, 1.0), is (0.5, 0.5, 0.5, 1.0)" in text
    assert "adapted: levels.0.prior.body.action.0.weight: scaled to the new action_scale" in text
    assert "new: levels.2.encoder (" in text
    assert set(report.provenance()) == {"init_changed", "init_loaded", "init_adapted", "init_new"}
    info = start.info.model_copy(update={"provenance": dict(report.provenance())})
    assert CheckpointInfo.model_validate_json(info.model_dump_json()).provenance == report.provenance()
    assert replace(start, info=info).info.provenance["init_new"].startswith("levels.2.")  # type: ignore[union-attr]
