"""What a run says of itself: always a whole file, and a service manager that is told but never waited for."""

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


def test_a_run_says_what_it_is_doing(tmp_path: Path) -> None:
    mine = account()
    mine.handle(TickEvent(1.25, 70))
    StatusFile(tmp_path, mine).beat()
    told = read_status(tmp_path)
    assert abs(told["time_s"] - time.time()) < 5 and told["process"] == os.getpid()
    expected: dict[str, object] = {
        "state": "collecting",
        "ended": None,
        "episodes_in_folder": 3,
        "episodes_wanted": 10,
        "left_s": None,
    }
    expected |= {"hours_in_folder": 0.015, "hours_wanted": 1.0, "rss_gib": 1.25, "descriptors": 70}
    assert {name: told[name] for name in expected} == expected and told["free_disk_gib"] > 0
    assert set(mine.summary()) <= set(told)
    assert [path.name for path in tmp_path.iterdir()] == [STATUS_NAME]


def test_what_changes_little_is_written_seldom_and_an_end_at_once(tmp_path: Path) -> None:
    mine = account()
    said = StatusFile(tmp_path, mine)
    said.beat()
    mine.handle(WaitingEvent("no light", 5.0))
    said.beat()
    assert read_status(tmp_path)["state"] == "collecting"
    said.beat("stopped")
    told = read_status(tmp_path)
    assert (told["state"], told["ended"]) == ("ended", "stopped")


def test_a_state_is_written_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_INTERVAL_S", 0.0)
    mine = account()
    said = StatusFile(tmp_path, mine)
    said.beat()
    mine.handle(WaitingEvent("no light", 5.0))
    said.beat()
    assert read_status(tmp_path)["state"] == "no light"


def test_a_reader_finds_a_whole_file_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_INTERVAL_S", 0.0)
    mine = account()
    said = StatusFile(tmp_path, mine)
    said.beat()
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            mine.handle(WaitingEvent("x" * (mine.restarts * 997 % 20000), 5.0))  # of many lengths
            mine.restarts += 1
            said.beat()

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


def test_a_full_disk_is_reported_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = StatusFile(tmp_path, account())
    said.beat()
    before = (tmp_path / STATUS_NAME).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            said.beat("stopped")
    assert (tmp_path / STATUS_NAME).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, as sockets need it; with a sign in it that means something only in front."""
    with tempfile.TemporaryDirectory(prefix="user@") as folder:
        yield Path(folder)


def listen(address: str, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(f"\0{address[1:]}" if address.startswith("@") else address)
    channel.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    return channel


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_hears_of_the_start_and_of_every_beat(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    address = f"@{tmp_path.name}-{os.getpid()}" if is_abstract else str(place / "notify")
    with listen(address, monkeypatch) as channel:
        mine = account()
        said = StatusFile(tmp_path, mine)
        assert channel.recv(4096) == b"READY=1"
        said.beat()
        assert channel.recv(4096) == b"WATCHDOG=1\nSTATUS=collecting: 3 episodes"
        mine.handle(WaitingEvent("no light", 5.0))
        said.beat()  # too soon for the file
        assert channel.recv(4096).splitlines() == [b"WATCHDOG=1", b"STATUS=no light: 3 episodes"]


@pytest.mark.parametrize("name", ["nobody", "gone/nobody", "x" * 200])
def test_a_service_manager_that_is_dead_ends_no_run(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / name))
    said = StatusFile(tmp_path, account())
    for _ in range(5):
        said.beat()
    assert read_status(tmp_path)["episodes_in_folder"] == 3
    assert len(caplog.records) == 1 and str(place / name) in caplog.text  # once, not with every beat


def test_a_service_manager_that_comes_back_is_reported_again(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
    said = StatusFile(tmp_path, account())
    with listen(str(place / "notify"), monkeypatch) as channel:
        said.beat()
        assert channel.recv(4096).startswith(b"WATCHDOG=1")
    said.beat()
    assert len(caplog.records) == 2


@pytest.mark.timeout(60)
def test_a_service_manager_that_reads_nothing_is_not_waited_for(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(str(place / "notify"), monkeypatch):
        said = StatusFile(tmp_path, account())
        for _ in range(3000):  # more than any queue holds
            said.beat()
    assert len(caplog.records) == 1 and "systemd notification failed" in caplog.text


def test_a_run_that_never_said_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=rf"{STATUS_NAME}: expected the status of a run, got: .*No such file"):
        read_status(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"time_s": 3}', '{"time_s": "3.0"}', "null"])
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_NAME).write_text(text)
    with pytest.raises(EpisodeError, match=f"{STATUS_NAME}: expected the status of a run, got"):
        read_status(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / STATUS_NAME).write_bytes(json.dumps({"time_s": 1.0, "a": "b"}).encode() + b"\xff")
    with pytest.raises(EpisodeError, match="expected the status of a run"):
        read_status(tmp_path)
