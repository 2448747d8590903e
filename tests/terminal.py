"""A command on a pseudo-terminal: what a person sees and types, with standard output in a file."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.patience import patience

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A running command whose standard input and standard error are a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process, self._terminal = process, terminal
        self.shown = ""  # so far, without the codes that move the cursor or set colours
        self._seen = 0  # characters of it that `wait_for` has passed

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """Wait until a text is shown after the last one that was waited for; return what was shown up to it.

        Lines may be wrapped between words: any white space counts as one space, also in the returned text.
        """
        start = self._seen
        self.wait_for_one([text], seconds)
        return " ".join(self.shown[start : self._seen].split())

    def wait_for_one(self, texts: Sequence[str], seconds: float = 60.0) -> str:
        """Wait until one of several texts is shown after the last one that was waited for; return it."""
        end_s = time.monotonic() + patience(seconds)
        patterns = {text: re.compile(r"\s+".join(map(re.escape, text.split()))) for text in texts}
        while not (found := {t: m for t, p in patterns.items() if (m := p.search(self.shown, self._seen))}):
            assert time.monotonic() < end_s and self._read(), f"{texts} were not shown:\n{self.shown[-2000:]}"
        text, match = min(found.items(), key=lambda item: item[1].start())
        self._seen = match.end()
        return text

    def type(self, keys: str) -> None:
        """Press keys, once the command reads single keys."""
        time.sleep(0.2)  # a question drops what was typed before it
        os.write(self._terminal, keys.encode())

    def end(self, seconds: float = 60.0) -> int:
        """Wait for the end of the command; return its exit code."""
        while self._read():
            pass
        return self.process.wait(patience(seconds))

    def _read(self) -> bool:
        """Read what is shown; return whether there may be more."""
        ready, _, _ = select.select([self._terminal], [], [], 0.2)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the command has ended
            return False
        self.shown += _CONTROL.sub("", data.decode("utf-8", "replace"))
        return bool(data)


@contextmanager
def on_terminal(
    command: Sequence[str], out: Path | None, folder: Path, environment: dict[str, str]
) -> Iterator[Terminal]:
    """Run a command on a new terminal, which controls it: Ctrl-C reaches all its processes. It ends with the block.

    Args:
        command: The command.
        out: File for its standard output; None: the terminal.
        folder: Its working folder.
        environment: Variables in addition to those of this process.
    """
    ours, theirs = pty.openpty()
    with nullcontext(theirs) if out is None else out.open("wb") as stdout:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=stdout,
            stderr=theirs,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - it calls nothing else
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment},
            start_new_session=True,
        )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
