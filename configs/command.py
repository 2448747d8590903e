"""The frame of every `run_*` command: arguments in, an exit code out, no traceback for a user's mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import typer

# The extra of setup.py that installs a library which a command imports only where it needs it.
EXTRAS: Mapping[str, str] = {
    "torch": "model",
    "safetensors": "model",
    "tensorboard": "model",
    "mujoco": "simulation",
    "pyarrow": "lerobot",
    "franky": "franky",
}


class ReportedError(Exception):
    """An error whose message is meant for the person at the terminal.

    The message is one line that says what was expected, what came, where, and what to do. Each package has one
    subclass as the base of its own errors.
    """

    exit_code: ClassVar[int] = 2  # 2: the input was refused and nothing was written; 1: the work failed on the way


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what to install for a failed import, in one line; None if no extra of setup.py installs it."""
    extra = EXTRAS.get(str(error.name).partition(".")[0])
    return extra and f"{error.name} is not installed; run: pip install 'ghvae-foresight[{extra}]'"


def application(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None) -> typer.Typer:
    """Return the command line of a command, as `run` takes it."""
    words = {None: function} if callable(function) else function
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help=about,
        no_args_is_help=not callable(function),
    )
    for word, each in words.items():
        app.command(word)(each)
    return app


def run(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None = None) -> NoReturn:
    """Run `function` as a command: its signature is the command line, its docstring the help.

    Several are words that follow the command, by name, and `about` is what they have in common.

    Exits with 0 when it returns, 2 on refused input or a missing extra of setup.py, 1 on a failure on the way, 130
    after Ctrl-C.
    """
    try:
        application(function, about)()
    except ModuleNotFoundError as error:
        message = missing_extra(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except ReportedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing right: nobody's bug, and no place to list them all
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


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
