"""TFRecord files without TensorFlow: checked records, and the `Example` messages in them.

A record is its length (8 bytes, little endian), a masked CRC-32C of the length, the data, and one of the data. An
`Example` is a protocol buffer that maps names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError

MAX_RECORD_BYTES = 2**28  # an episode of BridgeData has about 1 to 10 MB; parsing takes a multiple of it

Feature: TypeAlias = "list[bytes] | NDArray[np.float32] | NDArray[np.int64]"

_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reversed


def find_records(path: Path) -> list[int]:
    """Return the offsets of records. The offset of a damaged length is the last one, as later records are not found.

    Raises:
        EpisodeError: The file cannot be read.
    """
    try:
        state = path.stat()
        return list(_offsets(path, state.st_size, state.st_mtime_ns))
    except OSError as error:
        raise EpisodeError(f"{path}: expected a TFRecord file, got: {error.strerror or error}") from None


@lru_cache(maxsize=64)
def _offsets(path: Path, n_bytes: int, _mtime_ns: int) -> tuple[int, ...]:
    offsets = []
    offset = 0
    with path.open("rb") as file:
        while offset < n_bytes:
            offsets.append(offset)
            try:
                offset += _HEADER_BYTES + _length(file, offset) + _FOOTER_BYTES
            except EpisodeError:
                break
    return tuple(offsets)


def read_record(path: Path, offset: int) -> bytes:
    """Return the data of the record that begins at `offset`.

    Raises:
        EpisodeError: It is truncated, or a checksum does not match.
    """
    with path.open("rb") as file:
        n_bytes = _length(file, offset)
        data = file.read(n_bytes + _FOOTER_BYTES)
    if len(data) != n_bytes + _FOOTER_BYTES:
        raise EpisodeError(f"expected a record of {n_bytes} bytes at byte {offset}, got {len(data)}: cut off")
    body = data[:n_bytes]
    if struct.unpack("<I", data[n_bytes:])[0] != _masked(crc32c(body)):
        raise EpisodeError(f"the record at byte {offset} does not match its CRC-32C: damaged")
    return body


def _length(file: IO[bytes], offset: int) -> int:
    file.seek(offset)
    header = file.read(_HEADER_BYTES)
    if len(header) != _HEADER_BYTES or struct.unpack("<I", header[8:])[0] != _masked(crc32c(header[:8])):
        raise EpisodeError(f"expected a TFRecord length at byte {offset}, got damage, or a file of another kind")
    n_bytes = int.from_bytes(header[:8], "little")
    if n_bytes > MAX_RECORD_BYTES:
        raise EpisodeError(f"expected a record of at most {MAX_RECORD_BYTES} bytes, got {n_bytes}")
    return n_bytes


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of data, computed in parallel parts if it is long.

    The register is linear over GF(2): that of two pieces is the first one's, moved on by as many zero bytes as the
    second has, xor the second one's from zero.
    """
    n_lanes = 1 << max(0, (len(data) // 256).bit_length() - 1)
    n_steps = len(data) // n_lanes
    lanes = np.frombuffer(data, np.uint8, n_lanes * n_steps).reshape(n_lanes, n_steps).T
    registers = np.zeros(n_lanes, np.uint32)
    registers[0] = 0xFFFFFFFF
    basis = np.uint32(1) << np.arange(32, dtype=np.uint32)  # effect of zero bytes of one lane's length on each bit
    for step in np.ascontiguousarray(lanes):
        registers = _TABLE[(registers ^ step) & 0xFF] ^ (registers >> 8)
        basis = _TABLE[basis & 0xFF] ^ (basis >> 8)
    while len(registers) > 1:
        registers = _apply(basis, registers[::2]) ^ registers[1::2]
        basis = _apply(basis, basis)
    register = int(registers[0])
    for byte in data[n_lanes * n_steps :]:
        register = int(_TABLE[(register ^ byte) & 0xFF]) ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _apply(basis: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = (registers[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.asarray(np.bitwise_xor.reduce(np.where(bits, basis, np.uint32(0)), axis=1), np.uint32)


def parse_example(data: bytes) -> dict[str, Feature]:
    """Return the features of a serialised `tf.train.Example` by name.

    Raises:
        EpisodeError: The data are no such message.
    """
    features: dict[str, Feature] = {}
    for features_field, part in _fields(data):
        for entry_field, entry in _fields(part) if features_field == 1 else ():
            if entry_field == 1:
                pair = dict(_fields(entry))
                features[_text(pair.get(1, b""))] = _feature(pair.get(2, b""))
    return features


def _feature(data: bytes) -> Feature:
    for kind, values in _fields(data):
        if kind == 1:
            return [value for field, value in _fields(values) if field == 1]
        parts = [value for field, value in _fields(values) if field == 1]
        if kind == 2:
            if any(len(part) % 4 for part in parts):
                raise EpisodeError("expected floats of 4 bytes in an Example, got a part of one")
            return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)
        if kind == 3:
            return np.array([_signed(number) for part in parts for number in _varints(part)], np.int64)
    return []


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the raw bytes of each field of a message; a varint stays encoded."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        begin, wire = position, key & 7
        if wire == _VARINT:
            _, end = _varint(data, position)
        elif wire == _BYTES:
            size, begin = _varint(data, position)
            end = begin + size
        elif wire in {_FIXED32, _FIXED64}:
            end = begin + (4 if wire == _FIXED32 else 8)
        else:
            raise EpisodeError(f"expected a tf.train.Example, got a field of unknown wire type {wire}")
        if end > len(data):
            raise EpisodeError("expected a tf.train.Example, got a field that is longer than its message")
        yield key >> 3, data[begin:end]
        position = end


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise EpisodeError("expected a tf.train.Example, got a number without an end")


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise EpisodeError("expected a tf.train.Example, got a name that is not UTF-8") from None
