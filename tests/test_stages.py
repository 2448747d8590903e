"""`make test` runs every stage, and ends with the failed ones and the skipped tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages import LINT, SLOW, TEST, run_stages

ROOT = Path(__file__).resolve().parents[1]


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_all_stages_run_and_the_failed_ones_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stages = {
        "lint": _python("import sys; print('first'); sys.exit(1)"),
        "tests": _python("print('second')"),
        "ROS tests": _python("import sys; print('third'); sys.exit(2)"),
        "tests without a test": _python("import sys; sys.exit(5)"),
        "killed": _python("import os; os.kill(os.getpid(), 9)"),
    }
    assert run_stages(stages) == 1
    out = capfd.readouterr().out
    assert [word for word in ("first", "second", "third") if word in out] == ["first", "second", "third"]
    assert out.splitlines()[-1].startswith("-- 5 stages in")
    assert out.splitlines()[-1].endswith("failed: lint, ROS tests, tests without a test, killed")


def test_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_stages({"tests": _python("pass")}) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "-- 1 stages in 0 s, all passed"


def test_pytest_reports_skipped_tests_with_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('nowhere', reason='no ROS')\n")
    (tmp_path / "test_few.py").write_text(
        "import pytest\n@pytest.mark.skipif(True, reason='no arm')\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_arm(n): ...\ndef test_passes(): ...\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    pytest_command += [f"--rootdir={tmp_path}", str(tmp_path)]
    stages = {"serial": pytest_command, "parallel": [*pytest_command, "-n", "2"]}
    assert run_stages(stages) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("-- skipped")]
    assert lines == ["-- skipped: 2 tests: no arm", "-- skipped: 1 test file: no ROS"]


def test_lint_is_part_of_every_group_and_each_test_of_one_stage() -> None:
    assert LINT.items() <= TEST.items() and LINT.items() <= SLOW.items()
    commands = [" ".join(command) for stages in (TEST, SLOW) for command in stages.values()]
    markers = [command.partition("-m ")[2].partition(" -")[0] for command in commands if "pytest" in command]
    assert markers[0] == "not slow and not ros and not libfranka" and {"ros", "libfranka", "slow"} <= {
        marker.split()[0] for marker in markers
    }


@pytest.mark.parametrize(("target", "group"), [("lint", "lint"), ("test", "test"), ("test-slow", "slow")])
def test_make_runs_the_stages(target: str, group: str) -> None:
    outside_make = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, env=outside_make, capture_output=True, text=True, check=True)
    set_up, run = done.stdout.splitlines()
    assert set_up == "./bootstrap.sh dev" and run.endswith(f".venv/bin/python -m tests.stages {group}")
