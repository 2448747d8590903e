"""The typed headers of messages, and the only place where bytes of a peer become headers and arrays.

Every limit is checked before anything is allocated: the length of the header before it is unpacked, its fields by
strict models, and the shape of each array against the received bytes. Invalid input raises `ProtocolError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import PredictorError, PredictorSpec
from robot_bridge.camera import Camera

VERSION = 5  # of the messages; peers that differ refuse each other
MAX_HEADER_BYTES = 4096
MAX_PART_BYTES = 8 * 2**20  # of one array; 1000 candidates of 10 steps are 160 kB, one video of 10 steps 123 kB
MAX_PARTS = 5  # the header and four arrays
MAX_DEADLINE_S = 60.0
MAX_ID_BYTES = 64
MAX_WHY = 500  # characters
MAX_ERRORS = 256  # validation errors by step in a welcome, so that they fit into the header
MAX_VIDEOS = 1024  # predicted videos in one reply

Status = Literal["bad", "busy", "superseded", "expired", "draining", "unavailable", "nonfinite", "failed"]
Count = Annotated[int, Field(ge=0, le=65536)]

_Schema = TypeVar("_Schema")


class ProtocolError(PredictorError):
    """A message that does not follow the protocol. Nothing was allocated or computed for it."""

    def __init__(self, why: str, request_id: bytes = b"") -> None:
        super().__init__(why)
        self.request_id = request_id  # empty if the message has no valid id


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ArrayHeader(_Strict):
    """The description of an array; its bytes are one part of the message."""

    name: str = Field(max_length=32)
    dtype: Literal["|u1", "<f4"]
    shape: list[Count] = Field(max_length=5)


class Header(_Strict):
    """The fields of all messages."""

    version: Literal[5] = 5
    id: bytes = Field(min_length=1, max_length=MAX_ID_BYTES)  # chosen by the client, repeated by the server


class HelloHeader(Header):
    """A request for the handshake."""

    kind: Literal["hello"] = "hello"


class PredictHeader(Header):
    """A request."""

    kind: Literal["predict"] = "predict"
    checkpoint: str = Field(max_length=64)  # of the handshake
    deadline_ms: int = Field(ge=1, le=int(MAX_DEADLINE_S * 1000))  # from now; clocks differ
    n_videos: int = Field(ge=0, le=MAX_VIDEOS)
    cost: GoalCost
    arrays: list[ArrayHeader] = Field(max_length=MAX_PARTS - 1)


_Metres = Annotated[float, Field(ge=-100, le=100)]
_Vector = Annotated[tuple[_Metres, _Metres, _Metres], Field(strict=False)]  # msgpack has lists only


_Fraction = Annotated[float, Field(ge=0, le=1)]


class CameraHeader(Camera):
    """A camera with bounds, as msgpack represents it."""

    position_m: _Vector
    target_m: _Vector


class SpecHeader(_Strict):
    """The fields of `PredictorSpec` with bounds."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(max_length=64)
    image_px: int = Field(ge=1, le=1024)
    action_dim: int = Field(ge=1, le=64)
    step_limit_m: float = Field(gt=0)
    step_s: float = Field(gt=0)
    n_context: int = Field(ge=1, le=64)
    max_horizon: int = Field(ge=1, le=1024)
    max_candidates: int = Field(ge=1, le=65536)
    checkpoint: str = Field(max_length=64)
    workspace_m: Annotated[tuple[_Vector, _Vector], Field(strict=False)] | None
    camera: CameraHeader | None
    terms: Annotated[tuple[Annotated[str, Field(max_length=32)], ...], Field(strict=False, max_length=16)]
    distance: str = Field(max_length=64)
    val_rmse_p95: Annotated[tuple[_Fraction, ...], Field(strict=False, max_length=MAX_ERRORS)] | None = Field(
        alias="usual_error"  # its name on the wire
    )

    @staticmethod
    def of(spec: PredictorSpec) -> SpecHeader:
        """Return the header of a spec."""
        camera = spec.camera and spec.camera.model_dump()
        return SpecHeader.model_validate({**vars(spec), "camera": camera})

    def spec(self) -> PredictorSpec:
        """Return the spec in the header."""
        fields = {name: getattr(self, name) for name in SpecHeader.model_fields}
        return PredictorSpec(**{**fields, "camera": self.camera and Camera(**self.camera.model_dump())})


class ServerLimits(_Strict):
    """The limits of a server."""

    max_part_bytes: int = Field(default=MAX_PART_BYTES, ge=1)
    max_deadline_s: float = Field(default=MAX_DEADLINE_S, gt=0)
    max_waiting: int = Field(ge=1)  # requests of all clients together, including the current one


