import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context, MismatchError, Prediction, PredictionRequest
from ghvae_core.serving.protocol import (
    Hello,
    Predict,
    PredictionReply,
    Refusal,
    Welcome,
    check,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from ghvae_core.serving.wire import MAX_HEADER_BYTES, MAX_PART_BYTES, ProtocolError, ServerLimits, SpecHeader
from tests.ghvae_core.serving.example import SPEC, prediction, request

ASKED = request()
PREDICT = Predict(b"id-1", ASKED, SPEC.checkpoint, 1.5)
REPLIES: list[Welcome | PredictionReply | Refusal] = [
    Welcome(b"id-1", SPEC, ServerLimits(max_waiting=32)),
    PredictionReply(b"id-1", prediction(ASKED)),
    Refusal(b"id-1", "busy", "two requests are waiting", 0.05),
]


def test_a_request_arrives_as_it_was_sent() -> None:
    got = decode_request(encode_request(PREDICT))
    assert isinstance(got, Predict)
    assert (got.id, got.checkpoint, got.deadline_s) == (PREDICT.id, PREDICT.checkpoint, 1.5)
    assert (got.request.n_videos, got.request.cost) == (ASKED.n_videos, ASKED.cost)
    np.testing.assert_array_equal(got.request.context.frames, ASKED.context.frames)
    np.testing.assert_array_equal(got.request.context.actions, ASKED.context.actions)
    np.testing.assert_array_equal(got.request.candidates, ASKED.candidates)
    np.testing.assert_array_equal(got.request.goal, ASKED.goal)
    got.request.check(SPEC)
    assert decode_request(encode_request(Hello(b"x"))) == Hello(b"x")


def test_arrays_of_any_memory_layout_arrive_whole() -> None:
    strided = request(n=10)
    strided = PredictionRequest(strided.context, strided.candidates[::2], strided.goal[:, ::-1], 1, GoalCost())
    got = decode_request(encode_request(Predict(b"x", strided, "", 1.0)))
    assert isinstance(got, Predict)
    np.testing.assert_array_equal(got.request.candidates, strided.candidates)
    np.testing.assert_array_equal(got.request.goal, strided.goal)


def test_replies_arrive_as_they_were_sent() -> None:
    welcome, answer, refusal = (decode_reply(encode_reply(reply)) for reply in REPLIES)
    assert welcome == REPLIES[0] and refusal == REPLIES[2]
    assert isinstance(answer, PredictionReply)
    sent = prediction(ASKED)
    np.testing.assert_array_equal(answer.prediction.costs, sent.costs)
    np.testing.assert_array_equal(answer.prediction.best, sent.best)
    np.testing.assert_array_equal(answer.prediction.videos, sent.videos)
    assert answer.prediction.timing_s == {"rollout": 0.25}


def test_costs_that_are_not_finite_reach_the_planner() -> None:
    costs = np.array([np.nan, np.inf, 1.0], dtype=np.float32)
    videos = np.zeros((0, 1, 8, 8, 3), dtype=np.uint8)
    sent = PredictionReply(b"x", Prediction(costs, np.zeros(0, dtype=np.int64), videos, {}))
    got = decode_reply(encode_reply(sent))
    assert isinstance(got, PredictionReply)
    np.testing.assert_array_equal(got.prediction.costs, costs)


def test_the_welcome_tells_the_whole_spec() -> None:
    assert set(SpecHeader.model_fields) == set(SPEC.__dataclass_fields__)
    for spec in (SPEC, replace(SPEC, workspace_m=None), replace(SPEC, camera=None), replace(SPEC, val_rmse_p95=None)):
        welcome = Welcome(b"id-1", spec, ServerLimits(max_waiting=32))
        assert decode_reply(encode_reply(welcome)) == welcome


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("workspace_m",), [[0, 0, 0]], "workspace_m"),
        (("workspace_m", 0), [0.0, 0.0, 101.0], "workspace_m.0.2: Input should be less than or equal to 100"),
        (("camera", "position_m"), [0.4, 0.0, 0.5], "camera: .*optical axis that is not vertical"),
        (("camera", "crop", "width_px"), 320, "camera: .*crop inside the 240x320 image"),
        (("camera", "lens"), "wide", "camera.lens: Extra inputs"),
        (("usual_error", 1), 1.5, "usual_error.1: Input should be less than or equal to 1"),
    ],
)
def test_a_welcome_with_an_impossible_spec_is_refused_by_name(
    place: tuple[str | int, ...], value: object, words: str
) -> None:
    tree = msgpack.unpackb(encode_reply(REPLIES[0])[0])
    part = tree["spec"]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(ProtocolError, match=words):
        decode_reply([msgpack.packb(tree)])


