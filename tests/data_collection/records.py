"""TFRecord files for tests, written as TensorFlow does."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_collection.formats.tfrecord import crc32c

Values = Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def example(features: Mapping[str, Values]) -> bytes:
    """Serialise a `tf.train.Example`."""
    entries = []
    for name, values in features.items():
        if not isinstance(values, np.ndarray):
            feature = _field(1, b"".join(_field(1, value) for value in values))
        elif values.dtype.kind == "f":
            feature = _field(2, _field(1, values.astype("<f4").tobytes()))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(value) % 2**64) for value in values)))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _checked(data: bytes) -> bytes:
    crc = crc32c(data)
    return data + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write_records(path: Path, records: Sequence[bytes]) -> Path:
    """Write records with their lengths and checksums."""
    path.write_bytes(b"".join(_checked(struct.pack("<Q", len(each))) + _checked(each) for each in records))
    return path


def bridge_features(n_steps: int = 6, seed: int = 0) -> dict[str, Values]:
    """Return the features of an episode in two views."""
    rng = np.random.default_rng(seed)
    images = [[_png(rng) for _ in range(n_steps)] for _ in range(2)]
    return {
        "steps/observation/image_0": images[0],
        "steps/observation/image_1": images[1],
        "steps/action": rng.normal(size=7 * n_steps).astype(np.float32),
        "steps/observation/state": rng.normal(size=7 * n_steps).astype(np.float32),
        "steps/is_last": np.eye(n_steps, dtype=np.int64)[-1],
    }


def _png(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()
