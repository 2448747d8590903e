"""Numbers of files."""

from pathlib import Path

from data_collection.export.place import Place


def test_files_are_numbered_within_chunks_of_a_thousand(tmp_path: Path) -> None:
    place = Place()
    assert place.path(tmp_path, ".mp4") == tmp_path / "chunk-000/file-000.mp4" and (tmp_path / "chunk-000").is_dir()
    for _ in range(999):
        place = place.next()
    assert place == (0, 999) and place.next() == (1, 0)
    assert place.next().next().path(tmp_path, ".parquet") == tmp_path / "chunk-001/file-001.parquet"
