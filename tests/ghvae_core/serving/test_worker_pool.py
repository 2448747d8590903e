from dataclasses import replace

import numpy as np
import pytest

from ghvae_core.predictor import merge, rank
from ghvae_core.serving.protocol import Predict, PredictionReply, Refusal, decode_reply, encode_reply
from ghvae_core.serving.wire import Status
from ghvae_core.serving.worker import ReplyEnvelope, WorkerReply
from ghvae_core.serving.worker_pool import combine, refusal, split
from tests.ghvae_core.serving.example import SPEC, prediction, request

WHOLE = request(n=5, n_videos=4)
MESSAGE = Predict(b"id", WHOLE, SPEC.checkpoint, 1.0)


def _part(first: int, end: int, n_videos: int = 4) -> WorkerReply:
    """Return the reply of a worker that computed some of the candidates."""
    part = replace(WHOLE, candidates=WHOLE.candidates[first:end], n_videos=min(n_videos, end - first))
    predicted = prediction(part)
    return WorkerReply(ReplyEnvelope("ok", end - first, 0, {}), encode_reply(PredictionReply(b"id", predicted)))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_videos", [0, 1, 3, 5])
def test_parts_merge_into_the_prediction_of_the_whole(n: int, n_videos: int) -> None:
    whole = request(n=5, n_videos=n_videos)
    ranges = split(5, n)
    assert len(ranges) == min(n, 5) and ranges[0][0] == 0 and ranges[-1][1] == 5
    assert all(first < end for first, end in ranges)
    assert [end for _, end in ranges[:-1]] == [first for first, _ in ranges[1:]]
    parts = [
        replace(whole, candidates=whole.candidates[first:end], n_videos=min(n_videos, end - first))
        for first, end in ranges
    ]
    merged, single = merge([prediction(part) for part in parts], n_videos), prediction(whole)
    np.testing.assert_array_equal(merged.costs, single.costs)
    np.testing.assert_array_equal(merged.best, single.best)
    assert len(merged.videos) == n_videos


@pytest.mark.parametrize(("n_candidates", "n"), [(1, 1), (7, 3), (200, 2), (1000, 16)])
def test_ranges_differ_by_at_most_one_candidate(n_candidates: int, n: int) -> None:
    sizes = [end - first for first, end in split(n_candidates, n)]
    assert sizes == [len(part) for part in np.array_split(np.arange(n_candidates), n)]


def test_merged_videos_belong_to_their_candidates() -> None:
    merged = decode_reply(combine(MESSAGE, [_part(0, 3), _part(3, 5)]).parts)
    assert isinstance(merged, PredictionReply) and merged.id == b"id"
    for candidate, video in zip(merged.prediction.best, merged.prediction.videos, strict=True):
        within = candidate if candidate < 3 else candidate - 3  # the first part has three candidates
        assert (video == within).all()


def test_the_reply_of_a_single_worker_is_forwarded_unchanged() -> None:
    reply = _part(0, 5)
    assert combine(MESSAGE, [reply]) is reply


def test_one_refused_part_refuses_the_request_and_the_most_severe_reason_is_reported() -> None:
    def refused(status: Status) -> WorkerReply:
        return refusal(Refusal(b"id", status, status))

    assert combine(MESSAGE, [_part(0, 3), refused("expired")]).envelope.status == "expired"
    severest = decode_reply(combine(MESSAGE, [refused("expired"), refused("unavailable"), refused("failed")]).parts)
    assert severest == Refusal(b"id", "unavailable", "unavailable")


def test_a_request_without_a_finite_cost_is_refused() -> None:
    parts = [replace(part, envelope=replace(part.envelope, n_nonfinite=2)) for part in (_part(0, 3), _part(3, 5))]
    assert combine(MESSAGE, parts).envelope.status == "ok"
    parts[0] = replace(parts[0], envelope=replace(parts[0].envelope, n_nonfinite=3))
    reply = decode_reply(combine(MESSAGE, parts).parts)
    assert isinstance(reply, Refusal) and (reply.id, reply.status) == (b"id", "nonfinite")


def test_the_time_of_a_stage_is_the_longest_of_all_parts() -> None:
    quick = prediction(request())
    slow = replace(quick, timing_s={"rollout": 2.0, "prepare": 0.1})
    assert merge([quick, slow], 1).timing_s == {"rollout": 2.0, "prepare": 0.1}


def test_nan_and_infinity_are_ranked_last() -> None:
    assert rank(np.array([3, np.nan, 1, -np.inf, 2], np.float32)).tolist() == [2, 4, 0, 1, 3]
