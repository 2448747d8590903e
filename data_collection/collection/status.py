"""What a run is doing, for whoever looks from outside: a small file that is always whole, and the service manager."""

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
_INTERVAL_S = 5.0  # between two writes where nothing changes


class StatusFile:
    """Writes `run.json`, and tells systemd that the run goes on, each time that it is called and not by itself."""

    def __init__(self, folder: Path, progress: CollectionProgress) -> None:
        self._folder, self._progress = folder, progress
        self._written_s = -1e9
        self._service = _Service()
        self._service.tell("READY=1")

    def beat(self, why: str | None = None) -> None:
        """Say that the run goes on, or that it has ended and why.

        Raises:
            OSError: The disk is full or at fault.
        """
        progress, now_s = self._progress, time.monotonic()
        self._service.tell(f"WATCHDOG=1\nSTATUS={progress.state}: {progress.n_present + progress.closed} episodes")
        if why is None and now_s - self._written_s < _INTERVAL_S:
            return
        self._written_s = now_s
        left_s = progress.left_s()
        told: dict[str, object] = {
            "time_s": round(time.time(), 3),
            "process": os.getpid(),
            "state": progress.state if why is None else "ended",
            "ended": why,
            **progress.summary(),
            "episodes_wanted": progress.n_wanted,
            "hours_in_folder": round((progress.present_s + progress.recorded_s) / 3600, 4),
            "hours_wanted": None if progress.wanted_s is None else round(progress.wanted_s / 3600, 4),
            "left_s": None if left_s is None else round(left_s),
            "rss_gib": round(progress.rss_gib, 3),
            "descriptors": progress.descriptors,
            "free_disk_gib": round(shutil.disk_usage(self._folder).free / 2**30, 2),
        }
        write_file(self._folder / STATUS_NAME, (json.dumps(told, indent=1) + "\n").encode())


def read_status(folder: Path) -> dict[str, Any]:
    """Return what the run in a folder last said of itself.

    Raises:
        EpisodeError: It never said anything, or the file is not one of ours.
    """
    path = folder / STATUS_NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"{path}: expected what a run says of itself, got: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("time_s"), float):
        raise EpisodeError(f"{path}: expected what a run says of itself, got something else")
    return told


class _Service:
    """Systemd's notification socket, where there is one (sd_notify(3))."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._is_deaf = False

    def tell(self, text: str) -> None:
        if self._address:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                    channel.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
                self._is_deaf = False
            except OSError as error:  # systemd notices the silence
                if not self._is_deaf:
                    _LOG.warning("systemd could not be told at %s: %s", self._address.replace("\0", "@"), error)
                self._is_deaf = True
