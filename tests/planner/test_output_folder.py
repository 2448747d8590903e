"""The folder of an episode: used by one run only, and complete."""

import errno
import json
from pathlib import Path

import pytest

from planner import output_folder as folder_module
from planner.output_folder import RecordError, RunFolder
from planner.plan import PlannerError
from planner.record import EpisodeDescription, EpisodeHistory
from planner.task import TaskConfig
from tests.planner.doubles import GOAL, SPEC, FakeRobot

CONFIG = TaskConfig(scene="pick_wipe")


def test_create_makes_the_folder_with_the_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "first")
    assert not list(tmp_path.iterdir())
    folder.create(CONFIG, may_exist=False)
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("may_exist", [True, False])
def test_of_two_runs_with_one_folder_the_second_is_refused(tmp_path: Path, may_exist: bool) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.create(CONFIG, may_exist=may_exist)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(PlannerError, match="expected a new or empty folder") as refusal:
        second.create(TaskConfig(scene="pick_sweep"), may_exist=may_exist)
    assert refusal.value.exit_code == 2 and (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_an_existing_empty_folder_is_used_only_where_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match="File exists; choose another folder with --out") as refusal:
        RunFolder(tmp_path).create(CONFIG, may_exist=False)
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())
    RunFolder(tmp_path).create(CONFIG, may_exist=True)
    assert (tmp_path / "config.yaml").exists()


def test_of_two_runs_with_an_empty_folder_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    RunFolder(tmp_path).create(CONFIG, may_exist=True)
    monkeypatch.setattr(folder, "_check_empty", lambda: None)  # both runs checked before either wrote
    with pytest.raises(PlannerError, match="File exists; choose another folder with --out"):
        folder.create(TaskConfig(scene="pick_sweep"), may_exist=True)
    assert "pick_wipe" in (tmp_path / "config.yaml").read_text()


def test_what_is_no_folder_or_cannot_become_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(PlannerError, match="expected a new or empty folder"):
        RunFolder(file)
    with pytest.raises(PlannerError, match="Not a directory; choose another") as refusal:
        RunFolder(file / "run").create(CONFIG, may_exist=True)
    assert refusal.value.exit_code == 2 and file.read_text() == "mine"


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_reported_before_anything_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "write_file", _no_space)
    with pytest.raises(RecordError, match=r"config\.yaml: No space left on device; nothing moved") as failure:
        RunFolder(tmp_path / "run").create(CONFIG, may_exist=True)
    assert failure.value.exit_code == 1


def test_the_result_is_printed_even_if_no_file_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = EpisodeHistory(GOAL, None, FakeRobot().observe())
    history.ended = "steps used"
    lost = RunFolder(tmp_path / "gone").write_record(
        history, EpisodeDescription("pick_wipe", "simulation", "stub", "", "", 0), SPEC
    )
    assert json.loads(capsys.readouterr().out)["ended"] == "steps used"
    assert lost.startswith("not all was recorded: ") and "result.json" in lost and "config.yaml" in lost
    assert "\n" not in lost and not list(tmp_path.iterdir())
