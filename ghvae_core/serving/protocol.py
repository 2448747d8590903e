"""The messages between a planner and the server, version 5.

A message is a ZeroMQ multipart: one msgpack header of at most 4 KiB, then the raw little-endian bytes of each array, in
a fixed order. Nothing in a message names code, a file or a type.

    planner -> server   hello        request for the handshake
                        predict      context_frames, context_actions, candidates, goal
    server -> planner   welcome      ok: capabilities of the predictor, and limits of the server
                        prediction   ok: costs, videos
                        refusal      why there is no prediction, and when to retry, if at all:
                                     bad          the message, or the request in it, is not valid
                                     busy         the request queue is full
                                     superseded   the same client sent a newer request
                                     expired      the deadline passed
                                     draining     the server is stopping
                                     unavailable  the model is being loaded, or its process was lost
                                     nonfinite    no candidate has a finite cost
                                     failed       an internal error
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from ghvae_core.predictor import Context, MismatchError, Prediction, PredictionRequest, PredictorSpec
from ghvae_core.serving.wire import (
    MAX_DEADLINE_S,
    MAX_PART_BYTES,
    MAX_VIDEOS,
    MAX_WHY,
    ArrayHeader,
    HelloHeader,
    PredictHeader,
    PredictionHeader,
    ProtocolError,
    RefusalHeader,
    ServerLimits,
    SpecHeader,
    Status,
    WelcomeHeader,
    pack,
    unpack,
    views,
)

_REQUEST_ARRAYS = {"context_frames": "|u1", "context_actions": "<f4", "candidates": "<f4", "goal": "|u1"}
_PREDICTION_ARRAYS = {"costs": "<f4", "videos": "|u1"}

_REQUESTS: TypeAdapter[HelloHeader | PredictHeader] = TypeAdapter(
    Annotated[HelloHeader | PredictHeader, Field(discriminator="kind")]
)
_REPLIES: TypeAdapter[WelcomeHeader | PredictionHeader | RefusalHeader] = TypeAdapter(
    Annotated[WelcomeHeader | PredictionHeader | RefusalHeader, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Hello:
    """A request for the handshake."""

    id: bytes  # 1 to 64 bytes


@dataclass(frozen=True)
class Predict:
    """A request for costs and videos."""

    id: bytes
    request: PredictionRequest
    checkpoint: str  # of the handshake; a server with another one refuses
    deadline_s: float  # from now on, at most 60


@dataclass(frozen=True)
class Welcome:
    """The reply to a hello."""

    id: bytes
    spec: PredictorSpec
    limits: ServerLimits


@dataclass(frozen=True)
class PredictionReply:
    """The reply to a request."""

    id: bytes
    prediction: Prediction


@dataclass(frozen=True)
class Refusal:
    """The reason why there is no prediction."""

    id: bytes
    status: Status
    why: str
    retry_after_s: float = 0.0


def check(request: PredictionRequest, spec: PredictorSpec) -> None:
    """Refuse a request that does not fit the predictor, or whose prediction would not fit into a message.

    Raises:
        MismatchError: As in `PredictionRequest.check`; or more videos are requested than a message holds.
        PredictorError: As in `PredictionRequest.check`.
    """
    request.check(spec)
    video_bytes = request.candidates.shape[1] * spec.image_px * spec.image_px * 3
    limit = min(MAX_VIDEOS, MAX_PART_BYTES // video_bytes)
    if request.n_videos > limit:
        raise MismatchError(f"n_videos: one message holds {limit} videos of this length, got {request.n_videos}")


def encode_request(message: Hello | Predict) -> list[bytes]:
    """Return the parts of a client's message.

    Raises:
        ProtocolError: A part is larger than a message may hold.
    """
    if isinstance(message, Hello):
        return pack(HelloHeader(id=message.id))
    request = message.request
    arrays = _describe(
        _REQUEST_ARRAYS, (request.context.frames, request.context.actions, request.candidates, request.goal)
    )
    header = PredictHeader(
        id=message.id,
        checkpoint=message.checkpoint,
        deadline_ms=max(1, round(min(message.deadline_s, MAX_DEADLINE_S) * 1000)),
        n_videos=request.n_videos,
        cost=request.cost,
        arrays=[described for described, _ in arrays],
    )
    return pack(header, arrays)


def decode_request(parts: Sequence[bytes]) -> Hello | Predict:
    """Return the message that a client sent. Its arrays are read-only views of `parts`.

    Raises:
        ProtocolError: It is not a hello or a predict message of this version, or an action is not finite.
    """
    header = unpack(parts, _REQUESTS)
    if isinstance(header, HelloHeader):
        views(header.id, [], {}, parts)
        return Hello(header.id)
    arrays = views(header.id, header.arrays, _REQUEST_ARRAYS, parts)
    for name in ("context_actions", "candidates"):
        if not np.isfinite(arrays[name]).all():
            raise ProtocolError(f"{name}: expected finite numbers, got NaN or infinity", header.id)
    context = Context(arrays["context_frames"], arrays["context_actions"])
    request = PredictionRequest(context, arrays["candidates"], arrays["goal"], header.n_videos, header.cost)
    return Predict(header.id, request, header.checkpoint, header.deadline_ms / 1000)


def encode_reply(message: Welcome | PredictionReply | Refusal) -> list[bytes]:
    """Return the parts of a server's message.

    Raises:
        ProtocolError: A part is larger than a message may hold.
    """
    if isinstance(message, Welcome):
        return pack(WelcomeHeader(id=message.id, spec=SpecHeader.of(message.spec), limits=message.limits))
    if isinstance(message, Refusal):
        retry_after_ms = round(message.retry_after_s * 1000)
        why = message.why[:MAX_WHY]
        return pack(RefusalHeader(id=message.id, status=message.status, why=why, retry_after_ms=retry_after_ms))
    prediction = message.prediction
    arrays = _describe(_PREDICTION_ARRAYS, (prediction.costs, prediction.videos))
    header = PredictionHeader(
        id=message.id,
        best=[int(candidate) for candidate in prediction.best],
        timing_s=dict(prediction.timing_s),
        arrays=[described for described, _ in arrays],
    )
    return pack(header, arrays)


def decode_reply(parts: Sequence[bytes]) -> Welcome | PredictionReply | Refusal:
    """Return the message that a server sent. Its arrays are read-only views of `parts`.

    Raises:
        ProtocolError: It is not a message of this version, or its numbers contradict each other.
    """
    header = unpack(parts, _REPLIES)
    if isinstance(header, PredictionHeader):
        return PredictionReply(header.id, _prediction(header, parts))
    views(header.id, [], {}, parts)
    if isinstance(header, WelcomeHeader):
        return Welcome(header.id, header.spec.spec(), header.limits)
    return Refusal(header.id, header.status, header.why, header.retry_after_ms / 1000)


def _prediction(header: PredictionHeader, parts: Sequence[bytes]) -> Prediction:
    arrays = views(header.id, header.arrays, _PREDICTION_ARRAYS, parts)
    costs, videos, best = arrays["costs"], arrays["videos"], header.best
    if costs.ndim != 1 or videos.ndim != 5 or len(videos) != len(best):
        raise ProtocolError(
            f"expected costs (N,) and videos ({len(best)}, T, H, W, 3), got {costs.shape} and {videos.shape}", header.id
        )
    if len(set(best)) != len(best) or any(candidate >= len(costs) for candidate in best):
        raise ProtocolError(f"expected the best to be different candidates below {len(costs)}", header.id)
    return Prediction(costs, np.array(best, dtype=np.int64), videos, header.timing_s)


def _describe(dtypes: Mapping[str, str], arrays: Sequence[NDArray[Any]]) -> list[tuple[ArrayHeader, NDArray[Any]]]:
    described = []
    for (name, dtype), array in zip(dtypes.items(), arrays, strict=True):
        described.append((ArrayHeader.model_validate({"name": name, "dtype": dtype, "shape": [*array.shape]}), array))
    return described
