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

REQUEST = request()
PREDICT = Predict(b"id-1", REQUEST, SPEC.checkpoint, 1.5)
REPLIES: list[Welcome | PredictionReply | Refusal] = [
    Welcome(b"id-1", SPEC, ServerLimits(max_waiting=32)),
    PredictionReply(b"id-1", prediction(REQUEST)),
    Refusal(b"id-1", "busy", "two requests are waiting", 0.05),
]


def test_a_decoded_request_equals_the_encoded_one() -> None:
    got = decode_request(encode_request(PREDICT))
    assert isinstance(got, Predict)
    assert (got.id, got.checkpoint, got.deadline_s) == (PREDICT.id, PREDICT.checkpoint, 1.5)
    assert (got.request.n_videos, got.request.cost) == (REQUEST.n_videos, REQUEST.cost)
    np.testing.assert_array_equal(got.request.context.frames, REQUEST.context.frames)
    np.testing.assert_array_equal(got.request.context.actions, REQUEST.context.actions)
    np.testing.assert_array_equal(got.request.candidates, REQUEST.candidates)
    np.testing.assert_array_equal(got.request.goal, REQUEST.goal)
    got.request.check(SPEC)
    assert decode_request(encode_request(Hello(b"x"))) == Hello(b"x")


def test_arrays_of_any_memory_layout_are_encoded() -> None:
    strided = request(n=10)
    strided = PredictionRequest(strided.context, strided.candidates[::2], strided.goal[:, ::-1], 1, GoalCost())
    got = decode_request(encode_request(Predict(b"x", strided, "", 1.0)))
    assert isinstance(got, Predict)
    np.testing.assert_array_equal(got.request.candidates, strided.candidates)
    np.testing.assert_array_equal(got.request.goal, strided.goal)


def test_decoded_replies_equal_the_encoded_ones() -> None:
    welcome, reply, refusal = (decode_reply(encode_reply(reply)) for reply in REPLIES)
    assert welcome == REPLIES[0] and refusal == REPLIES[2]
    assert isinstance(reply, PredictionReply)
    sent = prediction(REQUEST)
    np.testing.assert_array_equal(reply.prediction.costs, sent.costs)
    np.testing.assert_array_equal(reply.prediction.best, sent.best)
    np.testing.assert_array_equal(reply.prediction.videos, sent.videos)
    assert reply.prediction.timing_s == {"rollout": 0.25}


def test_costs_that_are_not_finite_are_accepted() -> None:
    costs = np.array([np.nan, np.inf, 1.0], dtype=np.float32)
    videos = np.zeros((0, 1, 8, 8, 3), dtype=np.uint8)
    sent = PredictionReply(b"x", Prediction(costs, np.zeros(0, dtype=np.int64), videos, {}))
    got = decode_reply(encode_reply(sent))
    assert isinstance(got, PredictionReply)
    np.testing.assert_array_equal(got.prediction.costs, costs)


def test_the_welcome_contains_all_fields_of_the_spec() -> None:
    assert set(SpecHeader.model_fields) == set(SPEC.__dataclass_fields__)
    for spec in (SPEC, replace(SPEC, workspace_m=None), replace(SPEC, camera=None), replace(SPEC, val_rmse_p95=None)):
        welcome = Welcome(b"id-1", spec, ServerLimits(max_waiting=32))
        assert decode_reply(encode_reply(welcome)) == welcome


@pytest.mark.parametrize(
    ("key_path", "value", "message"),
    [
        (("workspace_m",), [[0, 0, 0]], "workspace_m"),
        (("workspace_m", 0), [0.0, 0.0, 101.0], "workspace_m.0.2: Input should be less than or equal to 100"),
        (("camera", "position_m"), [0.4, 0.0, 0.5], "camera: .*optical axis that is not vertical"),
        (("camera", "crop", "width_px"), 320, "camera: .*crop inside the 240x320 image"),
        (("camera", "lens"), "wide", "camera.lens: Extra inputs"),
        (("usual_error", 1), 1.5, "usual_error.1: Input should be less than or equal to 1"),
    ],
)
def test_the_error_for_an_invalid_spec_names_the_field(
    key_path: tuple[str | int, ...], value: object, message: str
) -> None:
    tree = msgpack.unpackb(encode_reply(REPLIES[0])[0])
    part = tree["spec"]
    for key in key_path[:-1]:
        part = part[key]
    part[key_path[-1]] = value
    with pytest.raises(ProtocolError, match=message):
        decode_reply([msgpack.packb(tree)])


