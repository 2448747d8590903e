"""Statistics of the source files, and the files whose functions run in one plan and in one request to the server."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NoReturn

import numpy as np
import psutil
import typer

from configs.command import run
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import Context
from ghvae_core.serving.client import ServerClient
from tests.benchmarks.call_recorder import START, STOP, CallRecorder, environment

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "robot_bridge", "data_collection", "ghvae_core", "planner")
SMALL = 60  # lines
MIN_RUN = 6  # consecutive equal lines that count as a duplicate
ADVANCE = "planner/task.py:advance"  # plans if necessary, and executes one action
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Layout:
    """Statistics of the source files of a tree."""

    lines: Mapping[str, int]  # by module
    twice: Mapping[str, Sequence[str]]  # class names to the modules that define them
    used_once: Sequence[str]  # modules that one other module imports
    duplicates: Sequence[tuple[str, str, int]]  # pairs of files, and the number of their duplicate lines

    def show(self) -> None:
        """Print one statistic per line."""
        small = [name for name, count in self.lines.items() if count < SMALL]
        largest = max(self.lines, key=self.lines.__getitem__)
        print(f"modules                          {len(self.lines)}")
        print(f"under {SMALL} lines                   {len(small)}")
        print(f"median of lines                  {median(self.lines.values()):g}")
        print(f"largest                          {self.lines[largest]} ({largest})")
        print(f"lines in total                   {sum(self.lines.values())}")
        print(f"imported by one module           {len(self.used_once)}")
        print(f"class names defined twice        {len(self.twice)} {' '.join(sorted(self.twice))}")
        print(f"pairs with {MIN_RUN} duplicate lines     {len(self.duplicates)}")
        for first, second, count in self.duplicates[:8]:
            print(f"  {count:3} {first} {second}")


def code_layout(
    root: Annotated[Path, typer.Option(help="Root of the tree to count; traces are those of this tree.")] = ROOT,
    trace: Annotated[bool, typer.Option(help="Also trace one plan and one request.")] = True,
) -> None:
    """Count modules, lines, class names and duplicate lines; then trace one plan and one request to the server."""
    measure(root).show()
    if trace:
        with tempfile.TemporaryDirectory() as folder:
            (plan,) = trace_plan(Path(folder))
        _show("one plan, from the camera image to the executed action", plan, root)
        client, *processes = trace_request()
        _show("one request: client", client, root)
        for process in processes:
            _show(f"one request: {process['name']}", process, root)
        all_files = {file for each in (client, *processes) for file in each["files"]}
        print(f"one request: {len(all_files)} files in total")


def measure(root: Path) -> Layout:
    """Return the statistics of the packages of a tree."""
    files = {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if path.name != "__init__.py"
    }
    trees = {name: ast.parse(text) for name, text in files.items()}
    classes: defaultdict[str, list[str]] = defaultdict(list)
    importers: defaultdict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name)
            for module in _imports(node):
                importers[f"{module.replace('.', '/')}.py"].add(name)
    return Layout(
        lines={name: text.count("\n") for name, text in files.items()},
        twice={name: locations for name, locations in classes.items() if len(locations) > 1},
        used_once=sorted(name for name in files if len(importers[name]) == 1),
        duplicates=duplicates({name: _logical_lines(root / name, tree) for name, tree in trees.items()}),
    )


def duplicates(lines: Mapping[str, Sequence[str]]) -> list[tuple[str, str, int]]:
    """Return pairs of files (or a file twice) with duplicate lines, sorted by descending number.

    Args:
        lines: The compared lines of each file.
    """
    locations: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, each in lines.items():
        for start in range(len(each) - MIN_RUN + 1):
            locations[tuple(each[start : start + MIN_RUN])].append((name, start))
    shared: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for found in locations.values():
        for (first, at), (second, other) in combinations(found, 2):
            if first != second or abs(at - other) >= MIN_RUN:
                shared[first, second].update(range(at, at + MIN_RUN))
    return sorted(((*pair, len(at)) for pair, at in shared.items()), key=lambda row: (-row[2], row[:2]))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _logical_lines(path: Path, tree: ast.Module) -> list[str]:
    """Return the lines without comments, docstrings, imports and pure punctuation, with normalised white space."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_text:
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    tokens: defaultdict[int, list[str]] = defaultdict(list)
    unused = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in unused and token.type != tokenize.ENCODING and token.start[0] not in skipped:
                tokens[token.start[0]].append(token.string)
    lines = (" ".join(each) for _, each in sorted(tokens.items()))
    return [line for line in lines if any(character.isalnum() for character in line)]


