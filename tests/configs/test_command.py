"""Running a command: exit codes and one-line errors."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import pytest
import typer

from configs.command import DEFAULT, ReportedError, print_result, renamed_option, run
from configs.interruption import interruption


class _FailedOnTheWayError(ReportedError):
    exit_code = 1


def _refuse() -> None:
    raise ReportedError("expected a, got b")


def _fail() -> None:
    raise _FailedOnTheWayError("the server does not reply")


def _fill_the_disk() -> None:
    raise OSError(28, "No space left on device", "episode.hdf5")


def _lack_the_permission() -> None:
    raise PermissionError(13, "Permission denied", "episodes")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _terminate_later() -> None:
    with interruption():
        os.kill(os.getpid(), signal.SIGTERM)


def _lack_torch() -> None:
    raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")


def _succeed() -> None:
    pass


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Restore the handler that every command sets."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        (_refuse, 2, "error: expected a, got b\n"),
        (_fail, 1, "error: the server does not reply\n"),
        (_fill_the_disk, 1, "error: episode.hdf5: No space left on device\n"),
        (_lack_the_permission, 2, "error: episodes: Permission denied\n"),
        (_interrupt, 130, "stopped by Ctrl-C\n"),
        (_terminate, 130, "stopped by SIGTERM\n"),
        (_terminate_later, 130, "stopped by SIGTERM\n"),
        (_lack_torch, 2, "error: torch.nn is not installed; run: pip install 'ghvae-foresight[model]'\n"),
        (_succeed, 0, ""),
    ],
)
def test_exit_codes(
    function: Callable[[], None],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as stop:
        run(function)
    assert stop.value.code == code
    assert capsys.readouterr().err == message


def test_a_missing_module_that_no_extra_installs_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'planer'", name="planer")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ModuleNotFoundError):
        run(fail)


def test_a_result_is_one_line_of_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"cost": float("nan"), "text": "two\nlines", "costs": [1.5, float("inf")]})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"cost": None, "text": "two\nlines", "costs": [1.5, None]}


def test_an_unknown_option_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--nonsense"])
    with pytest.raises(SystemExit) as stop:
        run(_succeed)
    assert stop.value.code == 2


def _greet(name: str, loud: bool = False) -> None:
    """Say hello."""
    print(f"HELLO {name}" if loud else f"hello {name}")


WITH_DEFAULT: dict[str, Callable[..., None]] = {DEFAULT: _greet, "refuse": _refuse}
COMMANDS: dict[str, Callable[..., None]] = {"greet": _greet, "refuse": _refuse, "fail": _fail, "stop": _interrupt}


@pytest.mark.parametrize(
    ("commands", "arguments", "code", "output"),
    [
        (COMMANDS, ["greet", "you"], 0, ("hello you\n", "")),
        (COMMANDS, ["greet", "you", "--loud"], 0, ("HELLO you\n", "")),
        (COMMANDS, ["refuse"], 2, ("", "error: expected a, got b\n")),
        (COMMANDS, ["fail"], 1, ("", "error: the server does not reply\n")),
        # The default runs where the first argument names no subcommand.
        (WITH_DEFAULT, ["you"], 0, ("hello you\n", "")),
        (WITH_DEFAULT, ["you", "--loud"], 0, ("HELLO you\n", "")),
        (WITH_DEFAULT, ["--loud", "refuse"], 0, ("HELLO refuse\n", "")),
        (WITH_DEFAULT, ["refuse"], 2, ("", "error: expected a, got b\n")),
    ],
)
def test_the_subcommand_is_run(
    *,
    commands: dict[str, Callable[..., None]],
    arguments: list[str],
    code: int,
    output: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(commands, "About commands.")
    assert stop.value.code == code
    assert capsys.readouterr() == output


def test_ctrl_c_exits_with_130_from_a_subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "stop"])
    with pytest.raises(SystemExit) as stop:
        run(COMMANDS)
    assert stop.value.code == 130


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["greet"], ["greet", "you", "--nonsense"], ["greet", "you", "me"], ["--loud"]], ids=str
)
def test_unknown_subcommands_and_arguments_exit_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(COMMANDS)
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.err and not output.out


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)], ids=str)
def test_without_a_subcommand_all_are_listed_and_none_is_run(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(COMMANDS, "About commands.")
    output = "".join(capsys.readouterr())
    assert stop.value.code == code
    assert all(words in output for words in ("About commands.", "greet", "Say hello.", "refuse", "fail", "stop"))


def test_one_function_needs_no_subcommand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "you"])
    with pytest.raises(SystemExit) as stop:
        run(_greet)
    assert stop.value.code == 0 and capsys.readouterr().out == "hello you\n"


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--help"], "Say hello."), (["refuse", "--help"], "refuse [OPTIONS]")], ids=str
)
def test_the_default_and_a_subcommand_have_their_own_help(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(WITH_DEFAULT)
    assert stop.value.code == 0 and words in capsys.readouterr().out


def _plan(n: Annotated[int, typer.Option()] = 1, m: Annotated[int | None, renamed_option("--m", "--n")] = None) -> None:
    """Plan."""


def test_a_renamed_option_is_refused_with_its_present_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--m", "3"])
    with pytest.raises(SystemExit) as stop:
        run(_plan)
    assert stop.value.code == 2 and capsys.readouterr().err == "error: --m is now --n\n"


def test_a_renamed_option_is_not_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit) as stop:
        run(_plan)
    output = capsys.readouterr().out
    assert stop.value.code == 0 and "--n" in output and "--m" not in output
