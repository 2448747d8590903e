"""Kill a collection again and again, whoever of it: the supervisor, or one of its processes. Is anything ever lost?"""

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
_PATIENCE_S = 180.0
_LONGEST_S = 1.5  # from one kill to the next, after something was closed


class KillError(ReportedError):
    """Something was lost, torn or used twice."""

    exit_code = 1


class Collection:
    """One collection, started as often as it is killed."""

    def __init__(self, out: Path, workers: int, seed: int) -> None:
        self._out, self._workers = out, workers
        self._chance = random.Random(seed)
        self._process: subprocess.Popen[bytes] | None = None
        self.seen: dict[str, str] = {}  # closed file to the hash that it had when it was first seen
        self.killed = {"supervisor": 0, "worker": 0}
        self.last_words = ""

    def kill(self) -> None:
        """Let it close something, then kill one of its processes at a random moment, and look at the folder."""
        process = self._running()
        n, deadline_s = len(index.episodes(self._out)) if self._out.exists() else 0, time.monotonic() + _PATIENCE_S
        while not self._out.exists() or len(index.episodes(self._out)) <= n:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise KillError(f"expected another episode within {_PATIENCE_S:g} s, got exit code {process.poll()}")
            time.sleep(0.01)
        time.sleep(self._chance.uniform(0, _LONGEST_S))
        self._strike(process)
        self.look()

    def finish(self) -> dict[str, object]:
        """Make one more episode in peace, and return the summary."""
        self.close()
        command = [*self._command(len(self.seen) + 1)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * _PATIENCE_S, check=False)
        self.last_words = done.stderr.strip()
        if done.returncode:
            raise KillError(f"expected the collection to go on, got: {self.last_words}")
        summary: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        self.look()
        return summary

    def close(self) -> None:
        """Kill what runs; its processes end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def look(self) -> None:
        """Check that every closed episode is what it was."""
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

    def _strike(self, process: subprocess.Popen[bytes]) -> None:
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
        _, alive = psutil.wait_procs(workers, timeout=_PATIENCE_S)
        if alive:
            raise KillError(f"expected processes that end with their supervisor, got {alive}")

    def _command(self, episodes: int) -> list[str]:
        settings = [word for setting in _SETTINGS for word in ("--set", setting)]
        command = [sys.executable, "-m", "data_collection.run_collection", "--out", str(self._out), "--resume"]
        return [*command, "--episodes", str(episodes), "--workers", str(self._workers), *settings]


def collection_kills(
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    kills: Annotated[int, typer.Option(min=1, help="How often.")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="Processes that collect.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments, and of whom they strike.")] = 0,
) -> None:
    """Kill -9 at random moments, half of the time the supervisor, else a process; then check everything.

    No closed episode lost or changed, none unreadable, numbers unique, the index equal to a rescan, nothing left over.
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
    aside = (out / QUARANTINE_NAME / "damaged").exists()
    told = {
        **collection.killed,
        "seconds": round(time.monotonic() - began_s, 1),
        "closed": len(collection.seen),
        "lost": 0,
        "unreadable": len(result.damaged) + aside,
        "numbers_twice": len(result.twice),
        "left_over": len(left),
        "index_equals_rescan": is_same and not result.not_indexed,
    }
    print(json.dumps(told))
    if result.damaged or result.twice or left or aside or not told["index_equals_rescan"]:
        raise KillError(f"{out}: not as it must be: {told}")


def main() -> NoReturn:
    """Run the command."""
    run(collection_kills)


if __name__ == "__main__":
    main()
