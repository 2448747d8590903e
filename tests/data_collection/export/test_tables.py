"""Parquet files of bounded size."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_collection.export.tables import Tables, read_column


def _rows(first: int, n: int) -> pa.Table:
    return pa.table({"a": pa.array(range(first, first + n), pa.int64())})


def test_the_next_table_begins_where_one_would_grow_too_large(tmp_path: Path) -> None:
    tables = Tables(tmp_path, limit_bytes=8 * 10, group_rows=4)
    places = []
    for first in range(0, 21, 3):
        rows = _rows(first, 3)
        places.append(tables.place(rows.nbytes))
        tables.append(rows)
    tables.close()
    tables.close()  # which does nothing
    assert places == [(0, 0)] * 3 + [(0, 1)] * 3 + [(0, 2)]
    assert read_column(tmp_path, "a").to_pylist() == list(range(21))
    files = sorted(tmp_path.glob("*/*"))
    assert [pq.read_metadata(file).num_rows for file in files] == [9, 9, 3]
    assert pq.read_metadata(files[0]).num_row_groups == 2  # of six rows, and of the three that were left


def test_rows_that_are_larger_than_a_file_have_one_of_their_own(tmp_path: Path) -> None:
    tables = Tables(tmp_path, limit_bytes=8, group_rows=100)
    for first in (0, 5):
        assert tables.place(_rows(first, 5).nbytes) == (0, first // 5)
        tables.append(_rows(first, 5))
    tables.close()
    assert read_column(tmp_path, "a").to_pylist() == list(range(10))
