"""How fast candidates are imagined: every size, in each way of computing, beside what the machine could do at best."""

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
_PLAIN = (64, 32)  # channels and pixels of the convolution that stands for what the machine can do
_COPIED = 2**28  # bytes, far beyond any cache that is ours alone


class _Settings(Config):
    model: AnyConfig


@dataclass(frozen=True)
class Way:
    """One way of computing."""

    name: str
    shares: bool  # encodes the context once for all candidates
    is_half: bool  # bfloat16


WAYS = (Way("plain", False, False), Way("float32", True, False), Way("bfloat16", True, True))


def rollout_rate(  # noqa: PLR0917 - the parameters are the options of the command line
    sizes: Annotated[list[str] | None, typer.Option("--size", help="of configs/models")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="of a plan")] = 200,
    horizon: Annotated[int, typer.Option(min=1, help="steps")] = 10,
    chunk: Annotated[int, typer.Option(min=1, help="imagined together")] = 50,
    beside: Annotated[str, typer.Option(help="a rival, of configs/models; svg_tiny has as many parameters as tiny")] = (
        "svg_tiny"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="medians are reported; the ways take turns")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
) -> None:
    """Imagine with random weights of each size, each way in turn, and a rival and the machine's limits in between.

    *Plain* encodes the context for every candidate, in float32; the others share it. *Times RIVAL* compares with what
    the rival imagines in float32. *Of a convolution* is the rate of useful operations beside that of one 3x3
    convolution of 64 channels with the same precision, *of the memory* how much of the time the memory would be busy
    if every operation read its arguments from there and wrote its result there, as fast as it copies: of the two, the
    larger is the nearer limit (above 100 % caches help). Memory is the peak on a GPU. The second table is how far each
    way is from plain after each step, the largest difference of a pixel in [0, 1].
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(find_device(device))
    rival = Plan.of(beside, place, candidates, horizon, chunk)
    print(f"{candidates} candidates of {horizon} steps, {chunk} together; {machine(place.type)}")
    columns = ("size", "parameters", "way", "rollouts/s", "seconds a plan", "times plain", f"times {beside}", "GFLOP/s")
    limits = ("of a convolution", "of the memory", "peak memory")
    print(f"| {' | '.join((*columns, *limits))} |\n|{'---|' * len((*columns, *limits))}")
    apart: list[str] = []
    for size in sizes or ["nano", "tiny", "base"]:
        plan = Plan.of(size, place, candidates, horizon, chunk)
        for row in _rows(size, plan, rival, repeats):
            print(row, flush=True)
        apart += _apart(size, plan)
    print(f"\n| size | way | {' | '.join(f'step {t + 1}' for t in range(horizon))} |\n|{'---|' * (horizon + 2)}")
    print("\n".join(apart))


class Plan:
    """The work of one plan."""

    def __init__(self, model: VideoModel, candidates: int, horizon: int, chunk: int) -> None:
        self.model, self.n, self.chunk = model, candidates, chunk
        device, px = model.action_scale.device, model.config.image_px
        self.context = torch.rand(1, _N_CONTEXT, 3, px, px, device=device)
        actions = torch.randn(candidates, _N_CONTEXT - 1 + horizon, model.config.action_dim, device=device)
        self.actions = actions * model.action_scale

    @classmethod
    def of(cls, size: str, device: torch.device, candidates: int, horizon: int, chunk: int) -> Plan:
        """Return the work with a model of a size."""
        torch.manual_seed(0)
        model = build(load(_Settings, {"model": f"models/{size}.yaml"}).model).eval().to(device)
        return cls(model, candidates, horizon, chunk)

    def imagine(self, way: Way) -> Tensor:
        """Return the last frames (N, 3, px, px)."""
        lasts: list[Tensor] = []
        for first in range(0, self.n, self.chunk):
            actions = self.actions[first : first + self.chunk]
            *_, last = self.steps(way, actions)
            lasts.append(last)
        return torch.cat(lasts)

    def steps(self, way: Way, actions: Tensor) -> Iterator[Tensor]:
        """Imagine some candidates, step by step."""
        context = self.context if way.shares else self.context.expand(len(actions), -1, -1, -1, -1)
        device = self.context.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=way.is_half):
            yield from self.model.predict(context, actions)

    def cost(self, way: Way) -> tuple[int, int]:
        """Return the operations of one plan, and the bytes that they read and write."""
        n = min(self.chunk, self.n)
        with FlopCounterMode(display=False) as counter, _Traffic() as traffic:  # type: ignore[no-untyped-call]
            list(self.steps(way, self.actions[:n]))
        return int(counter.get_total_flops()) * self.n // n, traffic.n_bytes * self.n // n


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all that operations take and give; a view takes nothing."""

    n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
            self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _rows(size: str, plan: Plan, rival: Plan, repeats: int) -> Iterator[str]:
    millions = sum(weights.numel() for weights in plan.model.parameters()) / 1e6
    device = plan.context.device
    took: dict[str, list[float]] = {name: [] for name in (*(way.name for way in WAYS), "rival")}
    rates: dict[bool | str, list[float]] = {False: [], True: [], "copy": []}
    works = {way.name: partial(plan.imagine, way) for way in WAYS} | {"rival": partial(rival.imagine, WAYS[1])}
    for work in works.values():
        work()  # warms up
    for _ in track(range(repeats), size, console=Console(stderr=True)):
        for name, work in works.items():
            took[name].append(_seconds(device, work))
        for is_half in (False, True):
            rates[is_half].append(_convolution(device, is_half))
        rates["copy"].append(_copy(device))
    for way in WAYS:
        plan_s = median(took[way.name])
        flop, n_bytes = plan.cost(way)
        rate, share = flop / plan_s, n_bytes / plan_s / median(rates["copy"])
        with _peak(device) as peak:
            plan.imagine(way)
        yield (
            f"| {size} | {millions:.1f} M | {way.name} | {plan.n / plan_s:.0f} | {plan_s:.3f} | "
            f"{median(took['plain']) / plan_s:.2f} | {median(took['rival']) / plan_s:.2f} | {rate / 1e9:.0f} | "
            f"{rate / median(rates[way.is_half]):.0%} | {share:.0%} | {peak()} |"
        )


def _apart(size: str, plan: Plan) -> Iterator[str]:
    """Return how far each way is from plain, step by step."""
    actions = plan.actions[: plan.chunk]
    exact = list(plan.steps(WAYS[0], actions))
    for way in WAYS[1:]:
        steps = zip(plan.steps(way, actions), exact, strict=True)
        cells = (f"{float((step - plain).abs().max()):.1e}" for step, plain in steps)
        yield f"| {size} | {way.name} | {' | '.join(cells)} |"


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def _convolution(device: torch.device, is_half: bool) -> float:
    """Return the operations a second of a plain convolution."""
    channels, px = _PLAIN
    dtype = torch.bfloat16 if is_half else torch.float32
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    images = torch.rand(50, channels, px, px, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(images)
        took_s = min(_seconds(device, partial(layer, images)) for _ in range(10))
    return 2 * 50 * channels * channels * 9 * px * px / took_s


def _copy(device: torch.device) -> float:
    """Return the bytes a second that the memory reads and writes while it copies."""
    source = torch.rand(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / min(_seconds(device, partial(target.copy_, source)) for _ in range(5))


@contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], str]]:
    """Yield what tells the most memory that was taken on a GPU until then."""
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
