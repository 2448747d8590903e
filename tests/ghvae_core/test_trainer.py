from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ghvae_core.features import FeatureCache, size_gb
from ghvae_core.ghvae import Ghvae
from ghvae_core.health import Figures
from ghvae_core.manifest import CheckpointError
from ghvae_core.objective import Batch, Loss, ObjectiveConfig, module_loss
from ghvae_core.trainer import Interrupted, Job, Stage, Trainer, TrainingConfig, TrainingError, stages
from ghvae_core.training_state import latest_state, load_progress
from tests.ghvae_core.small import small_config, small_model, small_windows


class _Record:
    """A listener that remembers, and may do something at a step."""

    def __init__(self, at_step: Callable[[Stage, int], None] = lambda _stage, _step: None) -> None:
        self.losses: list[tuple[str, int, float]] = []
        self.notes: list[str] = []
        self.ended: list[str] = []
        self._at_step = at_step

    def step(self, stage: Stage, step: int, loss: dict[str, float]) -> None:
        self.losses.append((stage.name, step, loss["total"]))
        self._at_step(stage, step)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage_end(self, stage: Stage, figures: Figures) -> None:
        assert figures.one_step_copy > 0
        self.ended.append(stage.name)


CONFIG = TrainingConfig(module_steps=(4, 3), polish_steps=2, rollout_steps=2, batch_windows=3, validation_windows=4)


def _trainer(
    folder: Path,
    config: TrainingConfig = CONFIG,
    listener: _Record | None = None,
    seed: int = 0,
    model: Ghvae | None = None,
) -> tuple[Trainer, Ghvae, _Record]:
    model, windows, listener = model or small_model(), small_windows(), listener or _Record()
    job = Job(model, windows, windows, 2, stages(config, 2), seed, f"run {seed}")
    return Trainer(job, config, ObjectiveConfig(), folder, listener), model, listener


def _never() -> bool:
    return False


def _after(n_steps: int) -> Callable[[], bool]:
    """Return a stop switch that goes on after so many questions."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= n_steps


def test_stages_are_greedy_then_the_refinements() -> None:
    plan = stages(CONFIG, 3)
    assert [(stage.name, stage.k, stage.n_steps) for stage in plan] == [
        ("module_1", 1, 4),
        ("module_2", 2, 3),
        ("module_3", 3, 3),
        ("polish", 3, 2),
        ("rollout", 3, 2),
    ]
    assert [stage.kind for stage in stages(TrainingConfig(module_steps=(1,)), 2)] == ["module", "module"]
    assert [stage.name for stage in stages(TrainingConfig(module_steps=(0,), polish_steps=1), 2)] == ["polish"]
    with pytest.raises(ValidationError, match="nothing would be trained"):
        TrainingConfig(module_steps=(0,))


def test_a_phase_changes_its_module_alone(tmp_path: Path) -> None:
    snapshots: list[tuple[str, dict[str, torch.Tensor]]] = []

    def remember(stage: Stage, step: int) -> None:
        snapshots.append((stage.name, copy.deepcopy(model.state_dict())))

    trainer, model, record = _trainer(tmp_path, listener=_Record(remember))
    previous = copy.deepcopy(model.state_dict())
    trainer.train(_never)
    allowed = {"module_1": ("levels.0.",), "module_2": ("levels.1.",), "polish": ("levels.1.prior.",)}
    for name, state in snapshots:
        changed = [key for key in state if not torch.equal(state[key], previous[key])]
        assert changed
        if name in allowed:
            assert all(key.startswith(allowed[name]) for key in changed), (name, changed)
        if name == "rollout":
            assert any("levels.0.encoder." in key for key in changed)
            stale = ("posterior.", "levels.0.prior.", "levels.0.decoder.project.")
            assert not [key for key in changed if any(part in key for part in stale)]
        previous = state
    assert record.ended == ["module_1", "module_2", "polish", "rollout"]


@pytest.mark.parametrize("changes", [{"prior": "uniform"}, {"action_conditioned": False}])
def test_models_that_take_no_actions_are_trained(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    before = copy.deepcopy(model.state_dict())
    config = CONFIG.model_copy(update={"polish_steps": 0 if "prior" in changes else 2})
    trainer, _, _ = _trainer(tmp_path, config, model=model)
    assert len(trainer.train(_never)) == len(stages(config, 2))
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert any("prior." in key for key in changed) == ("prior" not in changes)
    assert all(any(f"levels.{k}.posterior." in key for key in changed) for k in (0, 1))


@pytest.mark.parametrize("n_steps", [2, 4, 5, 8, 10])  # within a stage, at its end, and in each kind
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, n_steps: int) -> None:
    whole, expected, whole_record = _trainer(tmp_path / "whole")
    figures = whole.train(_never)
    first, _, first_record = _trainer(tmp_path / "parts")
    with pytest.raises(Interrupted):
        first.train(_after(n_steps))
    second, resumed, second_record = _trainer(tmp_path / "parts")
    assert second.resume()
    assert second.train(_never) == figures
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert first_record.losses + second_record.losses == whole_record.losses


def test_a_cache_too_large_for_memory_is_done_without(tmp_path: Path) -> None:
    none = CONFIG.model_copy(update={"feature_cache_limit_gb": 0.0})
    cached, _, cached_record = _trainer(tmp_path / "a")
    uncached, _, uncached_record = _trainer(tmp_path / "b", none)
    cached.train(_never)
    uncached.train(_never)
    for (_, _, one), (_, _, other) in zip(cached_record.losses, uncached_record.losses, strict=True):
        assert one == pytest.approx(other, rel=2e-3)  # features are kept in half precision


def test_features_of_other_weights_are_not_used() -> None:
    model, windows = small_model(3), small_windows()
    cache = FeatureCache(windows.frames)
    cache.fill(model, 2)
    _, _, rows = windows.batch(windows.starts[:2] * 0)
    before = cache.gather(rows, "cpu")
    with torch.no_grad():
        model.module(2).encoder.blocks[0].conv_1.weight.mul_(2)  # type: ignore[union-attr, operator]
    cache.fill(model, 2)
    after = cache.gather(rows, "cpu")
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    frames = torch.from_numpy(windows.frames[rows.reshape(-1)]).permute(0, 3, 1, 2).float() / 255
    for kept, exact in zip(after, model.encode(frames, 2), strict=True):
        torch.testing.assert_close(kept, exact.detach(), atol=5e-3, rtol=5e-3)
    cache.fill(model, 0)
    assert cache.depth == 0
    assert size_gb(small_config(3), 1000, 2) == pytest.approx(2e-6 * (8 * 64 + 12 * 16))


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    trainer, _, _ = _trainer(tmp_path)
    assert not trainer.resume()
    with pytest.raises(Interrupted):
        trainer.train(_after(1))
    other, _, _ = _trainer(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="another configuration, data or seed"):
        other.resume()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    trainer, _, _ = _trainer(tmp_path)
    with pytest.raises(Interrupted):
        trainer.train(_after(1))
    path = latest_state(tmp_path)
    assert path is not None
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="weights"):
        trainer.resume()


def test_one_state_is_kept(tmp_path: Path) -> None:
    trainer, _, _ = _trainer(tmp_path, CONFIG.model_copy(update={"save_every_s": 1e-9}))
    trainer.train(_never)
    assert len(list(tmp_path.iterdir())) == 1


def _poison(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> list[int]:
    """Make the n-th call of the module's loss NaN for n in `bad`; return the count of calls in a list."""
    calls = [0]

    def poisoned(model: Ghvae, k: int, batch: Batch, weights: tuple[float, float], generator: torch.Generator) -> Loss:
        calls[0] += 1
        loss = module_loss(model, k, batch, weights, generator)
        return loss._replace(total=loss.total * float("nan")) if calls[0] in bad else loss

    monkeypatch.setattr("ghvae_core.trainer.module_loss", poisoned)
    return calls


