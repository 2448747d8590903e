from __future__ import annotations

import copy
import types
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.engine import Engine
from ghvae_core.training.objective import Batch, Loss, Weights, module_loss
from ghvae_core.training.stages import TrainingConfig, TrainingStage, stages
from ghvae_core.training.trainer import Interrupted, TrainingError
from ghvae_core.training.training_state import latest_state, load_state, save_state
from ghvae_core.training.validation import ValidationMetrics
from tests.ghvae_core.runs import CONFIG, Record, after, make_trainer, never
from tests.ghvae_core.small import HIER_VRNN, N_FRAMES, PX, SVG, small_config, small_model


@pytest.mark.parametrize("rolled_out", ["deepest", "all"])
def test_a_phase_changes_its_module_alone(rolled_out: str, tmp_path: Path) -> None:
    snapshots: list[tuple[str, dict[str, torch.Tensor]]] = []

    def remember(stage: TrainingStage, step: int) -> None:
        snapshots.append((stage.name, copy.deepcopy(model.state_dict())))

    config = CONFIG.model_copy(update={"rollout_modules": rolled_out})
    trainer, model, record = make_trainer(tmp_path, config, listener=Record(remember))
    previous = copy.deepcopy(model.state_dict())
    trainer.train(never)
    allowed = {"module_1": ("levels.0.",), "module_2": ("levels.1.",), "prior_finetune": ("levels.1.prior.",)}
    for name, state in snapshots:
        changed = [key for key in state if not torch.equal(state[key], previous[key])]
        assert changed
        if name in allowed:
            assert all(key.startswith(allowed[name]) for key in changed), (name, changed)
        if name == "rollout":
            assert any("levels.1.encoder." in key for key in changed)
            assert any("levels.0." in key for key in changed) == (rolled_out == "all")
            stale = ("posterior.", "levels.0.prior.", "levels.0.decoder.project.")
            assert not [key for key in changed if any(part in key for part in stale)]
        previous = state
    assert record.ended == ["module_1", "module_2", "prior_finetune", "rollout"]


@pytest.mark.parametrize("changes", [{"prior": "uniform"}, {"action_dim": 0, "action_scale": ()}])
def test_models_that_take_no_actions_are_trained(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    before = copy.deepcopy(model.state_dict())
    config = CONFIG.model_copy(update={"prior_finetune_steps": 0 if "prior" in changes else 2})
    trainer, _, _ = make_trainer(tmp_path, config, model=model)
    assert len(trainer.train(never)) == len(stages(config, 2))
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert any("prior." in key for key in changed) == ("prior" not in changes)
    assert all(any(f"levels.{k}.posterior." in key for key in changed) for k in (0, 1))


class Whole(NamedTuple):
    """An uninterrupted training: the weights, and what it recorded."""

    metrics: object
    weights: dict[str, torch.Tensor]
    losses: list[tuple[str, int, float]]


def _whole(folder: Path, config: TrainingConfig) -> Whole:
    trainer, model, record = make_trainer(folder, config)
    return Whole(trainer.train(never), model.state_dict(), record.losses)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _whole(tmp_path_factory.mktemp("whole"), CONFIG)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _whole(tmp_path_factory.mktemp("whole"), AVERAGED)


@pytest.mark.parametrize("n_steps", [2, 4, 5, 8, 10])  # within a stage, at its end, and in each kind
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, plain: Whole, n_steps: int) -> None:
    first, _, first_record = make_trainer(tmp_path / "parts")
    with pytest.raises(Interrupted):
        first.train(after(n_steps))
    second, resumed, second_record = make_trainer(tmp_path / "parts")
    assert second.resume()
    assert second.train(never) == plain.metrics
    for name, tensor in plain.weights.items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert first_record.losses + second_record.losses == plain.losses


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    trainer, _, _ = make_trainer(tmp_path)
    assert not trainer.resume()
    with pytest.raises(Interrupted):
        trainer.train(after(1))
    other, _, _ = make_trainer(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="another configuration, data or seed"):
        other.resume()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    trainer, _, _ = make_trainer(tmp_path)
    with pytest.raises(Interrupted):
        trainer.train(after(1))
    path = latest_state(tmp_path / "state")
    assert path is not None
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="weights"):
        trainer.resume()


