"""The folder of a collection: the files are the truth, and only one run writes."""

import multiprocessing
from pathlib import Path

import pytest

from configs.loader import Config
from data_collection.episode import EpisodeError
from data_collection.folder import CollectionError, EpisodeFolder
from data_collection.robonet import write_episode
from tests.data_collection.episodes import SPEC, make_episode


class _Colour(Config):
    hue: int


def test_tidying_keeps_sound_files_and_sets_the_rest_aside(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path)
    for number in (0, 2, 5):
        write_episode(make_episode(seed=number), tmp_path / f"lab_franka_play_traj{number}.hdf5", SPEC)
    damaged = tmp_path / "lab_franka_play_traj2.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    (tmp_path / "lab_franka_play_traj3.hdf5.part").write_bytes(b"half")
    (tmp_path / "meta_data.pkl").write_bytes(b"index")
    (tmp_path / "notes.txt").write_text("mine")
    sound = folder.tidy()
    times_s = make_episode(seed=5).times_s
    assert set(sound) == {0, 5} and sound[5] == pytest.approx(times_s[-1] - times_s[0])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"lab_franka_play_traj0.hdf5", "lab_franka_play_traj5.hdf5", f"{damaged.name}.damaged", "notes.txt"}


def test_only_a_new_or_empty_folder_begins_a_collection(tmp_path: Path) -> None:
    EpisodeFolder(tmp_path / "new").check_new()
    EpisodeFolder(tmp_path).check_new()
    (tmp_path / "file").write_text("x")
    with pytest.raises(EpisodeError, match="--resume"):
        EpisodeFolder(tmp_path).check_new()
    with pytest.raises(EpisodeError, match="expected a folder, got a file"):
        EpisodeFolder(tmp_path / "file").check_new()


def test_another_configuration_is_refused_by_the_line_that_changed(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path)
    folder.keep_config(_Colour(hue=1))
    folder.keep_config(_Colour(hue=1))
    with pytest.raises(EpisodeError, match="'hue: 1' is now 'hue: 2'"):
        folder.keep_config(_Colour(hue=2))
    assert [path.name for path in tmp_path.iterdir()] == ["collection.yaml"]


def _hold(path: Path, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with EpisodeFolder(path).lock(exclusive=False):
        ready.set()
        done.wait(30)


def test_a_folder_is_tidied_only_when_nobody_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(tmp_path, ready, done))
    writer.start()
    try:
        assert ready.wait(30)
        with EpisodeFolder(tmp_path).lock(exclusive=False):
            pass
        with (
            pytest.raises(EpisodeError, match="another run_collection"),
            EpisodeFolder(tmp_path).lock(exclusive=True, timeout_s=0.1),
        ):
            pass
    finally:
        done.set()
        writer.join(30)
    with EpisodeFolder(tmp_path).lock(exclusive=True, timeout_s=0.1):
        pass


def test_a_nearly_full_disk_begins_no_episode(tmp_path: Path) -> None:
    EpisodeFolder(tmp_path).check_space(0.0)
    with pytest.raises(CollectionError, match="GiB of free disk"):
        EpisodeFolder(tmp_path).check_space(1e9)
