"""Status of a run: the file run.json, written atomically, and notifications to systemd."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from data_collection.atomic_io import write_file
from data_collection.collection.progress import CollectionProgress
from data_collection.episode import EpisodeError
from data_collection.storage.folder import STATUS_NAME

_LOG = logging.getLogger(__name__)
_INTERVAL_S = 5.0  # between two writes


class StatusFile:
    """Writes `run.json` and notifies systemd's watchdog, on each call of `beat` only."""

    def __init__(self, folder: Path, progress: CollectionProgress) -> None:
        self._folder, self._progress = folder, progress
        self._written_s = -1e9
        self._service = _Service()
        self._service.notify("READY=1")

    def beat(self, why: str | None = None) -> None:
        """Report that the run continues, or that it ended with the reason `why`.

        Raises:
            OSError: The disk is full or failing.
        """
        progress, now_s = self._progress, time.monotonic()
        self._service.notify(f"WATCHDOG=1\nSTATUS={progress.state}: {progress.n_present + progress.closed} episodes")
        if why is None and now_s - self._written_s < _INTERVAL_S:
            return
        self._written_s = now_s
        left_s = progress.left_s()
        status: dict[str, object] = {
            "time_s": round(time.time(), 3),
            "process": os.getpid(),
            "state": progress.state if why is None else "ended",
            "ended": why,
            **progress.summary(),
            "episodes_wanted": progress.n_target,
            "hours_in_folder": round((progress.present_s + progress.recorded_s) / 3600, 4),
            "hours_wanted": None if progress.target_s is None else round(progress.target_s / 3600, 4),
            "left_s": None if left_s is None else round(left_s),
            "rss_gib": round(progress.rss_gib, 3),
            "descriptors": progress.descriptors,
            "free_disk_gib": round(shutil.disk_usage(self._folder).free / 2**30, 2),
        }
        write_file(self._folder / STATUS_NAME, (json.dumps(status, indent=1) + "\n").encode())


def read_status(folder: Path) -> dict[str, Any]:
    """Return the last status of the run in a folder.

    Raises:
        EpisodeError: There is no status file, or it is invalid.
    """
    path = folder / STATUS_NAME
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{path}: expected the status of a run, got: {error}") from None
    if not isinstance(status, dict) or not isinstance(status.get("time_s"), float):
        raise EpisodeError(f"{path}: expected the status of a run, got other content")
    return status


class _Service:
    """Systemd's notification socket, where there is one (sd_notify(3))."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._has_failed = False

    def notify(self, text: str) -> None:
        if self._address:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                    channel.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
                self._has_failed = False
            except OSError as error:  # the watchdog of systemd reacts
                if not self._has_failed:
                    _LOG.warning("systemd notification failed at %s: %s", self._address.replace("\0", "@"), error)
                self._has_failed = True
