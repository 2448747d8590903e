"""Rank of the executed actions among other action sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.evaluated_model import EvaluatedModel
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.sensitivity import Sensitivity, check_candidates, rank, summarize_ranks
from ghvae_core.models.checkpoint import Checkpoint
from ghvae_core.models.ghvae import Ghvae
from tests.ghvae_core.evaluated import info, model, protocol

torch.set_num_threads(1)
N_CONTEXT, T = 2, 3


class Grey(Ghvae):
    """Predicts frames whose grey value is the sum of the first components of all previous actions, times `gain`."""

    gain = 1.0

    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        grey = (actions[..., 0].cumsum(1) * self.gain)[:, context.shape[1] - 1 :]
        for column in grey.T:
            yield column[:, None, None, None].expand(-1, 3, 16, 16)


def windows(n: int) -> Clips:
    """Return windows in which the grey value of each frame is the sum of the previous actions, in 8-bit steps."""
    steps = np.random.default_rng(0).integers(0, 60, (n, N_CONTEXT + T - 1))
    grey = np.concatenate([np.zeros((n, 1), np.int64), steps.cumsum(axis=1)], axis=1)
    frames = np.broadcast_to(grey[:, :, None, None, None], (*grey.shape, 16, 16, 3)).astype(np.uint8)
    actions = np.zeros((n, N_CONTEXT + T - 1, 4), np.float32)
    actions[..., 0] = steps / 255
    return Clips(frames, actions, [f"e {i}" for i in range(n)], N_CONTEXT)


def ranked(gain: float, n: int = 12, n_others: int = 11, **changes: object) -> Sensitivity:
    grey_model = Grey(model().config)
    grey_model.gain = gain
    each = EvaluatedModel("grey", Checkpoint(grey_model, info(grey_model), ""), 1)
    config = protocol(**changes)
    ranks = list(rank(each, windows(n), n_others, config, seed=0))
    return summarize_ranks(ranks, windows(n).names, n_others, config.sensitivity_candidates, np.random.default_rng(0))


@pytest.mark.parametrize("candidates", ["executed", "drawn"])
def test_a_correct_model_ranks_the_executed_actions_first(candidates: str) -> None:
    found = ranked(1, sensitivity_candidates=candidates)
    assert found.median_percentile.value > 99
    assert found.top_1_fraction.value > 0.8
    assert found.top_1_chance == pytest.approx(1 / 12)
    assert (found.n_windows, found.n_others, found.candidates) == (12, 11, candidates)


def test_a_model_that_ignores_actions_has_the_chance_level() -> None:
    found = ranked(0)
    assert found.median_percentile.value == found.mean_percentile.value == 50
    assert found.top_1_fraction.value == 0


def test_only_future_actions_are_replaced() -> None:
    unrolled: list[Tensor] = []

    class Recording(Grey):
        def unroll(self, context: Tensor, actions: Tensor, *others: object, **more: object) -> Iterator[Tensor]:
            unrolled.append(actions)
            return super().unroll(context, actions)

    grey_model, clips = Recording(model().config), windows(6)
    each = EvaluatedModel("grey", Checkpoint(grey_model, info(grey_model), ""), 1)
    assert len(list(rank(each, clips, 5, protocol(sensitivity_windows=2), seed=0))) == 2
    for i, actions in enumerate(unrolled):
        np.testing.assert_array_equal(actions[0], clips.actions[i])
        np.testing.assert_array_equal(actions[:, 0], clips.actions[[i] * 6, 0])
        others = {row.tobytes() for row in actions[1:, 1:].numpy()}
        assert others == {clips.actions[j, 1:].tobytes() for j in range(6) if j != i}, "each other sequence once"


def test_the_seed_determines_the_other_sequences() -> None:
    grey_model = Grey(model().config)
    each = EvaluatedModel("grey", Checkpoint(grey_model, info(grey_model), ""), 1)
    config = protocol(sensitivity_candidates="drawn")
    first, again, other = (np.concatenate(list(rank(each, windows(9), 4, config, seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape == (9, 2)


def test_errors_are_over_episodes() -> None:
    ranks = [np.array([[p, first]]) for p, first in ((100.0, 1.0), (50.0, 0.0), (90.0, 0.0), (80.0, 1.0))]
    windows = [f"e{i} 0" for i in range(5)]  # the last one was not ranked
    found = summarize_ranks(ranks, windows, 9, "executed", np.random.default_rng(0))
    assert found.median_percentile.value == 85
    assert 0 < found.median_percentile.standard_error < 25
    assert found.mean_percentile.value == 80
    assert found.top_1_fraction.value == 0.5
    assert found.top_1_fraction.standard_error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)


def test_windows_of_one_episode_are_grouped() -> None:
    ranks = [np.array([[p, 0.0]]) for p in (0.0, 100.0) for _ in range(4)]
    separate, grouped = (
        summarize_ranks(ranks, names, 9, "executed", np.random.default_rng(0))
        for names in ([f"e{i} 0" for i in range(8)], [f"e{i // 4} {i}" for i in range(8)])
    )
    assert grouped.median_percentile.value == separate.median_percentile.value == 50
    assert grouped.mean_percentile.standard_error == pytest.approx(50)  # of the two values 0 and 100
    assert separate.mean_percentile.standard_error < 20
    # With two episodes, a quarter of the samples is all 0 and a quarter all 100.
    assert grouped.median_percentile.standard_error == pytest.approx(50 / 2**0.5, rel=0.1)


def test_too_few_windows_for_the_number_of_other_sequences_are_refused() -> None:
    check_candidates(11, 10, "executed")
    check_candidates(2, 100, "drawn")
    with pytest.raises(MetricError, match=r"at most 10 other sequences of 11 windows, got 11; .*candidates=drawn"):
        check_candidates(11, 11, "executed")


def test_costs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(MetricError, match="grey: expected finite costs"):
        ranked(math.nan)
