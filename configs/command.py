"""Runs every `run_*` command: parses arguments, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import functools
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, ClassVar, NoReturn

import typer

# Library, imported only where a command needs it: extra of setup.py that installs it.
EXTRAS: Mapping[str, str] = {
    "torch": "model",
    "safetensors": "model",
    "tensorboard": "model",
    "mujoco": "simulation",
    "pyarrow": "lerobot",
    "franky": "franky",
}

DEFAULT = ""  # name of the function that a command with subcommands runs without one

# Errors of a path that cannot be used as given: input that is refused. Others, such as a full disk, are failures.
REFUSED_PATHS = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
)


class ReportedError(Exception):
    """An error whose message is shown to the user without a traceback.

    The message is one line: what was expected, what was given, where, and what to do. Each package has one subclass
    as the base of its own errors.
    """

    exit_code: ClassVar[int] = 2  # 2: the input was refused and nothing was written; 1: a later failure


class _StoppedError(Exception):
    """Ctrl-C, or the signal that the argument names."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return one line on how to install the library of a failed import; None if no extra of setup.py installs it."""
    extra = EXTRAS.get(str(error.name).partition(".")[0])
    return extra and f"{error.name} is not installed; run: pip install 'ghvae-foresight[{extra}]'"


def application(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None) -> typer.Typer:
    """Return the typer application of a command; arguments as for `run`."""
    commands = {None: function} if callable(function) else function
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help=about,
        no_args_is_help=not callable(function),
    )
    for name, each in commands.items():
        app.command(name)(_stoppable(each))
    if not callable(function):
        app.callback(help=about)(_nothing)  # without one, typer leaves out the word of a single subcommand
    return app


def run(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None = None) -> NoReturn:
    """Run a function as a command and exit. Its signature defines the command line, its docstring the help.

    Exit codes: 0 when the function returns, 2 on refused input, a path that cannot be used as given or a missing extra
    of setup.py, 1 on a later failure such as a full disk, 130 after Ctrl-C or SIGTERM.

    Args:
        function: The function, or the functions of subcommands by name. The one named `DEFAULT` runs where the first
            argument names no other; its help should name the others.
        about: Help text of a command with subcommands.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        application(_selected(function, sys.argv[1:]), about)()
    except ModuleNotFoundError as error:
        message = missing_extra(error)
        if message is None:
            raise
        _end(f"error: {message}", 2)
    except ReportedError as error:
        _end(f"error: {error}", error.exit_code)
    except OSError as error:
        message = f"error: {error.filename or 'input or output'}: {error.strerror or error}"
        _end(message, 2 if error.errno in REFUSED_PATHS else 1)
    except (KeyboardInterrupt, _StoppedError) as error:
        _end(f"stopped by {str(error) or 'Ctrl-C'}", 130)
    sys.exit(0)


def _selected(
    function: Callable[..., Any] | Mapping[str, Callable[..., Any]], arguments: Sequence[str]
) -> Callable[..., Any] | Mapping[str, Callable[..., Any]]:
    """Return the default function of a command, or the functions of its subcommands where the arguments name one."""
    if callable(function) or DEFAULT not in function:
        return function
    others = {name: each for name, each in function.items() if name != DEFAULT}
    return others if arguments and arguments[0] in others else function[DEFAULT]


def _nothing() -> None:
    """Do nothing before a subcommand."""


def _stoppable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with another error for an interrupt, which typer would turn into an exit without a line."""

    @functools.wraps(function)
    def run_stoppable(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except KeyboardInterrupt as error:
            raise _StoppedError(*error.args) from None

    return run_stoppable


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def print_result(result: Mapping[str, object]) -> None:
    """Print the result of a command as one JSON object on one line, the last of standard output.

    A number that JSON cannot hold, NaN or infinity, is printed as null.
    """
    finite = json.loads(json.dumps(result), parse_constant=lambda _: None)
    print(json.dumps(finite), flush=True)


def refuse_unused(options: Mapping[str, bool], reason: str) -> None:
    """Refuse options that were given but have no effect.

    Args:
        options: Name of each option, and whether it was given.
        reason: Such as "in simulation".

    Raises:
        ReportedError: The message names them.
    """
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise ReportedError(f"{', '.join(given)}: no effect {reason}; omit {'it' if len(given) == 1 else 'them'}")


def renamed_option(former: str, present: str) -> Any:
    """Return a hidden option, for the annotation of a parameter, that is refused under its former name.

    Args:
        former: The option, with its dashes.
        present: Its present name.
    """

    def refuse(value: object) -> None:
        if value:
            raise ReportedError(f"{former} is now {present}")

    return typer.Option(former, hidden=True, callback=refuse)
