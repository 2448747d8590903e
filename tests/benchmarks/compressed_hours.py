"""120 hours of collection in minutes: short episodes with fault injection at the rates of the field."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import psutil
import typer

from configs.command import ReportedError, run
from data_collection.storage import index, journal
from data_collection.storage.verify import VerificationResult, verify

REFLEXES, FREEZES, KILLS = 1 / 40, 1 / 500, 1 / 200  # per episode; rates reported by unattended collections
_SAMPLE_S = 2.0
_GROWTH = 0.05  # allowed growth of memory and descriptors of the supervisor from the first half to the second


class HoursError(ReportedError):
    """The reported numbers are inconsistent, or a resource grew."""

    exit_code = 1


def compressed_hours(
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    episodes: Annotated[
        int, typer.Option(min=1, help="Number of episodes; the default is 120 hours at 86.4 s each.")
    ] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Number of collecting processes.")] = 2,
    steps: Annotated[
        int, typer.Option(min=5, help="Steps per episode; a fault is injected within the first five.")
    ] = 5,
) -> None:
    """Collect with faults at field rates, and compare the reported faults with the injected ones.

    A reflex in one of 40 episodes, a frozen camera in one of 500, a killed process in one of 200. The requested number
    of episodes must be closed and undamaged, and every fault logged by the simulated robot must be reported in the
    folder.
    """
    log = out.parent / f"{out.name}_faults.txt"
    if out.exists() or log.exists():
        raise ReportedError(f"{out}: expected a new folder, and no {log}")
    began_s = time.monotonic()
    process = subprocess.Popen(_command(out, log, episodes, workers, steps), stdout=subprocess.PIPE, text=True)
    samples = _watch(process)
    summary = json.loads((process.stdout.read() if process.stdout else "").splitlines()[-1])
    if process.returncode:
        raise HoursError(f"expected the run to reach its end, got exit code {process.returncode}")
    injected = Counter(log.read_text(encoding="utf-8").split())
    result = {**_result(out, summary, injected, episodes), **_growth(samples)}
    print(json.dumps({"seconds": round(time.monotonic() - began_s, 1), **result}))
    failed = [name for name, value in result.items() if value is False]
    if failed:
        raise HoursError(f"{out}: failed checks: {', '.join(failed)}")


def _command(out: Path, log: Path, episodes: int, workers: int, steps: int) -> list[str]:
    settings = {
        "robot.fault_injection.reflexes_per_reset": REFLEXES,
        "robot.fault_injection.freezes_per_reset": FREEZES,
        "robot.fault_injection.kills_per_reset": KILLS,
        "robot.fault_injection.log": log,
        "collection.n_steps": steps,
        "collection.episode_filter.frozen_frames": 1,
        "collection.episode_filter.seen_motion_m": 0.005,
        "supervision.restarts_per_hour": 10**6,  # the kills of 120 hours happen within minutes
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "data_collection.run_collection", "--out", str(out)]
    return [*command, "--episodes", str(episodes), "--workers", str(workers), *overrides]


def _watch(process: subprocess.Popen[str]) -> list[tuple[float, int, int]]:
    """Return the supervisor's memory in MiB, descriptors and threads, sampled until it ends."""
    samples = []
    supervisor = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(_SAMPLE_S)
        try:
            samples.append((supervisor.memory_info().rss / 2**20, supervisor.num_fds(), supervisor.num_threads()))
        except psutil.Error:
            break
    process.wait()
    return samples


def _result(out: Path, summary: dict[str, Any], injected: Counter[str], episodes: int) -> dict[str, object]:
    result = VerificationResult()
    list(verify(out, reads=False, result=result))
    history = journal.summarize(journal.read(out))
    begun = (
        summary["episodes"] + sum(summary["dropped"].values()) + sum(summary["quarantined"].values()) + summary["lost"]
    )
    return {
        "closed": summary["episodes"],
        "attempts": summary["attempts"],
        "injected": dict(sorted(injected.items())),
        "dropped": summary["dropped"],
        "quarantined": summary["quarantined"],
        "lost": summary["lost"],
        "exactly_as_many_as_requested": summary["episodes"] == result.n_sound == len(index.listed(out)) == episodes,
        "hash_clean": result.is_clean and not result.not_indexed,
        "attempts_add_up": begun == summary["attempts"],
        "reflexes_add_up": summary["dropped"].get("RobotFault", 0) == injected["reflex"],
        "kills_add_up": summary["lost"] == summary["restarts"] == history.lost == injected["kill"],
        "freezes_seen": summary["quarantined"].get("frozen_camera", 0),
        "journal_agrees": dict(history.dropped) == summary["dropped"]
        and dict(history.quarantined) == summary["quarantined"],
    }


def _growth(samples: list[tuple[float, int, int]]) -> dict[str, object]:
    """Compare the second half of a run with the first, without its beginning."""
    kept = np.array(samples[len(samples) // 10 :], dtype=np.float64)
    if len(kept) < 4:
        return {"samples": len(samples)}
    first, second = np.median(kept[: len(kept) // 2], axis=0), np.median(kept[len(kept) // 2 :], axis=0)
    return {
        "rss_mib": [round(float(first[0]), 1), round(float(second[0]), 1)],
        "descriptors": [int(first[1]), int(second[1])],
        "threads": [int(first[2]), int(second[2])],
        "flat": bool((second <= first * (1 + _GROWTH) + 1).all()),
    }


def main() -> NoReturn:
    """Run the command."""
    run(compressed_hours)


if __name__ == "__main__":
    main()
