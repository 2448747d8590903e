"""Jobs in processes: their answers, their failures, and their end when the caller stops."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from configs.loader import FOLDER
from planner.trials.process_pool import ProcessFailure, run_in_processes
from tests.patience import patience


class _Answer(NamedTuple):
    square: int
    pid: int
    threads: str
    ignores_sigint: bool


def _square(number: int) -> _Answer:
    ignores_sigint = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return _Answer(number * number, os.getpid(), os.environ["OMP_NUM_THREADS"], ignores_sigint)


def _die(code: int) -> int:
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def _report_pid_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def _report_pid_and_wait_or_die(job: str) -> None:
    if job.startswith("-"):
        _die(int(job))
    _report_pid_and_wait(job)


def _pid_in(path: Path) -> int:
    end_s = time.monotonic() + patience(60)
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end_s, "the process did not start"
        time.sleep(0.02)
    return int(path.read_text())


def _wait_for_the_end_of(pid: int) -> None:
    end_s = time.monotonic() + patience(60)
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end_s, "the process outlived its parent"
        time.sleep(0.02)


def test_each_job_is_answered_by_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    handler = signal.getsignal(signal.SIGINT)
    answers = dict(run_in_processes(_square, deque([2, 3, 4]), n_workers=2))
    given = [answer for answer in answers.values() if isinstance(answer, _Answer)]
    assert {job: answer.square for job, answer in zip(answers, given, strict=True)} == {2: 4, 3: 9, 4: 16}
    assert len({answer.pid for answer in given} | {os.getpid()}) == 4
    assert {(answer.threads, answer.ignores_sigint) for answer in given} == {("1", True)}
    assert os.environ["OMP_NUM_THREADS"] == "7" and signal.getsignal(signal.SIGINT) is handler


def test_a_process_failure_is_reported_and_the_job_can_be_repeated() -> None:
    waiting = deque([-signal.SIGKILL, 3])
    seen = []
    with closing(run_in_processes(_die, waiting, n_workers=1)) as answers:
        for job, answer in answers:
            seen.append((job, answer))
            if len(seen) == 1:
                waiting.appendleft(job)
    killed, ended = ProcessFailure("its process was ended by SIGKILL"), ProcessFailure("its process ended with code 3")
    assert seen == [(-signal.SIGKILL, killed), (-signal.SIGKILL, killed), (3, ended)]


def test_a_caller_that_stops_leaves_no_process_behind(tmp_path: Path) -> None:
    waiting = deque([str(tmp_path / "pid"), str(-signal.SIGKILL)])
    with closing(run_in_processes(_report_pid_and_wait_or_die, waiting, n_workers=2)) as answers:
        job, answer = next(answers)  # of the second; the first is still running
        pid = _pid_in(tmp_path / "pid")
    assert isinstance(answer, ProcessFailure) and job == str(-signal.SIGKILL)
    assert not Path(f"/proc/{pid}").exists()


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "from collections import deque; from planner.trials.process_pool import run_in_processes;"
        f" import tests.planner.trials.test_process_pool as t;"
        f" list(run_in_processes(t._report_pid_and_wait, deque([{str(tmp_path / 'pid')!r}]), 1))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=FOLDER.parent)
    try:
        pid = _pid_in(tmp_path / "pid")
    finally:
        parent.kill()
        parent.wait()
    _wait_for_the_end_of(pid)
