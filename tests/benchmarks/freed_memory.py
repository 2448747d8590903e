"""CPU time and page faults of rollouts and of a training step, when freed memory is kept and when it is returned."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Annotated, NamedTuple, NoReturn

import torch
import typer
from rich.console import Console
from rich.progress import track

from configs.command import run
from ghvae_core.models.device import find_device
from tests.benchmarks.rollout_rate import VARIANTS, Plan
from tests.benchmarks.subject import machine, subject

_HORIZON = 10
_WORK = ("rollouts", "training step of module 1")


class Size(NamedTuple):
    """The size of the work."""

    model: str
    candidates: int
    batch: int


class Used(NamedTuple):
    """What one repetition used."""

    cpu_s: float
    page_faults: float  # without reading from disk


def freed_memory(
    model: Annotated[str, typer.Option(help="Model size: a file of configs/models.")] = "tiny",
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of the rollouts.")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="Clips of 12 frames per training step.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions in each process.")] = 5,
    processes: Annotated[int, typer.Option(min=1, help="Processes of each side, alternating; medians count.")] = 3,
) -> None:
    """Compare processes that keep freed memory (`find_device`) with the default of the C library.

    The limit is the CPU time without page faults: the system clears 4096 bytes in each, at the rate of a memory copy.
    """
    print(f"{model}, one thread; {machine('cpu')}")
    print("| | default: CPU s | page faults | kept: CPU s | page faults | ratio of CPU s |\n|---|---|---|---|---|---|")
    for work in _WORK:
        sides: dict[bool, list[Used]] = {False: [], True: []}
        for _ in track(range(processes), work, console=Console(stderr=True), transient=True):
            for keeps, found in sides.items():
                found.append(_in_process(work, keeps, Size(model, candidates, batch), repeats))
        default, kept = (
            Used(*(median(values) for values in zip(*found, strict=True))) for found in (sides[False], sides[True])
        )
        print(
            f"| {work} | {default.cpu_s:.3f} | {default.page_faults:.0f} | {kept.cpu_s:.3f} | {kept.page_faults:.0f} "
            f"| {default.cpu_s / kept.cpu_s:.2f} |",
            flush=True,
        )


def _in_process(work: str, keeps: bool, size: Size, repeats: int) -> Used:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_use, work, keeps, size, repeats).result()


def _use(work: str, keeps: bool, size: Size, repeats: int) -> Used:
    """Return the mean use of a repetition after a first one."""
    torch.set_num_threads(1)
    if keeps:
        find_device("cpu")
    if work == _WORK[0]:
        plan = Plan.of(size.model, torch.device("cpu"), size.candidates, _HORIZON, size.candidates)
        shared = next(each for each in VARIANTS if each.shares and not each.is_half)
        return _repeat(lambda: plan.predict(shared), repeats)
    with subject(size.model, size.batch, "cpu") as trained:
        engine, part = trained.engine(trained.stages()[0]), trained.part()

        def step() -> None:
            engine.gradients([part], 0)
            engine.update(0.0, 0)

        return _repeat(step, repeats)


def _repeat(side: Callable[[], object], repeats: int) -> Used:
    side()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(repeats):
        side()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Used(cpu_s / repeats, (after.ru_minflt - before.ru_minflt) / repeats)


def main() -> NoReturn:
    """Run the command."""
    run(freed_memory)


if __name__ == "__main__":
    main()