def trace_plan(folder: Path) -> list[dict[str, Any]]:
    """Return the trace of the first plan and action of a run in a child process.

    Args:
        folder: An empty folder.
    """
    command = [sys.executable, "-m", "planner.run_task", "pick_wipe", "--predictor", "in_process", "--steps", "1"]
    command += ["--goal", str(ROOT / "configs" / "goals" / "pick_wipe.png"), "--out", str(folder / "report")]
    command += ["--set", "planner.n_candidates=4"]
    subprocess.run(command, env=environment(folder, ROOT, ADVANCE), check=True, capture_output=True, cwd=folder)
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]


def trace_request() -> list[dict[str, Any]]:
    """Return the traces of one request in the client, the server and its worker process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "ghvae_core.run_server", "--address", "tcp://127.0.0.1:0", "--threads", "1"]
        with subprocess.Popen(
            command, env=environment(folder, ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout is not None
                ready = json.loads(server.stdout.readline())
                with closing(ServerClient(ready["ready"], GoalCost())) as client:
                    return [_request(client), *_recorded(client, server.pid, ready["processes"], folder)]
            finally:
                server.terminate()


def _request(client: ServerClient) -> dict[str, Any]:
    _predict(client)
    recorder = CallRecorder(ROOT)
    recorder.attach()
    recorder.start()
    _predict(client)
    recorder.stop()
    recorder.detach()
    return recorder.result()


def _predict(client: ServerClient) -> None:
    spec = client.spec
    frames = np.zeros((spec.n_context, spec.image_px, spec.image_px, 3), np.uint8)
    context = Context(frames, np.zeros((spec.n_context - 1, spec.action_dim), np.float32))
    client.predict(context, np.zeros((4, 2, spec.action_dim), np.float32), frames[0], 1)


def _recorded(client: ServerClient, server: int, workers: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    pids = {"server": server, "worker": workers[0]}
    _signal(pids.values(), START)
    _predict(client)
    _signal(pids.values(), STOP)
    for name, pid in pids.items():
        path, end_s = folder / f"{pid}.json", time.monotonic() + _TIMEOUT_S
        while not path.exists() and time.monotonic() < end_s:
            time.sleep(0.05)
        yield {"name": name, **json.loads(path.read_text(encoding="utf-8"))}


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        psutil.Process(pid).send_signal(number)
    time.sleep(0.3)  # the handler runs between two instructions of the main thread


def _show(title: str, trace: Mapping[str, Any], root: Path) -> None:
    files = [file for file in trace["files"] if file.split("/")[0] in PACKAGES]
    edges = {(first, second) for first, second in trace["edges"] if {first, second} <= set(files)}
    both = sum((second, first) in edges for first, second in edges) // 2
    n_lines = sum((root / file).read_text(encoding="utf-8").count("\n") for file in files)
    serving = {name: n for name, n in trace["calls"].items() if "/serving/" in name}
    coded = [sum(n for name, n in serving.items() if word in name.split(":")[1]) for word in ("encode", "decode")]
    central = sum(file.split("/")[0] in {"planner", "ghvae_core"} for file in files)
    print(f"\n{title}: {len(files)} files ({central} of planner and ghvae_core), {n_lines} lines")
    print(f"  {both} pairs of files call each other; {coded[0]} calls of encode and {coded[1]} of decode in serving")
    for number, file in enumerate(files, 1):
        print(f"  {number:2} {file}")


def main() -> NoReturn:
    """Run the command."""
    run(code_layout)


if __name__ == "__main__":
    main()
