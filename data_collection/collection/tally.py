"""What a collection has done so far: progress on stderr, a summary on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_collection.collection.progress import Account
from data_collection.collection.supervisor import Event, Lost, Renewed, Waiting
from data_collection.collection.worker import Closed, Failed

_LINE_INTERVAL_S = 10.0  # between lines of progress where there is no terminal


class Tally:
    """Shows a run on stderr as it goes, and prints the summary at the end, whatever ends it."""

    def __init__(self, folder: Path, account: Account) -> None:
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[more]}"), console=console, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("episodes", total=account.n_wanted, completed=account.n_present, more="")
        self._console = console
        self._folder = folder
        self._account = account
        self._line_s = time.monotonic()

    def __enter__(self) -> Tally:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        print(json.dumps({"folder": str(self._folder), **self._account.summary()}), flush=True)

    def show(self, event: Event) -> None:
        """Tell of an event that the account has taken."""
        if isinstance(event, Failed):
            where = f" (kept as {event.file})" if event.file else ""
            self._say(f"episode {event.number}, attempt {event.attempt} dropped: {event.kind}: {event.reason}{where}")
        elif isinstance(event, Lost):
            what = "" if event.number is None else f"episode {event.number} lost: "
            self._say(f"{what}{event.reason}; another process takes over")
        elif isinstance(event, Waiting):
            self._say(f"waiting for {event.pause_s:.0f} s, then trying again: {event.reason}")
        elif isinstance(event, Renewed):
            self._say(f"a process was renewed: {event.reason}")
        elif isinstance(event, Closed):
            self._progress()

    def _progress(self) -> None:
        account, now_s = self._account, time.monotonic()
        more = _more(account)
        self._bar.update(self._task, completed=account.n_present + account.closed, more=more)
        if self._bar.disable and now_s - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = now_s
            done = account.n_present + account.closed
            self._say(f"{done} of {account.n_wanted} episodes, {more}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _more(account: Account) -> str:
    hours = (account.present_s + account.recorded_s) / 3600
    wanted = "" if account.wanted_s is None else f" of {account.wanted_s / 3600:g}"
    left_s = account.left_s()
    parts = [f"{hours:.2f}{wanted} h recorded", f"about {duration(left_s)} left" if left_s is not None else ""]
    parts += _counts("dropped", account.dropped) + _counts("set aside", account.quarantined)
    return ", ".join([part for part in parts if part] + ([f"{account.lost} lost"] if account.lost else []))


def _counts(what: str, counts: Mapping[str, int]) -> list[str]:
    return [f"{sum(counts.values())} {what}"] if counts else []


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that people use."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
