"""Start of every command: refuses to run where Python would import another package in place of one of this project."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final

PACKAGES: Final = ("configs", "robot_bridge", "data_collection", "ghvae_core", "planner")
_HERE: Final = Path(__file__).resolve().parent


def hidden_package() -> str | None:
    """Return one line on the first package that another one of the same name hides; None if there is none."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and not _is_ours(spec):
            found = spec.origin or spec.submodule_search_locations
            return (
                f"{name}: expected {_HERE / name}, got {found}, which Python imports in its place; rename it, start the"
                " command from another folder, or take its folder off PYTHONPATH"
            )
    return None


def module_command(module: str) -> list[str]:
    """Return the command line, without arguments, that runs a module in another process of this interpreter.

    The process does not look for packages in the current folder, which may hide ours, unless this one does.
    """
    looks_here = any(Path(entry).absolute() == Path.cwd() for entry in sys.path)
    return [sys.executable, *([] if looks_here else ["-P"]), "-m", module]


def _report_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for Ctrl-C while a command is imported; then Python ends by SIGINT, exit code 130 of a shell."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _is_ours(spec: ModuleSpec) -> bool:
    return any(Path(place).resolve() == _HERE / spec.name for place in spec.submodule_search_locations or ())


def _command(module: str) -> Callable[[], None]:
    """Return the function that a console script calls."""

    def main() -> None:
        importlib.import_module(module).main()

    return main


if (_message := hidden_package()) is not None:
    print(f"error: {_message}", file=sys.stderr)
    sys.exit(2)

sys.excepthook = _report_interrupt

run_collection = _command("data_collection.run_collection")
run_data = _command("data_collection.run_data")
run_finetune = _command("ghvae_core.run_finetune")
run_distance = _command("ghvae_core.run_distance")
run_evaluation = _command("ghvae_core.run_evaluation")
run_server = _command("ghvae_core.run_server")
run_keys = _command("ghvae_core.run_keys")
run_doctor = _command("planner.run_doctor")
run_goal = _command("planner.run_goal")
run_task = _command("planner.run_task")
run_trials = _command("planner.run_trials")
