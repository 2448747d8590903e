"""WebDataset shards, read with webdataset itself."""

import gc
import hashlib
import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import read_episode_arrays
from data_collection.export.webdataset import export_shards
from data_collection.formats.video import decode_video
from tests.data_collection.episodes import REAL_FILES, make_frames
from tests.data_collection.export.conftest import LENGTHS, names
from tests.data_collection.formats.test_robonet_file import write_foreign


def _nothing() -> None:
    pass


@pytest.fixture(scope="module")
def exported(recorded: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "shards"
    ticks: list[int] = []
    assert export_shards(recorded, out, on_episode=lambda: ticks.append(1)) == len(ticks) == 3
    return out


def _samples(urls: str | list[str]) -> list[dict[str, Any]]:
    wds = pytest.importorskip("webdataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
        samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
        gc.collect()
    return samples


def _shards(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar"))


def _check(samples: list[dict[str, Any]], paths: list[Path]) -> None:
    assert [sample["__key__"] for sample in samples] == [f"{number:06d}" for number in range(len(paths))]
    for sample, path in zip(samples, paths, strict=True):
        take = read_episode_arrays(path)
        for name in ("states", "actions", "commanded", "times_s"):
            expected = getattr(take.episode, name)
            assert sample[f"{name}.npy"].dtype == expected.dtype and np.array_equal(sample[f"{name}.npy"], expected)
        for camera in range(len(take.videos)):
            frames = take.frames(camera)
            assert np.array_equal(decode_video(sample[f"cam{camera}.mp4"], frames.shape[:3]), frames)
        assert sample["json"] == json.loads(take.description()) and sample["json"]["source"] == path.name


def test_webdataset_reads_every_episode(exported: Path, recorded: list[Path]) -> None:
    samples = _samples(_shards(exported))
    _check(samples, recorded)
    assert [len(sample["actions.npy"]) for sample in samples] == list(LENGTHS)
    assert samples[0]["cam0.mp4"] == read_episode_arrays(recorded[0]).videos[0].data  # not encoded again


def test_shard_sizes_are_limited_and_shards_are_listed(recorded: list[Path], tmp_path: Path) -> None:
    limit = 2 * recorded[0].stat().st_size
    assert export_shards(recorded * 3, tmp_path / "out", on_episode=_nothing, shard_bytes=limit) == 9
    shards = [Path(name) for name in _shards(tmp_path / "out")]
    assert 3 <= len(shards) < 9 and shards[1].name == "shard-000001.tar"
    _check(_samples(f"{tmp_path}/out/shard-{{000000..{len(shards) - 1:06d}}}.tar"), recorded * 3)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["episodes"] == sum(entry["episodes"] for entry in index["shards"]) == 9
    for entry, shard in zip(index["shards"], shards, strict=True):
        data = shard.read_bytes()
        assert entry["name"] == shard.name and entry["bytes"] == len(data) <= limit
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert entry["episodes"] == sum(name.endswith(".json") for name in tar.getnames())


def test_equal_episodes_give_equal_bytes(exported: Path, recorded: list[Path], tmp_path: Path) -> None:
    export_shards(recorded, tmp_path / "again", on_episode=_nothing)
    for path in exported.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_shards_hold_no_user_names_and_no_pickles(exported: Path) -> None:
    with tarfile.open(_shards(exported)[0]) as tar:
        members = tar.getmembers()
    assert len(members) == 3 * 6
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert {m.name.split(".", 1)[1] for m in members} == {
        *("cam0.mp4", "json"),
        *("states.npy", "actions.npy", "commanded.npy", "times_s.npy"),
    }


def test_bgr_frames_become_rgb(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.hdf5", image_format="BGR")
    export_shards([tmp_path / "a.hdf5"], tmp_path / "out", on_episode=_nothing)
    (sample,) = _samples(_shards(tmp_path / "out"))
    frames = decode_video(sample["cam0.mp4"], (5, 240, 320))
    assert np.abs(frames.astype(int) - make_frames(5)).mean() < 2


def test_all_cameras_of_a_real_file_are_exported(tmp_path: Path) -> None:
    paths = sorted(REAL_FILES.glob("hdf5/stanford_franka*.hdf5"))
    if not paths:
        pytest.skip("shared/data/robonet is not next to the project")
    export_shards(paths, tmp_path / "out", on_episode=_nothing)
    samples = _samples(_shards(tmp_path / "out"))
    _check(samples, paths)
    assert samples[0]["cam2.mp4"] == read_episode_arrays(paths[0]).videos[2].data


def test_invalid_exports_are_refused_and_no_files_remain(recorded: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(recorded[1].read_bytes()[:-100])
    cases = {r"broken\.hdf5: ": [recorded[0], broken], "expected at least one episode": []}
    for message, paths in cases.items():
        with pytest.raises(EpisodeError, match=message) as caught:
            export_shards(paths, tmp_path / "out", on_episode=_nothing)
        assert caught.value.exit_code == 2 and names(tmp_path) == ["broken.hdf5"]
    (tmp_path / "out").mkdir()
    with pytest.raises(EpisodeError, match="out: exists already"):
        export_shards(recorded, tmp_path / "out", on_episode=_nothing)
    assert not list((tmp_path / "out").iterdir())
