from __future__ import annotations

import pytest
from pydantic import ValidationError

from configs.loader import ConfigError
from ghvae_core.models.hier_vrnn import HierVrnnConfig
from ghvae_core.models.svg import SvgConfig
from ghvae_core.models.video_model import ModelConfig
from ghvae_core.training.stages import TrainingConfig, check_plan, stages
from tests.ghvae_core.small import small_config

CONFIG = TrainingConfig(module_steps=(4, 3), end_to_end_steps=5, prior_finetune_steps=2, rollout_steps=2)


def test_stages_are_greedy_then_the_refinements() -> None:
    assert [(stage.name, stage.kind, stage.k, stage.n_steps) for stage in stages(CONFIG, 3)] == [
        ("module_1", "module", 1, 4),
        ("module_2", "module", 2, 3),
        ("module_3", "module", 3, 3),
        ("end_to_end", "end_to_end", 3, 5),
        ("prior_finetune", "prior_finetune", 3, 2),
        ("rollout", "rollout", 3, 2),
    ]
    assert [stage.kind for stage in stages(TrainingConfig(module_steps=(1,)), 2)] == ["module", "module"]
    assert [stage.name for stage in stages(TrainingConfig(module_steps=(0,), prior_finetune_steps=1), 2)] == [
        "prior_finetune"
    ]


def test_end_to_end_uses_a_tenth_of_the_rate_after_module_stages() -> None:
    alone = CONFIG.model_copy(update={"module_steps": (0,)})
    fixed = alone.model_copy(update={"end_to_end_learning_rate": 0.5})
    rates = [
        next(stage.rate for stage in stages(config, 2, from_scratch) if stage.kind == "end_to_end")
        for config, from_scratch in ((CONFIG, True), (CONFIG, False), (alone, False), (alone, True), (fixed, True))
    ]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-4, 1e-3, 0.5])


def test_the_rate_ramps_up_and_falls_along_a_cosine() -> None:
    config = TrainingConfig(module_steps=(100,), lr_warmup_steps=10, learning_rate=1.0, final_rate_fraction=0.1)
    stage = stages(config, 1)[0]
    rates = [stage.rate_at(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"module_steps": (0,)}, "expected steps above 0"),
        ({"batch_windows": 6, "accumulation_steps": 4}, "expected a divisor of batch_windows 6, got 4"),
        ({"ema_decay": 1.0}, "less than 1"),
        ({"feature_cache": "some"}, "'off', 'deep', 'all' or 'auto'"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainingConfig.model_validate({"module_steps": (1,), **settings})


@pytest.mark.parametrize("baseline", [SvgConfig(), HierVrnnConfig()])
def test_a_model_without_modules_is_trained_end_to_end_alone(baseline: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="expected end_to_end_steps alone"):
        check_plan(stages(CONFIG, 1), baseline)
    check_plan(stages(TrainingConfig(module_steps=(0,), end_to_end_steps=1), 1), baseline)
    check_plan(stages(CONFIG, 2), small_config(2))
