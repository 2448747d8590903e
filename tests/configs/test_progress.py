"""Progress: a line every ten seconds where there is no terminal, with the count, the detail and the time left."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from configs import progress as module
from configs.progress import ProgressBar, announce, counted, duration, listed, say_path
from tests.patience import patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_lines_come_at_most_every_ten_seconds(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("episodes", 20, completed=3, estimates_time=False) as bar:
        for _ in range(10):
            clock.s += 3.0
            bar.advance(detail="1 dropped")
        bar.say("a [line] of text")
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "7 of 20 episodes, 1 dropped",
        "11 of 20 episodes, 1 dropped",
        "a [line] of text",
    ]


def test_a_line_that_would_repeat_the_last_one_has_the_time(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("actions", 50, estimates_time=False) as bar:
        for _ in range(2):
            clock.s += 11.0
            bar.update(5)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "5 of 50 actions" and second.startswith("5 of 50 actions, ") and second.endswith("elapsed")


def test_a_quiet_bar_prints_only_what_is_said(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("trials", None, quiet=True) as bar:
        clock.s += 60.0
        bar.update(5)
        bar.say("failed")
    assert capsys.readouterr().err == "failed\n"


def test_the_time_left_follows_from_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("windows", None) as bar:
        bar.update(1, total=4, label="clips")
        bar._line_at_s -= 60.0
        bar.advance()
    line = capsys.readouterr().err
    assert line.startswith("2 of 4 clips") and "left" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_work_that_takes_long_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with announce("reading", after_s=60.0):
        pass
    assert not capsys.readouterr().err
    with announce("loading the [model]", after_s=0.0):
        end_s, err = time.monotonic() + patience(10), ""
        while not err and time.monotonic() < end_s:
            err = capsys.readouterr().err
            time.sleep(0.01)
    assert err == "loading the [model] ...\n"


def test_lines_come_also_without_updates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "_LINE_INTERVAL_S", 0.02)
    with ProgressBar("steps", 5) as bar:
        bar.update(2, "module_1")
        end_s, err = time.monotonic() + patience(10), ""
        while err.count("\n") < 2 and time.monotonic() < end_s:
            err += capsys.readouterr().err
            time.sleep(0.01)
    assert err.startswith("2 of 5 steps, module_1")


def test_numbers_have_the_right_noun_and_long_lists_are_cut() -> None:
    assert (counted(1, "episode"), counted(0, "episode"), counted(2, "episode")) == (
        *("1 episode", "0 episodes", "2 episodes"),
    )
    assert listed(["a", "b"]) == "a, b" and listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_line_ends_with_a_path_that_is_a_link_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / ("long " * 30) / "report.html"
    say_path("done; report:", path)
    assert capsys.readouterr().err == f"done; report: {path}\n"
    monkeypatch.setattr(module, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True))
    say_path("done; report:", path)
    err = capsys.readouterr().err
    assert "\x1b]8;" in err and path.as_uri() in err and str(path) in err
