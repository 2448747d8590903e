"""Recorder of the files whose functions call each other, in this process or, with `environment`, in child processes.

It does not import the project, so that it can be installed before all other imports.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

START, STOP = signal.SIGUSR1, signal.SIGUSR2
_SITE = """
import os, sys
sys.path.insert(0, os.environ["CALL_RECORDER_FOLDER"])
import call_recorder
call_recorder.install()
sys.path.pop(0)
"""


class CallRecorder:
    """Records calls of functions in files below a folder while it is started, except during imports.

    Args:
        root: The folder.
        within: `FILE:FUNCTION`; records the first call of this function and what it calls. None: between `start` and
            `stop`.
    """

    def __init__(self, root: Path, within: str | None = None) -> None:
        self._root = f"{root}{os.sep}"
        self._within = within
        self._frame: FrameType | None = None  # the call of `within` that is recorded
        self._is_on = False
        self._importing: Counter[int] = Counter()  # depth of running module bodies, by thread
        self._files: list[str] = []
        self._edges: set[tuple[str, str]] = set()
        self._calls: Counter[str] = Counter()

    def attach(self) -> None:
        """Install the recorder in this thread and in threads started later."""
        threading.setprofile(self._record)
        sys.setprofile(self._record)

    def detach(self) -> None:
        """Remove the recorder from this thread."""
        threading.setprofile(None)
        sys.setprofile(None)

    def start(self) -> None:
        """Start recording."""
        self._is_on = True

    def stop(self) -> None:
        """Stop recording."""
        self._is_on = False

    def result(self) -> dict[str, Any]:
        """Return `files` in the order of their first call, `edges` between them, and the number of `calls`."""
        return {"files": self._files, "edges": sorted(self._edges), "calls": dict(self._calls)}

    def _record(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event not in {"call", "return"} or code.co_filename == __file__:
            return
        if code.co_name == "<module>":
            self._importing[threading.get_ident()] += 1 if event == "call" else -1
            return
        if event == "return":
            if frame is self._frame:
                self._is_on, self._frame, self._within = False, None, None
            return
        if not code.co_filename.startswith(self._root) or self._importing[threading.get_ident()] > 0:
            return
        file = code.co_filename.removeprefix(self._root)
        if self._within == f"{file}:{code.co_name}" and self._frame is None:
            self._is_on, self._frame = True, frame
        if self._is_on:
            self._add(file, frame)

    def _add(self, file: str, frame: FrameType) -> None:
        if file not in self._files:
            self._files.append(file)
        self._calls[f"{file}:{frame.f_code.co_name}"] += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self._root):
            caller = caller.f_back
        if caller is not None:
            from_file = caller.f_code.co_filename.removeprefix(self._root)
            if from_file != file:
                self._edges.add((from_file, file))


def environment(folder: Path, root: Path, within: str | None = None) -> Mapping[str, str]:
    """Return the environment in which every Python process records its calls into `PID.json` in a folder.

    With `within` a process writes its file when it ends; without, the signals START and STOP control the recording.
    """
    (folder / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    path = os.pathsep.join([str(folder), str(root)])
    settings = {"CALL_RECORDER_FOLDER": str(Path(__file__).parent), "CALL_RECORDER_OUT": str(folder)}
    settings |= {"CALL_RECORDER_ROOT": str(root), "CALL_RECORDER_WITHIN": within or ""}
    return {**os.environ, **settings, "PYTHONPATH": path}


def install() -> None:
    """Record in this process with the settings from the environment."""
    recorder = CallRecorder(Path(os.environ["CALL_RECORDER_ROOT"]), os.environ["CALL_RECORDER_WITHIN"] or None)
    out = Path(os.environ["CALL_RECORDER_OUT"], f"{os.getpid()}.json")

    def save() -> None:
        recorder.stop()
        result = recorder.result()
        if result["files"]:
            unfinished = out.with_suffix(".part")
            unfinished.write_text(json.dumps({"command": sys.argv, **result}), encoding="utf-8")
            unfinished.rename(out)

    signal.signal(START, lambda _number, _frame: recorder.start())
    signal.signal(STOP, lambda _number, _frame: save())
    atexit.register(save)
    recorder.attach()
