"""What counts as a trial, and what is nobody's fault but the machine's."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ghvae_core.predictor import DeadlineError, MismatchError, NonFiniteError, PredictorError
from planner.goal import GoalError
from planner.output_folder import RecordError
from planner.plan import PlanError
from planner.predictors import EpisodeRequest
from planner.trials import trial as trial_module
from planner.trials.trial import Trial, TrialJob, TrialOutcome, run_trial
from robot_bridge.robot import CameraFault, RobotFault

RESULT = {
    "ended": "steps used",
    "success": False,
    "goal": True,
    "picked": True,
    "touched": False,
    "away_m": 0,
    "steps": 50,
    "plans": 10,
    "seconds_per_plan": 1.25,
    "checkpoint": "4f5e",
    "distance": "",
    "report": "elsewhere",
}


def _job(folder: Path, checkpoint: str = "4f5e", distance: str = "") -> TrialJob:
    request = EpisodeRequest("tasks/pick_wipe.yaml", "simulation", "oracle", None, folder, 7, None, folder / "run")
    return TrialJob("B", request, ("planner.horizon=3",), checkpoint, distance)


def _fake_run_episode(monkeypatch: pytest.MonkeyPatch, error: Exception | None, leaves_result: bool) -> None:
    def run_episode(request: EpisodeRequest, overrides: Sequence[str]) -> None:
        assert request.out is not None and tuple(overrides) == ("planner.horizon=3",)
        if leaves_result:
            request.out.mkdir()
            (request.out / "result.json").write_text(json.dumps(RESULT))
        if error:
            raise error

    def print_to(path: Path) -> None:
        path.write_text("plans")

    monkeypatch.setattr(trial_module, "run_episode", run_episode)
    monkeypatch.setattr(trial_module, "_print_to", print_to)


@pytest.mark.parametrize(
    ("error", "leaves_result", "status"),
    [
        (None, True, "counted"),
        (RobotFault("reflex"), True, "counted"),
        (PlanError("no finite cost"), True, "counted"),
        (NonFiniteError("no finite cost"), True, "counted"),
        (GoalError("the scripted arm does not succeed"), False, "left out"),
        (RobotFault("no sane scene"), False, "left out"),
        (PredictorError("no server"), False, "broken off"),
        (DeadlineError("no answer"), True, "broken off"),
        (MismatchError("another checkpoint"), False, "broken off"),
        (CameraFault("no renderer"), True, "broken off"),
        (RecordError("not all was recorded"), True, "broken off"),
        (OSError(28, "No space left on device"), True, "broken off"),
    ],
    ids=repr,
)
def test_only_what_the_arm_or_the_plan_fails_at_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, leaves_result: bool, status: str
) -> None:
    _fake_run_episode(monkeypatch, error, leaves_result)
    job = _job(tmp_path)
    assert run_trial(job) == TrialOutcome(status, str(error or ""))  # type: ignore[arg-type]
    log = job.out / "log.txt" if leaves_result else job.log
    assert log.read_text() == "plans"  # nothing of what was printed is lost


@pytest.mark.parametrize("error", [None, PlanError("no finite cost")], ids=repr)
@pytest.mark.parametrize(("checkpoint", "distance"), [("4f5f", ""), ("4f5e", "6071")])
def test_a_run_in_which_something_else_imagined_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, distance: str, error: Exception | None
) -> None:
    _fake_run_episode(monkeypatch, error, leaves_result=True)
    outcome = run_trial(_job(tmp_path, checkpoint, distance))
    assert outcome.status == "broken off" and "became another one meanwhile" in outcome.reason


def test_the_record_holds_what_the_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_run_episode(monkeypatch, None, leaves_result=True)
    job = _job(tmp_path)
    trial = Trial.of(job, run_trial(job), tmp_path)
    assert (trial.task, trial.variant, trial.seed, trial.folder) == ("pick_wipe", "B", 7, "run")
    assert (trial.goal, trial.picked, trial.touched, trial.success) == (True, True, False, False)
    assert (trial.steps, trial.plans, trial.away_m, trial.seconds_per_plan) == (50, 10, 0.0, 1.25)
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


def test_without_a_result_nothing_was_achieved(tmp_path: Path) -> None:
    trial = Trial.of(_job(tmp_path), TrialOutcome("counted", "killed"), tmp_path)
    assert not (trial.success or trial.goal or trial.picked or trial.touched) and trial.reason == "killed"


def test_what_a_trial_broken_off_left_is_not_taken_for_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_run_episode(monkeypatch, DeadlineError("no answer"), leaves_result=True)
    job = _job(tmp_path)
    assert not Trial.of(job, run_trial(job), tmp_path).goal
