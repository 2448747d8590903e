"""Episodes with all their cameras."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from data_collection.episode import EpisodeError
from data_collection.export.episode_reader import read_episode_arrays
from data_collection.formats.robonet import read_episode
from tests.data_collection.episodes import REAL_FILES, SPEC
from tests.data_collection.formats.test_robonet_file import write_foreign


def test_the_arrays_are_those_of_the_episode_with_its_source(recorded: list[Path]) -> None:
    take, episode = read_episode_arrays(recorded[0]), read_episode(recorded[0])
    assert len(take.videos) == 1 and np.array_equal(take.frames(0), episode.frames)
    assert take.step_s == SPEC.step_s == 0.6
    described = json.loads(take.description())
    assert described["source"] == "lab_franka_play_traj0.hdf5" and described["info"] == episode.info
    assert described["workspace_m"] == [[0.3, -0.2, 0.01], [0.7, 0.2, 0.3]] and "\n" not in take.description()


def test_files_of_other_labs_have_a_step_of_one_second(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.hdf5")
    take = read_episode_arrays(tmp_path / "a.hdf5")
    assert take.step_s == 1.0 and json.loads(take.description())["workspace_m"] is None


def test_numbers_without_a_json_form_become_text(recorded: list[Path]) -> None:
    take = read_episode_arrays(recorded[0])
    take = dataclasses.replace(take, episode=dataclasses.replace(take.episode, info={"share": float("nan")}))
    assert json.loads(take.description())["info"] == {"share": "nan"}


def test_all_cameras_of_a_real_file_are_read() -> None:
    paths = sorted(REAL_FILES.glob("hdf5/stanford_franka*.hdf5"))
    if not paths:
        pytest.skip("shared/data/robonet is not next to the project")
    take = read_episode_arrays(paths[0])
    films = [take.frames(camera) for camera in range(3)]
    assert len(take.videos) == 3 and all(film.shape == (31, 240, 320, 3) for film in films)
    assert not np.array_equal(films[0], films[1]) and np.array_equal(films[2], read_episode(paths[0], 2).frames)


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_step_is_refused(recorded: list[Path], monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    episode = dataclasses.replace(read_episode(recorded[0]), info={"step_s": step_s})
    monkeypatch.setattr("data_collection.export.episode_reader.read_episode", lambda path: episode)
    with pytest.raises(EpisodeError, match=r"traj0\.hdf5: expected a step_s above 0"):
        read_episode_arrays(recorded[0])
