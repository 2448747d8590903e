"""Records and messages of TensorFlow, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_collection.episode import EpisodeError
from data_collection.formats.tfrecord import MAX_RECORD_BYTES, crc32c, find_records, parse_example, read_record
from tests.data_collection.records import example, write_records


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, B.4, and the check value of the catalogue of CRCs
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_published_checksums(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_the_parallel_checksum_equals_the_sequential_one() -> None:
    data = np.random.default_rng(0).bytes(5000)
    for n_bytes in (255, 256, 511, 512, 513, 1024, 4999):
        register = 0xFFFFFFFF
        for byte in data[:n_bytes]:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        assert crc32c(data[:n_bytes]) == register ^ 0xFFFFFFFF


def test_written_records_are_read(tmp_path: Path) -> None:
    records = [b"first", b"", bytes(3000)]
    path = write_records(tmp_path / "x.tfrecord", records)
    assert [read_record(path, offset) for offset in find_records(path)] == records


def test_any_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.tfrecord", [b"first record", b"second record"])
    data = path.read_bytes()
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path = tmp_path / f"{place}.tfrecord"
        path.write_bytes(flipped)
        offsets = find_records(path)
        assert len(offsets) in {1, 2}  # records after a damaged length are not found
        with pytest.raises(EpisodeError, match=r"damage|CRC-32C"):
            [read_record(path, offset) for offset in offsets]


def test_any_truncation_is_detected_and_keeps_earlier_records(tmp_path: Path) -> None:
    whole = write_records(tmp_path / "x.tfrecord", [b"first record", b"second record"])
    data = whole.read_bytes()
    second = find_records(whole)[1]
    for n_bytes in range(second + 1, len(data)):
        path = tmp_path / f"{n_bytes}.tfrecord"
        path.write_bytes(data[:n_bytes])
        offsets = find_records(path)
        assert offsets == [0, second] and read_record(path, 0) == b"first record"
        with pytest.raises(EpisodeError, match=r"damage|cut off"):
            read_record(path, second)


def test_a_record_of_too_large_a_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_records(tmp_path / "x.tfrecord", [bytes(100)])
    assert MAX_RECORD_BYTES > 2**25
    monkeypatch.setattr("data_collection.formats.tfrecord.MAX_RECORD_BYTES", 99)
    with pytest.raises(EpisodeError, match="at most 99 bytes, got 100"):
        read_record(path, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"x\.tfrecord: expected a TFRecord file, got: No such file"):
        find_records(tmp_path / "x.tfrecord")


def test_examples_hold_bytes_floats_and_integers() -> None:
    found = parse_example(
        example({"a": [b"x", b""], "b": np.array([1.5, -2], np.float32), "c": np.array([3, -1, 2**40])})
    )
    assert found["a"] == [b"x", b""]
    np.testing.assert_array_equal(found["b"], [1.5, -2])
    np.testing.assert_array_equal(found["c"], [3, -1, 2**40])
    assert parse_example(b"") == {}


def test_unpacked_numbers_are_read() -> None:
    """Old writers repeat the field."""
    floats = b"".join(b"\x0d" + np.float32(value).tobytes() for value in (1, 2))
    feature = b"\x12" + bytes([len(floats)]) + floats
    entry = b"\x0a\x01a\x12" + bytes([len(feature)]) + feature
    message = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    np.testing.assert_array_equal(parse_example(message)["a"], [1, 2])


@given(st.binary(max_size=60))
def test_invalid_bytes_raise_no_other_error(data: bytes) -> None:
    try:
        parse_example(data)
    except EpisodeError as error:
        assert "\n" not in str(error)


def test_truncated_messages_are_errors() -> None:
    whole = example({"abc": np.arange(5, dtype=np.float32)})
    for n_bytes in range(1, len(whole)):
        with pytest.raises(EpisodeError, match="Example"):
            parse_example(whole[:n_bytes])
