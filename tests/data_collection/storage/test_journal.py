"""The journal: lines are complete or left out, writers are concurrent, and the summary adds up over all runs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_collection.storage.journal import DONE, JOURNAL_NAME, STOPPED, Journal, Value, read, summarize
from tests.patience import patience

_DAY_S = 86400.0


def at(time_s: float, name: str, **details: Value) -> dict[str, Value]:
    return {"time_s": time_s, "event": name, **details}


def names(folder: Path) -> list[Value]:
    return [event["event"] for event in read(folder)]


def test_events_are_read_in_order(tmp_path: Path) -> None:
    before_s = time.time()
    Journal(tmp_path).note("started")
    Journal(tmp_path).note("dropped", {"kind": "bad_light", "number": 3, "file": None, "given_up": False, "x": 0.5})
    first, second = read(tmp_path)
    assert first["event"] == "started" and set(first) == {"time_s", "event"}
    times_s = [event["time_s"] for event in (first, second)]
    assert all(isinstance(time_s, float) and before_s - 1 < time_s < time.time() + 1 for time_s in times_s)
    expected = {"event": "dropped", "kind": "bad_light", "number": 3, "file": None, "given_up": False, "x": 0.5}
    assert {name: second[name] for name in expected} == expected


def test_text_of_several_lines_is_one_event(tmp_path: Path) -> None:
    Journal(tmp_path).note("dropped", {"reason": "a\nb\u2028c \u00e4"})
    assert (tmp_path / JOURNAL_NAME).read_bytes().count(b"\n") == 1
    assert [event["reason"] for event in read(tmp_path)] == ["a\nb\u2028c \u00e4"]


def test_a_folder_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert read(tmp_path) == [] and summarize([]).runs == 0 and summarize([]).interventions_per_day == 0


def test_only_a_partial_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    for name in ("one", "two"):
        Journal(tmp_path).note(name)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for n in range(first, len(whole) + 1):
        path.write_bytes(whole[:n])
        is_whole = n >= len(whole) - 1  # complete except for its end of line
        assert names(tmp_path) == ["one", "two"][: 1 + is_whole]
        Journal(tmp_path).note("three")
        assert names(tmp_path) == ["one", *["two"][:is_whole], "three"]


@pytest.mark.parametrize(
    "line",
    [b"[]", b"3", b"null", b"", b'{"event":"x"}', b'{"time_s":1.0}', b'{"time_s":"1","event":"x"}', b"\xff\xfe{}"],
)
def test_invalid_lines_are_left_out(tmp_path: Path, line: bytes) -> None:
    good = b'{"time_s":1.0,"event":"one"}\n'
    (tmp_path / JOURNAL_NAME).write_bytes(good + line + b"\n" + good)
    assert read(tmp_path) == [{"time_s": 1.0, "event": "one"}] * 2


_WRITER = """
import sys
from pathlib import Path
from data_collection.storage.journal import Journal
journal = Journal(Path(sys.argv[1]))
for i in range(60):
    journal.note(sys.argv[2], {"i": i, "long": sys.argv[2] * 6000})
"""


def test_several_processes_can_write_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), name]) for name in "abc"]
    assert [writer.wait(patience(60)) for writer in writers] == [0, 0, 0]
    events = read(tmp_path)
    for name in "abc":
        mine = [event for event in events if event["event"] == name]
        assert [event["i"] for event in mine] == list(range(60))
        assert all(event["long"] == name * 6000 for event in mine)
    assert len(events) == 180 == sum(line != b"" for line in (tmp_path / JOURNAL_NAME).read_bytes().splitlines())


def test_a_partial_write_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space left") as full:
            Journal(tmp_path).note("one")
    assert full.value.errno == errno.ENOSPC and JOURNAL_NAME in str(full.value.filename)
    Journal(tmp_path).note("two")
    assert names(tmp_path) == ["two"]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=JOURNAL_NAME):
        Journal(tmp_path / "gone").note("one")


def test_events_are_counted_by_kind() -> None:
    events = [
        at(0.0, "started"),
        *[at(1.0, "dropped", kind=kind) for kind in ("RobotFault", "bad_light", "RobotFault")],
        *[at(2.0, "quarantined", kind=kind, attempt=0) for kind in ("frozen_camera", "frozen_camera", "idle_arm")],
        *[at(3.0, "lost", number=number) for number in (4, 5)],
        *[at(3.0, "restarted") for _ in range(3)],
        at(4.0, "swept"),
        at(5.0, "of a later version"),
        at(6.0, "ended", why=DONE),
    ]
    history = summarize(events)
    assert history.dropped == {"RobotFault": 2, "bad_light": 1}
    assert history.quarantined == {"frozen_camera": 2, "idle_arm": 1}
    assert (history.lost, history.restarts, history.sweeps, history.runs) == (2, 3, 1, 1)
    assert history.running_s == 6.0 and history.interventions == 0


@pytest.mark.parametrize(
    ("ends", "interventions"),
    [
        ([DONE, DONE], 0),
        ([STOPPED, DONE], 1),
        ([DONE, STOPPED], 0),
        (["expected 2 GiB of free disk, got 1", "lost the arm", DONE], 2),
        ([None, DONE], 1),  # None: a run that was killed
        ([None, None, None], 2),
        ([DONE, None, STOPPED, DONE, DONE], 2),
    ],
    ids=str,
)
def test_a_start_after_an_incomplete_run_is_an_intervention(ends: list[str | None], interventions: int) -> None:
    events = []
    for i, why in enumerate(ends):
        events += [at(1000.0 * i, "started"), at(1000.0 * i + 60, "waiting")]
        events += [] if why is None else [at(1000.0 * i + 100, "ended", why=why)]
    history = summarize(events)
    n_killed = ends.count(None)
    assert (history.runs, history.interventions) == (len(ends), interventions)
    assert history.running_s == 100.0 * (len(ends) - n_killed) + 60.0 * n_killed
    assert history.interventions_per_day == pytest.approx(interventions / history.running_s * _DAY_S)


def test_operator_actions_after_a_run_are_not_running_time() -> None:
    by_hand = at(900.0, "quarantined", kind="by_hand", number=3, reason="set aside by a person")
    ended = summarize([at(0.0, "started"), at(100.0, "ended", why=DONE), by_hand])
    killed = summarize([at(0.0, "started"), at(60.0, "waiting"), by_hand])
    alone = summarize([by_hand])
    assert [history.running_s for history in (ended, killed, alone)] == [100.0, 60.0, 0.0]
    assert all(history.quarantined == {"by_hand": 1} for history in (ended, killed, alone))


def test_no_time_is_negative_after_the_clock_is_set_back() -> None:
    back = [at(1000.0, "started"), at(1100.0, "waiting"), at(400.0, "waiting"), at(500.0, "ended", why=DONE)]
    assert summarize(back).running_s == 100.0
    assert summarize([*back, at(450.0, "started"), at(460.0, "ended", why=DONE)]).running_s == 110.0
    assert summarize([at(1000.0, "started"), at(10.0, "ended", why=STOPPED), at(11.0, "started")]).running_s == 0.0


def test_an_end_without_a_reason_is_incomplete() -> None:
    history = summarize([at(0.0, "started"), at(10.0, "ended"), at(500.0, "started"), at(520.0, "ended", why=DONE)])
    assert (history.interventions, history.running_s) == (1, 30.0)
