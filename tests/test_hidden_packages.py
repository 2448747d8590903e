"""Commands in a folder whose packages have the names of ours: one line, or no difference."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ghvae_foresight
from ghvae_foresight import PACKAGES, module_command
from tests.patience import patience

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/run_*.py"))
MODULES = [
    *(f"{path.parent.name}.{path.stem}" for path in COMMANDS),
    "robot_bridge.ros.simulator.node",
]
SCRIPT = "import ghvae_foresight; ghvae_foresight.run_task()"


def _run(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}" if path else str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=patience(60), check=False
    )


def _package(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    return folder / name / "__init__.py"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_names_the_package_that_hides_ours(module: str, tmp_path: Path) -> None:
    file = _package(tmp_path, "configs")
    done = _run(tmp_path, "-m", module)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: configs: expected {ROOT / 'configs'}, got {file}, which Python imports")
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.parametrize("name", ["robot_bridge", "ghvae_core"])
def test_each_package_may_be_hidden(name: str, tmp_path: Path) -> None:
    _package(tmp_path, name)
    done = _run(tmp_path, "-m", "planner.run_task", "--help")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {name}: expected")


def test_a_single_file_hides_a_package(tmp_path: Path) -> None:
    (tmp_path / "configs.py").touch()
    assert f"got {tmp_path / 'configs.py'}" in _run(tmp_path, "-m", "planner.run_task", "--help").stderr


@pytest.mark.parametrize("name", ["planner", "configs"])
def test_a_console_script_names_a_package_on_pythonpath(name: str, tmp_path: Path) -> None:
    file = _package(tmp_path / "catkin", name)
    done = _run(tmp_path, "-P", "-c", SCRIPT, path=str(file.parents[1]))
    assert done.returncode == 2 and f"got {file}" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_an_init_file_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    assert _run(tmp_path, "-m", "planner.run_task", "--help").returncode == 0


def test_processes_of_a_console_script_import_what_it_imports(tmp_path: Path) -> None:
    _package(tmp_path, "configs")
    program = (
        "import subprocess; from ghvae_foresight import module_command;"
        "print(subprocess.run([*module_command('ghvae_core.run_server'), '--help']).returncode)"
    )
    done = _run(tmp_path, "-P", "-c", program)
    assert done.stdout.splitlines()[-1] == "0", done.stderr


def test_processes_of_a_checkout_look_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert module_command("a.b") == [sys.executable, "-P", "-m", "a.b"]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_command("a.b") == [sys.executable, "-m", "a.b"]


def test_there_is_a_console_script_for_each_command() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    for path in COMMANDS:
        assert f'"{path.stem}"' in text and callable(getattr(ghvae_foresight, path.stem))
        assert callable(importlib.import_module(f"{path.parent.name}.{path.stem}").main)
