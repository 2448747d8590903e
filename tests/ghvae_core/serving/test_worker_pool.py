from dataclasses import replace

import numpy as np
import pytest

from ghvae_core.predictor import merge, rank
from ghvae_core.serving.worker_pool import split
from tests.ghvae_core.serving.example import prediction, request


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_videos", [0, 1, 3, 5])
def test_shards_together_answer_as_the_whole_does(n: int, n_videos: int) -> None:
    whole = request(n=5, n_videos=n_videos)
    shards = split(whole, n)
    assert len(shards) == min(n, 5)
    assert min(len(shard.candidates) for shard in shards) > 0
    together, alone = merge([prediction(shard) for shard in shards], n_videos), prediction(whole)
    np.testing.assert_array_equal(together.costs, alone.costs)
    np.testing.assert_array_equal(together.best, alone.best)
    assert len(together.videos) == n_videos


def test_the_videos_stay_with_their_candidates() -> None:
    whole = request(n=5, n_videos=4)
    shards = split(whole, 2)
    told = merge([prediction(shard) for shard in shards], 4)
    for candidate, video in zip(told.best, told.videos, strict=True):
        within = candidate if candidate < 3 else candidate - 3  # the first shard has three
        assert (video == within).all()


def test_the_slowest_shard_tells_the_time() -> None:
    answered = prediction(request())
    slow = replace(answered, timing_s={"imagine": 2.0, "prepare": 0.1})
    assert merge([answered, slow], 1).timing_s == {"imagine": 2.0, "prepare": 0.1}


def test_nan_and_infinity_are_ranked_last() -> None:
    assert rank(np.array([3, np.nan, 1, -np.inf, 2], np.float32)).tolist() == [2, 4, 0, 1, 3]
