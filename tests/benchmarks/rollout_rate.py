"""Rate of rollouts for each model size and variant, compared with a baseline and with the limits of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from configs.command import run
from configs.loader import Config, load
from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.device import find_device
from ghvae_core.models.video_model import VideoModel
from tests.benchmarks.subject import machine

_N_CONTEXT = 2
_PLAIN = (64, 32)  # channels and pixels of the convolution for comparison
_COPIED = 2**28  # bytes; larger than the caches


class _Settings(Config):
    model: AnyConfig


@dataclass(frozen=True)
class Variant:
    """One variant of the computation."""

    name: str
    shares: bool  # the context is encoded once for all candidates
    is_half: bool  # bfloat16


VARIANTS = (Variant("plain", False, False), Variant("float32", True, False), Variant("bfloat16", True, True))


def rollout_rate(  # noqa: PLR0917 - the parameters are the options of the command line
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Model size, a file of configs/models; repeat for several.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per plan.")] = 200,
    horizon: Annotated[int, typer.Option(min=1, help="Steps per candidate.")] = 10,
    chunk: Annotated[int, typer.Option(min=1, help="Candidates predicted together.")] = 50,
    baseline: Annotated[
        str,
        typer.Option(
            help="Baseline, a file of configs/models; svg_tiny and hier_vrnn_tiny have as many parameters as tiny."
        ),
    ] = "svg_tiny",
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions, alternating; medians are reported.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Time rollouts with random weights of each size and variant, alternating with a baseline and machine limits.

    *Plain* encodes the context for every candidate, in float32; the other variants encode it once. *Times BASELINE* is
    the speedup over the baseline in float32. *Of a convolution* is the rate of operations relative to a 3x3
    convolution of 64 channels with the same precision. *Of the memory* is the fraction of the time that the memory
    would need if every operation read its arguments from memory and wrote its result to memory at the rate of a copy.
    The larger of both is the closer limit; caches allow more than 100 %. Memory is the peak on a GPU. The second table
    is the largest difference of a pixel in [0, 1] from plain after each step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch_device = torch.device(find_device(device))
    baseline_plan = Plan.of(baseline, torch_device, candidates, horizon, chunk)
    print(f"{candidates} candidates of {horizon} steps, {chunk} together; {machine(torch_device.type)}")
    columns = (
        "size",
        "parameters",
        "variant",
        "rollouts/s",
        "seconds per plan",
        "times plain",
        f"times {baseline}",
        "GFLOP/s",
    )
    limits = ("of a convolution", "of the memory", "peak memory")
    print(f"| {' | '.join((*columns, *limits))} |\n|{'---|' * len((*columns, *limits))}")
    differences: list[str] = []
    for size in sizes or ["nano", "tiny", "base"]:
        plan = Plan.of(size, torch_device, candidates, horizon, chunk)
        for row in _rows(size, plan, baseline_plan, repeats):
            print(row, flush=True)
        differences += _differences(size, plan)
    print(f"\n| size | variant | {' | '.join(f'step {t + 1}' for t in range(horizon))} |\n|{'---|' * (horizon + 2)}")
    print("\n".join(differences))


class Plan:
    """The predictions of one plan."""

    def __init__(self, model: VideoModel, candidates: int, horizon: int, chunk: int) -> None:
        self.model, self.n, self.chunk = model, candidates, chunk
        device, px = model.action_scale.device, model.config.image_px
        self.context = torch.rand(1, _N_CONTEXT, 3, px, px, device=device)
        actions = torch.randn(candidates, _N_CONTEXT - 1 + horizon, model.config.action_dim, device=device)
        self.actions = actions * model.action_scale

    @classmethod
    def of(cls, size: str, device: torch.device, candidates: int, horizon: int, chunk: int) -> Plan:
        """Return a plan with a model of a size."""
        torch.manual_seed(0)
        model = build(load(_Settings, {"model": f"models/{size}.yaml"}).model).eval().to(device)
        return cls(model, candidates, horizon, chunk)

    def predict(self, variant: Variant) -> Tensor:
        """Return the last frames (N, 3, px, px)."""
        last_frames: list[Tensor] = []
        for first in range(0, self.n, self.chunk):
            actions = self.actions[first : first + self.chunk]
            *_, last = self.steps(variant, actions)
            last_frames.append(last)
        return torch.cat(last_frames)

    def steps(self, variant: Variant, actions: Tensor) -> Iterator[Tensor]:
        """Predict some candidates step by step."""
        context = self.context if variant.shares else self.context.expand(len(actions), -1, -1, -1, -1)
        device = self.context.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=variant.is_half):
            yield from self.model.predict(context, actions)

    def cost(self, variant: Variant) -> tuple[int, int]:
        """Return the number of operations of one plan, and of the bytes that they read and write."""
        n = min(self.chunk, self.n)
        with FlopCounterMode(display=False) as counter, _Traffic() as traffic:  # type: ignore[no-untyped-call]
            list(self.steps(variant, self.actions[:n]))
        return int(counter.get_total_flops()) * self.n // n, traffic.n_bytes * self.n // n


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the arguments and results of operations, except views."""

    n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute and count an operation."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
            self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _rows(size: str, plan: Plan, baseline_plan: Plan, repeats: int) -> Iterator[str]:
    millions = sum(weights.numel() for weights in plan.model.parameters()) / 1e6
    device = plan.context.device
    timings: dict[str, list[float]] = {name: [] for name in (*(variant.name for variant in VARIANTS), "baseline")}
    rates: dict[bool | str, list[float]] = {False: [], True: [], "copy": []}
    computations = {variant.name: partial(plan.predict, variant) for variant in VARIANTS} | {
        "baseline": partial(baseline_plan.predict, VARIANTS[1])
    }
    for work in computations.values():
        work()  # warm-up
    for _ in track(range(repeats), size, console=Console(stderr=True)):
        for name, work in computations.items():
            timings[name].append(_seconds(device, work))
        for is_half in (False, True):
            rates[is_half].append(_convolution(device, is_half))
        rates["copy"].append(_copy(device))
    for variant in VARIANTS:
        plan_s = median(timings[variant.name])
        flop, n_bytes = plan.cost(variant)
        rate, memory_fraction = flop / plan_s, n_bytes / plan_s / median(rates["copy"])
        with _peak(device) as peak:
            plan.predict(variant)
        yield (
            f"| {size} | {millions:.1f} M | {variant.name} | {plan.n / plan_s:.0f} | {plan_s:.3f} | "
            f"{median(timings['plain']) / plan_s:.2f} | {median(timings['baseline']) / plan_s:.2f} | "
            f"{rate / 1e9:.0f} | {rate / median(rates[variant.is_half]):.0%} | {memory_fraction:.0%} | {peak()} |"
        )