def _changed(change: Callable[[dict[str, Any]], object]) -> list[bytes]:
    """Return a valid request with a changed header."""
    header, *arrays = encode_request(PREDICT)
    tree = msgpack.unpackb(header)
    change(tree)
    return [msgpack.packb(tree), *arrays]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(version=1), "messages of version 5, got version 1"),
        (lambda h: h.update(version="4"), "messages of version 5"),
        (lambda h: h.update(kind="shutdown"), "header: .*kind"),
        (lambda h: h.update(path="/etc/passwd"), "path: Extra inputs"),
        (lambda h: h.pop("checkpoint"), "checkpoint: Field required"),
        (lambda h: h.update(id=b""), "id: "),
        (lambda h: h.update(id="text"), "id: "),
        (lambda h: h.update(id=b"x" * 65), "msgpack"),
        (lambda h: h.update(deadline_ms=0), "deadline_ms: "),
        (lambda h: h.update(deadline_ms=60_001), "deadline_ms: "),
        (lambda h: h.update(deadline_ms=1.0), "deadline_ms: "),
        (lambda h: h.update(deadline_ms=True), "deadline_ms: "),
        (lambda h: h.update(n_videos=-1), "n_videos: "),
        (lambda h: h["cost"].update(final_frames=0), "cost.final_frames: "),
        (lambda h: h["arrays"][0].update(dtype="|O"), "dtype: "),
        (lambda h: h["arrays"][0].update(dtype="<f4"), "expected the arrays"),
        (lambda h: h["arrays"][0].update(name="goal"), "expected the arrays"),
        (lambda h: h["arrays"].reverse(), "expected the arrays"),
        (lambda h: h["arrays"].pop(), "expected the arrays"),
        (lambda h: h["arrays"][0].update(shape=[1] * 6), "shape: "),
        (lambda h: h["arrays"][0].update(shape=[-1, 8, 8, 3]), "shape.0: "),
        (lambda h: h["arrays"][0].update(shape=[65537]), "shape.0: "),
        (lambda h: h["arrays"][0].update(shape=[65536] * 5), "does not fit 384 bytes"),
        (lambda h: h["arrays"][0].update(shape=[0, 65536, 65536, 65536, 65536]), "does not fit"),
        (lambda h: h["arrays"][0].update(shape=[2, 8, 8, 2]), "does not fit"),
        (lambda h: h["arrays"][2].update(shape=[[5], 3, 4]), "shape.0: "),
    ],
)
def test_a_wrong_header_is_refused_by_name(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_request(_changed(change))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"\xc1"],
        [msgpack.packb(7)],
        [msgpack.packb([{}] * 500)],
        [msgpack.packb({1: 2})],
        [b"\x91" * 4000],  # deeper than any header
        [b"\xdd\xff\xff\xff\xff"],  # claims 4 G elements
        [b"\xc7\xff\x01"],  # claims an extension type
        [b"x" * (MAX_HEADER_BYTES + 1)],
        [*encode_request(Hello(b"x")), b"more"],
        [*encode_request(PREDICT), b""],
        encode_request(PREDICT)[:-1],
    ],
)
def test_what_is_not_a_message_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode_request(parts)
    with pytest.raises(ProtocolError):
        decode_reply(parts)


def test_a_refusal_names_the_message_when_it_can() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_request(_changed(lambda h: h.update(version=99)))
    assert caught.value.request_id == PREDICT.id


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_actions_that_are_not_finite_are_refused(value: float) -> None:
    candidates = ASKED.candidates.copy()
    candidates[0, 0, 0] = value
    bad = PredictionRequest(ASKED.context, candidates, ASKED.goal, 1, GoalCost())
    with pytest.raises(ProtocolError, match="candidates: expected finite"):
        decode_request(encode_request(Predict(b"x", bad, "", 1.0)))


