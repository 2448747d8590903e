"""120 hours in minutes: short episodes of a troubled arm, with troubles as often as they happen in the field."""

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

REFLEXES, FREEZES, DEATHS = 1 / 40, 1 / 500, 1 / 200  # in an episode; what unattended collections report
_SAMPLE_S = 2.0
_GROWTH = 0.05  # of the supervisor's memory and descriptors from the first half to the second


class HoursError(ReportedError):
    """The account does not add up, or something grew."""

    exit_code = 1


def compressed_hours(
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    episodes: Annotated[int, typer.Option(min=1, help="As many as 120 hours bring: 86.4 s each.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that collect.")] = 2,
    steps: Annotated[int, typer.Option(min=5, help="Of an episode; a trouble comes within the first five.")] = 5,
) -> None:
    """Collect with troubles at field rates, and compare what the run tells with what really happened.

    A reflex in one of 40 episodes, a frozen camera in one of 500, the death of a process in one of 200. As many
    episodes as were asked for must be closed, each whole, and every trouble must be told of: the robot writes down
    what it did, the folder what became of it.
    """
    log = out.parent / f"{out.name}_troubles.txt"
    if out.exists() or log.exists():
        raise ReportedError(f"{out}: expected a new folder, and no {log}")
    began_s = time.monotonic()
    process = subprocess.Popen(_command(out, log, episodes, workers, steps), stdout=subprocess.PIPE, text=True)
    samples = _watch(process)
    told = json.loads((process.stdout.read() if process.stdout else "").splitlines()[-1])
    if process.returncode:
        raise HoursError(f"expected the run to reach its end, got exit code {process.returncode}")
    happened = Counter(log.read_text(encoding="utf-8").split())
    result = {**_result(out, told, happened, episodes), **_growth(samples)}
    print(json.dumps({"seconds": round(time.monotonic() - began_s, 1), **result}))
    wrong = [name for name, value in result.items() if value is False]
    if wrong:
        raise HoursError(f"{out}: not so: {', '.join(wrong)}")


def _command(out: Path, log: Path, episodes: int, workers: int, steps: int) -> list[str]:
    settings = {
        "robot.fault_injection.reflexes_per_reset": REFLEXES,
        "robot.fault_injection.freezes_per_reset": FREEZES,
        "robot.fault_injection.kills_per_reset": DEATHS,
        "robot.fault_injection.log": log,
        "collection.n_steps": steps,
        "collection.episode_filter.frozen_frames": 1,
        "collection.episode_filter.seen_motion_m": 0.005,
        "supervision.restarts_per_hour": 10**6,  # 120 hours' worth of deaths come within minutes
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


def _result(out: Path, told: dict[str, Any], happened: Counter[str], episodes: int) -> dict[str, object]:
    result = VerificationResult()
    list(verify(out, reads=False, result=result))
    history = journal.summarize(journal.read(out))
    begun = told["episodes"] + sum(told["dropped"].values()) + sum(told["quarantined"].values()) + told["lost"]
    return {
        "closed": told["episodes"],
        "attempts": told["attempts"],
        "happened": dict(sorted(happened.items())),
        "dropped": told["dropped"],
        "quarantined": told["quarantined"],
        "lost": told["lost"],
        "exactly_as_many_as_asked": told["episodes"] == result.n_sound == len(index.listed(out)) == episodes,
        "hash_clean": result.is_clean and not result.not_indexed,
        "attempts_add_up": begun == told["attempts"],
        "reflexes_add_up": told["dropped"].get("RobotFault", 0) == happened["reflex"],
        "deaths_add_up": told["lost"] == told["restarts"] == history.lost == happened["kill"],
        "freezes_seen": told["quarantined"].get("frozen_camera", 0),
        "journal_agrees": dict(history.dropped) == told["dropped"] and dict(history.quarantined) == told["quarantined"],
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
