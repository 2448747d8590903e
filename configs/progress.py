"""Progress of long work on stderr: a bar on a terminal, otherwise one line every ten seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_INTERVAL_S = 10.0  # between two lines where there is no terminal; ours
_AS_IT_IS: Mapping[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}  # how a line is printed
_ANNOUNCE_AFTER_S = 1.0  # of work without a bar; ours: whatever takes more than 2 s is announced


class ProgressBar:
    """Shows how much of one piece of work is done and the time left, as a context manager.

    Args:
        label: What is counted, such as "episodes".
        total: The count at the end; None if unknown.
        completed: The count at the start.
        estimates_time: Show the estimated time left. False where the caller has a better estimate in `detail`.
        transient: Remove the bar from the terminal at the end.
        quiet: Show no progress. `say` still prints.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        completed: int = 0,
        estimates_time: bool = True,
        transient: bool = False,
        quiet: bool = False,
    ) -> None:
        self._estimates_time = estimates_time
        self._console = Console(stderr=True)
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
        columns += [MofNCompleteColumn(), TimeElapsedColumn()]
        columns += [TimeRemainingColumn()] if estimates_time else []
        columns.append(TextColumn("{task.fields[detail]}", markup=False))
        self._progress = Progress(
            *columns,
            console=self._console,
            transient=transient,
            disable=quiet or not self._console.is_terminal,
            redirect_stdout=False,  # results go to standard output, also while a bar is shown
        )
        self._id = self._progress.add_task(label, total=total, completed=completed, detail="")
        self._line_at_s = time.monotonic()
        self._prints_lines = not quiet and not self._console.is_terminal
        self._last_line = ""
        self._ended = threading.Event()

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        if self._prints_lines:
            threading.Thread(target=self._print_lines, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._progress.stop()

    def advance(self, n: int = 1, detail: str = "") -> None:
        """Add `n` to the count."""
        self.update(int(self._progress.tasks[0].completed) + n, detail)

    def update(self, completed: int, detail: str = "", *, total: int | None = None, label: str | None = None) -> None:
        """Set the count and the text behind the bar; `total` and `label` where they changed."""
        self._progress.update(self._id, completed=completed, total=total, description=label, detail=detail)
        self._print_line_if_due()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, **_AS_IT_IS)

    def _print_lines(self) -> None:
        """Print the lines that are due between two updates, until the end."""
        while not self._ended.wait(_LINE_INTERVAL_S / 4):
            self._print_line_if_due()

    def _print_line_if_due(self) -> None:
        now_s = time.monotonic()
        if self._prints_lines and now_s - self._line_at_s >= _LINE_INTERVAL_S:
            self._line_at_s = now_s
            line, elapsed_s = self._line(), self._progress.tasks[0].elapsed or 0.0
            self.say(f"{line}, {duration(elapsed_s)} elapsed" if line == self._last_line else line)
            self._last_line = line

    def _line(self) -> str:
        """Return the progress as one line of text."""
        task = self._progress.tasks[0]
        total = "" if task.total is None else f" of {task.total:.0f}"
        left_s = task.time_remaining if self._estimates_time else None
        left = "" if left_s is None else f"about {duration(left_s)} left"
        return ", ".join(filter(None, [f"{task.completed:.0f}{total} {task.description}", task.fields["detail"], left]))


@contextmanager
def announce(text: str, after_s: float | None = None) -> Iterator[None]:
    """Print on stderr what the block does, once it has taken longer than `after_s`.

    Args:
        text: Such as "loading the model".
        after_s: Time without a line; 0: print at once; None: a second on a terminal, ten elsewhere.
    """
    console = Console(stderr=True)
    if after_s is None:
        after_s = _ANNOUNCE_AFTER_S if console.is_terminal else _LINE_INTERVAL_S
    timer = threading.Timer(after_s, console.print, (f"{text} ...",), _AS_IT_IS)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say_path(text: str, path: Path) -> None:
    """Print one line on stderr that ends with a path: a link on a terminal, plain text elsewhere."""
    line = Text.assemble(text, " ", (str(path), f"link {path.resolve().as_uri()}"))
    Console(stderr=True).print(line, **_AS_IT_IS)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1; for nouns with a plural in -s."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names in one line of text: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
