"""Which episodes are counted, excluded or aborted."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ghvae_core.predictor import DeadlineError, MismatchError, NonFiniteError, PredictorError
from planner.episode import EpisodeRequest
from planner.goal import GoalError
from planner.options import PredictorChoice
from planner.output_folder import RecordError
from planner.plan import PlanError
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
    request = EpisodeRequest(
        "tasks/pick_wipe.yaml", "simulation", PredictorChoice("oracle", folder), 7, out=folder / "run"
    )
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
    monkeypatch.setattr(trial_module, "_redirect_output", print_to)


@pytest.mark.parametrize(
    ("error", "leaves_result", "status"),
    [
        (None, True, "counted"),
        (RobotFault("reflex"), True, "counted"),
        (PlanError("no finite cost"), True, "counted"),
        (NonFiniteError("no finite cost"), True, "counted"),
        (GoalError("the scripted policy does not succeed"), False, "excluded"),
        (RobotFault("no sane scene"), False, "excluded"),
        (PredictorError("no server"), False, "aborted"),
        (DeadlineError("no answer"), True, "aborted"),
        (MismatchError("another checkpoint"), False, "aborted"),
        (CameraFault("no renderer"), True, "aborted"),
        (RecordError("not all was recorded"), True, "aborted"),
        (OSError(28, "No space left on device"), True, "aborted"),
    ],
    ids=repr,
)
def test_only_failures_of_the_arm_or_the_plan_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, leaves_result: bool, status: str
) -> None:
    _fake_run_episode(monkeypatch, error, leaves_result)
    job = _job(tmp_path)
    assert run_trial(job) == TrialOutcome(status, str(error or ""))  # type: ignore[arg-type]
    log = job.out / "log.txt" if leaves_result else job.log
    assert log.read_text() == "plans"  # all output is kept


@pytest.mark.parametrize("error", [None, PlanError("no finite cost")], ids=repr)
@pytest.mark.parametrize(("checkpoint", "distance"), [("4f5f", ""), ("4f5e", "6071")])
def test_an_episode_with_other_networks_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, distance: str, error: Exception | None
) -> None:
    _fake_run_episode(monkeypatch, error, leaves_result=True)
    outcome = run_trial(_job(tmp_path, checkpoint, distance))
    assert outcome.status == "aborted" and "changed during the trials" in outcome.reason


def test_the_record_holds_the_result_of_the_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_run_episode(monkeypatch, None, leaves_result=True)
    job = _job(tmp_path)
    trial = Trial.of(job, run_trial(job), tmp_path)
    assert (trial.task, trial.variant, trial.seed, trial.folder) == ("pick_wipe", "B", 7, "run")
    assert (trial.goal, trial.picked, trial.touched, trial.success) == (True, True, False, False)
    assert (trial.steps, trial.plans, trial.away_m, trial.seconds_per_plan) == (50, 10, 0.0, 1.25)
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


def test_without_a_result_nothing_is_achieved(tmp_path: Path) -> None:
    trial = Trial.of(_job(tmp_path), TrialOutcome("counted", "killed"), tmp_path)
    assert not (trial.success or trial.goal or trial.picked or trial.touched) and trial.reason == "killed"


def test_the_result_of_an_aborted_trial_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_run_episode(monkeypatch, DeadlineError("no answer"), leaves_result=True)
    job = _job(tmp_path)
    assert not Trial.of(job, run_trial(job), tmp_path).goal