LONG = TrainingConfig(module_steps=(12, 1), batch_windows=3, validation_windows=4)


def test_a_bad_step_is_skipped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _poison(monkeypatch, {2})
    trainer, model, record = _trainer(tmp_path, LONG)
    trainer.train(_never)
    assert record.notes == ["module_1 step 2: the loss is NaN or infinite; step skipped"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert 2 not in [step for name, step, _ in record.losses if name == "module_1"]


def test_bad_steps_in_a_row_restore_the_last_state_with_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _poison(monkeypatch, set(range(4, 9)))
    trainer, model, record = _trainer(tmp_path, LONG)
    trainer.train(_never)
    assert calls[0] == 8 + 12 + 1  # from the start again, then module 2
    assert "back to step 0, learning rate halved (1 of 2)" in record.notes[-1]
    assert record.ended == ["module_1", "module_2"]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_loss_that_stays_bad_stops_training_with_good_weights_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, set(range(1, 100)))
    trainer, _, _ = _trainer(tmp_path, LONG)
    with pytest.raises(TrainingError, match="stays NaN or infinite at step 5 after 2 restores"):
        trainer.train(_never)
    again, model, _ = _trainer(tmp_path, LONG)
    assert again.resume()
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_run_stopped_in_bad_steps_keeps_its_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _poison(monkeypatch, {3})
    trainer, _, record = _trainer(tmp_path, LONG.model_copy(update={"save_every_s": 1e-9}))
    with pytest.raises(Interrupted):
        trainer.train(_after(3))
    assert len(record.notes) == 1
    path = latest_state(tmp_path)
    assert path is not None
    assert load_progress(path, "run 0").step == 2


def test_a_device_too_small_is_told_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Ghvae, k: int, *rest: object) -> Loss:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("ghvae_core.trainer.prior_loss", full)
    trainer, _, _ = _trainer(tmp_path / "run" / "state")
    with pytest.raises(
        TrainingError, match=r"polish: the device's memory is too small; halve training.batch_windows"
    ) as error:
        trainer.train(_never)
    for part in ("batch_windows=1", "'training.module_steps=[0, 0]'", f"--init {tmp_path}/run/stages/module_2"):
        assert part in str(error.value)


def test_unhealthy_figures_are_said_in_words() -> None:
    good = Figures(0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
    model = small_config()
    assert good.warnings("module", model) == []
    assert "latent is not used" in good._replace(teacher_forced=0.2).warnings("polish", model)[0]
    assert "ignores the actions" in good._replace(rollout=0.4).warnings("rollout", model)[0]
    bad = good._replace(teacher_forced=float("nan"), rollout=float("nan"))
    assert len(bad.warnings("module", model)) == 2
    assert len(bad.warnings("rollout", model)) == 1  # the posterior is out of date
    for changes in ({"prior": "uniform"}, {"action_conditioned": False}):
        assert bad.warnings("rollout", small_config(**changes)) == []
