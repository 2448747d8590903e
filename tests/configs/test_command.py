"""The frame of every command: exit codes and one-line errors."""

import sys
from collections.abc import Callable

import pytest

from configs.command import ReportedError, run


class _FailedOnTheWayError(ReportedError):
    exit_code = 1


def _refuse() -> None:
    raise ReportedError("expected a, got b")


def _fail() -> None:
    raise _FailedOnTheWayError("lost the server")


def _fill_the_disk() -> None:
    raise OSError(28, "No space left on device", "episode.hdf5")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _succeed() -> None:
    pass


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        (_refuse, 2, "error: expected a, got b\n"),
        (_fail, 1, "error: lost the server\n"),
        (_fill_the_disk, 1, "error: episode.hdf5: No space left on device\n"),
        (_succeed, 0, ""),
    ],
)
def test_exit_codes(
    function: Callable[[], None],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        run(function)
    assert stop.value.code == code
    assert capsys.readouterr().err == said


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        run(_interrupt)
    assert stop.value.code == 130


def test_an_unknown_option_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--nonsense"])
    with pytest.raises(SystemExit) as stop:
        run(_succeed)
    assert stop.value.code == 2