class WelcomeHeader(Header):
    """The reply to a hello."""

    kind: Literal["welcome"] = "welcome"
    spec: SpecHeader
    limits: ServerLimits


class PredictionHeader(Header):
    """The reply to a request."""

    kind: Literal["prediction"] = "prediction"
    best: list[Count] = Field(max_length=MAX_VIDEOS)
    timing_s: dict[Annotated[str, Field(max_length=32)], float] = Field(max_length=16)
    arrays: list[ArrayHeader] = Field(max_length=2)


class RefusalHeader(Header):
    """The reason why there is no prediction."""

    kind: Literal["refusal"] = "refusal"
    id: bytes = Field(max_length=MAX_ID_BYTES)  # empty if the refused message has no valid id
    status: Status
    why: str = Field(max_length=MAX_WHY)
    retry_after_ms: int = Field(ge=0, le=60_000)


def pack(header: Header, arrays: Sequence[tuple[ArrayHeader, NDArray[Any]]] = ()) -> list[bytes]:
    """Return the parts of a message.

    Raises:
        ProtocolError: The header or an array is larger than a message may hold.
    """
    packed: bytes = msgpack.packb(header.model_dump(by_alias=True))
    _cap("the header", len(packed), MAX_HEADER_BYTES)
    for described, array in arrays:
        _cap(described.name, array.nbytes, MAX_PART_BYTES)
    return [packed, *(array.astype(described.dtype, copy=False).tobytes() for described, array in arrays)]


def unpack(parts: Sequence[bytes], schema: TypeAdapter[_Schema]) -> _Schema:
    """Return the header of a message.

    Raises:
        ProtocolError: Too many parts, or a header that is too long, not msgpack, or not in `schema`.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ProtocolError(f"expected 1 to {MAX_PARTS} parts, got {len(parts)}")
    _cap("the header", len(parts[0]), MAX_HEADER_BYTES)
    try:
        tree = msgpack.unpackb(
            parts[0], max_map_len=16, max_array_len=1024, max_str_len=2000, max_bin_len=MAX_ID_BYTES, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the header is not msgpack: {error}"[:MAX_WHY]) from None
    request_id = _id(tree)
    if isinstance(tree, dict) and tree.get("version", VERSION) != VERSION:
        raise ProtocolError(f"expected messages of version {VERSION}, got version {tree['version']!r:.20}", request_id)
    try:
        return schema.validate_python(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(place) for place in first["loc"])
        raise ProtocolError(f"header: {where}: {first['msg']}"[:MAX_WHY], request_id) from None


def views(
    request_id: bytes, described: Sequence[ArrayHeader], expected: Mapping[str, str], parts: Sequence[bytes]
) -> dict[str, NDArray[Any]]:
    """Return read-only views of the parts behind the header, as the header describes them.

    Args:
        request_id: Id of the message, for the error.
        described: The descriptions in the header.
        expected: The dtype of each array of this kind of message, in order.
        parts: All parts of the message.

    Raises:
        ProtocolError: The arrays differ from the expected ones, or a shape does not fit the received bytes.
    """
    got = [(array.name, array.dtype) for array in described]
    if got != list(expected.items()) or len(got) != len(parts) - 1:
        raise ProtocolError(f"expected the arrays {dict(expected)}, got {got} in {len(parts) - 1} parts", request_id)
    arrays: dict[str, NDArray[Any]] = {}
    for array, part in zip(described, parts[1:], strict=True):
        dtype = np.dtype(array.dtype)
        # An axis of length 0 must not hide one that no memory could hold.
        reach = math.prod(max(length, 1) for length in array.shape) * dtype.itemsize
        if reach > MAX_PART_BYTES or math.prod(array.shape) * dtype.itemsize != len(part):
            raise ProtocolError(f"{array.name}: a {dtype} of {array.shape} does not fit {len(part)} bytes", request_id)
        arrays[array.name] = np.frombuffer(part, dtype=dtype).reshape(array.shape)
    return arrays


def _cap(name: str, n_bytes: int, limit_bytes: int) -> None:
    if n_bytes > limit_bytes:
        raise ProtocolError(f"{name}: expected at most {limit_bytes} bytes, got {n_bytes}")


def _id(tree: object) -> bytes:
    value = tree.get("id") if isinstance(tree, dict) else None
    return value if isinstance(value, bytes) and len(value) <= MAX_ID_BYTES else b""
