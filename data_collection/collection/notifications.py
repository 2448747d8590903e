"""Where everything that happens to a run is written down and told: index, journal, status, and a person."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType

from configs.interruption import sleep
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import StatusFile
from data_collection.collection.supervisor import Event, LostEvent, ReplacedEvent, WaitingEvent
from data_collection.collection.worker import ClosedEvent, FailedEvent
from data_collection.storage import index
from data_collection.storage.folder import EpisodeFolder
from data_collection.storage.journal import DONE, STOPPED, Journal, Value

_LOG = logging.getLogger(__name__)
_LIMIT_S = 30.0  # what telling somebody may take


class Notifier:
    """Runs a command with a line of text, and never waits for it but at the end."""

    def __init__(self, command: Sequence[str], digest_s: float) -> None:
        self._command = list(command)
        self._digest_s = digest_s
        self._state = "collecting"  # of which nobody need be told
        self._told_s = time.monotonic()
        self._running: list[tuple[float, subprocess.Popen[bytes]]] = []

    def close(self) -> None:
        """Wait until everything is told, or has had its time."""
        while self._running:
            self._reap()
            sleep(0.01)

    def change(self, state: str, text: str) -> bool:
        """Tell of a state, unless it was told of last; return whether it was told now."""
        self._reap()
        if state == self._state:
            return False
        self._state = state
        self._run(text)
        return True

    def digest(self, text: str) -> None:
        """Tell how things stand, if the time has come."""
        self._reap()
        if time.monotonic() - self._told_s >= self._digest_s:
            self._told_s = time.monotonic()
            self._run(text)

    def _run(self, text: str) -> None:
        if not self._command:
            return
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own
                [*self._command, text],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that a terminal's Ctrl-C, of which it may tell, does not end it
            )
        except OSError as error:
            _LOG.warning("nobody could be told: %s", error)
            return
        self._running.append((time.monotonic(), process))

    def _reap(self) -> None:
        for running in list(self._running):
            began_s, process = running
            late = time.monotonic() - began_s > _LIMIT_S
            if late:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
                process.wait()
            if late or process.poll() is not None:
                self._running.remove(running)
                if process.returncode:
                    _LOG.warning("nobody could be told: %s ended with %d", self._command[0], process.returncode)


_ALIVE_S = 3600.0  # between two signs of life in the journal, so that a run that is killed has lasted


class EventLog:
    """Follows one run, as a context: however it ends, that is written down, too."""

    def __init__(self, folder: EpisodeFolder, account: CollectionProgress, config: CollectionRunConfig) -> None:
        self._folder, self._account, self._config = folder.path, account, config
        self._journal = Journal(folder.path)
        self._status = StatusFile(folder.path, account)
        self._alive_s = time.monotonic()
        self._alerts = Notifier(config.supervision.notify_command, config.supervision.digest_s)

    def __enter__(self) -> EventLog:
        self._journal.note("started", {"seed": self._config.seed, "present": self._account.n_present})
        self._status.beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        why = DONE if error is None else STOPPED if isinstance(error, KeyboardInterrupt) else _words_of(error)
        try:
            self._journal.note(
                "ended", {"why": why, "closed": self._account.closed, "attempts": self._account.attempts}
            )
            self._status.beat(why)
        except OSError as full:
            _LOG.warning("%s: could not be written: %s", self._folder, full.strerror or full)
        self._alerts.change(f"ended {why}", f"{self._folder}: ended: {why}; {self._words()}")
        self._alerts.close()

    def take(self, event: Event) -> None:
        """Write an event down, and tell a person where one should know.

        Raises:
            OSError: The disk is full or at fault.
        """
        self._account.take(event)
        if isinstance(event, ClosedEvent):
            index.append(self._folder, event.row)
        for name, details in _notes(event):
            self._journal.note(name, details)
        if time.monotonic() - self._alive_s > _ALIVE_S:
            self._alive_s = time.monotonic()
            self._journal.note("alive", {"closed": self._account.closed})
        self._status.beat()
        self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, WaitingEvent):
            self._alerts.change("waiting", f"{self._folder}: nothing succeeds for now: {event.reason}; {self._words()}")
        elif isinstance(event, ClosedEvent):
            limit = 2 * self._config.collection.table_reset.idle_episodes_before_reset
            if event.idle_episodes < limit:
                self._alerts.change("collecting", f"{self._folder}: collecting again; {self._words()}")
            elif self._alerts.change("dull", self._dull(event)):
                self._journal.note("dull", {"episodes": event.idle_episodes})
        self._alerts.digest(f"{self._folder}: {self._words()}")

    def _dull(self, event: ClosedEvent) -> str:
        return (
            f"{self._folder}: nothing but the arm moved in {event.idle_episodes} episodes, although the table was swept; "
            f"objects seen: {event.row.objects_seen}; look whether there is something to play with"
        )

    def _words(self) -> str:
        account = self._account
        hours = (account.present_s + account.recorded_s) / 3600
        counts = {
            "dropped": account.dropped.total(),
            "set aside": account.quarantined.total(),
            "lost": account.lost,
        }
        troubles = [f"{n} {what}" for what, n in counts.items() if n]
        return ", ".join(
            [f"{account.n_present + account.closed} of {account.n_wanted} episodes", f"{hours:.2f} h", *troubles]
        )


def _words_of(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _notes(event: Event) -> list[tuple[str, dict[str, Value]]]:
    """Return what the journal has to say of an event; nothing of an episode that was closed, which is in the folder."""
    notes: list[tuple[str, dict[str, Value]]] = []
    if isinstance(event, FailedEvent):
        told: dict[str, Value] = {"number": event.number, "attempt": event.attempt, "kind": event.kind}
        notes.append(("quarantined" if event.file else "dropped", {**told, "reason": event.reason, "file": event.file}))
    elif isinstance(event, LostEvent):
        if event.number is not None:
            notes.append(("lost", {"number": event.number, "given_up": event.is_given_up}))
        notes.append(("restarted", {"reason": event.reason}))
    elif isinstance(event, WaitingEvent):
        notes.append(("waiting", {"reason": event.reason, "pause_s": event.pause_s}))
    elif isinstance(event, ReplacedEvent):
        notes.append(("renewed", {"reason": event.reason}))
    elif isinstance(event, ClosedEvent) and event.swept:
        notes.append(("swept", {"number": event.row.number}))
    return notes
