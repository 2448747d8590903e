"""RoboNet files: equal to RoboNet's loader on real files, one line of error on all others."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.formats.robonet import read_episode
from data_collection.formats.robonet_file import read_trajectory
from data_collection.formats.video import VideoConfig, encode_video
from robot_bridge.camera import model_image
from tests.data_collection.episodes import REAL_FILES, RED, make_frames

FILES = sorted(REAL_FILES.glob("hdf5/*.hdf5"))
needs_real_files = pytest.mark.skipif(not FILES, reason=f"no RoboNet files in {REAL_FILES}")


@needs_real_files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_real_file_reads_as_with_robonets_loader(path: Path) -> None:
    trajectory = read_trajectory(path)
    with np.load(REAL_FILES / f"official_loader_64/{path.stem}.official64.npz") as official:
        np.testing.assert_array_equal(trajectory.actions, official["actions"])
        np.testing.assert_array_equal(trajectory.states, official["states"])
        assert trajectory.actions.dtype == trajectory.states.dtype == np.float32
        assert len(trajectory.videos) == official["images"].shape[1]
        for camera in range(len(trajectory.videos)):
            images = np.stack([model_image(frame) for frame in trajectory.frames(camera)])
            np.testing.assert_array_equal(images, official["images"][:, camera])


def write_foreign(path: Path, n_dims: int = 4, primitives: str = "autograsp", image_format: str = "RGB") -> None:
    """Write a RoboNet file of 5 frames in another lab's form, without this project's extra datasets."""
    states = np.tile([0.5, 0.5, 0.5, 0.1, 100.0], (5, 1))
    states[2:4, 4] = 3.0  # closed, of 0 to 100
    actions = np.full((4, n_dims), 0.01)
    if n_dims == 5:
        actions[:, 4] = np.where(states[1:, 4] > 50, 0.0, 100.0)  # a native command: high closes
    frames = make_frames(5)[..., :: 1 if image_format == "RGB" else -1]
    with h5py.File(path, "w", libver="earliest") as file:
        file["file_version"] = "0.1.0"
        env = file.create_group("env")
        env.attrs["n_cams"], env.attrs["cam_encoding"] = 1, "mp4"
        data = np.frombuffer(encode_video(np.ascontiguousarray(frames), VideoConfig()), np.uint8)
        video = env.create_dataset("cam0_video/frames", data=data)
        video.attrs["shape"], video.attrs["T"], video.attrs["image_format"] = [240, 320, 3], 5, image_format
        env["state"], file["policy/actions"] = states, actions
        file.create_group("misc")
        metadata = file.create_group("metadata").attrs
        metadata["primitives"], metadata["robot"] = primitives, "sawyer"
        metadata["low_bound"], metadata["high_bound"] = [0.0, 0, 0, 0, 0], [1.0, 1, 1, 3, 100]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "lab_sawyer_traj0.hdf5"
    write_foreign(path)
    return path


def test_the_gripper_of_an_autograsp_file_is_imputed_from_the_next_state(foreign: Path) -> None:
    assert read_trajectory(foreign).actions[:, 4].tolist() == [100, 0, 0, 100]


def test_bgr_frames_become_rgb(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.hdf5", image_format="BGR")
    frame = read_trajectory(tmp_path / "a.hdf5").frames()[0]
    assert np.abs(frame[120, 24].astype(int) - RED).max() < 8


def test_a_missing_camera_is_named(foreign: Path) -> None:
    with pytest.raises(EpisodeError, match="expected a camera from 0 to 0, got 1"):
        read_trajectory(foreign).frames(1)


BREAKS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "version": (lambda f: f.__delitem__("file_version"), "'file_version' is missing"),
    "newer": (lambda f: f["file_version"].__setitem__((), "9.0"), "got '9.0'"),
    "env": (lambda f: f.__delitem__("env"), "'env' is missing"),
    "misc": (lambda f: f.__delitem__("misc"), "'misc' is missing"),
    "metadata": (lambda f: f.__delitem__("metadata"), "'metadata' is missing"),
    "policy": (lambda f: f.__delitem__("policy"), "'policy' is missing"),
    "state": (lambda f: f.__delitem__("env/state"), "'env/state' is missing"),
    "n_cams": (lambda f: f["env"].attrs.__delitem__("n_cams"), "n_cams"),
    "no cameras": (lambda f: f["env"].attrs.__setitem__("n_cams", 0), "number of cameras, got 0"),
    "more cameras": (lambda f: f["env"].attrs.__setitem__("n_cams", 2), "cam1_video"),
    "jpeg": (lambda f: f["env"].attrs.__setitem__("cam_encoding", "jpeg"), "expected mp4, got jpeg"),
    "format": (lambda f: f["env/cam0_video/frames"].attrs.__delitem__("image_format"), "image_format"),
    "T": (lambda f: f["env/cam0_video/frames"].attrs.__delitem__("T"), "@T"),
    "shape": (lambda f: f["env/cam0_video/frames"].attrs.__delitem__("shape"), "@shape"),
    "larger shape": (lambda f: f["env/cam0_video/frames"].attrs.__setitem__("shape", [480, 640, 3]), "480x640"),
    "giant shape": (lambda f: f["env/cam0_video/frames"].attrs.__setitem__("shape", [10**6, 10**6, 3]), "@shape"),
    "turned shape": (lambda f: f["env/cam0_video/frames"].attrs.__setitem__("shape", [-240, -320, 3]), "@shape"),
    "wrapping shape": (  # 3 times the second is 2 in 64 bits
        lambda f: f["env/cam0_video/frames"].attrs.__setitem__("shape", np.array([3, 0x5555555555555556, 3])),
        "bytes of frames",
    ),
    "giant video": (
        lambda f: f["env/cam0_video/frames"].attrs.update({"shape": [4096, 4096, 3], "T": 10_000}),
        "bytes of frames",
    ),
    "env is data": (lambda f: _replace(f, "env", np.zeros(5)), "'env/state' is missing"),
    "group in misc": (lambda f: f["misc"].create_group("x"), "'/misc/x': expected a dataset"),
    "giant T": (lambda f: f["env/cam0_video/frames"].attrs.__setitem__("T", 10**9), "@T"),
    "larger T": (lambda f: f["env/cam0_video/frames"].attrs.__setitem__("T", 6), "of 6 frames, got 5"),
    "bounds": (lambda f: f["metadata"].attrs.__delitem__("low_bound"), "low_bound"),
    "turned bounds": (lambda f: f["metadata"].attrs.__setitem__("low_bound", [9.0] * 5), "low_bound below"),
    "clash": (lambda f: f["misc"].__setitem__("robot", "x"), "both /misc and /metadata"),
    "nan": (lambda f: f["env/state"].__setitem__((0, 0), np.nan), "finite"),
    "text": (lambda f: _replace(f, "policy/actions", np.array([[b"x"] * 4] * 4)), "array of numbers"),
    "flat": (lambda f: _replace(f, "env/state", np.zeros(5)), "2 dimensions"),
    "wide": (lambda f: _replace(f, "policy/actions", np.zeros((4, 6))), "at most 5"),
    "short": (lambda f: _replace(f, "policy/actions", np.zeros((0, 4))), "at least 2 frames"),
    "few states": (lambda f: _replace(f, "env/state", np.zeros((2, 5))), "5 states"),
    "link": (lambda f: _replace(f, "env/state", h5py.ExternalLink("/etc/hostname", "/")), "link"),
    "soft link": (lambda f: _replace(f, "misc", h5py.SoftLink("/env")), "link"),
    "group": (lambda f: _replace(f, "env/state", np.dtype("f8")), "expected a dataset"),
    "ours": (lambda f: f["metadata"].attrs.__setitem__("gripper_convention", "high_open"), "SHA-256"),
    "ours, too": (lambda f: f["env"].__setitem__("state_si", np.zeros((5, 5))), "SHA-256"),
}


def _replace(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


@pytest.mark.parametrize("name", BREAKS)
def test_an_invalid_file_is_one_line_of_error(foreign: Path, tmp_path: Path, name: str) -> None:
    harm, message = BREAKS[name]
    path = tmp_path / "broken.hdf5"
    shutil.copy(foreign, path)
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(EpisodeError) as caught:
        read_episode(path)
    text = str(caught.value)
    assert message in text and text.startswith(f"{path}: ") and text.count(str(path)) == 1 and "\n" not in text


def test_a_dataset_larger_than_its_file_is_refused_before_allocation(foreign: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.hdf5"
    shutil.copy(foreign, path)
    with h5py.File(path, "r+") as file:
        del file["env/state"]
        file["env"].create_dataset("state", shape=(10**12, 5), dtype="f8", chunks=(1000, 5))
    with pytest.raises(EpisodeError, match="no more data than the file"):
        read_trajectory(path)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_data_in_another_file_is_refused(foreign: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "elsewhere.hdf5"
    shutil.copy(foreign, path)
    with h5py.File(path, "r+") as file:
        del file["env/state"]
        if kind == "external":
            raw = tmp_path / "raw"
            raw.write_bytes(bytes(200))
            file["env"].create_dataset("state", shape=(5, 5), dtype="f8", external=str(raw))
        else:
            layout = h5py.VirtualLayout((5, 5), dtype="f8")
            layout[:] = h5py.VirtualSource(str(foreign), "env/state", shape=(5, 5))
            file["env"].create_virtual_dataset("state", layout)
    with pytest.raises(EpisodeError, match="stored in another file"):
        read_trajectory(path)


def test_random_bytes_truncation_and_absence_are_one_line_of_error(foreign: Path, tmp_path: Path) -> None:
    data = foreign.read_bytes()
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken.hdf5"
    pieces = [b"", b"\x89HDF\r\n\x1a\n", rng.bytes(3000), *(data[: int(n)] for n in np.linspace(1, len(data) - 1, 60))]
    for piece in pieces:
        broken.write_bytes(piece)
        with pytest.raises(EpisodeError) as caught:
            read_episode(broken)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "absent.hdf5", tmp_path):
        with pytest.raises(EpisodeError):
            read_trajectory(path)


def test_bounds_of_the_frames_replace_missing_ones_of_the_metadata(foreign: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    buffer = io.BytesIO(foreign.read_bytes())
    with h5py.File(buffer, "r+") as file:
        for name in ("low_bound", "high_bound"):
            file[f"env/{name}"] = np.tile(file["metadata"].attrs[name], (5, 1))
            del file["metadata"].attrs[name]
    path.write_bytes(buffer.getvalue())
    assert read_trajectory(path).actions[:, 4].tolist() == [100, 0, 0, 100]
