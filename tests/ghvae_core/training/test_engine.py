from __future__ import annotations

import pytest

from ghvae_core.models.checkpoint_files import CheckpointError, pack_tensors, unpack_tensors
from ghvae_core.training.batches import MicroBatch
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.engine import Engine, Recipe
from ghvae_core.training.objective import ObjectiveConfig
from ghvae_core.training.stages import stages
from ghvae_core.training.training_state import OptimizerState
from tests.ghvae_core.runs import CONFIG
from tests.ghvae_core.small import small_batch, small_model


def _engine() -> Engine:
    return Engine(small_model(), stages(CONFIG, 2)[1], Recipe(CONFIG, ObjectiveConfig(), 2), ProcessGroup("cpu"))


def _moments() -> OptimizerState:
    """Return the state of an engine after a step, as loaded from a file."""
    engine = _engine()
    engine.gradients([MicroBatch(small_batch(), 0)], 0)
    engine.update(1e-3, 0)
    return OptimizerState(unpack_tensors(pack_tensors(engine.state().moments), "file"), {})


def test_moments_have_the_memory_layout_of_the_parameters() -> None:
    engine = _engine()
    engine.load(_moments(), "file")
    for parameter in engine.parameters:  # otherwise the optimizer is slower after a resume
        for name in ("exp_avg", "exp_avg_sq"):
            assert engine._optimizer.state[parameter][name].stride() == parameter.stride()


def test_moments_of_a_part_of_the_parameters_are_refused() -> None:
    engine, kept = _engine(), _moments()
    part = {key: tensor for key, tensor in kept.moments.items() if not key.startswith("0.")}
    n = len(engine.parameters)
    with pytest.raises(CheckpointError, match=f"file: expected moments of {n} parameters, got {n - 1}"):
        engine.load(OptimizerState(part, {}), "file")
    other = {**kept.moments, f"{n}.exp_avg": kept.moments["0.exp_avg"]}
    with pytest.raises(CheckpointError, match=f"file: number {n} does not fit the parameters of module_2"):
        engine.load(OptimizerState(other, {}), "file")


def test_no_gradient_is_kept_after_a_stage() -> None:
    engine = _engine()
    engine.gradients([MicroBatch(small_batch(), 0)], 0)
    assert all(parameter.grad is not None for parameter in engine.parameters)
    engine.finish()
    assert all(parameter.grad is None for parameter in engine.parameters)
