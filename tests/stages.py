"""Runs the stages of `make lint`, `make test` and `make test-slow`, all of them even when one fails.

Usage: python -m tests.stages lint|test|slow
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.progress import duration

_SKIPPED_TESTS = "SKIPPED_TESTS"  # names the file that pytest adds its skipped tests to, see tests/conftest.py
_NO_TESTS = {"ROS tests": 5}  # exit code of pytest where ROS is missing: its modules are skipped before their tests
_BIN = Path(sys.executable).parent
_PYTEST = f"{_BIN}/pytest"
# Half of the time of a test goes by while it waits for other processes, so there are more tests at a time than cores.
_PARALLEL = ("-n", "4", "--dist", "worksteal", "--durations=15")

Stages = Mapping[str, Sequence[str]]
LINT: Stages = {
    "ruff check": (f"{_BIN}/ruff", "check", "."),
    "ruff format": (f"{_BIN}/ruff", "format", "--check", "."),
    "mypy": (f"{_BIN}/mypy",),
}
TEST: Stages = {
    **LINT,
    "tests": (_PYTEST, "-m", "not slow and not ros and not libfranka", *_PARALLEL),
    # These keep real time, each process with a master and a driver of its own.
    "ROS tests": (_PYTEST, "-m", "ros and not slow", *_PARALLEL, "tests/robot_bridge/ros"),
    # These share one arm.
    "libfranka tests": (_PYTEST, "-m", "libfranka", "tests/robot_bridge/libfranka"),
}
SLOW: Stages = {**LINT, "slow tests": (_PYTEST, "-m", "slow")}


def run_stages(stages: Stages) -> int:
    """Run each stage; print the failed ones and the skipped tests. Return the exit code: 0 if none failed, else 1."""
    began_s = time.monotonic()
    failed = []
    # The tests start hundreds of processes: each would compile the modules anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        skipped = Path(folder) / "skipped"
        skipped.touch()
        for number, (name, command) in enumerate(stages.items(), 1):
            print(f"-- stage {number} of {len(stages)}: {name}", flush=True)
            code = subprocess.run(command, env=environment | {_SKIPPED_TESTS: str(skipped)}, check=False).returncode
            if code not in {0, _NO_TESTS.get(name, 0)}:
                failed.append(name)
        for line in _reasons(skipped.read_text(encoding="utf-8")):
            print(f"-- skipped: {line}")
    result = f"failed: {', '.join(failed)}" if failed else "all passed"
    print(f"-- {len(stages)} stages in {duration(time.monotonic() - began_s)}, {result}", flush=True)
    return 1 if failed else 0


def _reasons(skipped: str) -> list[str]:
    """Return each reason with the number of tests, or of files whose tests are unknown without an optional part."""
    unique = {line for line in skipped.splitlines() if line}  # a file may be skipped in several stages
    count = Counter((line.partition("\t")[2], "::" in line.partition("\t")[0]) for line in unique)
    return [
        f"{n} {'test' if is_test else 'test file'}{'s' if n > 1 else ''}: {reason}"
        for (reason, is_test), n in count.most_common()
    ]


def main() -> int:
    """Run the stages that the first argument names."""
    try:
        return run_stages({"lint": LINT, "test": TEST, "slow": SLOW}[sys.argv[1]])
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
