"""Counts and call recorder of `code_layout`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.call_recorder import CallRecorder, environment
from tests.benchmarks.code_layout import ROOT, duplicates, measure

FIRST = """
import planner.second
class Twice: ...
def outer():
    planner.second.inner()
"""
SECOND = """
class Twice: ...
class Once: ...
def inner(): ...
"""


def _tree(root: Path) -> Path:
    (root / "planner").mkdir()
    (root / "planner" / "__init__.py").touch()
    (root / "planner" / "first.py").write_text(FIRST)
    (root / "planner" / "second.py").write_text(SECOND)
    return root


def test_counts(tmp_path: Path) -> None:
    shape = measure(_tree(tmp_path))
    assert shape.lines == {"planner/first.py": 5, "planner/second.py": 4}
    assert shape.twice == {"Twice": ["planner/first.py", "planner/second.py"]}
    assert shape.used_once == ["planner/second.py"]
    assert shape.duplicates == []


def test_duplicate_lines() -> None:
    same = [f"line {n}" for n in range(7)]
    assert duplicates({"a.py": ["x", *same], "b.py": [*same, "y"]}) == [("a.py", "b.py", 7)]
    assert duplicates({"a.py": same[:5], "b.py": same[:5]}) == []
    assert duplicates({"a.py": ["x"] * 7}) == []  # overlapping runs do not count


def test_public_class_names_occur_at_most_twice_and_small_files_are_few() -> None:
    shape = measure(ROOT)
    assert max(len(locations) for name, locations in shape.twice.items() if not name.startswith("_")) <= 2
    assert sum(count < 60 for count in shape.lines.values()) <= 25


def test_the_recorder_returns_files_in_order_and_their_callers() -> None:
    recorder = CallRecorder(ROOT)
    recorder.attach()
    recorder.start()
    duplicates({})
    recorder.stop()
    duplicates({})
    recorder.detach()
    result = recorder.result()
    assert result["files"] == ["tests/benchmarks/code_layout.py"]
    assert result["calls"]["tests/benchmarks/code_layout.py:duplicates"] == 1
    assert result["edges"] == [("tests/benchmarks/test_code_layout.py", "tests/benchmarks/code_layout.py")]


def test_a_child_process_records_the_calls_of_one_function(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    program = "import planner.first as f; f.planner.second.inner(); f.outer(); f.outer()"
    environ = environment(out, _tree(root), "planner/first.py:outer")
    subprocess.run([sys.executable, "-c", program], env=environ, cwd=out, check=True)
    (path,) = out.glob("*.json")
    result = json.loads(path.read_text())
    assert result["files"] == ["planner/first.py", "planner/second.py"]
    assert result["edges"] == [["planner/first.py", "planner/second.py"]]
    assert result["calls"] == {"planner/first.py:outer": 1, "planner/second.py:inner": 1}


def test_the_recorder_does_not_import_the_project() -> None:
    spec = importlib.util.find_spec("tests.benchmarks.call_recorder")
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    assert not any(f"{package}." in text for package in ("configs", "robot_bridge", "ghvae_core"))
