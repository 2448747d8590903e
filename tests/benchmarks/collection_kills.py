"""Repeated kills of a collection, of its supervisor or of one of its processes, and checks for lost episodes."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import psutil
import typer

from configs.command import ReportedError, run
from data_collection.storage import index
from data_collection.storage.folder import QUARANTINE_NAME
from data_collection.storage.verify import VerificationResult, verify

_SETTINGS = (
    *("robot.renderer=ray", "collection.n_steps=2", "collection.steps_per_draw=[1,2]"),
    *("collection.free_disk_floor_gib=0", "supervision.restarts_per_hour=1000000"),
)
_TIMEOUT_S = 180.0
_LONGEST_S = 1.5  # from a closed episode to the kill


class KillError(ReportedError):
    """An episode was lost or damaged, or a number was used twice."""

    exit_code = 1


class Collection:
    """One collection that is restarted after each kill."""

    def __init__(self, out: Path, workers: int, seed: int) -> None:
        self._out, self._workers = out, workers
        self._chance = random.Random(seed)
        self._process: subprocess.Popen[bytes] | None = None
        self.seen: dict[str, str] = {}  # hash of each closed file when it was first found
        self.killed = {"supervisor": 0, "worker": 0}
        self.stderr = ""

    def kill(self) -> None:
        """Wait for a closed episode, kill one of the processes at a random time, and check the folder."""
        process = self._running()
        n, deadline_s = len(index.episodes(self._out)) if self._out.exists() else 0, time.monotonic() + _TIMEOUT_S
        while not self._out.exists() or len(index.episodes(self._out)) <= n:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise KillError(f"expected another episode within {_TIMEOUT_S:g} s, got exit code {process.poll()}")
            time.sleep(0.01)
        time.sleep(self._chance.uniform(0, _LONGEST_S))
        self._kill_one(process)
        self.check()

    def finish(self) -> dict[str, object]:
        """Collect one more episode without kills, and return the summary."""
        self.close()
        command = [*self._command(len(self.seen) + 1)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * _TIMEOUT_S, check=False)
        self.stderr = done.stderr.strip()
        if done.returncode:
            raise KillError(f"expected the collection to resume, got: {self.stderr}")
        summary: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        self.check()
        return summary

    def close(self) -> None:
        """Kill the supervisor, if it runs; its processes end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Check that no closed episode is lost or changed."""
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in index.episodes(self._out)}
        lost = [name for name, digest in self.seen.items() if found.get(name) != digest]
        if lost:
            raise KillError(f"lost or changed: {lost[:5]}")
        self.seen = found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = self._command(10**6)
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self._process

    def _kill_one(self, process: subprocess.Popen[bytes]) -> None:
        workers = [
            child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
        ]
        if workers and self._chance.random() < 0.5:
            self._chance.choice(workers).send_signal(signal.SIGKILL)
            self.killed["worker"] += 1
            return
        process.kill()
        process.wait()
        self.killed["supervisor"] += 1
        _, alive = psutil.wait_procs(workers, timeout=_TIMEOUT_S)
        if alive:
            raise KillError(f"expected processes that end with their supervisor, got {alive}")

    def _command(self, episodes: int) -> list[str]:
        settings = [word for setting in _SETTINGS for word in ("--set", setting)]
        command = [sys.executable, "-m", "data_collection.run_collection", "--out", str(self._out), "--resume"]
        return [*command, "--episodes", str(episodes), "--workers", str(self._workers), *settings]


def collection_kills(
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    kills: Annotated[int, typer.Option(min=1, help="Number of kills.")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="Number of collecting processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the random times and processes.")] = 0,
) -> None:
    """Kill the supervisor or one of its processes at random times, each with probability 1/2; then check the folder.

    Checks: no closed episode is lost, changed or unreadable, numbers are unique, the index equals a new scan, and no
    unfinished file is left.
    """
    began_s = time.monotonic()
    with closing(Collection(out, workers, seed)) as collection:
        for i in range(kills):
            collection.kill()
            if (i + 1) % 10 == 0:
                print(f"{i + 1} kills, {len(collection.seen)} episodes closed", file=sys.stderr, flush=True)
        collection.finish()
    result = VerificationResult()
    list(verify(out, reads=True, result=result))
    left = [path.name for path in out.rglob("*.part")]
    is_same = index.listed(out) == [index.describe(out / row.file) for row in index.listed(out)]
    has_damaged = (out / QUARANTINE_NAME / "damaged").exists()
    summary = {
        **collection.killed,
        "seconds": round(time.monotonic() - began_s, 1),
        "closed": len(collection.seen),
        "lost": 0,
        "unreadable": len(result.damaged) + has_damaged,
        "numbers_twice": len(result.twice),
        "left_over": len(left),
        "index_equals_rescan": is_same and not result.not_indexed,
    }
    print(json.dumps(summary))
    if result.damaged or result.twice or left or has_damaged or not summary["index_equals_rescan"]:
        raise KillError(f"{out}: expected no damage, got {summary}")


def main() -> NoReturn:
    """Run the command."""
    run(collection_kills)


if __name__ == "__main__":
    main()
