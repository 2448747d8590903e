"""Files of a LeRobot dataset: numbered mp4 and Parquet files of bounded size. Video packets are copied."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import av
import pyarrow as pa
import pyarrow.parquet as pq

FILES_PER_CHUNK: Final = 1000  # LeRobot's default, which info.json repeats


class FileLocation(NamedTuple):
    """Chunk and file number of one file."""

    chunk: int = 0
    file: int = 0

    def path(self, folder: Path, suffix: str) -> Path:
        """Return the path; its folder is created."""
        path = folder / f"chunk-{self.chunk:03d}" / f"file-{self.file:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def next(self) -> FileLocation:
        """Return the location of the next file."""
        is_last = self.file == FILES_PER_CHUNK - 1
        return FileLocation(self.chunk + 1, 0) if is_last else FileLocation(self.chunk, self.file + 1)


class VideoSpan(NamedTuple):
    """Position of a video in a file."""

    place: FileLocation
    from_s: float  # in the file
    to_s: float


def is_copyable(data: bytes) -> bool:
    """Return whether an intact mp4 file is H.264 with one packet per frame in order, so that it can be cut."""
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.name != "h264" or context.pix_fmt != "yuv420p" or context.has_b_frames:
            return False
        packets = [packet for packet in container.demux(stream) if packet.size]
        return bool(packets) and packets[0].is_keyframe and all(packet.pts == packet.dts for packet in packets)


class VideoWriter:
    """Writes the videos of one camera of all episodes, at a constant rate."""

    def __init__(self, folder: Path, step: Fraction, limit_bytes: int) -> None:
        """Use a new folder, the duration of a frame in seconds, and the limit of a file's size."""
        self._folder, self._step, self._limit_bytes = folder, step, limit_bytes
        self._place = FileLocation()
        self._file: av.container.OutputContainer | None = None
        self._header = b""  # of the open file's codec; packets with another header need another file
        self._n_frames = self._n_bytes = 0  # in the open file

    def append(self, data: bytes, n_frames: int) -> VideoSpan:
        """Copy the first frames of a video.

        Args:
            data: A whole mp4 file that `is_copyable`.
            n_frames: Number of frames to copy.
        """
        with av.open(io.BytesIO(data), "r", format="mp4") as source:
            stream = source.streams.video[0]
            file = self._file_for(stream, len(data))
            to = file.streams.video[0]
            first = self._n_frames
            self._n_bytes += len(data)
            for packet in islice((packet for packet in source.demux(stream) if packet.size), n_frames):
                packet.stream, packet.time_base = to, self._step
                packet.pts = packet.dts = self._n_frames
                packet.duration = 1
                self._n_frames += 1
                file.mux(packet)
        return VideoSpan(self._place, float(first * self._step), float(self._n_frames * self._step))

    def close(self) -> None:
        """Close the open file, if any."""
        file, self._file = self._file, None
        self._n_frames = self._n_bytes = 0
        if file is not None:
            file.close()

    def _file_for(self, stream: av.VideoStream, n_bytes: int) -> av.container.OutputContainer:
        """Return the open file, or the next one if it would become too large or has another codec header."""
        header = bytes(stream.codec_context.extradata or b"")
        if self._file is not None and (self._n_bytes + n_bytes > self._limit_bytes or header != self._header):
            self.close()
            self._place = self._place.next()
        if self._file is None:
            path = self._place.path(self._folder, ".mp4")
            self._file = av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "faststart"})
            to = self._file.add_stream_from_template(stream)
            to.time_base = self._step
            self._header = header
        return self._file


class TableWriter:
    """Writes one table to numbered files; call `place`, then `append`, with all rows of an episode."""

    def __init__(self, folder: Path, limit_bytes: int, group_rows: int) -> None:
        """Use a new folder, the limit of a file's uncompressed size, and the number of rows per row group."""
        self._folder, self._limit_bytes, self._group_rows = folder, limit_bytes, group_rows
        self._place = FileLocation()
        self._n_bytes = 0  # in the open file and pending
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []

    def place(self, n_bytes: int) -> FileLocation:
        """Return the location of the next rows, which have `n_bytes`."""
        if self._n_bytes and self._n_bytes + n_bytes > self._limit_bytes:
            self.close()
            self._place, self._n_bytes = self._place.next(), 0
        return self._place

    def append(self, rows: pa.Table) -> None:
        """Write rows of one schema to the location that `place` returned."""
        self._n_bytes += rows.nbytes
        self._pending.append(rows)
        if sum(len(table) for table in self._pending) >= self._group_rows:
            self._flush()

    def close(self) -> None:
        """Write the pending rows and close the open file, if any."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = pa.concat_tables(self._pending)
        self._pending = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._place.path(self._folder, ".parquet"), rows.schema)
        self._writer.write_table(rows)


def read_column(folder: Path, name: str) -> pa.ChunkedArray:
    """Return one column of a written table, in order of its rows."""
    files = sorted(folder.glob("*/*.parquet"))
    return pa.chunked_array([chunk for file in files for chunk in pq.read_table(file, columns=[name])[name].chunks])
