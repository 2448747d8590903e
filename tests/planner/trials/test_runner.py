"""A series of trials without its processes: which trials run, are kept, repeated, refused and counted."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.command import ReportedError
from planner.options import PredictorChoice
from planner.trials import runner as trials_module
from planner.trials.process_pool import ProcessFailure
from planner.trials.runner import TrialSeries, run_series
from planner.trials.store import TrialsError, TrialsFolder
from planner.trials.trial import TrialJob, TrialOutcome
from planner.trials.variant import Variant

SMALL = ("planner.n_candidates=4", "planner.horizon=2", "planner.replan_every=1", "robot.renderer=ray")
DIED = ProcessFailure("its process was ended by SIGKILL")
COUNTED = TrialOutcome("counted")
BROKEN = TrialOutcome("aborted", "no server")

Outcomes = Iterator[tuple[TrialJob, TrialOutcome | ProcessFailure]]
Answers = Callable[[TrialJob], TrialOutcome | ProcessFailure]


def _result(job: TrialJob, **achieved: bool) -> None:
    """Write the result of an episode."""
    none = dict.fromkeys(("success", "goal", "picked", "touched"), False)
    numbers = {"ended": "steps used", "away_m": 0.1, "steps": 5, "plans": 2, "seconds_per_plan": 0.5}
    job.out.mkdir(parents=True)
    (job.out / "result.json").write_text(json.dumps({**numbers, **none, **achieved}))


def _series(folder: Path, **changes: Any) -> TrialSeries:
    values: dict[str, Any] = {
        "tasks": ("pick_wipe",),
        "variants": (Variant("A", PredictorChoice("oracle", Path("none")), SMALL),),
        "seeds": range(0, 3),
        "out": folder / "trials",
        "resume": False,
        "n_workers": 1,
        "quiet": True,
    }
    return TrialSeries(**{**values, **changes})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answers], list[TrialJob]]]:
    """Provide a way to replace the processes by a function; it returns the list of the jobs, filled later."""

    def let(answers: Answers) -> list[TrialJob]:
        jobs: list[TrialJob] = []

        def stand_in(_work: object, waiting: deque[TrialJob], _n_workers: int) -> Outcomes:
            while waiting:
                job = waiting.popleft()
                assert not job.out.exists(), "files of an earlier run of this trial were not removed"
                jobs.append(job)
                yield job, answers(job)

        monkeypatch.setattr(trials_module, "run_in_processes", stand_in)
        return jobs

    yield let


def _succeed(job: TrialJob) -> TrialOutcome:
    _result(job, goal=True)
    return COUNTED


def _output(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    output, errors = capsys.readouterr()
    numbers: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return numbers, errors


def test_every_scene_is_done_by_a_then_by_b(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    def b_succeeds(job: TrialJob) -> TrialOutcome:
        _result(job, goal=job.variant == "B", success=job.request.seed == 1)
        return COUNTED

    jobs = asked(b_succeeds)
    a = Variant("A", PredictorChoice("oracle", Path("none")), SMALL)
    run_series(_series(tmp_path, tasks=("pick_wipe", "pick_sweep"), variants=(a, a.changed(["planner.horizon=3"]))))
    assert [str(job) for job in jobs[:5]] == [
        "pick_wipe, A, seed 0",
        "pick_wipe, B, seed 0",
        "pick_sweep, A, seed 0",
        "pick_sweep, B, seed 0",
        "pick_wipe, A, seed 1",
    ]
    assert "planner.horizon=3" in jobs[1].overrides and "planner.horizon=3" not in jobs[0].overrides
    numbers, errors = _output(capsys)
    assert errors == "" and list(numbers) == ["pick_wipe", "pick_sweep"]
    assert numbers["pick_wipe"]["success_rate"] == 0 and numbers["pick_wipe"]["compare"]["success_rate"] == 1
    assert numbers["pick_wipe"]["paired"]["goal"] == {
        "both": 0,
        "only_a": 0,
        "only_b": 3,
        "neither": 0,
        "p_value": 0.25,
    }
    assert numbers["pick_wipe"]["paired"]["success"]["both"] == 1
    record = json.loads((tmp_path / "trials" / "trials.json").read_text())
    assert len(record["trials"]) == 12 and record["tasks"] == numbers
    assert (tmp_path / "trials" / "trials.html").exists()


def test_finished_trials_are_kept_and_unfinished_ones_repeated(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(job: TrialJob) -> TrialOutcome:
        if job.request.seed == 1:
            return TrialOutcome("excluded", "no goal")
        if job.request.seed == 2:
            _result(job, goal=True)  # the result is written, but the trial is not finished
            raise KeyboardInterrupt
        return _succeed(job)

    asked(stopped)
    with pytest.raises(KeyboardInterrupt):
        run_series(_series(tmp_path))
    numbers, _ = _output(capsys)
    assert numbers["pick_wipe"]["trials"] == 1 and numbers["pick_wipe"]["planned"] == 3
    kept = tmp_path / "trials/pick_wipe/A/seed0000/result.json"
    before = kept.stat().st_mtime_ns
    jobs = asked(_succeed)
    run_series(_series(tmp_path, resume=True, seeds=range(0, 4)))  # with one more
    assert [job.request.seed for job in jobs] == [2, 3]
    assert kept.stat().st_mtime_ns == before
    numbers, _ = _output(capsys)
    assert numbers["pick_wipe"]["trials"] == 3 and numbers["pick_wipe"]["excluded"] == [1]
    jobs = asked(_succeed)
    run_series(_series(tmp_path, resume=True))
    assert jobs == [] and _output(capsys)[0]["pick_wipe"]["planned"] == 3


def test_the_trial_of_a_dead_process_is_repeated_once(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[int] = []

    def die(job: TrialJob) -> TrialOutcome | ProcessFailure:
        tries.append(job.request.seed)
        _result(job, goal=True)
        job.log.write_text(f"words {len(tries)}")
        return DIED if job.request.seed == 0 or tries.count(1) == 1 == job.request.seed else COUNTED

    asked(die)
    run_series(_series(tmp_path))
    assert tries == [0, 0, 1, 1, 2]
    numbers, errors = _output(capsys)
    assert "pick_wipe, A, seed 1: its process was ended by SIGKILL; it is repeated once" in errors
    assert "SIGKILL, a second time" in errors
    assert numbers["pick_wipe"]["trials"] == 3 and numbers["pick_wipe"]["success_rate"] == pytest.approx(
        2 / 3, abs=1e-3
    )
    record = json.loads((tmp_path / "trials" / "trials.json").read_text())
    assert "SIGKILL, a second time" in record["trials"][0]["reason"] and not record["trials"][0]["goal"]
    [log] = tmp_path.rglob("seed0000.log")
    assert log.name in record["trials"][0]["reason"] and log.read_text() == "words 2"  # the last ones


def test_aborted_trials_are_not_counted_and_exit_with_1(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(job: TrialJob) -> TrialOutcome:
        if job.request.seed == 1:
            _result(job)
            return BROKEN
        return _succeed(job)

    asked(broken)
    with pytest.raises(TrialsError, match=r"1 trials were aborted.*no server.*--resume") as failure:
        run_series(_series(tmp_path))
    assert failure.value.exit_code == 1
    numbers, _ = _output(capsys)
    assert numbers["pick_wipe"]["trials"] == 2 and numbers["pick_wipe"]["aborted"] == [1]
    assert numbers["pick_wipe"]["success_rate"] == 1
    jobs = asked(_succeed)
    run_series(_series(tmp_path, resume=True))
    assert [job.request.seed for job in jobs] == [1] and _output(capsys)[0]["pick_wipe"]["trials"] == 3


def test_no_more_trials_are_started_after_several_aborted_ones(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = asked(lambda job: _succeed(job) if job.request.seed == 2 else BROKEN)
    with pytest.raises(TrialsError, match="5 trials"):
        run_series(_series(tmp_path, seeds=range(0, 20)))
    assert len(jobs) == 6  # two, one that went well, and three in a row
    assert "3 trials in a row were aborted" in _output(capsys)[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"overrides": ("planner.n_candidates=5",)},
            r"'variants.A.tasks.pick_wipe.planner.n_candidates: 4' is now '.*: 5'",
        ),
        ({"against": True}, r"'variants.B: absent' is now 'variants.B: present'"),
        ({"tasks": ("pick_sweep",)}, r"'variants.A.tasks.pick_wipe: present' is now '.*: absent'"),
    ],
)
def test_another_configuration_is_refused_by_name(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], changes: dict[str, Any], message: str
) -> None:
    asked(_succeed)
    run_series(_series(tmp_path))
    before = {path: path.read_bytes() for path in (tmp_path / "trials").rglob("*") if path.is_file()}
    a = Variant("A", PredictorChoice("oracle", Path("none")), (*SMALL, *changes.get("overrides", ())))
    variants = (a, a.changed(["planner.horizon=3"])) if changes.get("against") else (a,)
    other = _series(tmp_path, resume=True, variants=variants, tasks=changes.get("tasks", ("pick_wipe",)))
    with pytest.raises(ReportedError, match=message) as refusal:
        run_series(other)
    assert refusal.value.exit_code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "trials").rglob("*") if path.is_file()} == before


def test_a_longer_wait_for_the_predictor_is_the_same_configuration(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]]
) -> None:
    asked(_succeed)
    run_series(_series(tmp_path))
    longer = Variant("A", PredictorChoice("oracle", Path("none")), (*SMALL, "planner.predict_timeout_s=30.0"))
    run_series(_series(tmp_path, resume=True, variants=(longer,)))


def test_a_folder_with_other_files_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "thesis.tex").touch()
    for resume, message in ((False, "resume this one with --resume"), (True, "a folder without config.yaml")):
        with pytest.raises(ReportedError, match=message):
            run_series(_series(tmp_path, resume=resume))
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["thesis.tex"]


def test_a_locked_folder_is_refused(tmp_path: Path, asked: Callable[[Answers], list[TrialJob]]) -> None:
    jobs = asked(_succeed)
    with TrialsFolder(tmp_path / "trials").locked(), pytest.raises(ReportedError, match="locked by another run"):
        run_series(_series(tmp_path))
    assert not jobs


def test_an_invalid_record_is_refused_not_repeated(tmp_path: Path, asked: Callable[[Answers], list[TrialJob]]) -> None:
    asked(_succeed)
    run_series(_series(tmp_path))
    record = tmp_path / "trials/pick_wipe/A/seed0001/trial.json"
    record.write_text("{}")
    with pytest.raises(ReportedError, match=r"expected the record of a trial; remove .*seed0001 to repeat it"):
        run_series(_series(tmp_path, resume=True))
    assert record.read_text() == "{}"


@pytest.mark.parametrize(
    ("variant", "tasks", "message"),
    [
        (
            Variant("A", PredictorChoice("oracle", Path("none")), ("planner.horzon=3",)),
            ("pick_wipe",),
            "did you mean 'horizon'",
        ),
        (
            Variant("A", PredictorChoice("oracle", Path("none")), ()),
            ("pick_wpie",),
            "did you mean 'tasks/pick_wipe.yaml'",
        ),
        (
            Variant("A", PredictorChoice("oracle", Path("none")), ()),
            ("pick_wipe", "pick_wipe"),
            "tasks of different names",
        ),
        (
            Variant("A", PredictorChoice("server", Path("none")), SMALL),
            ("pick_wipe",),
            "expected a checkpoint folder",
        ),
        (
            Variant("A", PredictorChoice("server", Path("none"), "nonsense"), SMALL),
            ("pick_wipe",),
            "expected an address",
        ),
    ],
)
def test_refused_input_writes_nothing(tmp_path: Path, variant: Variant, tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ReportedError, match=message) as refusal:
        run_series(_series(tmp_path, variants=(variant,), tasks=tasks))
    assert refusal.value.exit_code == 2 and not list(tmp_path.iterdir())


def test_trials_of_an_earlier_version_are_resumed(
    tmp_path: Path, asked: Callable[[Answers], list[TrialJob]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Former keys of the stored configuration and former states of the stored records are migrated."""
    asked(_succeed)
    run_series(_series(tmp_path))
    config = tmp_path / "trials" / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    task = stored["variants"]["A"]["tasks"]["pick_wipe"]
    task["task"]["least_difference"] = task["task"].pop("min_goal_distance")
    task["task"]["surprise"] = task["task"].pop("max_error_ratio")
    task["task"]["split"] = task["robot"]["split"] = "unseen"
    task["difference"]["share"] = task["difference"].pop("fraction")
    task["planner"]["at_once"] = task["planner"].pop("batch_size")
    task["planner"]["refinement"]["first_share"] = task["planner"]["refinement"].pop("first_fraction")
    config.write_text(yaml.safe_dump(stored))
    record = tmp_path / "trials/pick_wipe/A/seed0001/trial.json"
    trial = json.loads(record.read_text())
    record.write_text(json.dumps({**trial, "status": "left out", "reason": "no goal"}))
    capsys.readouterr()
    jobs = asked(_succeed)
    run_series(_series(tmp_path, resume=True))
    numbers, _ = _output(capsys)
    assert not jobs and numbers["pick_wipe"]["trials"] == 2 and numbers["pick_wipe"]["excluded"] == [1]