def test_one_state_is_kept(tmp_path: Path) -> None:
    trainer, _, _ = make_trainer(tmp_path, CONFIG.model_copy(update={"save_every_s": 1e-9}))
    trainer.train(never)
    assert len(list((tmp_path / "state").iterdir())) == 1


def _poison(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> list[int]:
    """Make the n-th call of the module's loss NaN for n in `bad`; return the count of calls in a list."""
    calls = [0]

    def poisoned(model: Ghvae, k: int, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
        loss = module_loss(model, k, batch, weights, generator)
        calls[0] += generator is not None  # None in validation
        return loss._replace(total=loss.total * float("nan")) if calls[0] in bad else loss

    monkeypatch.setattr("ghvae_core.training.stages.module_loss", poisoned)
    return calls


LONG = TrainingConfig(module_steps=(12, 1), batch_windows=3, validation_windows=4)


def test_a_non_finite_step_is_skipped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _poison(monkeypatch, {2})
    trainer, model, record = make_trainer(tmp_path, LONG)
    trainer.train(never)
    assert record.warnings == ["module_1 step 2: the loss is NaN or infinite; step skipped"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert 2 not in [step for name, step, _ in record.losses if name == "module_1"]


def test_consecutive_non_finite_steps_restore_the_last_state_with_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _poison(monkeypatch, set(range(4, 9)))
    trainer, model, record = make_trainer(tmp_path, LONG)
    trainer.train(never)
    assert calls[0] == 8 + 12 + 1  # from the start again, then module 2
    assert "restored step 0, learning rate halved (1 of 2)" in record.warnings[-1]
    assert record.ended == ["module_1", "module_2"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_persistent_non_finite_loss_stops_training_with_a_valid_state_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, set(range(1, 100)))
    trainer, _, _ = make_trainer(tmp_path, LONG)
    with pytest.raises(TrainingError, match="is still NaN or infinite at step 5 after 2 restores"):
        trainer.train(never)
    again, model, _ = make_trainer(tmp_path, LONG)
    assert again.resume()
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_run_stopped_in_non_finite_steps_keeps_a_valid_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _poison(monkeypatch, {3})
    monkeypatch.setattr("ghvae_core.training.trainer._MAX_SAVING_FRACTION", 1e9)  # save at every step
    trainer, _, record = make_trainer(tmp_path, LONG.model_copy(update={"save_every_s": 1e-9}))
    with pytest.raises(Interrupted):
        trainer.train(after(3))
    assert len(record.warnings) == 1
    path = latest_state(tmp_path / "state")
    assert path is not None
    assert load_state(path, "run 0").progress.step == 2


def test_metrics_that_are_not_finite_stop_training_with_a_state_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(*_: object) -> ValidationMetrics:
        return ValidationMetrics(0.1, 0.2, float("nan"), 0.4, 0.5, float("inf"))

    monkeypatch.setattr("ghvae_core.training.trainer.measure", diverged)
    trainer, _, record = make_trainer(tmp_path, LONG)
    with pytest.raises(
        TrainingError, match=r"module_1: expected finite validation metrics.* lower training.learning_rate"
    ):
        trainer.train(never)
    assert record.ended == []
    again, _, _ = make_trainer(tmp_path, LONG)
    assert again.resume()


def test_a_restore_keeps_one_engine_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[weakref.ref[Engine]] = []

    def build(*arguments: Any) -> Engine:
        assert not any(engine() for engine in engines)
        engine = Engine(*arguments)
        engines.append(weakref.ref(engine))
        return engine

    _poison(monkeypatch, set(range(4, 9)))
    monkeypatch.setattr("ghvae_core.training.trainer.Engine", build)
    trainer, model, _ = make_trainer(tmp_path, LONG)
    trainer.train(never)
    assert len(engines) == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_large_state_is_saved_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, saved = [0.0], []

    def slow_save(*arguments: Any) -> None:
        saved.append(now_s[0])
        now_s[0] += 0.25
        save_state(*arguments)

    def step(stage: TrainingStage, step: int) -> None:
        now_s[0] += 1.0

    monkeypatch.setattr("ghvae_core.training.trainer.save_state", slow_save)
    monkeypatch.setattr("ghvae_core.training.trainer.time", types.SimpleNamespace(monotonic=lambda: now_s[0]))
    trainer, _, _ = make_trainer(tmp_path, LONG.model_copy(update={"save_every_s": 0.5}), listener=Record(step))
    trainer.train(never)
    assert saved[2] - saved[1] >= 5  # 0.25 s of saving in 5 s of training, both in the first stage


def test_running_out_of_memory_is_reported_with_the_options_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Ghvae, k: int, *rest: object) -> Loss:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("ghvae_core.training.stages.prior_loss", full)
    trainer, _, _ = make_trainer(tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"prior_finetune: the device is out of memory; halve training.batch_windows"
    ) as error:
        trainer.train(never)
    for part in ("batch_windows=1", "'training.module_steps=[0, 0]'", f"--init {tmp_path}/run/stages/module_2"):
        assert part in str(error.value)


GOOD = ValidationMetrics(0.1, 0.2, 0.3, 0.4, 0.5, 10.0)


def test_an_unused_latent_ignored_actions_and_worse_rollouts_than_copies_are_problems() -> None:
    model = small_config()
    assert GOOD.stage_problems("module") == GOOD.action_problems(model) == GOOD.final_problems(model) == []
    assert "latent is not used" in GOOD._replace(teacher_forced=0.2).stage_problems("prior_finetune")[0]
    assert "latent holds nothing" in GOOD._replace(kl=0.5).stage_problems("end_to_end")[0]
    assert "ignores the actions" in GOOD._replace(rollout=0.399).action_problems(model)[0]
    assert "copying the last context frame" in GOOD._replace(copy_last=0.3).final_problems(model)[0]
    bad = GOOD._replace(teacher_forced=float("nan"), rollout=float("nan"), kl=float("nan"))
    assert len(bad.stage_problems("module")) == 2 and bad.stage_problems("rollout") == []  # the posterior is outdated
    assert len(bad.final_problems(model)) == 2
    for changes in ({"prior": "uniform"}, {"action_dim": 0}):
        assert len(bad.final_problems(small_config(**changes))) == 1


@pytest.mark.parametrize(
    ("metrics", "stage", "message"),
    [
        (GOOD._replace(kl=0.0), "module_1", "the latent holds nothing"),
        (GOOD._replace(rollout_shuffled=0.3), "rollout", "the prior ignores the actions"),
        (GOOD._replace(copy_last=0.2), "rollout", "copying the last context frame"),
    ],
)
def test_a_model_that_fails_a_check_ends_the_run_and_is_kept(
    metrics: ValidationMetrics, stage: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghvae_core.training.trainer.measure", lambda *_: metrics)
    trainer, _, record = make_trainer(tmp_path, checks="fail")
    with pytest.raises(TrainingError, match=rf"{stage}: the model fails a check: .*{message}.*--resume --set"):
        trainer.train(never)
    assert record.ended[-1] == stage
    resumed, _, rest = make_trainer(tmp_path)
    assert resumed.resume()
    assert len(resumed.train(never)) == 4
    assert [*record.ended, *rest.ended] == ["module_1", "module_2", "prior_finetune", "rollout"]


def _losses(folder: Path, **changes: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    config = TrainingConfig.model_validate(
        {"module_steps": (4, 4), "end_to_end_steps": 3, "batch_windows": 4, "validation_windows": 4, **changes}
    )
    trainer, model, record = make_trainer(folder, config)
    trainer.train(never)
    return [loss for _, _, loss in record.losses], model.state_dict()


def test_accumulated_steps_equal_full_steps(tmp_path: Path) -> None:
    whole, expected = _losses(tmp_path / "whole")
    parts, got = _losses(tmp_path / "parts", accumulation_steps=4)
    assert parts == pytest.approx(whole, rel=1e-4)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-4, rtol=1e-3)


def test_half_precision_is_close_and_keeps_float32_weights(tmp_path: Path) -> None:
    whole, _ = _losses(tmp_path / "whole")
    half, state = _losses(tmp_path / "half", precision="bfloat16")
    assert half != whole
    assert half == pytest.approx(whole, rel=0.05)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


END = TrainingConfig(module_steps=(0,), end_to_end_steps=3, batch_windows=3, validation_windows=4)


def test_end_to_end_trains_all_modules_of_the_deepest_prediction(tmp_path: Path) -> None:
    trainer, model, _ = make_trainer(tmp_path, END)
    before = copy.deepcopy(model.state_dict())
    trainer.train(never)
    same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    unused = ("levels.0.prior.", "levels.0.posterior.", "levels.0.decoder.project.")
    assert same == {name for name in before if name.startswith(unused)}


@pytest.mark.parametrize("config", [SVG, HIER_VRNN], ids=["svg", "hier_vrnn"])
def test_a_baseline_is_trained_end_to_end_and_resumed(tmp_path: Path, config: AnyConfig) -> None:
    def make() -> VideoModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build(config)

    whole, expected, _ = make_trainer(tmp_path / "whole", END, model=make())
    metrics = whole.train(never)
    assert set(metrics) == {"end_to_end"}
    first, _, _ = make_trainer(tmp_path / "parts", END, model=make())
    with pytest.raises(Interrupted):
        first.train(after(2))
    second, resumed, _ = make_trainer(tmp_path / "parts", END, model=make())
    assert second.resume()
    assert second.train(never) == metrics
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


AVERAGED = CONFIG.model_copy(update={"ema_decay": 0.5})


def test_a_stage_ends_with_the_average_of_its_weights(tmp_path: Path) -> None:
    steps: list[torch.Tensor] = []

    def remember(stage: TrainingStage, step: int) -> None:
        steps.append(next(model.parameters()).detach().clone())

    trainer, model, _ = make_trainer(
        tmp_path,
        AVERAGED.model_copy(update={"module_steps": (4, 0), "prior_finetune_steps": 0, "rollout_steps": 0}),
        listener=Record(remember),
    )
    average = next(model.parameters()).detach().clone()
    trainer.train(never)
    for step, value in enumerate(steps):
        average.lerp_(value, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(next(model.parameters()).detach(), average)


@pytest.mark.parametrize("n_steps", [2, 4, 8])
def test_averages_are_resumed_bit_for_bit(tmp_path: Path, averaged: Whole, n_steps: int) -> None:
    first, _, _ = make_trainer(tmp_path / "parts", AVERAGED)
    with pytest.raises(Interrupted):
        first.train(after(n_steps))
    second, resumed, _ = make_trainer(tmp_path / "parts", AVERAGED)
    assert second.resume()
    second.train(never)
    for name, tensor in averaged.weights.items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_augmented_clips_are_not_cached(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def augment(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        seen.append(frames.shape)
        return frames // 2

    config = CONFIG.model_copy(update={"feature_cache": "all"})
    trainer, _, record = make_trainer(tmp_path / "augmented", config, augment=augment)
    trainer.train(never)
    plain, _, plain_record = make_trainer(tmp_path / "plain", config)
    plain.train(never)
    assert len(seen) == 3 * len(record.losses)  # clip by clip
    assert set(seen) == {(N_FRAMES, 1, PX, PX, 3)}
    assert record.losses[4:7] != plain_record.losses[4:7]
