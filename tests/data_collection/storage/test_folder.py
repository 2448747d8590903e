"""The folder of a collection: the files define its content, and only one run writes."""

import multiprocessing
import shutil
from pathlib import Path

import pytest

from configs.loader import Config
from data_collection.episode import EpisodeError
from data_collection.formats.robonet import write_episode
from data_collection.storage import index, journal
from data_collection.storage.folder import CollectionError, EpisodeFolder, set_aside
from tests.data_collection.episodes import REAL_FILES, SPEC, make_episode
from tests.patience import patience

STEM = "lab_franka_play"


class _Limits(Config):
    max_faults_in_row: int = 5


class _Colour(Config):
    hue: int
    shade: int = 0
    collection: _Limits = _Limits()


def contents(path: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in path.iterdir() if item.is_file()}


def test_clean_up_keeps_intact_files_and_quarantines_others(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    for number in (0, 2, 5):
        write_episode(make_episode(seed=number), tmp_path / f"lab_franka_play_traj{number}.hdf5", SPEC)
    damaged = tmp_path / "lab_franka_play_traj2.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    (tmp_path / "lab_franka_play_traj3.hdf5.part").write_bytes(b"half")
    (tmp_path / "meta_data.pkl").write_bytes(b"index")
    (tmp_path / "notes.txt").write_text("mine")
    rows = folder.clean_up()
    times_s = make_episode(seed=5).times_s
    assert [row.number for row in rows] == [0, 5]
    assert rows[1].recorded_s == pytest.approx(times_s[-1] - times_s[0], abs=1e-6)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "lab_franka_play_traj0.hdf5",
        "lab_franka_play_traj5.hdf5",
        f"quarantine/damaged/{damaged.name}.aside",
        "index.jsonl",
        "journal.jsonl",
        "notes.txt",
    }
    assert index.read(tmp_path) == rows
    (event,) = journal.read(tmp_path)
    assert (event["event"], event["kind"]) == ("quarantined", "damaged") and damaged.name in str(event["file"])


