"""Runs every `run_*` command: parses arguments, and turns errors into one line and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
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


class ReportedError(Exception):
    """An error whose message is shown to the user without a traceback.

    The message is one line: what was expected, what was given, where, and what to do. Each package has one subclass
    as the base of its own errors.
    """

    exit_code: ClassVar[int] = 2  # 2: the input was refused and nothing was written; 1: a later failure


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
        app.command(name)(each)
    if not callable(function):
        app.callback(help=about)(_nothing)  # without one, typer leaves out the word of a single subcommand
    return app


def run(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None = None) -> NoReturn:
    """Run a function as a command and exit. Its signature defines the command line, its docstring the help.

    Exit codes: 0 when the function returns, 2 on refused input or a missing extra of setup.py, 1 on a later failure,
    130 after Ctrl-C.

    Args:
        function: The function, or the functions of subcommands by name. The one named `DEFAULT` runs where the first
            argument names no other; its help should name the others.
        about: Help text of a command with subcommands.
    """
    try:
        application(_selected(function, sys.argv[1:]), about)()
    except ModuleNotFoundError as error:
        message = missing_extra(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except ReportedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # such as a full disk or a missing permission
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
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


def print_result(result: Mapping[str, object]) -> None:
    """Print the result of a command as one JSON object on one line, the last of standard output."""
    print(json.dumps(result), flush=True)


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
