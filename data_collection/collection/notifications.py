"""Records the events of a run in its index, journal and status file, and notifies an operator by a command."""

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
from data_collection.collection.events import (
    ClosedEvent,
    Event,
    EventListener,
    FailedEvent,
    LostEvent,
    ReplacedEvent,
    WaitingEvent,
)
from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import StatusFile
from data_collection.storage import index
from data_collection.storage.folder import EpisodeFolder
from data_collection.storage.journal import DONE, STOPPED, Journal

_LOG = logging.getLogger(__name__)
_LIMIT_S = 30.0  # time limit of one notification command; ours
_ALIVE_S = 3600.0  # between two "alive" lines in the journal: a run that is killed has a known duration; ours


class Notifier:
    """Runs a command with one line of text as its last argument, without waiting for it except in `close`."""

    def __init__(self, command: Sequence[str], digest_s: float) -> None:
        self._command = list(command)
        self._digest_s = digest_s
        self._state = "collecting"  # the initial state needs no notification
        self._digest_at_s = time.monotonic()
        self._running: list[tuple[float, subprocess.Popen[bytes]]] = []

    def close(self) -> None:
        """Wait until all commands have ended or reached their time limit."""
        while self._running:
            self._reap()
            sleep(0.01)

    def change(self, state: str, text: str) -> bool:
        """Send `text` if `state` differs from the state last sent; return whether it was sent."""
        self._reap()
        if state == self._state:
            return False
        self._state = state
        self._run(text)
        return True

    def digest(self, text: str) -> None:
        """Send the periodic summary if it is due."""
        self._reap()
        if time.monotonic() - self._digest_at_s >= self._digest_s:
            self._digest_at_s = time.monotonic()
            self._run(text)

    def _run(self, text: str) -> None:
        if not self._command:
            return
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                [*self._command, text],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal must not end a notification about it
            )
        except OSError as error:
            _LOG.warning("notification failed: %s", error)
            return
        self._running.append((time.monotonic(), process))

    def _reap(self) -> None:
        for running in list(self._running):
            began_s, process = running
            late = time.monotonic() - began_s > _LIMIT_S
            if late:
                os.killpg(process.pid, signal.SIGKILL)  # the command and all its children
                process.wait()
            if late or process.poll() is not None:
                self._running.remove(running)
                if process.returncode:
                    _LOG.warning("notification failed: %s ended with %d", self._command[0], process.returncode)


class _Notifications(EventListener):
    """Notifies the operator of changes: waiting, collecting again, idle, ended; and sends the periodic summary."""

    def __init__(self, folder: EpisodeFolder, progress: CollectionProgress, config: CollectionRunConfig) -> None:
        self._folder, self._progress = folder.path, progress
        self._journal = Journal(folder.path)
        self._idle_limit = 2 * config.collection.table_reset.idle_episodes_before_reset
        self.notifier = Notifier(config.supervision.notify_command, config.supervision.digest_s)

    def handle(self, event: Event) -> None:
        super().handle(event)
        self.notifier.digest(f"{self._folder}: {self._progress.line()}")

    def on_waiting(self, event: WaitingEvent) -> None:
        text = f"no attempt succeeds at present: {event.reason}"
        self.notifier.change("waiting", f"{self._folder}: {text}; {self._progress.line()}")

    def on_closed(self, event: ClosedEvent) -> None:
        if event.idle_episodes < self._idle_limit:
            self.notifier.change("collecting", f"{self._folder}: collecting again; {self._progress.line()}")
        elif self.notifier.change("idle", self._idle_text(event)):
            self._journal.note("dull", {"episodes": event.idle_episodes})  # stored name of the event

    def ended(self, why: str) -> None:
        """Send the end of the run and wait for the command."""
        self.notifier.change(f"ended {why}", f"{self._folder}: ended: {why}; {self._progress.line()}")
        self.notifier.close()

    def _idle_text(self, event: ClosedEvent) -> str:
        return (
            f"{self._folder}: no object moved in {event.idle_episodes} episodes, in spite of table resets; "
            f"objects detected: {event.row.objects_seen}; check that objects are within reach"
        )


class EventLog(EventListener):
    """Records one run, as a context manager: its start, its events, and its end with the reason."""

    def __init__(self, folder: EpisodeFolder, progress: CollectionProgress, config: CollectionRunConfig) -> None:
        self._folder, self._progress, self._seed = folder.path, progress, config.seed
        self._journal = Journal(folder.path)
        self._status = StatusFile(folder.path, progress)
        self._alive_at_s = time.monotonic()
        self._notifications = _Notifications(folder, progress, config)

    def __enter__(self) -> EventLog:
        self._journal.note("started", {"seed": self._seed, "present": self._progress.n_present})
        self._status.beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        why = DONE if error is None else STOPPED if isinstance(error, KeyboardInterrupt) else _words_of(error)
        try:
            counts = {"closed": self._progress.closed, "attempts": self._progress.attempts}
            self._journal.note("ended", {"why": why, **counts})
            self._status.beat(why)
        except OSError as full:
            _LOG.warning("%s: could not be written: %s", self._folder, full.strerror or full)
        self._notifications.ended(why)

    def handle(self, event: Event) -> None:
        """Record an event that the progress has counted, and notify the operator where required.

        Raises:
            OSError: The disk is full or failing.
        """
        super().handle(event)
        if time.monotonic() - self._alive_at_s > _ALIVE_S:
            self._alive_at_s = time.monotonic()
            self._journal.note("alive", {"closed": self._progress.closed})
        self._status.beat()
        self._notifications.handle(event)

    def on_closed(self, event: ClosedEvent) -> None:
        """Add the episode to the index; the journal holds only a table reset."""
        index.append(self._folder, event.row)
        if event.swept:
            self._journal.note("swept", {"number": event.row.number})

    def on_failed(self, event: FailedEvent) -> None:
        """Note an attempt that failed, and its file in quarantine."""
        name = "quarantined" if event.file else "dropped"
        attempt = {"number": event.number, "attempt": event.attempt}
        self._journal.note(name, {**attempt, "kind": event.kind, "reason": event.reason, "file": event.file})

    def on_lost(self, event: LostEvent) -> None:
        """Note the episode that was open, if any, and the restart."""
        if event.number is not None:
            self._journal.note("lost", {"number": event.number, "given_up": event.is_given_up})
        self._journal.note("restarted", {"reason": event.reason})

    def on_waiting(self, event: WaitingEvent) -> None:
        """Note the pause."""
        self._journal.note("waiting", {"reason": event.reason, "pause_s": event.pause_s})

    def on_replaced(self, event: ReplacedEvent) -> None:
        """Note the replacement."""
        self._journal.note("renewed", {"reason": event.reason})


def _words_of(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