def _changed(change: Callable[[dict[str, Any]], object]) -> list[bytes]:
    """Return a valid request with a changed header."""
    header, *arrays = encode_request(PREDICT)
    tree = msgpack.unpackb(header)
    change(tree)
    return [msgpack.packb(tree), *arrays]


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_the_error_for_an_invalid_header_names_the_field(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
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
def test_invalid_messages_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode_request(parts)
    with pytest.raises(ProtocolError):
        decode_reply(parts)


def test_the_error_has_the_request_id_when_it_is_readable() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_request(_changed(lambda h: h.update(version=99)))
    assert caught.value.request_id == PREDICT.id


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_actions_that_are_not_finite_are_refused(value: float) -> None:
    candidates = REQUEST.candidates.copy()
    candidates[0, 0, 0] = value
    bad = PredictionRequest(REQUEST.context, candidates, REQUEST.goal, 1, GoalCost())
    with pytest.raises(ProtocolError, match="candidates: expected finite"):
        decode_request(encode_request(Predict(b"x", bad, "", 1.0)))


@pytest.mark.parametrize("best", [[0, 0], [0, 5], [0]])
def test_an_inconsistent_prediction_is_refused(best: list[int]) -> None:
    sent = prediction(REQUEST)
    parts = encode_reply(PredictionReply(b"x", sent))
    tree = msgpack.unpackb(parts[0])
    tree["best"] = best
    with pytest.raises(ProtocolError):
        decode_reply([msgpack.packb(tree), *parts[1:]])


def test_a_part_above_the_limit_is_refused() -> None:
    huge = Context(np.zeros((257, MAX_PART_BYTES // 256), dtype=np.uint8), REQUEST.context.actions)
    with pytest.raises(ProtocolError, match="context_frames: expected at most"):
        encode_request(Predict(b"x", PredictionRequest(huge, REQUEST.candidates, REQUEST.goal, 1, GoalCost()), "", 1.0))


def test_a_request_whose_reply_exceeds_the_limit_is_refused() -> None:
    spec = SPEC.__class__(**{**SPEC.__dict__, "image_px": 512, "max_candidates": 100})
    image = np.zeros((2, 512, 512, 3), dtype=np.uint8)
    context = Context(image, REQUEST.context.actions)
    candidates = np.zeros((100, 3, 4), dtype=np.float32)
    check(PredictionRequest(context, candidates, image[0], 3, GoalCost()), spec)
    with pytest.raises(MismatchError, match="n_videos: one message holds 3 videos"):
        check(PredictionRequest(context, candidates, image[0], 4, GoalCost()), spec)


def test_a_long_reason_is_truncated() -> None:
    got = decode_reply(encode_reply(Refusal(b"x", "bad", "y" * 1000)))
    assert isinstance(got, Refusal) and len(got.why) == 500


INVALID_VALUES = [
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
    offset = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0 if data:
            data[offset % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[offset:]
        case 2:
            data[offset:offset] = rng.randbytes(rng.randrange(1, 9))
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
            node[key] = rng.choice(INVALID_VALUES)
            break
        node = node[key]
    packed: bytes = msgpack.packb(tree)
    return packed


_Message = TypeVar("_Message")


def _fuzz(
    messages: list[_Message], encode: Callable[[_Message], list[bytes]], decode: Callable[[list[bytes]], _Message]
) -> int:
    """Decode 10 000 mutated messages; return the number of accepted messages, all complete and valid."""
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
        encoded = encode(message)
        assert encode(decode(encoded)) == encoded
        assert [len(part) for part in encoded[1:]] == [len(part) for part in parts[1:]]
    return n_accepted


def test_mutated_requests_are_valid_or_refused() -> None:
    messages: list[Hello | Predict] = [Hello(b"id-1"), PREDICT]
    assert 0 < _fuzz(messages, encode_request, decode_request) < 5_000


def test_mutated_replies_are_valid_or_refused() -> None:
    assert 0 < _fuzz(REPLIES, encode_reply, decode_reply) < 5_000
