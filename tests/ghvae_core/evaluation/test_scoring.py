"""Scores by row: models, actions and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED
from ghvae_core.evaluation.fvd import I3d
from ghvae_core.evaluation.metrics import psnr, ssim
from ghvae_core.evaluation.scoring import REAL, Metrics, Scores, best_of, choose_best, join, score
from tests.ghvae_core.evaluated import clips, evaluated_model, protocol

torch.set_num_threads(1)
CLIPS, MODEL = clips(), evaluated_model()
PLAIN = Metrics()


class FrameMeans(I3d):
    """Replaces I3D: the features are the means of the frames."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, videos: Tensor) -> Tensor:
        return videos.mean(dim=(2, 3, 4))


def all_scores(**changes: object) -> Scores:
    return join(list(score([MODEL], CLIPS, PLAIN, protocol(**changes), seed=0)))


def test_every_model_has_its_rows_and_copying_is_the_last_row() -> None:
    other = evaluated_model("other", action_dim=0)
    scores = next(score([MODEL, other], CLIPS, PLAIN, protocol(n_samples=3), seed=0))
    assert list(scores.rows) == [
        *(f"model, {kind}" for kind in (MEAN, SAMPLE, "best of 3 samples", SHUFFLED)),
        *(f"other, {kind}" for kind in (MEAN, SAMPLE, "best of 3 samples")),
        COPY,
    ], "an action-free model has no row of shuffled actions"
    without = next(score([MODEL], CLIPS, PLAIN, protocol(n_samples=0), seed=0))
    assert list(without.rows) == [f"model, {MEAN}", f"model, {SHUFFLED}", COPY]
    assert all(set(values) == {"psnr_db", "ssim"} for values in scores.rows.values())
    assert all(values["ssim"].shape == (5, 3) for values in scores.rows.values())


def test_rows_are_the_metrics_of_the_predicted_frames() -> None:
    scores = all_scores()
    real = CLIPS.real()
    actions = torch.tensor(CLIPS.actions)
    frames = {
        MODEL.row(MEAN): MODEL.checkpoint.model.rollout(CLIPS.context(), actions),
        MODEL.row(SHUFFLED): MODEL.checkpoint.model.rollout(CLIPS.context(), torch.tensor(CLIPS.shuffled().actions)),
        COPY: CLIPS.context()[:, -1:].expand_as(real),
    }
    for row, predicted in frames.items():
        np.testing.assert_allclose(scores.rows[row]["psnr_db"], psnr(real, predicted), rtol=1e-5)
        np.testing.assert_allclose(scores.rows[row]["ssim"], ssim(real, predicted), atol=1e-5)


def test_samples_depend_on_the_seed_and_not_on_other_models() -> None:
    def sample(models: list[str], seed: int) -> list[float]:
        named = [evaluated_model(name) for name in models]
        values = next(score(named, CLIPS, PLAIN, protocol(), seed)).rows[f"b, {SAMPLE}"]["psnr_db"]
        return [float(value) for value in values.ravel()]

    assert sample(["b"], 1) == sample(["a", "b"], 1) != sample(["b"], 2)


def test_the_batch_size_changes_only_the_samples() -> None:
    whole, parts = all_scores(batch_windows=5), list(score([MODEL], CLIPS, PLAIN, protocol(batch_windows=2), 0))
    assert [len(part) for part in parts] == [2, 2, 1]
    batched = join(parts)
    for row in (MODEL.row(MEAN), COPY):
        for metric, values in whole.rows[row].items():
            np.testing.assert_allclose(batched.rows[row][metric], values, rtol=1e-4)


def test_the_best_sample_is_chosen_per_window_and_metric() -> None:
    samples = [
        {"psnr_db": np.array([[20.0, 10], [1, 1]]), "lpips_alex": np.array([[0.1, 0.1], [0.5, 0.5]])},
        {"psnr_db": np.array([[14.0, 14], [2, 9]]), "lpips_alex": np.array([[0.2, 0.3], [0.4, 0.1]])},
    ]
    best = choose_best(samples)
    np.testing.assert_array_equal(best["psnr_db"], [[20, 10], [2, 9]])
    np.testing.assert_array_equal(best["lpips_alex"], [[0.1, 0.1], [0.4, 0.1]])


def test_the_best_of_several_samples_is_at_least_as_good_as_one() -> None:
    rows = all_scores(n_samples=4).rows
    best, one = (rows[MODEL.row(kind)]["psnr_db"].mean(axis=1) for kind in (best_of(4), SAMPLE))
    assert (best >= one).all()
    assert (best > one).any()


def test_features_include_the_context_frames() -> None:
    parts = list(score([MODEL], CLIPS, Metrics(i3d=FrameMeans()), protocol(batch_windows=2), seed=0))
    features = join(parts).features
    assert set(features) == {REAL, COPY, *(MODEL.row(kind) for kind in (MEAN, SAMPLE, SHUFFLED))}
    means = CLIPS.frames.mean(axis=(2, 3, 4)) / 255
    np.testing.assert_allclose(features[REAL], means, atol=1e-5)
    np.testing.assert_allclose(features[COPY], means[:, [0, 1, 1, 1, 1]], atol=1e-5)
    np.testing.assert_array_equal(features[MODEL.row(MEAN)][:, :2], features[REAL][:, :2])


@pytest.mark.parametrize("n_samples", [0, 1, 2])
def test_without_i3d_there_are_no_features(n_samples: int) -> None:
    assert not all_scores(n_samples=n_samples).features
