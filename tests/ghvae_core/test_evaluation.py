"""Rows, differences and standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.clips import Clips
from ghvae_core.evaluation import (
    COPY,
    MEAN,
    ROWS,
    SAMPLE,
    SHUFFLED,
    Scores,
    join,
    measure,
    predict,
    ranked,
    score,
    summarize,
)
from ghvae_core.ghvae import Ghvae, GhvaeConfig, ModuleConfig
from ghvae_core.metrics import MetricError, psnr, ssim

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Ghvae:
    torch.manual_seed(0)
    sizes = [ModuleConfig(channels=c, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1) for c in (4, 6)]
    return Ghvae(GhvaeConfig(modules=tuple(sizes), pixel_channels=4)).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def clips() -> Clips:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 5, 64, 64, 3), dtype=np.uint8)
    actions = rng.normal(size=(5, 4, 4)).astype(np.float32)
    return Clips(frames, actions, [f"e{i // 2} {i}" for i in range(5)], n_context=2)


def some_scores(lpips: bool = False) -> Scores:
    rng = np.random.default_rng(1)
    metrics = ["psnr_db", "ssim", *(["lpips_alex"] if lpips else [])]
    return Scores({row: {metric: rng.random((5, 3)) for metric in metrics} for row in ROWS})


def test_every_row_predicts_the_future_frames(model: Ghvae, clips: Clips) -> None:
    rows = predict(model, clips, clips.shuffled(), torch.Generator().manual_seed(0))
    assert tuple(rows) == ROWS
    assert all(frames.shape == (5, 3, 3, 64, 64) for frames in rows.values())
    torch.testing.assert_close(rows[MEAN], model.rollout(clips.context(), torch.tensor(clips.actions)))
    torch.testing.assert_close(rows[SHUFFLED], model.rollout(clips.context(), torch.tensor(clips.shuffled().actions)))
    assert not torch.equal(rows[MEAN], rows[SAMPLE])
    for t in range(3):
        np.testing.assert_allclose(rows[COPY][:, t].movedim(1, -1) * 255, clips.frames[:, 1], atol=1e-4)


def test_the_sample_is_drawn_from_the_generator_alone(model: Ghvae, clips: Clips) -> None:
    first, again, other = (predict(model, clips, clips, torch.Generator().manual_seed(s))[SAMPLE] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_model_that_imagines_nan_is_refused(model: Ghvae, clips: Clips) -> None:
    class Broken(Ghvae):
        def rollout(self, context: Tensor, *_: object, **__: object) -> Tensor:
            return torch.full((len(context), 3, 3, 64, 64), math.nan)

    broken = Broken(model.config)
    with pytest.raises(MetricError, match="expected finite frames"):
        predict(broken, clips, clips, torch.Generator())


def test_frames_are_judged_against_the_real_future(clips: Clips) -> None:
    real = clips.real()
    rows = {row: (real + 0.1 * i).clamp(0, 1) for i, row in enumerate(ROWS)}
    scores = measure(real, rows, None)
    assert len(scores) == 5
    for row, frames in rows.items():
        assert set(scores.rows[row]) == {"psnr_db", "ssim"}
        np.testing.assert_allclose(scores.rows[row]["psnr_db"], psnr(real, frames))
        np.testing.assert_allclose(scores.rows[row]["ssim"], ssim(real, frames))


def test_batches_change_nothing_but_the_drawn_sample(model: Ghvae, clips: Clips) -> None:
    def parts(batch_windows: int) -> Iterator[Scores]:
        return score(model, clips, None, batch_windows, seed=0)

    assert [len(part) for part in parts(2)] == [2, 2, 1]
    whole, batched = join(list(parts(5))), join(list(parts(2)))
    for row in (MEAN, SHUFFLED, COPY):
        for metric, values in whole.rows[row].items():
            np.testing.assert_allclose(batched.rows[row][metric], values, rtol=1e-4)


def test_means_and_standard_errors_are_over_windows(clips: Clips) -> None:
    scores = some_scores()
    evaluation = summarize(scores, clips, {"seed": 3})
    by_window = scores.rows[SAMPLE]["ssim"].mean(axis=1)
    estimate = evaluation.rows[SAMPLE]["ssim"]
    assert estimate.mean == pytest.approx(by_window.mean())
    assert estimate.standard_error == pytest.approx(np.std(by_window, ddof=1) / math.sqrt(5))
    step = evaluation.steps[SAMPLE]["ssim"][2]
    assert step.mean == pytest.approx(scores.rows[SAMPLE]["ssim"][:, 2].mean())
    assert evaluation.windows[4].rows[SAMPLE]["ssim"] == pytest.approx(by_window[4])
    assert evaluation.about == {"seed": 3, "n_windows": 5, "n_episodes": 3, "n_context": 2, "n_predicted": 3}


def test_differences_are_paired(clips: Clips) -> None:
    scores = some_scores()
    constant = {row: {m: scores.rows[MEAN][m] - 0.25 for m in scores.rows[row]} for row in (COPY, SHUFFLED)}
    evaluation = summarize(Scores({**scores.rows, **constant}), clips, {})
    for row in (COPY, SHUFFLED):
        assert evaluation.differences[row]["psnr_db"].mean == pytest.approx(0.25)
        assert evaluation.differences[row]["psnr_db"].standard_error == pytest.approx(0, abs=1e-12)


def test_a_part_of_the_windows_can_be_reported(clips: Clips) -> None:
    part = Scores({row: {m: v[:2] for m, v in metrics.items()} for row, metrics in some_scores().rows.items()})
    evaluation = summarize(part, clips, {})
    assert evaluation.about["n_windows"] == 2
    assert evaluation.about["n_episodes"] == 1
    assert [window.name for window in evaluation.windows] == ["e0 0", "e0 1"]


def test_identical_frames_are_counted(clips: Clips) -> None:
    real = clips.real()
    rows = {row: real if row == COPY else 1 - real for row in ROWS}
    evaluation = summarize(measure(real, rows, None), clips, {})
    assert evaluation.identical_frames == {MEAN: 0, SAMPLE: 0, SHUFFLED: 0, COPY: 15}


@pytest.mark.parametrize("lpips", [False, True])
def test_windows_are_ranked_by_lpips_where_there_is_one_else_by_psnr(clips: Clips, lpips: bool) -> None:
    scores = some_scores(lpips)
    metric = "lpips_alex" if lpips else "psnr_db"
    values = scores.rows[MEAN][metric].mean(axis=1)
    order = ranked(summarize(scores, clips, {}))
    assert sorted(order) == list(range(5))
    assert (np.diff(values[order] if lpips else -values[order]) >= 0).all()
