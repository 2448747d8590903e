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


def _lack_torch() -> None:
    raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")


def _succeed() -> None:
    pass


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        (_refuse, 2, "error: expected a, got b\n"),
        (_fail, 1, "error: lost the server\n"),
        (_fill_the_disk, 1, "error: episode.hdf5: No space left on device\n"),
        (_lack_torch, 2, "error: torch.nn is not installed; run: pip install 'ghvae-foresight[model]'\n"),
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


def test_a_missing_module_that_no_extra_installs_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'planer'", name="planer")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ModuleNotFoundError):
        run(fail)


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


def _greet(name: str, loud: bool = False) -> None:
    """Say hello."""
    print(f"HELLO {name}" if loud else f"hello {name}")


WORDS: dict[str, Callable[..., None]] = {"greet": _greet, "refuse": _refuse, "fail": _fail, "stop": _interrupt}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["greet", "you"], 0, ("hello you\n", "")),
        (["greet", "you", "--loud"], 0, ("HELLO you\n", "")),
        (["refuse"], 2, ("", "error: expected a, got b\n")),
        (["fail"], 1, ("", "error: lost the server\n")),
    ],
    ids=str,
)
def test_a_word_chooses_what_is_run(
    arguments: list[str],
    code: int,
    told: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(WORDS, "About words.")
    assert stop.value.code == code
    assert capsys.readouterr() == told


def test_ctrl_c_exits_with_130_from_a_word_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "stop"])
    with pytest.raises(SystemExit) as stop:
        run(WORDS)
    assert stop.value.code == 130


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["greet"], ["greet", "you", "--nonsense"], ["greet", "you", "me"], ["--loud"]], ids=str
)
def test_words_that_are_not_understood_exit_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(WORDS)
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.err and not told.out


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)], ids=str)
def test_without_a_word_all_are_told_and_nothing_is_run(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(WORDS, "About words.")
    told = "".join(capsys.readouterr())
    assert stop.value.code == code
    assert all(words in told for words in ("About words.", "greet", "Say hello.", "refuse", "fail", "stop"))


def test_a_function_alone_needs_no_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "you"])
    with pytest.raises(SystemExit) as stop:
        run(_greet)
    assert stop.value.code == 0 and capsys.readouterr().out == "hello you\n"
