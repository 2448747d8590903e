"""Status of a run: the file is always complete, and notifications of the service manager never block."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_collection.collection import status
from data_collection.collection.events import TickEvent, WaitingEvent
from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import StatusFile, read_status
from data_collection.episode import EpisodeError
from data_collection.storage.folder import STATUS_NAME
from tests.patience import patience


def account() -> CollectionProgress:
    return CollectionProgress(3, 54.0, 10, 3600.0)


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


def test_the_status_holds_the_progress(tmp_path: Path) -> None:
    mine = account()
    mine.handle(TickEvent(1.25, 70))
    StatusFile(tmp_path, mine).beat()
    stored = read_status(tmp_path)
    assert abs(stored["time_s"] - time.time()) < 5 and stored["process"] == os.getpid()
    expected: dict[str, object] = {
        "state": "collecting",
        "ended": None,
        "episodes_in_folder": 3,
        "episodes_wanted": 10,
        "left_s": None,
    }
    expected |= {"hours_in_folder": 0.015, "hours_wanted": 1.0, "rss_gib": 1.25, "descriptors": 70}
    assert {name: stored[name] for name in expected} == expected and stored["free_disk_gib"] > 0
    assert set(mine.summary()) <= set(stored)
    assert [path.name for path in tmp_path.iterdir()] == [STATUS_NAME]


def test_writes_are_rate_limited_except_the_end(tmp_path: Path) -> None:
    mine = account()
    status_file = StatusFile(tmp_path, mine)
    status_file.beat()
    mine.handle(WaitingEvent("no light", 5.0))
    status_file.beat()
    assert read_status(tmp_path)["state"] == "collecting"
    status_file.beat("stopped")
    stored = read_status(tmp_path)
    assert (stored["state"], stored["ended"]) == ("ended", "stopped")


def test_the_status_is_written_after_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_INTERVAL_S", 0.0)
    mine = account()
    status_file = StatusFile(tmp_path, mine)
    status_file.beat()
    mine.handle(WaitingEvent("no light", 5.0))
    status_file.beat()
    assert read_status(tmp_path)["state"] == "no light"


def test_a_reader_always_finds_a_complete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_INTERVAL_S", 0.0)
    mine = account()
    status_file = StatusFile(tmp_path, mine)
    status_file.beat()
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            mine.handle(WaitingEvent("x" * (mine.restarts * 997 % 20000), 5.0))  # of many lengths
            mine.restarts += 1
            status_file.beat()

    writer = threading.Thread(target=go_on)
    writer.start()
    seen = set[int]()
    try:
        deadline = time.monotonic() + patience(60)
        while len(seen) < 30 and time.monotonic() < deadline:
            seen.add(read_status(tmp_path)["restarts"])
    finally:
        stop.set()
        writer.join(60)
    assert len(seen) == 30


def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status_file = StatusFile(tmp_path, account())
    status_file.beat()
    before = (tmp_path / STATUS_NAME).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            status_file.beat("stopped")
    assert (tmp_path / STATUS_NAME).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, as sockets require; it contains a character that is special only at the start."""
    with tempfile.TemporaryDirectory(prefix="user@") as folder:
        yield Path(folder)


def listen(address: str, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(f"\0{address[1:]}" if address.startswith("@") else address)
    channel.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    return channel


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_notified_of_start_and_beats(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    address = f"@{tmp_path.name}-{os.getpid()}" if is_abstract else str(place / "notify")
    with listen(address, monkeypatch) as channel:
        mine = account()
        status_file = StatusFile(tmp_path, mine)
        assert channel.recv(4096) == b"READY=1"
        status_file.beat()
        assert channel.recv(4096) == b"WATCHDOG=1\nSTATUS=collecting: 3 episodes"
        mine.handle(WaitingEvent("no light", 5.0))
        status_file.beat()  # too soon for the file
        assert channel.recv(4096).splitlines() == [b"WATCHDOG=1", b"STATUS=no light: 3 episodes"]


@pytest.mark.parametrize("name", ["absent", "gone/absent", "x" * 200])
def test_an_absent_service_manager_is_one_warning(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / name))
    status_file = StatusFile(tmp_path, account())
    for _ in range(5):
        status_file.beat()
    assert read_status(tmp_path)["episodes_in_folder"] == 3
    assert len(caplog.records) == 1 and str(place / name) in caplog.text  # once, not with every beat


def test_a_second_loss_of_the_service_manager_is_warned_of(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
    status_file = StatusFile(tmp_path, account())
    with listen(str(place / "notify"), monkeypatch) as channel:
        status_file.beat()
        assert channel.recv(4096).startswith(b"WATCHDOG=1")
    status_file.beat()
    assert len(caplog.records) == 2


@pytest.mark.timeout(60)
def test_a_service_manager_that_does_not_read_does_not_block(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(str(place / "notify"), monkeypatch):
        status_file = StatusFile(tmp_path, account())
        for _ in range(3000):  # more than any queue holds
            status_file.beat()
    assert len(caplog.records) == 1 and "systemd notification failed" in caplog.text


def test_a_missing_status_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=rf"{STATUS_NAME}: expected the status of a run, got: .*No such file"):
        read_status(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"time_s": 3}', '{"time_s": "3.0"}', "null"])
def test_an_invalid_status_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_NAME).write_text(text)
    with pytest.raises(EpisodeError, match=f"{STATUS_NAME}: expected the status of a run, got"):
        read_status(tmp_path)


def test_a_status_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / STATUS_NAME).write_bytes(json.dumps({"time_s": 1.0, "a": "b"}).encode() + b"\xff")
    with pytest.raises(EpisodeError, match="expected the status of a run"):
        read_status(tmp_path)
