from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_collection.episode import EpisodeError
from ghvae_core.data.parallel import DatasetError
from ghvae_core.data.selection import Selection, select
from tests.data_collection.formats.test_npz import write_bair
from tests.data_collection.formats.test_robonet_file import write_foreign
from tests.ghvae_core.episodes import record

ALL = Selection((), None, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    record(folder, 0)
    record(folder, 1)
    write_foreign(folder / "lab_sawyer_traj0.hdf5")
    (folder / "cut.hdf5").write_bytes(b"cut")
    return folder


def _names(folder: Path, selection: Selection) -> list[str]:
    return [recording.name for recording in select([folder], selection)[0].recordings]


def test_recordings_are_chosen_by_robot(folder: Path) -> None:
    assert len(_names(folder, ALL)) == 4
    ((recordings, refused),) = select([folder], Selection(("sawyer",), None, None))
    assert [each.name for each in recordings] == ["lab_sawyer_traj0.hdf5"]
    assert [*map(len, refused.values())] == [1] and "intact RoboNet HDF5" in next(iter(refused))
    assert len(_names(folder, Selection(("sawyer", "franka"), None, None))) == 3


def test_an_unknown_robot_is_refused_with_the_nearest_name(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"\(franka, sawyer\), got 'sawier'; did you mean 'sawyer'\?"):
        select([folder], Selection(("franka", "sawier"), None, None))
    with pytest.raises(DatasetError, match=r"got 'ur5'$"):
        select([folder], Selection(("ur5",), None, None))


def test_recordings_are_chosen_by_lists_of_names(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("lab_franka_test_traj0.hdf5\nlab_sawyer_traj0.hdf5\n")
    assert _names(folder, Selection((), str(listed), None)) == ["lab_franka_test_traj0.hdf5", "lab_sawyer_traj0.hdf5"]
    assert _names(folder, Selection((), None, str(listed))) == ["cut.hdf5", "lab_franka_test_traj1.hdf5"]
    assert _names(folder, Selection(("franka",), str(listed), None)) == ["lab_franka_test_traj0.hdf5"]
    with pytest.raises(DatasetError, match="leave no recording"):
        select([folder], Selection((), str(listed), str(listed)))
    with pytest.raises(EpisodeError, match=r"none\.txt"):
        select([folder], Selection((), str(tmp_path / "none.txt"), None))


def test_duplicate_files_are_used_once(folder: Path, tmp_path: Path) -> None:
    """Otherwise one copy could be in the training part and another in the validation part."""
    write_bair(tmp_path / "a.npz")
    for name in ("deeper", "other"):
        (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "a.npz", tmp_path / "deeper")
    write_bair(tmp_path / "other/a.npz", action=np.ones((5, 4)))  # of the same name and size
    shutil.copy(folder / "lab_sawyer_traj0.hdf5", tmp_path)
    first, second = select([folder, tmp_path], ALL)
    assert len(first.recordings) == 4 and not first.refused
    assert [each.name for each in second.recordings] == ["a.npz", "other/a.npz"]
    assert second.refused == {"duplicate of another file": ["deeper/a.npz", "lab_sawyer_traj0.hdf5"]}
    with pytest.raises(DatasetError, match="deeper: all its recordings are also in the folders before it"):
        select([tmp_path, tmp_path / "deeper"], ALL)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected \*\.hdf5 \(RoboNet\).* found none; record some"):
        select([tmp_path], ALL)


def test_robots_may_be_in_any_folder_and_other_kinds_of_files_have_none(folder: Path, tmp_path: Path) -> None:
    write_bair(tmp_path / "a.npz")
    write_foreign(tmp_path / "lab_kuka_traj0.hdf5")
    with h5py.File(tmp_path / "lab_kuka_traj0.hdf5", "r+") as file:
        del file["metadata"].attrs["robot"]
    first, second = select([folder, tmp_path], Selection(("sawyer",), None, None))
    assert [each.name for each in first.recordings] == ["lab_sawyer_traj0.hdf5"]
    assert [each.name for each in second.recordings] == ["a.npz"]
    assert second.refused == {"the file does not name its robot, and data.robots is set": ["lab_kuka_traj0.hdf5"]}
    with pytest.raises(DatasetError, match=f"^{folder}: .*leave no recording"):
        (tmp_path / "other").mkdir()
        write_foreign(tmp_path / "other/lab_sawyer_traj0.hdf5")
        with h5py.File(tmp_path / "other/lab_sawyer_traj0.hdf5", "r+") as file:
            file["metadata"].attrs["robot"] = "ur5"
        select([tmp_path / "other", folder], Selection(("ur5",), None, None))
    with pytest.raises(DatasetError, match=r"missing: expected a folder of recordings, found none"):
        select([tmp_path / "missing"], ALL)
