"""The event log: every event and the end of a run are recorded and reported to the operator once."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_collection.collection import notifications as module
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
from data_collection.collection.notifications import EventLog, Notifier
from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import read_status
from data_collection.episode import EpisodeError
from data_collection.storage import index
from data_collection.storage.folder import CollectionError, EpisodeFolder
from data_collection.storage.journal import Journal, Value, read, summarize
from tests.data_collection.folders import row
from tests.patience import patience, relaxed

NEVER_S = 1e9


@pytest.fixture
def received(tmp_path: Path) -> Path:
    return tmp_path / "received"


def writing(path: Path, before: str = ":") -> Sequence[str]:
    """Return a command that appends its last argument to a file, as a line."""
    return ("sh", "-c", f'{before}; echo "$1" >> "$0"', str(path))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_change_is_reported_once(received: Path) -> None:
    notifier = Notifier(writing(received), NEVER_S)
    answers = []
    for state, text in (
        ("collecting", "nothing new"),
        ("waiting", "no light; $HOME `x` 'y'"),
        ("waiting", "still no light"),
        ("collecting", "again"),
        ("collecting", "still"),
        ("waiting", "no light again"),
    ):
        answers.append(notifier.change(state, text))
        notifier.close()  # keeps the order
    assert answers == [False, True, False, True, False, True]
    assert lines(received) == ["no light; $HOME `x` 'y'", "again", "no light again"]


def test_commands_are_awaited_only_at_the_end(received: Path) -> None:
    lasts_s = relaxed(0.4)
    notifier = Notifier(writing(received, f"sleep {lasts_s}"), NEVER_S)
    began_s = time.monotonic()
    assert notifier.change("waiting", "a") and notifier.change("idle", "b")
    assert time.monotonic() - began_s < lasts_s and not lines(received)
    notifier.close()
    assert sorted(lines(received)) == ["a", "b"] and time.monotonic() - began_s >= lasts_s


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=time.sleep))


def test_the_digest_is_sent_after_its_interval(received: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    notifier = Notifier(writing(received), 100.0)
    for now_s in (0.0, 50.0, 99.0, 100.0, 101.0, 199.0, 201.0, 202.0):
        clock.now_s = now_s
        notifier.digest(f"at {now_s:g} s")
        notifier.close()
    assert lines(received) == ["at 100 s", "at 201 s"]


def test_without_a_command_nothing_is_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "subprocess", None)
    notifier = Notifier((), 0.0)
    assert notifier.change("waiting", "no light") and not notifier.change("waiting", "no light")
    notifier.digest("well")
    notifier.close()
    assert not caplog.records


def _not_a_program(folder: Path) -> Sequence[str]:
    (folder / "text").write_text("no program")
    return (str(folder / "text"),)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (lambda folder: (str(folder / "missing"),), "notification failed: .*No such file.*"),
        (_not_a_program, "notification failed: .*Permission denied.*"),
        (lambda _: ("sh", "-c", "exit 3"), "notification failed: sh ended with 3"),
        (lambda _: ("sh", "-c", "kill -9 $$"), "notification failed: sh ended with -9"),
    ],
    ids=["missing", "no program", "fails", "dies"],
)
def test_a_failing_command_is_a_warning(
    tmp_path: Path, command: Callable[[Path], Sequence[str]], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(command(tmp_path), NEVER_S)
    assert notifier.change("waiting", "no light")
    notifier.close()
    assert notifier.change("collecting", "again")
    notifier.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all(re.fullmatch(words, record.getMessage()) for record in caplog.records)


def _is_alive(pid: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(60)
def test_a_hanging_command_is_killed_with_its_children(
    received: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", relaxed(0.5))
    notifier = Notifier(("sh", "-c", 'sleep 300 & echo "$$ $!" >> "$0"; wait', str(received)), NEVER_S)
    notifier.change("waiting", "no light")
    notifier.close()
    (pids,) = lines(received)
    assert len(pids.split()) == 2
    deadline = time.monotonic() + patience(10)
    while any(_is_alive(int(pid)) for pid in pids.split()):
        assert time.monotonic() < deadline, "a command that hung still runs"
        time.sleep(0.01)
    assert "sh ended with -9" in caplog.text


def test_a_hanging_command_does_not_block_other_notifications(received: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", relaxed(0.5))
    notifier = Notifier(writing(received, '[ "$1" != first ] || sleep 300'), NEVER_S)
    notifier.change("waiting", "first")
    notifier.change("idle", "second")
    notifier.close()
    assert lines(received) == ["second"]


def test_a_command_runs_in_its_own_process_group(received: Path) -> None:
    notifier = Notifier(("sh", "-c", 'cut -d" " -f5 /proc/$$/stat > "$0"', str(received)), NEVER_S)
    notifier.change("ended", "stopped")
    notifier.close()
    assert int(lines(received)[0]) != os.getpgid(0)


SETTINGS = ("robot.renderer=ray", "collection.table_reset.idle_episodes_before_reset=3")
N_IDLE = 6  # idle episodes before the operator is notified: twice as many as before a sweep


@pytest.fixture(scope="module")
def config() -> CollectionRunConfig:
    return CollectionRunConfig.load(5, SETTINGS)


class Run:
    """A run whose notifications append lines to a file next to the folder."""

    def __init__(self, place: Path, config: CollectionRunConfig, digest_s: float = 1e9) -> None:
        self.folder = place / "play"
        self.folder.mkdir()
        self.account = CollectionProgress(2, 36.0, 10, None)
        self._received = place / "received"
        command = ("sh", "-c", 'echo "$1" >> "$0"', str(self._received))
        changes = {"notify_command": command, "digest_s": digest_s}
        supervision = config.supervision.model_copy(update=changes)
        config = config.model_copy(update={"supervision": supervision})
        self.event_log = EventLog(EpisodeFolder(self.folder, "lab_franka_play"), self.account, config)

    def take(self, *events: Event) -> None:
        """Handle events, each reported before the next one."""
        for event in events:
            self.account.handle(event)
            self.event_log.handle(event)
            self.event_log._notifications.notifier.close()

    def events(self) -> list[dict[str, Value]]:
        """Return the journal without times."""
        return [{name: value for name, value in event.items() if name != "time_s"} for event in read(self.folder)]

    def received(self) -> list[str]:
        return self._received.read_text().splitlines() if self._received.exists() else []


@pytest.fixture
def run(tmp_path: Path, config: CollectionRunConfig) -> Run:
    return Run(tmp_path, config)


def closed(number: int, swept: bool = False, idle_episodes: int = 0) -> ClosedEvent:
    return ClosedEvent(row(number, 0.0), swept, idle_episodes)


def test_the_start_is_recorded_first(run: Run) -> None:
    with run.event_log:
        assert run.events() == [{"event": "started", "seed": 5, "present": 2}]
        assert read_status(run.folder)["state"] == "collecting"


def test_a_closed_episode_is_indexed_and_not_in_the_journal(run: Run) -> None:
    with run.event_log:
        run.take(closed(4), closed(2))
    assert [each.number for each in index.listed(run.folder)] == [4, 2]
    assert [event["event"] for event in run.events()] == ["started", "ended"]
    assert run.account.closed == 2


FAILED = {"number": 3, "attempt": 1, "kind": "bad_light", "reason": "dark"}
DROPPED = {"event": "dropped", **FAILED, "file": None}
ASIDE = {"event": "quarantined", **FAILED, "file": "quarantine/bad_light/x.aside"}
CASES: list[tuple[Event, list[dict[str, object]]]] = [
    (FailedEvent(3, 1, "bad_light", "dark", None, False), [DROPPED]),
    (FailedEvent(3, 1, "bad_light", "dark", "quarantine/bad_light/x.aside", False), [ASIDE]),
    (
        LostEvent(3, "died", True),
        [{"event": "lost", "number": 3, "given_up": True}, {"event": "restarted", "reason": "died"}],
    ),
    (LostEvent(None, "died", False), [{"event": "restarted", "reason": "died"}]),
    (WaitingEvent("no arm", 5.0), [{"event": "waiting", "reason": "no arm", "pause_s": 5.0}]),
    (ReplacedEvent("old"), [{"event": "renewed", "reason": "old"}]),
    (closed(3, swept=True), [{"event": "swept", "number": 3}]),
    (TickEvent(1.0, 50), []),
]


@pytest.mark.parametrize(("event", "notes"), CASES, ids=lambda case: type(case).__name__)
def test_events_are_recorded_and_counted(run: Run, event: Event, notes: list[dict[str, object]]) -> None:
    with run.event_log:
        run.take(event)
        assert run.events()[1:] == notes
    journal, account = summarize(read(run.folder)), run.account
    assert (journal.dropped, journal.quarantined) == (account.dropped, account.quarantined)
    assert (journal.lost, journal.restarts, journal.sweeps) == (account.lost, account.restarts, account.swept)


def test_completion_is_recorded_and_reported(run: Run) -> None:
    with run.event_log:
        run.take(closed(4), FailedEvent(5, 0, "bad_light", "dark", None, False), LostEvent(5, "died", False))
    assert run.events()[-1] == {"event": "ended", "why": "done", "closed": 1, "attempts": 3}
    assert read_status(run.folder)["ended"] == "done"
    words = f"{run.folder}: ended: done; 3 of 10 episodes, 0.01 h, 1 dropped, 1 lost"
    assert run.received() == [words.replace("0.01", f"{(36 + 18) / 3600:.2f}")]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyboardInterrupt(), "stopped"),
        (CollectionError("play: expected 2 GiB of free disk, got 1"), "play: expected 2 GiB of free disk, got 1"),
        (EpisodeError("two\n  lines"), "two lines"),
        (OSError(28, "No space left on device", "x"), "[Errno 28] No space left on device: 'x'"),
        (AssertionError(), "AssertionError"),
    ],
    ids=str,
)
def test_an_early_end_is_recorded_and_reported(run: Run, error: BaseException, why: str) -> None:
    with pytest.raises(type(error)) as raised, run.event_log:
        raise error
    assert raised.value is error
    assert run.events()[-1] == {"event": "ended", "why": why, "closed": 0, "attempts": 0}
    stored = read_status(run.folder)
    assert (stored["state"], stored["ended"]) == ("ended", why)
    assert len(run.received()) == 1 and f"ended: {why}; 2 of 10 episodes" in run.received()[0]
    assert summarize([*read(run.folder), {"event": "started", "time_s": 1e10}]).interventions == 1


def _fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), CollectionError("no room")], ids=str)
@pytest.mark.parametrize("what", ["journal", "status"])
def test_a_full_disk_at_the_end_hides_neither_the_end_nor_its_reason(
    run: Run,
    what: str,
    error: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def end() -> None:
        with run.event_log:
            target: tuple[object, str] = (Journal, "note") if what == "journal" else (run.event_log._status, "beat")
            monkeypatch.setattr(target[0], target[1], _fail)
            if error is not None:
                raise error

    if error is None:
        end()
    else:
        with pytest.raises(type(error)) as raised:
            end()
        assert raised.value is error
    assert caplog.messages == [f"{run.folder}: could not be written: No space left on device"]
    assert len(run.received()) == 1 and "ended: " in run.received()[0]


@pytest.mark.parametrize("event", [closed(1), WaitingEvent("no light", 5.0)], ids=["index", "journal"])
def test_a_full_disk_during_the_run_ends_it(run: Run, event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left"), run.event_log, monkeypatch.context() as patch:
        patch.setattr(index, "append", _fail)
        patch.setattr(Journal, "note", _fail)
        run.take(event)
    assert run.events()[-1]["why"] == "[Errno 28] No space left on device"


def test_waiting_and_recovery_are_reported_once_each(run: Run) -> None:
    with run.event_log:
        run.take(TickEvent(1.0, 50), closed(0), WaitingEvent("no light", 5.0), WaitingEvent("still none", 10.0))
        run.take(FailedEvent(1, 0, "bad_light", "dark", None, False), closed(1), closed(2))
    first, second, last = run.received()
    assert "no attempt succeeds at present: no light; 3 of 10 episodes" in first
    assert "collecting again; 4 of 10 episodes" in second and "1 dropped" in second
    assert "ended: done; 5 of 10 episodes" in last


def test_an_idle_table_is_reported_once(run: Run) -> None:
    with run.event_log:
        for number, idle_episodes in enumerate([0, 1, N_IDLE - 1, N_IDLE, N_IDLE + 1, N_IDLE + 2]):
            run.take(closed(number, idle_episodes=idle_episodes))
        run.take(closed(6, idle_episodes=0), closed(7, idle_episodes=N_IDLE))
        notes = [event for event in run.events() if event["event"] == "dull"]
    assert notes == [{"event": "dull", "episodes": N_IDLE}] * 2
    first, again, second, last = run.received()
    assert f"no object moved in {N_IDLE} episodes" in first and "objects detected: 3" in first
    assert "collecting again" in again and "no object moved" in second and "ended" in last


def test_the_summary_is_reported_after_its_interval(tmp_path: Path, config: CollectionRunConfig) -> None:
    run = Run(tmp_path, config, digest_s=1e-9)
    with run.event_log:
        run.take(TickEvent(1.0, 50))
    assert run.received()[0] == f"{run.folder}: 2 of 10 episodes, 0.01 h"


@pytest.mark.parametrize("what", [lambda run: run.folder.rmdir(), lambda run: (run.folder / "run.json").mkdir()])
def test_a_folder_that_cannot_be_written_is_reported_at_the_start(run: Run, what: Callable[[Run], None]) -> None:
    what(run)
    with pytest.raises(OSError, match="play"), run.event_log:
        pass
    assert run.received() == []
