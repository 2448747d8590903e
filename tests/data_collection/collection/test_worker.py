"""The worker: which faults need an operator, and which another process can recover from."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.interruption import interruption
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import ClosedEvent, FailedEvent, GaveUpEvent, WorkerEvent
from data_collection.collection.worker import EpisodeProducer, MonitoredRobot
from data_collection.formats.robonet import read_episode
from data_collection.storage.folder import EpisodeFolder
from robot_bridge.robot import OPEN, CameraFault, Observation, RobotError, RobotFault, RobotSpec, Step
from robot_bridge.safety import limit_action
from tests.data_collection.episodes import SPEC, make_frames

STEM = "lab_franka_play"
FRAMES = make_frames(30)


class Double:
    """An arm that follows its commands, with a block at changing positions and with injected faults."""

    spec: RobotSpec = SPEC

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.n_seen = 0
        self.hand_m = np.array([0.5, 0.0, 0.15])
        self.at_reset: Exception | None = None
        self.at_step: Exception | None = None
        self.at_recover: Exception | None = None
        self.last_step: Callable[[], None] = lambda: None  # called during the last step
        self.is_frozen = False  # the camera repeats one frame

    def _see(self) -> Observation:
        self.n_seen += not self.is_frozen
        state = np.array([*self.hand_m, 0.0, 1.0])
        return Observation(FRAMES[self.n_seen % len(FRAMES)], state, 0.6 * len(self.calls))

    def reset(self, rng: np.random.Generator) -> Observation:
        self.calls.append("reset")
        if self.at_reset:
            raise self.at_reset
        self.hand_m = np.array([0.5, 0.0, 0.15])
        return self._see()

    def observe(self) -> Observation:
        self.calls.append("observe")
        return self._see()

    def step(self, action: NDArray[np.float32]) -> Step:
        self.calls.append("step")
        if self.at_step:
            raise self.at_step
        applied = limit_action(action, self.hand_m, self.spec.limits)
        self.hand_m = self.hand_m + applied[:3]
        self.last_step()
        return Step(applied, self._see())

    def recover(self) -> None:
        self.calls.append("recover")
        if self.at_recover:
            raise self.at_recover

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture(scope="module")
def config() -> CollectionRunConfig:
    return CollectionRunConfig.load(
        0, ["robot.renderer=ray", "collection.n_steps=3", "collection.steps_per_draw=[1, 2]"]
    )


@pytest.fixture
def robot() -> Double:
    return Double()


def path_of(folder: Path, number: int) -> Path:
    return EpisodeFolder(folder, STEM).episode_path(number)


def produce(robot: Double, config: CollectionRunConfig, folder: Path, number: int = 7) -> list[WorkerEvent]:
    return list(EpisodeProducer(config, EpisodeFolder(folder, STEM), robot).produce(number))


def end_of(events: list[WorkerEvent]) -> GaveUpEvent:
    """Return the last event, the only one that ends the worker."""
    ends = [each for each in events if isinstance(each, GaveUpEvent | ClosedEvent)]
    assert ends == events[-1:] and isinstance(ends[0], GaveUpEvent)
    return ends[0]


def test_an_episode_is_closed_and_reported(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    (events,) = produce(robot, config, tmp_path)
    assert isinstance(events, ClosedEvent) and (events.row.number, events.row.n_steps, events.row.attempt) == (7, 3, 0)
    episode = read_episode(tmp_path / events.row.file)
    assert episode.info["episode"] == 7 and len(episode.actions) == 3
    assert robot.calls == ["reset", "step", "step", "step"]


def test_a_lost_link_needs_no_operator(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    robot.at_step = RobotError("the driver is gone")
    events = produce(robot, config, tmp_path)
    failed = FailedEvent(7, 0, "RobotError", "the driver is gone", None, False)
    assert events == [failed, GaveUpEvent("the driver is gone", needs_person=False)]
    assert not list(tmp_path.iterdir())


def test_repeated_camera_faults_need_no_operator(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    robot.at_step = CameraFault("no frame in 1 s")
    events = produce(robot, config, tmp_path)
    failures = [each for each in events if isinstance(each, FailedEvent)]
    assert [(f.number, f.attempt, f.kind, f.reason, f.file) for f in failures] == [
        (7, attempt, "CameraFault", "no frame in 1 s", None) for attempt in range(5)
    ]
    end = end_of(events)
    assert not end.needs_person and end.reason == (
        "episode 7: 5 attempts failed in a row, the last with CameraFault: no frame in 1 s"
    )
    assert robot.calls.count("recover") == 5


def test_repeated_reflexes_need_an_operator(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    robot.at_reset = RobotFault("reflex")
    events = produce(robot, config, tmp_path)
    assert len(events) == 6 and end_of(events).needs_person and "RobotFault: reflex" in end_of(events).reason


def test_a_fault_that_cannot_be_cleared_needs_an_operator(
    robot: Double, config: CollectionRunConfig, tmp_path: Path
) -> None:
    robot.at_step, robot.at_recover = CameraFault("dark"), RobotFault("user stop is pressed")
    events = produce(robot, config, tmp_path)
    assert [type(each) for each in events] == [FailedEvent, GaveUpEvent]
    assert end_of(events) == GaveUpEvent("user stop is pressed", needs_person=True)


def test_a_link_lost_during_recovery_needs_no_operator(
    robot: Double, config: CollectionRunConfig, tmp_path: Path
) -> None:
    robot.at_step, robot.at_recover = RobotFault("reflex"), RobotError("the driver is gone")
    assert end_of(produce(robot, config, tmp_path)) == GaveUpEvent("the driver is gone", needs_person=False)


def test_an_existing_file_needs_an_operator(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    path_of(tmp_path, 7).write_bytes(b"mine")
    end = end_of(produce(robot, config, tmp_path))
    assert end.needs_person and "traj7.hdf5: exists already" in end.reason
    assert path_of(tmp_path, 7).read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_full_disk_needs_an_operator(
    robot: Double, config: CollectionRunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _full)
        end = end_of(produce(robot, config, tmp_path))
    assert end.needs_person and "No space left" in end.reason and not list(tmp_path.iterdir())


def test_a_failing_quarantine_needs_an_operator(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    (tmp_path / "quarantine").write_text("a file")
    robot.is_frozen = True
    end = end_of(produce(robot, config, tmp_path))
    assert end.needs_person and "Not a directory" in end.reason


def test_a_complete_rejected_episode_is_quarantined(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    robot.is_frozen = True
    events = produce(robot, config, tmp_path)
    failures = [each for each in events if isinstance(each, FailedEvent)]
    assert [failure.kind for failure in failures] == ["frozen_camera"] * 5 and not end_of(events).needs_person
    for failure in failures:
        assert failure.file == f"quarantine/frozen_camera/{STEM}_traj7_attempt{failure.attempt}.hdf5.aside"
        assert len(read_episode(tmp_path / failure.file).actions) == 3
    assert not list(tmp_path.glob("*.hdf5"))


def test_an_attempt_that_cannot_be_stored_is_only_reported(
    robot: Double, config: CollectionRunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.last_step = robot.calls.clear  # resets the clock of the arm
    events = produce(robot, config, tmp_path)
    failures = [each for each in events if isinstance(each, FailedEvent)]
    assert [(failure.kind, failure.file) for failure in failures] == [("wrong_stamps", None)] * 5
    assert not list(tmp_path.rglob("*.aside")) and not end_of(events).needs_person


def test_after_a_fault_another_attempt_is_closed(robot: Double, config: CollectionRunConfig, tmp_path: Path) -> None:
    robot.at_step = RobotFault("reflex")

    def mend() -> None:
        robot.at_step = None

    producer = EpisodeProducer(config, EpisodeFolder(tmp_path, STEM), robot).produce(7)
    first = next(producer)
    mend()
    (second,) = list(producer)
    assert isinstance(first, FailedEvent) and isinstance(second, ClosedEvent) and second.row.attempt == 1


class Pulse:
    value = 0.0


def test_every_call_of_a_monitored_robot_records_activity(robot: Double) -> None:
    pulse = Pulse()
    watched = MonitoredRobot(robot, pulse)
    calls: dict[str, Callable[[], object]] = {
        "reset": lambda: watched.reset(np.random.default_rng(0)),
        "observe": watched.observe,
        "step": lambda: watched.step(np.array([0.01, 0.0, 0.0, OPEN], np.float32)),
        "recover": watched.recover,
    }
    for call in calls.values():
        pulse.value = 0.0
        call()
        assert pulse.value > 0
    for call in calls.values():
        with pytest.raises(KeyboardInterrupt), interruption():
            os.kill(os.getpid(), signal.SIGTERM)
            call()
    watched.close()
    assert robot.calls == [*calls, "close"] and watched.spec is SPEC