def _differences(size: str, plan: Plan) -> Iterator[str]:
    """Yield a row for each variant: the largest difference from plain after each step."""
    actions = plan.actions[: plan.chunk]
    exact = list(plan.steps(VARIANTS[0], actions))
    for variant in VARIANTS[1:]:
        steps = zip(plan.steps(variant, actions), exact, strict=True)
        cells = (f"{float((step - plain).abs().max()):.1e}" for step, plain in steps)
        yield f"| {size} | {variant.name} | {' | '.join(cells)} |"


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def _convolution(device: torch.device, is_half: bool) -> float:
    """Return the operations per second of a plain convolution."""
    channels, px = _PLAIN
    dtype = torch.bfloat16 if is_half else torch.float32
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    images = torch.rand(50, channels, px, px, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(images)
        took_s = min(_seconds(device, partial(layer, images)) for _ in range(10))
    return 2 * 50 * channels * channels * 9 * px * px / took_s


def _copy(device: torch.device) -> float:
    """Return the bytes per second that a copy reads and writes."""
    source = torch.rand(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / min(_seconds(device, partial(target.copy_, source)) for _ in range(5))


@contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the peak memory on a GPU since the start of the block."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB"
    else:
        yield lambda: "-"


def main() -> NoReturn:
    """Run the command."""
    run(rollout_rate)


if __name__ == "__main__":
    main()
