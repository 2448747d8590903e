"""Telling a person: real commands are run once with every change, and nothing that they do harms the run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_collection.collection import alerts as module
from data_collection.collection.alerts import Alerts

NEVER_S = 1e9


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


def writing(path: Path, before: str = ":") -> Sequence[str]:
    """Return a command that adds its last argument to a file, as a line."""
    return ("sh", "-c", f'{before}; echo "$1" >> "$0"', str(path))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_change_is_told_once(told: Path) -> None:
    alerts = Alerts(writing(told), NEVER_S)
    answers = []
    for state, text in (
        ("collecting", "nothing new"),
        ("waiting", "no light; $HOME `x` 'y'"),
        ("waiting", "still no light"),
        ("collecting", "again"),
        ("collecting", "still"),
        ("waiting", "no light again"),
    ):
        answers.append(alerts.change(state, text))
        alerts.close()  # so that they come in order
    assert answers == [False, True, False, True, False, True]
    assert lines(told) == ["no light; $HOME `x` 'y'", "again", "no light again"]


def test_a_command_is_waited_for_at_the_end_alone(told: Path) -> None:
    alerts = Alerts(writing(told, "sleep 0.4"), NEVER_S)
    began_s = time.monotonic()
    assert alerts.change("waiting", "a") and alerts.change("dull", "b")
    assert time.monotonic() - began_s < 0.4 and not lines(told)
    alerts.close()
    assert sorted(lines(told)) == ["a", "b"] and time.monotonic() - began_s >= 0.4


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=time.sleep))


def test_alerts_send_the_daily_digest_after_its_interval(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    alerts = Alerts(writing(told), 100.0)
    for now_s in (0.0, 50.0, 99.0, 100.0, 101.0, 199.0, 201.0, 202.0):
        clock.now_s = now_s
        alerts.digest(f"at {now_s:g} s")
        alerts.close()
    assert lines(told) == ["at 100 s", "at 201 s"]


def test_without_a_command_nothing_is_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "subprocess", None)
    alerts = Alerts((), 0.0)
    assert alerts.change("waiting", "no light") and not alerts.change("waiting", "no light")
    alerts.digest("well")
    alerts.close()
    assert not caplog.records


def _not_a_program(folder: Path) -> Sequence[str]:
    (folder / "text").write_text("no program")
    return (str(folder / "text"),)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (lambda folder: (str(folder / "missing"),), "nobody could be told: .*No such file.*"),
        (_not_a_program, "nobody could be told: .*Permission denied.*"),
        (lambda _: ("sh", "-c", "exit 3"), "nobody could be told: sh ended with 3"),
        (lambda _: ("sh", "-c", "kill -9 $$"), "nobody could be told: sh ended with -9"),
    ],
    ids=["missing", "no program", "fails", "dies"],
)
def test_a_command_that_does_not_work_is_only_warned_of(
    tmp_path: Path, command: Callable[[Path], Sequence[str]], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = Alerts(command(tmp_path), NEVER_S)
    assert alerts.change("waiting", "no light")
    alerts.close()
    assert alerts.change("collecting", "again")
    alerts.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all(re.fullmatch(words, record.getMessage()) for record in caplog.records)


def _is_alive(pid: int) -> bool:
    """Tell whether a process still runs; one that ended and that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(60)
def test_a_command_that_hangs_is_killed_with_what_it_has_started(
    told: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", 0.5)
    alerts = Alerts(("sh", "-c", 'sleep 300 & echo "$$ $!" >> "$0"; wait', str(told)), NEVER_S)
    alerts.change("waiting", "no light")
    alerts.close()
    (pids,) = lines(told)
    assert len(pids.split()) == 2
    deadline = time.monotonic() + 10
    while any(_is_alive(int(pid)) for pid in pids.split()):
        assert time.monotonic() < deadline, "a command that hung still runs"
        time.sleep(0.01)
    assert "sh ended with -9" in caplog.text


def test_a_command_that_hangs_keeps_no_other_from_being_told(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_S", 0.5)
    alerts = Alerts(writing(told, '[ "$1" != first ] || sleep 300'), NEVER_S)
    alerts.change("waiting", "first")
    alerts.change("dull", "second")
    alerts.close()
    assert lines(told) == ["second"]


def test_a_command_is_out_of_reach_of_a_terminals_interrupt(told: Path) -> None:
    alerts = Alerts(("sh", "-c", 'cut -d" " -f5 /proc/$$/stat > "$0"', str(told)), NEVER_S)
    alerts.change("ended", "stopped")
    alerts.close()
    assert int(lines(told)[0]) != os.getpgid(0)
