"""Models that can be evaluated together, and their labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ghvae_core.evaluation.evaluated_model import MEAN, SAMPLE, EvaluatedModel, load_evaluated_models
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.models.checkpoint import Checkpoint, save
from ghvae_core.models.ghvae import Ghvae
from tests.ghvae_core.evaluated import clips, evaluated_model, info, model

torch.set_num_threads(1)


def saved(folder: Path, n_modules: int = 1, **changes: object) -> Path:
    built = model(n_modules, **changes)  # type: ignore[arg-type]
    save(folder, built, info(built))
    return folder


def test_a_single_checkpoint_has_the_label_model(tmp_path: Path) -> None:
    (each,) = load_evaluated_models([saved(tmp_path / "a", 2)], [], [], "cpu")
    assert (each.label, each.modules_used, each.row(MEAN)) == ("model", 2, "model, prior mean")


def test_several_checkpoints_have_distinct_parts_of_their_paths_as_labels(tmp_path: Path) -> None:
    folders = [saved(tmp_path / name / "checkpoint") for name in ("a", "b")]
    folders.append(saved(tmp_path / "c"))
    assert [each.label for each in load_evaluated_models(folders, [], [], "cpu")] == [
        "a/checkpoint",
        "b/checkpoint",
        "c",
    ]
    assert [each.label for each in load_evaluated_models(folders, ["x", "y", "z"], [], "cpu")] == ["x", "y", "z"]


def test_each_number_of_modules_is_a_row_of_the_table(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", 3)
    found = load_evaluated_models([folder], [], [1, 3], "cpu")
    assert [(each.label, each.modules_used) for each in found] == [("model, 1 modules", 1), ("model, 3 modules", 3)]
    with pytest.raises(MetricError, match="expected --modules of 1 to 3, got 4"):
        load_evaluated_models([folder], [], [4], "cpu")


def test_models_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    a = saved(tmp_path / "a")
    with pytest.raises(MetricError, match="expected images of 64 px as in a, got 32"):
        load_evaluated_models([a, saved(tmp_path / "small", image_px=32)], [], [], "cpu")
    with pytest.raises(MetricError, match="expected models of the same actions"):
        load_evaluated_models([a, saved(tmp_path / "b", action_dim=2)], [], [], "cpu")
    with pytest.raises(MetricError, match="one for each of 1 checkpoints, got 2"):
        load_evaluated_models([a], ["x", "y"], [], "cpu")
    with pytest.raises(MetricError, match="expected different labels, got x, x"):
        load_evaluated_models([a, tmp_path / "b"], ["x", "x"], [], "cpu")


def test_an_action_free_model_is_evaluated_next_to_others(tmp_path: Path) -> None:
    free = saved(tmp_path / "free", action_dim=0)
    with_actions, without = load_evaluated_models([saved(tmp_path / "a"), free], [], [], "cpu")
    assert (with_actions.takes_actions, without.takes_actions) == (True, False)
    windows = clips()
    other = windows.shuffled()
    assert torch.equal(without.predict(windows, MEAN), without.predict(other, MEAN))
    assert without.predict(windows, MEAN).shape == (5, 3, 3, 64, 64)


def test_number_of_modules_and_generator_are_passed_to_the_model() -> None:
    windows = clips()
    whole, part = evaluated_model(n_modules=2), evaluated_model(n_modules=2, modules_used=1)
    context, actions = windows.context(), torch.tensor(windows.actions)
    expected = part.checkpoint.model.rollout(context, actions, depth=1)
    torch.testing.assert_close(part.predict(windows, MEAN), expected)
    assert not torch.equal(whole.predict(windows, MEAN), expected)
    first, again, other = (whole.predict(windows, SAMPLE, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_model_that_predicts_nan_is_refused() -> None:
    class Broken(Ghvae):
        def rollout(self, context: Tensor, *_: object, **__: object) -> Tensor:
            return torch.full((len(context), 3, 3, 64, 64), math.nan)

    valid = evaluated_model()
    broken = Broken(model().config)
    with pytest.raises(MetricError, match="x, prior mean: expected finite frames"):
        EvaluatedModel("x", Checkpoint(broken, valid.checkpoint.info, ""), 1).predict(clips(), MEAN)
