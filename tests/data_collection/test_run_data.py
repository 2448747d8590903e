"""`run_data` from the command line: on a real collection, and on invalid input."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import StatusFile
from data_collection.formats.robonet import read_episode
from data_collection.run_data import main
from data_collection.storage import index, journal
from data_collection.storage.folder import EpisodeFolder
from tests.data_collection.folders import episode_path, make_collection
from tests.data_collection.test_run_collection import TINY, collect, start, summary, wait_for
from tests.messages import messages
from tests.patience import patience

N = 3


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_collection.run_data", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=False, cwd=cwd)


def output(*words: object, cwd: Path | None = None) -> str:
    """Run a command that succeeds with no text on stderr but what it does; return its stdout."""
    result = run(*words, cwd=cwd)
    assert (result.returncode, messages(result.stderr)) == (0, [])
    return result.stdout


def refusal(result: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Return the one line of a refusal."""
    assert result.returncode == code, result.stderr
    (line,) = messages(result.stderr)
    assert line.startswith("error: ")
    return line


def contents(place: Path) -> dict[str, bytes]:
    """Return all files and folders below a folder."""
    paths = {str(path.relative_to(place)): path for path in place.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in paths.items()}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection that no test changes."""
    out = tmp_path_factory.mktemp("real") / "play.1"  # a name with a dot
    assert summary(collect(out, "--episodes", str(N), *TINY))["episodes"] == N
    return out


@pytest.fixture
def damaged(real: Path, tmp_path: Path) -> Path:
    """A copy that tests may change, with one changed bit in episode 1."""
    folder = Path(shutil.copytree(real, tmp_path / "damaged"))
    path = episode_path(folder, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return folder


def test_episodes_are_listed_in_full(real: Path) -> None:
    text = output("list", real)
    header, *lines, last = text.splitlines()
    rows = index.read(real)
    assert header.split()[:4] == ["number", "steps", "seconds", "KB"] and "\u2026" not in text
    assert [line.split()[:3] for line in lines] == [
        [str(row.number), str(row.n_steps), f"{row.recorded_s:.1f}"] for row in rows
    ]
    assert [line.split()[-1] for line in lines] == [row.families for row in rows]
    assert last == f"{N} of {N} episodes, 0.00 h recorded"


def test_the_newest_episodes_are_listed_as_json(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "play", 12, n_steps=1)  # 10 is listed after 9
    lines = output("list", folder, "--json", "--last", 3).splitlines()
    assert lines == [row.line().rstrip() for row in index.read(folder)[-3:]]
    assert [json.loads(line)["number"] for line in lines] == [9, 10, 11]


def test_an_episode_is_drawn_as_a_contact_sheet_and_as_an_animation(real: Path, tmp_path: Path) -> None:
    assert output("show", real, 2, "--frames", 2, cwd=tmp_path) == "episode_2.png\n"
    with Image.open(tmp_path / "episode_2.png") as sheet:
        assert sheet.format == "PNG" and sheet.width >= 2 * 160
    output("show", real, 2, "--out", tmp_path / "two.gif")
    with Image.open(tmp_path / "two.gif") as animation:
        assert animation.format == "GIF" and getattr(animation, "n_frames", 1) == 3
    before = contents(tmp_path)
    for words in (["2"], ["1", "--out", "two.gif"]):
        assert "exists already" in refusal(run("show", real, *words, cwd=tmp_path))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("words", [[], ["--quick"]], ids=str)
def test_an_intact_collection_is_verified(real: Path, words: list[str]) -> None:
    before = contents(real)
    report = json.loads(output("verify", real, *words).splitlines()[-1])
    n_bytes = sum(len(data) for name, data in before.items() if name.endswith(".hdf5"))
    assert report == {"n_sound": N, "n_bytes": n_bytes, "damaged": {}, "twice": [], "not_indexed": 0}
    assert contents(real) == before


@pytest.mark.parametrize("words", [[], ["--quick"]], ids=str)
def test_one_changed_bit_is_reported_by_file_name(damaged: Path, words: list[str]) -> None:
    before = contents(damaged)
    result = run("verify", damaged, *words)
    assert "failed verification: lab_franka_play_traj1.hdf5; move files aside with run_data quarantine" in refusal(
        result, code=1
    )
    report = json.loads(result.stdout.splitlines()[-1])
    assert list(report["damaged"]) == ["lab_franka_play_traj1.hdf5"] and report["n_sound"] == N - 1
    assert contents(damaged) == before


def test_a_duplicate_number_is_reported(real: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real, tmp_path / "twice"))
    shutil.copy2(episode_path(folder, 0), folder / "home_franka_play_traj0.hdf5")
    assert "number 0 twice" in refusal(run("verify", folder, "--quick"), code=1)


def test_quarantined_episodes_are_replaced_by_a_resumed_run(real: Path, damaged: Path) -> None:
    names = output("quarantine", damaged, 1, "--reason", "bit_rot").splitlines()
    aside = damaged / "quarantine/bit_rot/lab_franka_play_traj1.hdf5.aside"
    assert names == [str(aside)] and aside.exists() and not episode_path(damaged, 1).exists()
    (event,) = [event for event in journal.read(damaged) if event["event"] == "quarantined"]
    assert (event["number"], event["kind"], event["file"]) == (1, "bit_rot", str(aside.relative_to(damaged)))
    output("verify", damaged, "--quick")
    assert summary(collect(damaged, "--episodes", str(N), "--resume", *TINY))["episodes"] == 1
    assert {path.name: path.read_bytes() for path in damaged.glob("*.hdf5")} == {
        path.name: path.read_bytes() for path in real.glob("*.hdf5")
    }
    report = json.loads(output("status", damaged, "--json"))
    assert report["runs"] == 2 and report["quarantined_in_all_runs"] == {"bit_rot": 1} and aside.exists()


def test_all_or_no_damaged_files_are_quarantined(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "play", 4)
    before = contents(folder)
    assert "no episodes have the numbers [4, 9]; nothing was moved" in refusal(run("quarantine", folder, 0, 4, 9))
    assert contents(folder) == before
    assert len(output("quarantine", folder, 3, 0, 3).splitlines()) == 2
    assert [path.name[-6] for path in sorted(folder.glob("*.hdf5"))] == ["1", "2"]
    assert len(list((folder / "quarantine/by_hand").iterdir())) == 2


def test_a_missing_index_is_rebuilt(real: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real, tmp_path / "copy"))
    before = (folder / index.INDEX_NAME).read_bytes()
    (folder / index.INDEX_NAME).write_bytes(before[:100])
    report = json.loads(output("reindex", folder).splitlines()[-1])
    assert report == {"folder": str(folder), "episodes": N, "damaged": {}}
    assert (folder / index.INDEX_NAME).read_bytes() == before


def test_damaged_files_are_not_indexed(damaged: Path) -> None:
    result = run("reindex", damaged)
    assert "damaged and not indexed: lab_franka_play_traj1.hdf5" in refusal(result, code=1)
    assert list(json.loads(result.stdout)["damaged"]) == ["lab_franka_play_traj1.hdf5"]
    assert [row.number for row in index.listed(damaged)] == [0, 2] and episode_path(damaged, 1).exists()


def test_the_folder_of_a_running_collection_is_not_reindexed(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "play", 1)
    with EpisodeFolder(folder, "lab_franka_play").lock(exclusive=False):
        assert "locked by another run" in refusal(run("reindex", folder))
    assert not (folder / index.INDEX_NAME).exists()


def test_episodes_are_exported_as_shards(real: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    report = json.loads(output("export", real, "--to", "webdataset", "--out", out).splitlines()[-1])
    n_bytes = sum(len(data) for data in contents(out).values())
    assert report == {"folder": str(out), "episodes": N, "bytes": n_bytes}
    with tarfile.open(out / "shard-000000.tar") as shard:
        states = shard.extractfile("000002.states.npy")
        assert states is not None
        np.testing.assert_array_equal(np.load(io.BytesIO(states.read())), read_episode(episode_path(real, 2)).states)


def test_episodes_are_exported_to_lerobot(real: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "lerobot"
    words = ("export", real, "--to", "lerobot", "--out", out, "--task", "play with toys")
    assert json.loads(output(*words).splitlines()[-1])["episodes"] == N
    report = json.loads((out / "meta/info.json").read_text())
    assert (report["total_episodes"], report["total_frames"]) == (N, 2 * N)
    before = contents(tmp_path)
    assert "exists already" in refusal(run(*words))
    assert contents(tmp_path) == before


def test_a_damaged_episode_leaves_no_export(damaged: Path, tmp_path: Path) -> None:
    (damaged / index.INDEX_NAME).write_text("")
    words = refusal(run("export", damaged, "--to", "webdataset", "--out", tmp_path / "shards"))
    assert "lab_franka_play_traj1.hdf5" in words
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_page_is_written_next_to_the_folder(
    real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(*words: str) -> tuple[object, str, str]:
        return run_here(monkeypatch, capsys, "page", str(real), *words)

    target = real.parent / "play.1.html"
    assert output("page", real, "--shown", 1) == f"{target}\n"
    text = target.read_text()
    assert text.startswith("<!DOCTYPE html>") and text.count("data:image") >= 1
    code, out, _ = page("--shown", "0", "--json")
    assert (code, json.loads(out)) == (0, {"file": str(target)})
    assert target.read_text() != text  # replaced, as it is a page
    target.write_text("notes")
    code, _, err = page()
    (line,) = messages(err)
    assert code == 2 and "is no page of run_data" in line and target.read_text() == "notes"
    assert page("--shown", "0", "--force")[0] == 0
    assert target.read_text() != "notes"
    target.unlink()


def test_a_killed_run_is_reported_as_failed(tmp_path: Path) -> None:
    process = start(tmp_path, "--episodes", "10000")
    try:
        wait_for(tmp_path, 1)
        report = json.loads(output("status", tmp_path, "--json"))
        assert report["ended"] is None and report["process"] == process.pid and report["runs"] == 1
    finally:
        process.kill()
        process.communicate(timeout=patience(60))
    last_s = json.loads((tmp_path / "run.json").read_text())["time_s"]
    time.sleep(max(0.0, last_s + 1.01 - time.time()))
    result = run("status", tmp_path, "--json", "--max-age-s", 1)
    assert "no status from the run for" in refusal(result, code=1) and "--resume" in result.stderr
    assert json.loads(result.stdout)["ended"] is None


def test_a_status_is_a_table_for_people(real: Path) -> None:
    lines = dict(line.split(maxsplit=1) for line in output("status", real).splitlines())
    assert lines["state"] == "ended: done" and lines["episodes"] == f"{N} of {N}, 0.00 h recorded"
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, .* ago, by process \d+", lines["reported"])
    assert re.match(rf"run +{N} episodes in ", lines["this"]) and re.match("runs +1 run, 0 ", lines["all"])


def test_results_are_printed_as_json_on_request(real: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real, tmp_path / "copy"))
    assert json.loads(output("show", folder, 0, "--json", cwd=tmp_path)) == {"file": "episode_0.png"}
    (moved,) = json.loads(output("quarantine", folder, 0, "--json"))["moved"]
    assert Path(moved).is_file() and json.loads(output("status", folder, "--json"))["ended"] == "done"


def test_a_stopped_run_is_reported_and_a_completed_one_is_healthy(real: Path, tmp_path: Path) -> None:
    report = json.loads(output("status", real, "--json", "--max-age-s", 1))
    assert (report["ended"], report["episodes"], report["interventions_per_day"]) == ("done", N, 0.0)
    StatusFile(tmp_path, CollectionProgress(0, 0.0, 10, None)).beat("stopped")
    assert "the run ended before its target: stopped" in refusal(run("status", tmp_path), code=1)


NO_FOLDER = "nowhere: expected a collection folder, got none"
REFUSED = [
    ("list nowhere", NO_FOLDER),
    ("show nowhere 0", NO_FOLDER),
    ("verify nowhere", NO_FOLDER),
    ("quarantine nowhere 0", NO_FOLDER),
    ("reindex nowhere", NO_FOLDER),
    ("export nowhere --to webdataset --out new", NO_FOLDER),
    ("page nowhere", NO_FOLDER),
    ("status nowhere", NO_FOLDER),
    ("list file", "file: expected a collection folder, got none"),
    ("verify empty", "empty: expected a folder of episodes, got none"),
    ("reindex empty", "empty: expected a folder of episodes, got none"),
    ("export empty --to webdataset --out new", "expected at least one episode to export, got none"),
    ("page empty", "empty: expected episodes, got none"),
    ("status empty", "empty/run.json: expected the status of a run, got: "),
    ("show play 7", "play: no episode has number 7; see run_data list"),
    ("show play 0 --out image.jpg", "--out: expected a name that ends in .png or .gif, got image.jpg"),
    ("show play 0 --out nowhere/0.png", "nowhere/0.png: its folder does not exist"),
    ("page play --out nowhere/0.html", "nowhere/0.html: its folder does not exist"),
    ("quarantine play 0 --reason ../up", "--reason: expected letters, digits and _, got '../up'"),
    ("quarantine play 0 --reason=", "--reason: expected letters, digits and _, got ''"),
    (
        "page play --out file",
        "file: exists already and is no page of run_data; choose another --out, or replace it by --force",
    ),
    ("export play --to webdataset --out file", "file: exists already; an export needs a new folder"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection, an empty folder, and a file."""
    place = tmp_path_factory.mktemp("folder")
    make_collection(place / "play", 1)
    (place / "empty").mkdir()
    (place / "file").write_text("mine")
    return place


def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[object, str, str]:
    """Run the command in this process, without the time of a start; return its exit code and both outputs."""
    monkeypatch.setattr(sys, "argv", ["run_data", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, *capsys.readouterr()


class CommandRun:
    """The command in this process, in a folder that must not change."""

    def __init__(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
    ) -> None:
        monkeypatch.chdir(workspace)
        before = contents(workspace)
        self.code, self.out, self.err = run_here(monkeypatch, capsys, *words)
        assert contents(workspace) == before


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=str)
def test_invalid_input_is_refused_in_one_line_and_nothing_is_written(
    workspace: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = CommandRun(workspace, monkeypatch, capsys, words.split())
    assert done.code == 2 and done.out == ""
    line, *others = messages(done.err)
    assert line.startswith("error: ") and message in line and not others


@pytest.mark.parametrize(
    "words", ["", "lst play", "list play --last -1", "show play x", "export play --to csv --out new"], ids=str
)
def test_invalid_usage_exits_with_2_and_nothing_is_written(
    workspace: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = CommandRun(workspace, monkeypatch, capsys, words.split())
    assert done.code == 2 and "Traceback" not in done.err
