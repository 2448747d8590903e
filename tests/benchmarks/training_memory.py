"""Peak memory of greedy and of end-to-end training, for models of 2, 4 and 6 modules."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NoReturn

import torch
import typer

from configs.command import run
from ghvae_core.models.ghvae import GhvaeConfig
from ghvae_core.training.cost_model import model_cost
from tests.benchmarks.subject import machine, subject

LIMIT = 1.0  # greedy over end to end, for 6 modules of `base` and larger; smaller models mostly hold images
_STEPS = 2  # per stage: Adam has its moments from the second on


def training_memory(  # noqa: PLR0917 - the parameters are the options of the command line
    model: Annotated[str, typer.Option(help="Model size: a file of configs/models.")] = "base",
    batch: Annotated[int, typer.Option(min=1, help="Clips of 12 frames per step.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each side; medians are reported.")] = 3,
    modules: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of modules; repeat for several (default: 2, 4 and 6).")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device to train on.")] = "cpu",
    computed: Annotated[
        bool, typer.Option("--computed", help="Compute the memory instead of measuring it, for sizes that do not fit.")
    ] = False,
) -> None:
    """Measure the peak memory of both kinds of training, alternating, each run in a separate process."""
    print(f"{model}, {batch} clips of 12 frames per step, float32; {machine(device)}")
    if computed:
        what = "computed, without workspaces of kernels"
    else:
        what = "allocated on the device" if device == "cuda" else "of the process, without torch itself"
    print(f"peak MB, {what}")
    print(f"{'modules':>7} {'greedy':>8} {'end to end':>10} {'ratio':>6}")
    for n in modules or (2, 4, 6):
        greedy, whole = _computed(model, batch, n) if computed else _measured(model, batch, n, repeats, device)
        print(f"{n:7} {greedy / 1e6:8.0f} {whole / 1e6:10.0f} {greedy / whole:6.2f}", flush=True)
    print(f"limit of the ratio: {LIMIT:g} for 6 modules of base and larger")


def _computed(model: str, batch: int, n_modules: int) -> tuple[float, float]:
    """Return the peak of the largest greedy stage, and that of the end-to-end stage."""
    with subject(model, 1, "cpu", n_modules) as trained:
        config, training = trained.model.config, trained.training.model_copy(update={"batch_windows": batch})
    assert isinstance(config, GhvaeConfig)
    peaks = {cost.stage: float(cost.peak_bytes) for cost in model_cost(config, training).stages}
    return max(peaks[f"module_{k}"] for k in range(1, n_modules + 1)), peaks["end_to_end"]


def _measured(model: str, batch: int, n_modules: int, repeats: int, device: str) -> tuple[float, float]:
    """Return the median peaks of greedy and of end-to-end training."""
    sides: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for is_greedy, peaks in sides.items():
            peaks.append(_in_process(model, batch, n_modules, is_greedy, device))
    return median(sides[True]), median(sides[False])


def _in_process(model: str, batch: int, n_modules: int, is_greedy: bool, device: str) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_bytes, model, batch, n_modules, is_greedy, device).result()


def peak_bytes(model: str, batch: int, n_modules: int, is_greedy: bool, device: str) -> float:
    """Train some steps of each stage in this process and return the peak memory."""
    steps: dict[str, object] = (
        {"module_steps": (_STEPS,)} if is_greedy else {"module_steps": (0,), "end_to_end_steps": _STEPS}
    )
    with subject(model, batch, device, n_modules) as trained:
        before = _reset(device)
        for stage in trained.stages(**steps):
            engine, part = trained.engine(stage), trained.part()
            for step in range(_STEPS):
                engine.gradients([part], step)
                engine.update(0.0, step)
    return _peak(device) - before


def _reset(device: str) -> float:
    """Reset the peak; return the memory in use."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak of the resident memory
    return _status("VmRSS")


def _peak(device: str) -> float:
    return float(torch.cuda.max_memory_allocated()) if device == "cuda" else _status("VmHWM")


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024.0 * float(line.split()[1])
    raise OSError(f"/proc/self/status: expected a line {key}")


def main() -> NoReturn:
    """Run the command."""
    run(training_memory)


if __name__ == "__main__":
    main()
