"""Rows of numbers in Parquet files of bounded size."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_collection.export.place import Place


class Tables:
    """One table in a folder of numbered files; call `place`, then `append`, for all rows of an episode at once."""

    def __init__(self, folder: Path, limit_bytes: int, group_rows: int) -> None:
        """Take a folder that is new, the size of a file (uncompressed), and how many rows are compressed together."""
        self._folder, self._limit_bytes, self._group_rows = folder, limit_bytes, group_rows
        self._place = Place()
        self._n_bytes = 0  # in the open file and waiting for it
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def place(self, n_bytes: int) -> Place:
        """Return the file that will take the next rows, `n_bytes` of them."""
        if self._n_bytes and self._n_bytes + n_bytes > self._limit_bytes:
            self.close()
            self._place, self._n_bytes = self._place.next(), 0
        return self._place

    def append(self, rows: pa.Table) -> None:
        """Write rows, all of one schema, to where `place` said."""
        self._n_bytes += rows.nbytes
        self._waiting.append(rows)
        if sum(len(table) for table in self._waiting) >= self._group_rows:
            self._flush()

    def close(self) -> None:
        """Write what waits, and end the open file, if there is one."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._place.path(self._folder, ".parquet"), rows.schema)
        self._writer.write_table(rows)


def read_column(folder: Path, name: str) -> pa.ChunkedArray:
    """Return one column of a table that was written, in the order of its rows."""
    files = sorted(folder.glob("*/*.parquet"))
    return pa.chunked_array([chunk for file in files for chunk in pq.read_table(file, columns=[name])[name].chunks])
