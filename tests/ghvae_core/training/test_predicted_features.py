from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ghvae_core.training.batches import BatchSource
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.predicted_features import PredictedFeatures
from ghvae_core.training.validation import to_batch
from tests.ghvae_core.runs import CONFIG
from tests.ghvae_core.small import small_model, small_windows


def test_the_features_of_a_round_are_those_of_the_frames_that_the_model_predicts(tmp_path: Path) -> None:
    model, source, group = small_model(2), BatchSource(small_windows(), None, 0), ProcessGroup("cpu")
    config = CONFIG.model_copy(update={"batch_windows": 4})
    features = PredictedFeatures(source, config, tmp_path / "features", group)
    features.fill(model, 2, 3, is_begun=False)
    ((batch, _),) = features.parts(3, 0)
    numbers = np.random.default_rng([0, 3, 0, 1]).integers(config.prior_predicted_windows, size=4)
    indices = source.windows.draw(np.random.default_rng([0, 3, 1]), config.prior_predicted_windows)[numbers]
    real = to_batch(source.windows, indices)
    frames, actions = real.sequences()
    predicted = torch.cat([frames[:, :2], model.rollout(frames[:, :2], actions)], 1).transpose(0, 1)
    with torch.no_grad():
        expected = model.encode(predicted[:-1].flatten(0, 1))[-1]
        target = model.module(2).posterior(model.encode(real.frames)[-1][4:], real.n_steps)
    torch.testing.assert_close(batch.features, expected)
    torch.testing.assert_close(batch.target, target)
    assert torch.equal(batch.actions, real.actions)
    halves = PredictedFeatures(
        source, config.model_copy(update={"accumulation_steps": 2}), tmp_path / "features", group
    )
    halves.fill(model, 2, 3, is_begun=True)
    first, second = (part.batch.actions.view(real.n_steps, 2, -1) for part in halves.parts(3, 0))
    assert torch.equal(torch.cat([first, second], 1).flatten(0, 1), batch.actions)
