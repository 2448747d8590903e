"""Content of LeRobot's files, also as read by LeRobot if an interpreter with it is configured."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import EpisodeArrays, read_episode_arrays
from data_collection.export.lerobot import FileSizes, LeRobotWriter, export_lerobot
from data_collection.formats.robonet import write_episode
from data_collection.formats.video import VideoConfig
from tests.data_collection.episodes import REAL_FILES, SPEC, make_episode, make_frames
from tests.data_collection.export.conftest import LENGTHS, names
from tests.data_collection.formats.test_robonet_file import write_foreign
from tests.patience import patience

READER = Path(__file__).with_name("lerobot_reader.py")
CAMERA = "observation.images.cam0"


def _nothing() -> None:
    pass


@pytest.fixture(scope="module")
def exported(recorded: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "dataset"
    ticks: list[int] = []
    assert export_lerobot(recorded, out, task="play", on_episode=lambda: ticks.append(1)) == len(ticks) == 3
    return out


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _film(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_those_of_version_3(exported: Path) -> None:
    assert sorted(_files(exported)) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
    ]
    info = _json(exported / "meta/info.json")
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0",
        "robot_type": "franka",
        "total_episodes": 3,
        "total_frames": 15,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": pytest.approx(5 / 3),
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    assert features[CAMERA]["shape"] == [240, 320, 3] and features[CAMERA]["dtype"] == "video"
    assert features["observation.state"] == {
        "dtype": "float32",
        "shape": [5],
        "names": ["x_m", "y_m", "z_m", "yaw_rad", "gripper_opening"],
    }
    assert features["action"]["names"] == ["dx_m", "dy_m", "dz_m", "gripper"]
    assert features["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    columns = pq.read_schema(exported / "data/chunk-000/file-000.parquet").names
    assert set(features) == {CAMERA, *columns}


def test_every_action_has_its_frame_and_the_last_frame_is_left_out(exported: Path, recorded: list[Path]) -> None:
    rows = pq.read_table(exported / "data/chunk-000/file-000.parquet").to_pylist()
    film = _film(exported / f"videos/{CAMERA}/chunk-000/file-000.mp4")
    assert len(rows) == len(film) == sum(LENGTHS)
    for number, path in enumerate(recorded):
        take = read_episode_arrays(path)
        episode, first = take.episode, sum(LENGTHS[:number])
        for t in range(LENGTHS[number]):
            row = rows[first + t]
            assert (row["episode_index"], row["frame_index"], row["index"]) == (number, t, first + t)
            assert row["task_index"] == 0 and row["timestamp"] == np.float32(t * 0.6)
            assert row["observation.state"] == episode.states[t].astype(np.float32).tolist()
            assert row["action"] == episode.actions[t].tolist()
            assert row["commanded_action"] == episode.commanded[t].tolist()
            assert row["time_s"] == np.float32(episode.times_s[t] - episode.times_s[0])
            assert np.array_equal(film[first + t], episode.frames[t])


def test_every_episode_has_its_location_and_its_source(exported: Path, recorded: list[Path]) -> None:
    rows = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for number, (row, path) in enumerate(zip(rows, recorded, strict=True)):
        first = sum(LENGTHS[:number])
        assert (row["episode_index"], row["length"], row["tasks"]) == (number, LENGTHS[number], ["play"])
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (first, first + LENGTHS[number])
        for prefix in ("data", "meta/episodes", f"videos/{CAMERA}"):
            assert (row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"]) == (0, 0)
        assert row[f"videos/{CAMERA}/from_timestamp"] == pytest.approx(first * 0.6)
        assert row[f"videos/{CAMERA}/to_timestamp"] == pytest.approx((first + LENGTHS[number]) * 0.6)
        assert row["source"] == path.name and json.loads(row["description"])["info"]["seed"] == number
        episode = read_episode_arrays(path).episode
        assert row["stats/action/count"] == [LENGTHS[number]]
        np.testing.assert_allclose(row["stats/action/mean"], episode.actions.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(row["stats/observation.state/max"], episode.states[:-1].max(axis=0), rtol=1e-6)
        reds = episode.frames[:-1, ..., 0]
        np.testing.assert_allclose(row[f"stats/{CAMERA}/mean"][0], [[reds.mean() / 255]])


def test_the_summary_is_that_of_all_frames(exported: Path, recorded: list[Path]) -> None:
    stats = _json(exported / "meta/stats.json")
    assert set(stats) == set(_json(exported / "meta/info.json")["features"])
    episodes = [read_episode_arrays(path).episode for path in recorded]
    actions = np.concatenate([episode.actions for episode in episodes])
    for name, value in {"std": actions.std(axis=0), "q90": np.quantile(actions, 0.9, axis=0)}.items():
        np.testing.assert_allclose(stats["action"][name], value, rtol=1e-5)
    pixels = np.concatenate([episode.frames[:-1] for episode in episodes]).reshape(-1, 3) / 255
    np.testing.assert_allclose(np.ravel(stats[CAMERA]["std"]), pixels.std(axis=0))
    assert stats[CAMERA]["count"] == stats["index"]["count"] == [15] and stats["index"]["max"] == [14]


def test_the_tasks_are_a_pandas_table_indexed_by_task(exported: Path) -> None:
    table = pq.read_table(exported / "meta/tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "play"}]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_equal_episodes_give_equal_bytes(exported: Path, recorded: list[Path], tmp_path: Path) -> None:
    export_lerobot(recorded, tmp_path / "again", task="play", on_episode=_nothing)
    assert _files(tmp_path / "again") == _files(exported)


def _write_in_many_files(paths: list[Path], folder: Path) -> None:
    one_video_mib = len(read_episode_arrays(paths[0]).videos[0].data) / 2**20
    dataset = LeRobotWriter(folder, "play", FileSizes(data_mib=0.001, video_mib=2.2 * one_video_mib))
    for path in paths:
        dataset.append(read_episode_arrays(path))
    dataset.finish()


def test_file_sizes_are_limited_and_every_episode_is_found(recorded: list[Path], tmp_path: Path) -> None:
    paths = recorded * 2
    _write_in_many_files(paths, tmp_path)
    films = sorted((tmp_path / "videos").rglob("*.mp4"))
    data = sorted((tmp_path / "data").rglob("*.parquet"))
    meta = sorted((tmp_path / "meta/episodes").rglob("*.parquet"))
    assert (len(films), len(data), len(meta)) == (3, 3, 6)
    rows = [row for file in meta for row in pq.read_table(file).to_pylist()]
    for number, (row, path) in enumerate(zip(rows, paths, strict=True)):
        episode = read_episode_arrays(path).episode
        assert (row["meta/episodes/file_index"], row["data/file_index"]) == (number, number // 2)
        rows_of_file = pq.read_table(data[number // 2]).to_pylist()
        found = [line["action"] for line in rows_of_file if line["episode_index"] == number]
        assert found == episode.actions.tolist()
        first = round(row[f"videos/{CAMERA}/from_timestamp"] / 0.6)
        film = _film(films[row[f"videos/{CAMERA}/file_index"]])[first : first + len(episode.actions)]
        assert np.array_equal(film, episode.frames[:-1])


def test_bgr_frames_become_rgb_and_an_unknown_step_is_one_second(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.hdf5", image_format="BGR")
    export_lerobot([tmp_path / "a.hdf5"], tmp_path / "out", task="play", on_episode=_nothing)
    info = _json(tmp_path / "out/meta/info.json")
    assert info["fps"] == 1 and isinstance(info["fps"], int) and info["robot_type"] == "sawyer"
    film = _film(tmp_path / f"out/videos/{CAMERA}/chunk-000/file-000.mp4")
    assert film.shape[0] == 4 and np.abs(film.astype(int) - make_frames(4)).mean() < 2


def _other(path: Path, **changes: Any) -> Path:
    spec = SPEC if not changes else dataclasses.replace(SPEC, **changes)
    size = (spec.camera.height_px, spec.camera.width_px)
    episode = make_episode(3)
    write_episode(dataclasses.replace(episode, frames=episode.frames[:, : size[0], : size[1]]), path, spec)
    return path


SMALL = SPEC.camera.model_copy(update={"height_px": 224})
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "robot": ({"name": "panda"}, "expected robot franka as in earlier episodes, got panda"),
    "step": ({"step_s": 2.5}, r"expected step_s 0\.6 as in earlier episodes, got 2\.5"),
    "camera": ({"camera": SMALL}, r"expected camera sizes \(\(240, 320\),\) .*, got \(\(224, 320\),\)"),
    "tiny step": ({"step_s": 0.0001}, r"expected a step_s of at least 0\.001, got 0\.0001"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_inconsistent_episode_is_named(recorded: list[Path], tmp_path: Path, name: str) -> None:
    changes, message = UNFIT[name]
    other = _other(tmp_path / "lab_other_traj9.hdf5", **changes)
    with pytest.raises(EpisodeError, match=rf"lab_other_traj9\.hdf5: {message}") as caught:
        export_lerobot([*recorded, other], tmp_path / "out", task="play", on_episode=_nothing)
    assert caught.value.exit_code == 2 and names(tmp_path) == [other.name]


def test_a_damaged_episode_is_named_and_no_files_remain(recorded: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(recorded[1].read_bytes()[:-100])
    done: list[int] = []
    with pytest.raises(EpisodeError, match=r"broken\.hdf5: ") as caught:
        export_lerobot([recorded[0], broken], tmp_path / "out", task="play", on_episode=lambda: done.append(1))
    assert str(caught.value).count("broken.hdf5") == 1 and "\n" not in str(caught.value)
    assert done == [1] and names(tmp_path) == ["broken.hdf5"]


def test_invalid_exports_are_refused(recorded: list[Path], exported: Path, tmp_path: Path) -> None:
    for paths, task in (([], "play"), (recorded, " ")):
        with pytest.raises(EpisodeError, match="expected at least one episode and a task"):
            export_lerobot(paths, tmp_path / "out", task=task, on_episode=_nothing)
    before = _files(exported)
    with pytest.raises(EpisodeError, match="exists already"):
        export_lerobot(recorded, exported, task="other", on_episode=_nothing)
    assert _files(exported) == before and not list(tmp_path.iterdir())


def test_without_pyarrow_the_error_names_the_extra(recorded: list[Path], tmp_path: Path) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from data_collection import run_data\nrun_data.main()"
    arguments = ["export", str(recorded[0].parent), "--out", str(tmp_path / "out"), "--to", "lerobot"]
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert "pyarrow" in run.stderr and "pip install 'ghvae-foresight[lerobot]'" in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_no_loadable_dataset(recorded: list[Path], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from data_collection.export.lerobot import export_lerobot\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "export_lerobot([Path(sys.argv[2])] * 2, Path(sys.argv[1]), task='play', on_episode=kill)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "out", recorded[0]], check=False)
    assert run.returncode == -signal.SIGKILL and names(tmp_path) == ["out.part"]
    assert not (tmp_path / "out.part/meta/info.json").exists()


def _lerobot_python() -> str:
    python = os.environ.get("LEROBOT_PYTHON")
    if not python:
        pytest.skip(f"set LEROBOT_PYTHON to a Python that has LeRobot; {READER.name} describes how to make one")
    return python


def _expected(paths: list[Path], file: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for number, path in enumerate(paths):
        take: EpisodeArrays = read_episode_arrays(path)
        for name in ("states", "actions", "commanded", "times_s"):
            arrays[f"{name}_{number}"] = getattr(take.episode, name)
        for camera in range(len(take.videos)):
            arrays[f"frames_{camera}_{number}"] = take.frames(camera)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub types the names as other arguments


def _read(dataset: Path, expected: Path, limit: int) -> dict[str, Any]:
    command = [_lerobot_python(), str(READER), str(dataset), str(expected), str(limit)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(expected.parent / "cache")}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=patience(280))
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_lerobot_reads_every_frame(exported: Path, recorded: list[Path], tmp_path: Path) -> None:
    _expected(recorded, tmp_path / "expected.npz")
    found = _read(exported, tmp_path / "expected.npz", limit=4)  # of 255; its FFmpeg rounds differently
    assert (found["episodes"], found["frames"], found["cameras"]) == (3, 15, 1)
    assert (found["robot"], found["task"], found["fps"]) == ("franka", "play", pytest.approx(5 / 3))
    assert found["mean_image_difference"] < 0.5


@pytest.mark.slow
def test_lerobot_finds_every_frame_in_many_files_of_two_encoders(
    recorded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_collection.formats.robonet.VideoConfig", lambda: VideoConfig(preset="medium"))
    other = _other(tmp_path / "lab_franka_play_traj9.hdf5")
    paths = [recorded[0], other, *recorded[1:], other]
    _write_in_many_files(paths, tmp_path / "dataset")
    _expected(paths, tmp_path / "expected.npz")
    assert _read(tmp_path / "dataset", tmp_path / "expected.npz", limit=4)["episodes"] == 5


@pytest.mark.slow
def test_lerobot_reads_the_three_cameras_of_a_real_file(tmp_path: Path) -> None:
    paths = sorted(REAL_FILES.glob("hdf5/stanford_franka*.hdf5"))
    if not paths:
        pytest.skip("shared/data/robonet is not next to the project")
    export_lerobot(paths, tmp_path / "dataset", task="play", on_episode=_nothing)
    _expected(paths, tmp_path / "expected.npz")
    found = _read(tmp_path / "dataset", tmp_path / "expected.npz", limit=80)  # of single pixels: encoded again
    assert (found["frames"], found["cameras"], found["fps"]) == (30 * len(paths), 3, 1)
    assert found["mean_image_difference"] < 2
