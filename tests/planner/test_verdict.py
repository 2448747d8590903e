"""The verdict on an episode: its words, and what `run_task judge` records in the files of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.record import EpisodeHistory, EpisodeResult, summarize
from planner.report import write_report
from planner.verdict import JudgeError, Verdict, one_line, read_result, record_verdict, verdict_block
from tests.planner.test_report import DESCRIPTION, FAILURE, _run

DONE = replace(FAILURE, goal=True, goal_now=True, touched=True, strict=True, distance_m=0.0)


def _store(folder: Path, history: EpisodeHistory) -> EpisodeResult:
    """Write result and report of a run on a robot that measures no success, or of a simulated one."""
    folder.mkdir()
    result = summarize(replace(DESCRIPTION, robot="franka_ros"), history, str(folder / "report.html"))
    write_report(folder, history, result, "")
    (folder / "result.json").write_text(result.to_json())
    return result


@pytest.mark.parametrize(("answer", "headline"), [(True, "Success"), (False, "Not done")])
def test_the_verdict_of_a_person_is_recorded_in_result_and_report(tmp_path: Path, answer: bool, headline: str) -> None:
    run = tmp_path / "run <1>"
    before = _store(run, _run())
    page = (run / "report.html").read_text()
    assert (before.success, before.judged_by) == (None, "") and "Not judged" in page
    record_verdict(run, answer, "one <block> left")
    stored = json.loads((run / "result.json").read_text())
    assert (stored["success"], stored["judged_by"], stored["note"]) == (answer, "person", "one <block> left")
    judged = (run / "report.html").read_text()
    assert f">{headline}</span>" in judged and "one &lt;block&gt; left" in judged and "Not judged" not in judged
    assert judged.replace(verdict_block(read_result(run)), "") == page.replace(verdict_block(before), "")
    record_verdict(run, not answer)  # a person may correct it
    assert read_result(run).success is not answer and read_result(run).note == ""
    assert sorted(path.suffix for path in run.iterdir() if path.suffix == ".part") == []


def test_a_run_without_a_verdict_names_the_command(tmp_path: Path) -> None:
    result = _store(tmp_path / "my run", _run())
    command = f"run_task judge '{tmp_path / 'my run'}'"
    assert Verdict.of(result).commands == (f"{command} yes", f"{command} no")
    assert "Is every object off the plate" in Verdict.of(result).question and Verdict.of(result).style == "open"
    assert f"{command} yes|no" in one_line(result)


def test_a_run_that_the_simulation_judged_is_refused(tmp_path: Path) -> None:
    history = _run()
    history.outcome = FAILURE
    _store(tmp_path / "run", history)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(JudgeError, match=r"the simulation has judged this run \(not done\)") as refusal:
        record_verdict(tmp_path / "run", True)
    assert refusal.value.exit_code == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("damage", ["none", "empty", "no JSON", "no result", "no report", "another report"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    if damage != "none":
        _store(run, _run())
    if damage in {"empty", "no JSON", "no result"}:
        (run / "result.json").write_text({"empty": "", "no JSON": "{", "no result": '{"ready": true}'}[damage])
    if damage == "no report":
        (run / "report.html").unlink()
    if damage == "another report":
        (run / "report.html").write_text("<p>something else</p>")
    before = {path.name: path.read_bytes() for path in run.iterdir()} if run.exists() else None
    with pytest.raises(JudgeError, match=r"run: expected|result\.json: expected|report\.html: expected") as refusal:
        record_verdict(run, True)
    assert refusal.value.exit_code == 2
    assert before == ({path.name: path.read_bytes() for path in run.iterdir()} if run.exists() else None)


def test_a_result_of_an_earlier_version_is_read() -> None:
    now = json.loads(summarize(DESCRIPTION, _run(), "run/report.html").to_json())
    former = {name: now[name] for name in now.keys() - {"judged_by", "note", "goal_warnings", "seconds"}}
    assert EpisodeResult.from_json(json.dumps(former)).judged_by == ""
    assert EpisodeResult.from_json(json.dumps({**former, "success": False})).judged_by == "simulation"


@pytest.mark.parametrize(
    ("ended", "headline"),
    [
        ("steps used", "Not done"),
        ("settled", "Not done"),
        ("goal seen", "Not done"),
        ("failed", "Stopped by a failure"),
        ("interrupted", "Interrupted"),
    ],
)
def test_every_end_has_words(ended: str, headline: str) -> None:
    history = _run()
    history.ended, history.outcome = ended, FAILURE
    assert Verdict.of(summarize(DESCRIPTION, history, "run/report.html")).headline == headline
    history.outcome = None
    unknown = Verdict.of(summarize(DESCRIPTION, history, "run/report.html"))
    assert "not judged" in unknown.headline.lower() and "after 5 actions" in unknown.explanation
    history.outcome = DONE
    assert Verdict.of(summarize(DESCRIPTION, history, "run/report.html")).headline == "Success"
