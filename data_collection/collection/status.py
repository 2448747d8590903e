"""Status of a run: the file run.json, written atomically, and notifications to systemd."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.progress import counted, duration
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


def describe_status(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a status for people, as names and texts; what an earlier version did not write is left out.

    Args:
        status: Of `read_status`, with `age_s` and the totals of all runs.
    """
    ended, get = status.get("ended"), status.get
    hours = f"{get('hours_in_folder', 0):.2f} h"
    hours += f" of {status['hours_wanted']:g} h" if get("hours_wanted") else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status["time_s"]))
    rows = [
        ("state", f"ended: {ended}" if ended else str(get("state", ""))),
        ("reported", f"{when}, {duration(status['age_s'])} ago, by process {get('process', 'unknown')}"),
        ("episodes", f"{get('episodes_in_folder', 0)} of {get('episodes_wanted', 0)}, {hours} recorded"),
        ("time left", f"about {duration(status['left_s'])}" if get("left_s") and not ended else ""),
        (
            "this run",
            f"{counted(get('episodes', 0), 'episode')} in {duration(get('seconds', 0))}, {get('attempts', 0)} tried",
        ),
        ("dropped", _reasons(get("dropped", {}))),
        ("quarantined", _reasons(get("quarantined", {}))),
        ("lost", f"{counted(status['lost'], 'episode')} of processes that died or hung" if get("lost") else ""),
        ("motion", f"an object moved in {counted(get('moved', 0), 'episode')}, and was lifted in {get('lifted', 0)}"),
        ("behaviours", _reasons(get("families", {}))),
        ("processes", f"{get('restarts', 0)} restarted, {get('renewals', 0)} renewed, {get('rss_gib', 0):.2f} GiB"),
        ("longest gap", duration(get("longest_gap_s", 0))),
        ("disk", f"{get('bytes', 0) / 1e6:.1f} MB written, {get('free_disk_gib', 0):.1f} GiB free"),
        ("all runs", f"{counted(get('runs', 0), 'run')}, {get('interventions_per_day', 0):g} interventions per day"),
        ("  dropped", _reasons(get("dropped_in_all_runs", {}))),
        ("  quarantined", _reasons(get("quarantined_in_all_runs", {}))),
        ("  lost", str(get("lost_in_all_runs") or "")),
    ]
    return [(name, text) for name, text in rows if text]


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


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
