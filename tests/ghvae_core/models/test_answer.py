from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.models.answer import TOLERANCE, answer, is_same
from ghvae_core.models.checkpoint import build, load, save
from ghvae_core.models.checkpoint_files import CheckpointWriteError
from ghvae_core.models.svg import SvgConfig
from ghvae_core.predictor import GoalCost, PredictorError
from ghvae_core.run_server import SHIPPED
from ghvae_core.serving.local import InProcessPredictor
from tests.ghvae_core.serving.small_model import HORIZON, small_checkpoint


def test_a_checkpoint_is_saved_with_what_it_answers(tmp_path: Path) -> None:
    checkpoint = load(small_checkpoint(tmp_path / "small"))
    assert checkpoint.info.answer == answer(checkpoint.model, 2, HORIZON)
    assert len(checkpoint.info.answer) == 36
    InProcessPredictor(checkpoint, GoalCost()).prove()


def test_the_shipped_checkpoint_gives_its_answer_also_in_half_the_bits() -> None:
    checkpoint = load(SHIPPED)
    assert checkpoint.info.answer is not None
    InProcessPredictor(checkpoint, GoalCost()).prove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = answer(checkpoint.model, 2, 10)
    assert is_same(checkpoint.info.answer, coarse)


def test_a_model_that_computes_something_else_cannot_prove_itself(tmp_path: Path) -> None:
    checkpoint = load(SHIPPED)
    weights = checkpoint.model.module(1).state_dict()["encoder.stem.weight"]
    weights.zero_()  # what a broken kernel might do
    with pytest.raises(PredictorError, match="does not give the answer stored with it"):
        InProcessPredictor(checkpoint, GoalCost()).prove()


def test_another_answer_is_told_from_rounding() -> None:
    stored = (0.5, 0.25)
    assert is_same(stored, (0.5 + 0.9 * TOLERANCE, 0.25))
    for other in ((0.5 + 1.1 * TOLERANCE, 0.25), (np.nan, 0.25), (np.inf, 0.25)):
        assert not is_same(stored, other)


@pytest.mark.parametrize("action_dim", [0, 4])
def test_other_kinds_of_model_answer_too(action_dim: int) -> None:
    scale = (1.0,) * action_dim
    config = SvgConfig(
        image_px=16, action_dim=action_dim, action_scale=scale, width_k=0.125, width_m=0.0625, features=16, latent=3
    )
    assert len(answer(build(config), 2, 3)) == 36


def test_a_model_that_imagines_nan_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(small_checkpoint(tmp_path / "small"))
    imagine = checkpoint.model.imagine

    def with_nan(*arguments: Any, **more: Any) -> Iterator[Tensor]:
        return (frame * torch.nan for frame in imagine(*arguments, **more))

    monkeypatch.setattr(checkpoint.model, "imagine", with_nan)
    with pytest.raises(CheckpointWriteError, match="imagines NaN"):
        save(tmp_path / "worse", checkpoint.model, checkpoint.info)
    assert not (tmp_path / "worse").exists()
