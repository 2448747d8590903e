"""Runs blocks one after another in one copy of the project, as somebody who reads the pages would.

A page starts in the folder of the project, with the variables that the shell blocks before it have exported; its Python
blocks share one process. Each block may leave processes running only in a terminal of its own.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from configs.progress import ProgressBar
from tests.documentation.blocks import PYTHON, ROOT, Block, difference

_END_S, _POLL_S = 20.0, 0.2  # for a process to end after SIGTERM; between two looks at its output
_INTERPRETER = """import os, sys, traceback
for path in sys.stdin:
    code = 0
    try:
        exec(compile(open(path.strip()).read(), path.strip(), "exec"), globals())
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os.write(int(sys.argv[1]), b"%d\\n" % code)
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a block; `code` is None where it was left out, and `problem` is empty where nothing is wrong."""

    block: Block
    seconds: float
    code: int | None
    problem: str


def run_blocks(found: Sequence[Block], folder: Path, *, activated: bool, limit_s: float) -> list[Outcome]:
    """Run blocks in order in a copy of the project.

    Args:
        found: The blocks, page after page.
        folder: A new folder for the copy and the logs.
        activated: The commands of this environment are on the path from the start.
        limit_s: Longest time of a block.
    """
    project, logs = folder / "project", folder / "logs"
    for each in (project, logs):
        each.mkdir(parents=True)
    _copy_project(project)
    _create_environment(project)
    session = Session(project, logs, _variables(project, activated=activated), limit_s)
    outcomes: list[Outcome] = []
    with ProgressBar("blocks", len(found), estimates_time=False) as bar:
        try:
            for block in found:
                if outcomes and outcomes[-1].block.page != block.page:
                    session.end_page()
                bar.update(len(outcomes), f"{block.page} {block.number}: {block.first_line}")
                outcomes.append(session.run(block))
                last = outcomes[-1]
                result = last.problem or ("left out" if last.code is None else "ok")
                bar.say(f"{block.page} {block.number}: {result}, {last.seconds:.1f} s: {block.first_line}")
                bar.advance()
        finally:
            session.end_page()
    return outcomes


class Session:
    """The terminals and the Python process of somebody who reads one page after the other.

    Args:
        folder: The copy of the project.
        logs: Folder for the output of each block.
        environment: The variables at the start.
        limit_s: Longest time of a block.
    """

    def __init__(self, folder: Path, logs: Path, environment: Mapping[str, str], limit_s: float) -> None:
        self._folder, self._logs, self._limit_s = folder, logs, limit_s
        self._environment = {**environment, "PWD": str(folder)}
        self._terminals: dict[str, subprocess.Popen[bytes]] = {}
        self._python: tuple[subprocess.Popen[bytes], int] | None = None

    def run(self, block: Block) -> Outcome:
        """Run a block and compare its output with the one that the page shows."""
        if block.left_out:
            return Outcome(block, 0.0, None, "")
        began_s = time.monotonic()
        log = self._logs / f"{block.page.replace('/', '_').removesuffix('.md')}-{block.number:02}.log"
        code, problem = 0, ""
        for text, shown in block.commands:
            start = log.stat().st_size if log.exists() else 0
            if block.language == PYTHON:
                code = self._run_python(text, log)
            elif block.terminal:
                code = self._leave_running(block, log)
            else:
                code = self._run_shell(text, log)
            with log.open("rb") as file:
                file.seek(start)
                printed = file.read().decode(errors="replace")
            refused = any(line.startswith("error: ") for line in shown)
            problem = difference(shown, printed) if (code != 0) == refused else f"exit code {code}"
            if problem:
                break
        return Outcome(block, time.monotonic() - began_s, code, problem)

    def end_page(self) -> None:
        """End what the blocks of a page have left running, and return to the folder of the project."""
        for process in self._terminals.values():
            _end(process)
        if self._python is not None:
            _end(self._python[0])
            os.close(self._python[1])
        self._terminals, self._python = {}, None
        self._environment["PWD"] = str(self._folder)

    def _start(self, command: Sequence[str], log: Path, **options: object) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
                command,
                cwd=self._environment["PWD"],
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )

    def _run_shell(self, text: str, log: Path) -> int:
        state = self._logs / "environment"
        keep = f"trap 'env -0 > {state}' EXIT\n"
        shell = ["bash", "-euo", "pipefail", "-c", keep + text]
        process = self._start(shell, log, stdin=subprocess.DEVNULL)
        try:
            code = process.wait(self._limit_s)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            _end(process)
        entries = state.read_bytes().decode(errors="replace").split("\0") if state.exists() else []
        self._environment = dict(entry.split("=", 1) for entry in entries if "=" in entry) or self._environment
        return code

    def _leave_running(self, block: Block, log: Path) -> int:
        if block.terminal in self._terminals:
            _end(self._terminals[block.terminal])
        shell = ["bash", "-euo", "pipefail", "-c", block.text]
        process = self._terminals[block.terminal] = self._start(shell, log, stdin=subprocess.DEVNULL)
        ends_s = time.monotonic() + self._limit_s
        while block.ready not in log.read_text(encoding="utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > ends_s:
                return process.poll() or 124
            time.sleep(_POLL_S)
        return process.poll() or 0

    def _run_python(self, text: str, log: Path) -> int:
        if self._python is None:
            reads, writes = os.pipe()
            command = ["python", "-c", _INTERPRETER, str(writes)]
            python = shutil.which("python", path=self._environment["PATH"]) or sys.executable
            process = self._start(
                command, log.with_name("python.log"), executable=python, stdin=subprocess.PIPE, pass_fds=(writes,)
            )
            os.close(writes)
            self._python = process, reads
        process, reads = self._python
        program = log.with_suffix(".py")
        program.write_text(text, encoding="utf-8")
        assert process.stdin is not None
        process.stdin.write(f"{program}\n".encode())
        process.stdin.flush()
        if not select.select([reads], [], [], self._limit_s)[0]:
            _end(process)
        code = os.read(reads, 16)  # empty where the process has ended
        output = log.with_name("python.log")
        log.write_bytes(output.read_bytes())
        output.write_bytes(b"")
        return int(code) if code else abs(process.wait())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all those of its group."""
    ends_s = time.monotonic() + _END_S
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < ends_s:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(_POLL_S / 4)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _copy_project(folder: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # not deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _variables(folder: Path, *, activated: bool) -> dict[str, str]:
    """Return the variables of a new terminal, without those of the environment that runs this program."""
    mine = sysconfig.get_path("scripts")
    path = [each for each in os.environ["PATH"].split(os.pathsep) if each != mine]
    left_out = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "COLUMNS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    mode = {"PYTHONPATH": str(folder)} if activated else {}
    return {**kept, **mode, "PATH": os.pathsep.join([mine] * activated + path), "COLUMNS": "120"}


def _create_environment(folder: Path) -> None:
    """Create .venv in the copy, which finds the packages of this environment: the set-up loads only what is missing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / ".venv" / "lib" / python / "site-packages"
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    for script in Path(sysconfig.get_path("scripts")).iterdir():  # of the packages, such as tensorboard
        copy = folder / ".venv" / "bin" / script.name
        first, _, rest = script.read_bytes().partition(b"\n") if script.is_file() else (b"", b"", b"")
        if first.startswith(b"#!") and b"python" in first and not copy.exists() and not script.name.startswith("run_"):
            copy.write_bytes(f"#!{copy.with_name('python')}\n".encode() + rest)
            copy.chmod(0o755)