@pytest.mark.parametrize("best", [[0, 0], [0, 5], [0]])
def test_an_answer_that_contradicts_itself_is_refused(best: list[int]) -> None:
    sent = prediction(ASKED)
    parts = encode_reply(PredictionReply(b"x", sent))
    tree = msgpack.unpackb(parts[0])
    tree["best"] = best
    with pytest.raises(ProtocolError):
        decode_reply([msgpack.packb(tree), *parts[1:]])


def test_nothing_larger_than_a_message_is_sent() -> None:
    huge = Context(np.zeros((257, MAX_PART_BYTES // 256), dtype=np.uint8), ASKED.context.actions)
    with pytest.raises(ProtocolError, match="context_frames: expected at most"):
        encode_request(Predict(b"x", PredictionRequest(huge, ASKED.candidates, ASKED.goal, 1, GoalCost()), "", 1.0))


def test_an_answer_that_would_not_fit_is_refused_before_it_is_computed() -> None:
    spec = SPEC.__class__(**{**SPEC.__dict__, "image_px": 512, "max_candidates": 100})
    image = np.zeros((2, 512, 512, 3), dtype=np.uint8)
    context = Context(image, ASKED.context.actions)
    candidates = np.zeros((100, 3, 4), dtype=np.float32)
    check(PredictionRequest(context, candidates, image[0], 3, GoalCost()), spec)
    with pytest.raises(MismatchError, match="n_videos: one message holds 3 videos"):
        check(PredictionRequest(context, candidates, image[0], 4, GoalCost()), spec)


def test_a_long_reason_is_cut() -> None:
    got = decode_reply(encode_reply(Refusal(b"x", "bad", "y" * 1000)))
    assert isinstance(got, Refusal) and len(got.why) == 500


HOSTILE = [
    None,
    -1,
    2**63,
    1.5,
    float("nan"),
    True,
    "",
    "<f4",
    b"x",
    [],
    {},
    [1] * 9,
    {"a": 1},
    "é" * 50,
    msgpack.Timestamp(1),
]


def _mutate(parts: list[bytes], rng: random.Random) -> list[bytes]:
    parts = list(parts)
    index = rng.randrange(len(parts))
    data = bytearray(parts[index])
    place = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0 if data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[place:]
        case 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            parts.insert(index, parts[rng.randrange(len(parts))])
            return parts
        case 4:
            del parts[index]
            return parts
        case 5:
            rng.shuffle(parts)
            return parts
        case _:
            return [_mutate_tree(parts[0], rng), *parts[1:]]
    parts[index] = bytes(data)
    return parts


def _mutate_tree(header: bytes, rng: random.Random) -> bytes:
    try:
        tree = msgpack.unpackb(header, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return rng.randbytes(20)
    node = tree
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else list(range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            node[key] = rng.choice(HOSTILE)
            break
        node = node[key]
    packed: bytes = msgpack.packb(tree)
    return packed


_Message = TypeVar("_Message")


def _fuzz(
    messages: list[_Message], encode: Callable[[_Message], list[bytes]], decode: Callable[[list[bytes]], _Message]
) -> int:
    """Decode 10 000 mutated messages; return how many were accepted, each of them whole and valid."""
    rng = random.Random(0)
    seeds = [encode(message) for message in messages]
    n_accepted = 0
    for _ in range(10_000):
        parts = rng.choice(seeds)
        for _ in range(rng.randrange(1, 4)):
            parts = _mutate(parts, rng) or [b""]
        try:
            message = decode(parts)
        except ProtocolError:
            continue
        n_accepted += 1
        sent_on = encode(message)
        assert encode(decode(sent_on)) == sent_on
        assert [len(part) for part in sent_on[1:]] == [len(part) for part in parts[1:]]
    return n_accepted


def test_mutated_requests_are_valid_or_refused() -> None:
    messages: list[Hello | Predict] = [Hello(b"id-1"), PREDICT]
    assert 0 < _fuzz(messages, encode_request, decode_request) < 5_000


def test_mutated_replies_are_valid_or_refused() -> None:
    assert 0 < _fuzz(REPLIES, encode_reply, decode_reply) < 5_000
