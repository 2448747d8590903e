"""Concatenation of videos without loss."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from data_collection.export.lerobot_files import FileLocation, TableWriter, VideoWriter, is_copyable, read_column
from data_collection.formats.video import VideoConfig, decode_video, encode_video
from tests.data_collection.episodes import make_frames


def test_files_are_numbered_within_chunks_of_a_thousand(tmp_path: Path) -> None:
    place = FileLocation()
    assert place.path(tmp_path, ".mp4") == tmp_path / "chunk-000/file-000.mp4" and (tmp_path / "chunk-000").is_dir()
    for _ in range(999):
        place = place.next()
    assert place == (0, 999) and place.next() == (1, 0)
    assert place.next().next().path(tmp_path, ".parquet") == tmp_path / "chunk-001/file-001.parquet"


STEP = Fraction(3, 5)


def _video(seed: int, n_frames: int = 6, config: VideoConfig | None = None) -> tuple[bytes, NDArray[np.uint8]]:
    data = encode_video(np.roll(make_frames(n_frames), 50 * seed, 1), config or VideoConfig())
    return data, decode_video(data, (n_frames, 240, 320))


def _decoded(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 1 / STEP
        frames = list(container.decode(video=0))
    return np.array([frame.to_ndarray(format="rgb24") for frame in frames]), [
        float(frame.time or 0) for frame in frames
    ]


def test_copied_frames_are_the_same_at_times_that_do_not_drift(tmp_path: Path) -> None:
    video, expected = VideoWriter(tmp_path, STEP, 10**9), []
    for seed in range(40):
        data, frames = _video(seed % 4)
        assert video.append(data, 5) == ((0, 0), seed * 3.0, seed * 3.0 + 3.0)
        expected.append(frames[:5])
    video.close()
    video.close()  # a second call has no effect
    found, times_s = _decoded(tmp_path / "chunk-000/file-000.mp4")
    assert np.array_equal(found, np.concatenate(expected))
    assert times_s == [t * 3 / 5 for t in range(200)]


def test_one_frame_is_found_without_decoding_other_videos(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path, STEP, 10**9)
    videos = [_video(seed) for seed in range(3)]
    for data, _ in videos:
        video.append(data, 6)
    video.close()
    with av.open(str(tmp_path / "chunk-000/file-000.mp4")) as container:
        container.seek(round(8.4 * av.time_base))  # frame 14, the third of the last video
        first = next(container.decode(video=0))
    assert first.time == pytest.approx(12 * 0.6) and np.array_equal(first.to_ndarray(format="rgb24"), videos[2][1][0])


def test_a_new_file_begins_at_the_size_limit(tmp_path: Path) -> None:
    data, frames = _video(0)
    video = VideoWriter(tmp_path, STEP, round(2.5 * len(data)))
    spans = [video.append(data, 6) for _ in range(5)]
    video.close()
    assert [span.place.file for span in spans] == [0, 0, 1, 1, 2]
    assert [round(span.from_s, 6) for span in spans] == [0, 3.6, 0, 3.6, 0]
    assert np.array_equal(_decoded(tmp_path / "chunk-000/file-001.mp4")[0], np.concatenate([frames] * 2))


def test_a_new_file_begins_at_a_change_of_encoder(tmp_path: Path) -> None:
    """A file has one codec header; packets of another encoder decode to invalid frames or not at all."""
    video = VideoWriter(tmp_path, STEP, 10**9)
    videos = [_video(0), _video(1, config=VideoConfig(preset="medium")), _video(2)]
    assert [video.append(data, 6).place.file for data, _ in videos] == [0, 1, 2]
    video.close()
    for number, (_, frames) in enumerate(videos):
        assert np.array_equal(_decoded(tmp_path / f"chunk-000/file-{number:03d}.mp4")[0], frames)


def _encoded(codec: str, options: dict[str, str], pix_fmt: str = "yuv420p") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pix_fmt
        for image in make_frames(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def test_other_frame_orders_and_codecs_are_not_copied() -> None:
    assert is_copyable(_video(0)[0]) and is_copyable(_encoded("libx264", {"bf": "0"}))
    assert not is_copyable(_encoded("libx264", {"bf": "2", "b-adapt": "0"}))
    assert not is_copyable(_encoded("mpeg4", {}))
    assert not is_copyable(_encoded("libx264", {"bf": "0"}, "yuv444p"))


def _rows(first: int, n: int) -> pa.Table:
    return pa.table({"a": pa.array(range(first, first + n), pa.int64())})


def test_a_new_table_begins_at_the_size_limit(tmp_path: Path) -> None:
    tables = TableWriter(tmp_path, limit_bytes=8 * 10, group_rows=4)
    places = []
    for first in range(0, 21, 3):
        rows = _rows(first, 3)
        places.append(tables.place(rows.nbytes))
        tables.append(rows)
    tables.close()
    tables.close()  # a second call has no effect
    assert places == [(0, 0)] * 3 + [(0, 1)] * 3 + [(0, 2)]
    assert read_column(tmp_path, "a").to_pylist() == list(range(21))
    files = sorted(tmp_path.glob("*/*"))
    assert [pq.read_metadata(file).num_rows for file in files] == [9, 9, 3]
    assert pq.read_metadata(files[0]).num_row_groups == 2  # of six rows and of the remaining three


def test_rows_larger_than_a_file_have_their_own(tmp_path: Path) -> None:
    tables = TableWriter(tmp_path, limit_bytes=8, group_rows=100)
    for first in (0, 5):
        assert tables.place(_rows(first, 5).nbytes) == (0, first // 5)
        tables.append(_rows(first, 5))
    tables.close()
    assert read_column(tmp_path, "a").to_pylist() == list(range(10))