def test_a_number_can_be_quarantined_repeatedly(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    for i in range(3):
        write_episode(make_episode(seed=i), folder.episode_path(7), SPEC)
        assert set_aside(folder.episode_path(7), "by_hand").exists()
    assert len(list((tmp_path / "quarantine/by_hand").iterdir())) == 3 and not folder.episode_path(7).exists()
    first = folder.attempt_path(7, 0, "bad_light")
    first.parent.mkdir(parents=True)
    first.touch()
    assert folder.attempt_path(7, 0, "bad_light") not in {first, folder.attempt_path(7, 1, "bad_light")}


def test_clean_up_leaves_other_files_unchanged(tmp_path: Path) -> None:
    write_episode(make_episode(), tmp_path / f"{STEM}_traj0.hdf5", SPEC)
    for name in ("penn_sawyer_traj3.hdf5", f"{STEM}_traj01.hdf5", f"{STEM}_traj1.hdf5.bak", "movie.mp4.part"):
        (tmp_path / name).write_bytes(b"not an episode")
    (tmp_path / "meta_data.pkl").write_bytes(b"index")
    before = contents(tmp_path)
    assert [row.number for row in EpisodeFolder(tmp_path, STEM).clean_up()] == [0]
    after = contents(tmp_path)
    assert after.pop("index.jsonl") and after == before


def test_an_intact_file_of_another_lab_is_refused_unchanged(tmp_path: Path) -> None:
    real = sorted(REAL_FILES.rglob("*.hdf5"))
    if not real:
        pytest.skip(f"needs real RoboNet files in {REAL_FILES}")
    shutil.copy(real[0], tmp_path / f"{STEM}_traj3.hdf5")
    (tmp_path / f"{STEM}_traj2.hdf5").write_bytes(b"damaged")
    (tmp_path / f"{STEM}_traj4.hdf5.part").write_bytes(b"half")
    before = contents(tmp_path)
    with pytest.raises(EpisodeError, match=r"traj3\.hdf5: expected an episode of a collection"):
        EpisodeFolder(tmp_path, STEM).clean_up()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")], ids=str)
def test_a_read_error_quarantines_no_episode(tmp_path: Path, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    write_episode(make_episode(), tmp_path / f"{STEM}_traj0.hdf5", SPEC)
    (tmp_path / f"{STEM}_traj1.hdf5.part").write_bytes(b"half")
    before = contents(tmp_path)

    def fail(_path: Path) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(EpisodeError, match=str(error.strerror)):
            EpisodeFolder(tmp_path, STEM).clean_up()
    assert contents(tmp_path) == before


def test_only_a_new_or_empty_folder_begins_a_collection(tmp_path: Path) -> None:
    for resume in (False, True):
        EpisodeFolder(tmp_path / "new", STEM).check(resume)
        EpisodeFolder(tmp_path, STEM).check(resume)
    (tmp_path / "file").write_text("x")
    with pytest.raises(EpisodeError, match="--resume"):
        EpisodeFolder(tmp_path, STEM).check(resume=False)
    for resume in (False, True):
        with pytest.raises(EpisodeError, match="expected a folder, got a file"):
            EpisodeFolder(tmp_path / "file", STEM).check(resume)


def test_only_a_collection_is_continued(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    (tmp_path / "penn_sawyer_traj3.hdf5").write_bytes(b"x")
    with pytest.raises(EpisodeError, match=r"without collection\.yaml"):
        folder.check(resume=True)
    assert contents(tmp_path) == {"penn_sawyer_traj3.hdf5": b"x"}
    (tmp_path / "collection.yaml").write_text("hue: 1")
    folder.check(resume=True)


def test_files_of_a_killed_first_start_are_accepted(tmp_path: Path) -> None:
    for name in (".lock", "collection.yaml.part"):
        (tmp_path / name).touch()
    for resume in (False, True):
        EpisodeFolder(tmp_path, STEM).check(resume)


def test_a_folder_that_cannot_be_made_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = EpisodeFolder(tmp_path / "file/new", STEM)
    folder.check(resume=False)
    with (
        pytest.raises(EpisodeError, match=r"file: .* got: Not a directory") as refused,
        folder.lock(exclusive=True),
    ):
        pass
    assert refused.value.exit_code == 2
    (tmp_path / "collection.yaml.part").mkdir()
    with pytest.raises(EpisodeError, match=r"collection\.yaml\.part: .* got: Is a directory"):
        EpisodeFolder(tmp_path, STEM).store_config(_Colour(hue=1))


def test_another_configuration_is_refused_by_the_changed_line(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    folder.store_config(_Colour(hue=1))
    (tmp_path / f"{STEM}_traj0.hdf5").touch()
    before = contents(tmp_path)
    folder.store_config(_Colour(hue=1))
    folder.store_config(_Colour(hue=1, collection=_Limits(max_faults_in_row=9)))  # changes no episode
    with pytest.raises(EpisodeError, match="'hue: 1' is now 'hue: 2'"):
        folder.store_config(_Colour(hue=2))
    assert contents(tmp_path) == before
    (tmp_path / "collection.yaml").write_text("hue: [1")
    with pytest.raises(EpisodeError, match=r"collection\.yaml: expected YAML"):
        folder.store_config(_Colour(hue=1))


def test_keys_missing_from_an_earlier_version_have_their_defaults(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    folder.store_config(_Colour(hue=1))
    (tmp_path / f"{STEM}_traj0.hdf5").touch()
    (tmp_path / "collection.yaml").write_text("hue: 1\n")  # as before `collection` and `shade` came
    folder.store_config(_Colour(hue=1))
    with pytest.raises(EpisodeError, match="'shade: 0' is now 'shade: 3'"):
        folder.store_config(_Colour(hue=1, shade=3))


def test_a_configuration_without_episodes_is_replaced(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    folder.store_config(_Colour(hue=1))
    folder.store_config(_Colour(hue=2))
    assert set(contents(tmp_path)) == {"collection.yaml"} and b"hue: 2" in contents(tmp_path)["collection.yaml"]


def _hold(path: Path, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with EpisodeFolder(path, STEM).lock(exclusive=False):
        ready.set()
        done.wait(patience(30))


def test_a_folder_is_cleaned_up_only_when_no_process_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(tmp_path, ready, done))
    writer.start()
    try:
        assert ready.wait(patience(30))
        with EpisodeFolder(tmp_path, STEM).lock(exclusive=False):
            pass
        with (
            pytest.raises(EpisodeError, match="locked by another run"),
            EpisodeFolder(tmp_path, STEM).lock(exclusive=True, timeout_s=0.1),
        ):
            pass
    finally:
        done.set()
        writer.join(30)
    with EpisodeFolder(tmp_path, STEM).lock(exclusive=True, timeout_s=0.1):
        pass


def test_the_lock_excludes_other_runs_but_admits_workers(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, STEM)
    with folder.lock(exclusive=True) as lock:
        with pytest.raises(EpisodeError, match="another run"), folder.lock(exclusive=False, timeout_s=0.0):
            pass
        folder.share(lock)
        with folder.lock(exclusive=False, timeout_s=0.0):
            pass
        with pytest.raises(EpisodeError, match="another run"), folder.lock(exclusive=True, timeout_s=0.0):
            pass


def test_no_episode_begins_on_a_nearly_full_disk(tmp_path: Path) -> None:
    EpisodeFolder(tmp_path, STEM).check_space(0.0)
    with pytest.raises(CollectionError, match="GiB of free disk"):
        EpisodeFolder(tmp_path, STEM).check_space(1e9)
