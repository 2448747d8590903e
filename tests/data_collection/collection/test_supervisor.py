"""The supervisor: episodes of ended processes are repeated; a fault that needs an operator ends the run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import (
    ClosedEvent,
    Event,
    FailedEvent,
    LostEvent,
    ReplacedEvent,
    TickEvent,
    WaitingEvent,
)
from data_collection.collection.supervisor import EpisodeNumbers, Supervisor
from data_collection.storage.folder import CollectionError
from robot_bridge.franka.config import FrankaRosConfig
from tests.patience import relaxed


def test_gaps_are_filled_and_returned_numbers_come_first() -> None:
    numbers = EpisodeNumbers({0, 2}, 4)
    assert [numbers.take(), numbers.take()] == [1, 3]
    numbers.give_back(1)
    assert [numbers.take(), numbers.take(), numbers.take(), numbers.take()] == [1, 4, 5, None]


def test_abandoned_numbers_are_replaced() -> None:
    numbers = EpisodeNumbers(set(), 2)
    assert [numbers.take(), numbers.take(), numbers.take()] == [0, 1, None]
    numbers.give_up()
    assert [numbers.take(), numbers.take()] == [2, None]


def test_no_number_is_requested_beyond_the_count() -> None:
    assert EpisodeNumbers({0}, -3).take() is None


@given(
    st.sets(st.integers(0, 20)),
    st.integers(0, 10),
    st.lists(st.sampled_from(["take", "back", "up", "close"]), max_size=60),
)
def test_no_number_is_used_twice(closed: set[int], count: int, moves: list[str]) -> None:
    numbers, used, out = EpisodeNumbers(closed, count), set(closed), list[int]()
    made = 0
    for move in moves:
        if move == "take" and (number := numbers.take()) is not None:
            assert number not in used and number not in out
            out.append(number)
        elif move == "back" and out:
            numbers.give_back(out.pop())
        elif move == "up" and out:
            used.add(out.pop())
            numbers.give_up()
        elif move == "close" and out:
            used.add(out.pop(0))
            made += 1
    assert made + len(out) + numbers.left == count


SETTINGS = (
    "robot.renderer=ray",
    "collection.n_steps=5",
    "collection.steps_per_draw=[1, 2]",
    "collection.free_disk_floor_gib=0",
    "collection.max_faults_in_row=2",
    "supervision.back_off_s=[0.1, 0.2]",
)


T = TypeVar("T")


class Run:
    """Result of a run."""

    def __init__(self, out: Path, n: int, changes: Sequence[str], n_workers: int = 1) -> None:
        config = CollectionRunConfig.load(0, [*SETTINGS, *changes])
        self.events: list[Event] = []
        self.error: CollectionError | None = None
        out.mkdir(exist_ok=True)
        with Supervisor(config, out, n_workers) as supervisor:
            try:
                for event in supervisor.run(EpisodeNumbers(set(), n)):
                    self.events.append(event)
            except CollectionError as error:
                self.error = error
        self.files = sorted(path.name for path in out.glob("*_traj*"))

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def closed(self) -> list[int]:
        return [event.row.number for event in self.events if isinstance(event, ClosedEvent)]


def test_an_ended_process_loses_only_its_episode(tmp_path: Path) -> None:
    run = Run(tmp_path, 4, ["robot.fault_injection.kills_per_reset=0.5", "supervision.restarts_per_hour=1000"])
    losses = [event for event in run.events if isinstance(event, LostEvent)]
    assert run.error is None and losses and all("died" in loss.reason for loss in losses)
    assert len(run.closed()) == len(set(run.closed())) == 4
    assert run.files == sorted(f"lab_franka_play_traj{n}.hdf5" for n in run.closed())


def test_a_closed_but_unreported_episode_is_not_repeated(tmp_path: Path) -> None:
    Run(tmp_path, 1, [])
    before = (tmp_path / "lab_franka_play_traj0.hdf5").read_bytes()
    run = Run(tmp_path, 1, ["robot.fault_injection.kills_per_reset=1"])
    (loss,) = run.of(LostEvent)
    assert run.error is None and run.closed() == [0] and loss.number is None and "died" in loss.reason
    assert (tmp_path / "lab_franka_play_traj0.hdf5").read_bytes() == before


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    changes = [
        "robot.fault_injection.hangs_per_reset=1",
        f"supervision.hang_s={relaxed(5)}",
        "supervision.restarts_per_hour=0",
    ]
    run = Run(tmp_path, 3, changes)
    (loss,) = [event for event in run.events if isinstance(event, LostEvent)]
    assert loss.number == 0 and re.search(r"hung without activity for \d+ s \(exit code -9\)", loss.reason)
    assert run.error is not None and "check the machine" in str(run.error)


def test_only_a_real_arm_has_a_limit_of_reflexes() -> None:
    real = CollectionRunConfig.load(0, [], "franka_ros")
    assert isinstance(real.robot, FrankaRosConfig) and real.faults_per_hour == real.robot.recovery.per_hour
    assert CollectionRunConfig.load(0, SETTINGS).faults_per_hour == math.inf


def test_an_episode_that_ends_every_process_is_replaced(tmp_path: Path) -> None:
    changes = [
        "robot.fault_injection.kills_per_reset=1",
        "supervision.losses_per_episode=2",
        "supervision.restarts_per_hour=4",
    ]
    run = Run(tmp_path, 1, changes)
    losses = [event for event in run.events if isinstance(event, LostEvent)]
    assert [(loss.number, loss.is_given_up) for loss in losses[:4]] == [(0, False), (0, True), (1, False), (1, True)]
    assert run.error is not None and "the last of 5 within an hour" in str(run.error) and not run.files


def test_repeated_reflexes_need_an_operator(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, ["robot.fault_injection.reflexes_per_reset=1"])
    failures = [event for event in run.events if isinstance(event, FailedEvent)]
    assert [(f.number, f.attempt, f.kind, f.file) for f in failures] == [
        (0, 0, "RobotFault", None),
        (0, 1, "RobotFault", None),
    ]
    assert run.error is not None and "episode 0: 2 attempts failed in a row, the last with RobotFault" in str(run.error)
    assert not run.of(WaitingEvent)


def test_reflexes_are_counted_over_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CollectionRunConfig, "faults_per_hour", 2)
    run = Run(tmp_path, 50, ["robot.fault_injection.reflexes_per_reset=0.5", "supervision.max_age_s=0.001"])
    assert run.error is not None and str(run.error).startswith(("3 faults of the arm", "episode"))
    assert sum(failure.is_fault for failure in run.of(FailedEvent)) <= 4


def test_a_frozen_camera_is_retried_and_then_ends_the_run(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        1,
        [
            "robot.fault_injection.freezes_per_reset=1",
            "collection.episode_filter.frozen_frames=1",
            f"supervision.give_up_s={relaxed(8)}",
        ],
    )
    waits = [event for event in run.events if isinstance(event, WaitingEvent)]
    failures = [event for event in run.events if isinstance(event, FailedEvent)]
    assert waits and waits[0].pause_s == 0.1 and all(wait.pause_s == 0.2 for wait in waits[1:])
    assert run.error is not None and "frozen_camera" in str(run.error)
    files = [failure.file for failure in failures if failure.file]
    assert files and all((tmp_path / file).exists() for file in files)


def test_old_processes_are_replaced_between_episodes(tmp_path: Path) -> None:
    run = Run(tmp_path, 3, ["supervision.max_age_s=0.001"])
    assert run.error is None and sorted(run.closed()) == [0, 1, 2]
    assert len(run.of(ReplacedEvent)) == 3 and "h old" in str(run.of(ReplacedEvent)[0])


def test_the_resource_use_of_processes_is_reported(tmp_path: Path) -> None:
    run = Run(tmp_path, 1, [])
    ticks = [event for event in run.events if isinstance(event, TickEvent)]
    assert max(tick.rss_gib for tick in ticks) > 0.02 and max(tick.descriptors for tick in ticks) > 3


def test_an_existing_file_ends_the_run_after_open_episodes(tmp_path: Path) -> None:
    (tmp_path / "lab_franka_play_traj0.hdf5").touch()  # an episode is never overwritten
    run = Run(tmp_path, 1000, [], n_workers=2)
    assert run.error is not None and "traj0.hdf5: exists already" in str(run.error)
    assert 1 in run.closed() and len(run.closed()) < 900
    assert run.files == sorted({"lab_franka_play_traj0.hdf5", *(f"lab_franka_play_traj{n}.hdf5" for n in run.closed())})


def test_a_missing_disk_ends_the_run_in_one_line(tmp_path: Path) -> None:
    config = CollectionRunConfig.load(0, SETTINGS)
    with Supervisor(config, tmp_path / "unmounted", 1) as lone, pytest.raises(CollectionError, match="unmounted"):
        list(lone.run(EpisodeNumbers(set(), 1)))


def test_an_arm_that_cannot_be_connected_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:9")  # without a listener
    config = CollectionRunConfig.load(0, ["robot.connect_timeout_s=0.1"], "franka_ros")
    with pytest.raises(CollectionError, match=r"ROS master|bootstrap"), Supervisor(config, tmp_path / "new", 1):
        pass
    assert not (tmp_path / "new").exists()
