"""How fast candidates are imagined: every size, in each way of computing, beside what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Annotated, NoReturn

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from configs.command import run
from configs.loader import Config, load
from ghvae_core.models.checkpoint import AnyConfig, build
from ghvae_core.models.video_model import VideoModel
from tests.benchmarks.subject import machine

_N_CONTEXT = 2
_PLAIN = (64, 32)  # channels and pixels of the convolution that stands for what the machine can do


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
    repeats: Annotated[int, typer.Option(min=1, help="medians are reported; the ways take turns")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
) -> None:
    """Imagine with random weights of each size, each way in turn, and a plain convolution in between.

    *Plain* encodes the context for every candidate, in float32; the others share it. *Apart* is the largest difference
    of a pixel in [0, 1] from plain after the first and after the last step. *Of the limit* is the rate of useful
    operations beside that of one 3x3 convolution of 64 channels with the same precision. Memory is the peak on a GPU.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device)
    print(f"{candidates} candidates of {horizon} steps, {chunk} together; {machine(place.type)}")
    columns = ("size", "parameters", "way", "rollouts/s", "seconds a plan", "times plain", "GFLOP/s", "of the limit")
    print(f"| {' | '.join((*columns, 'apart', 'memory'))} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in sizes or ["nano", "tiny", "base", "svg_tiny"]:
        torch.manual_seed(0)
        model = build(load(_Settings, {"model": f"models/{size}.yaml"}).model).eval().to(place)
        for row in _rows(size, Plan(model, candidates, horizon, chunk), repeats):
            print(row, flush=True)


class Plan:
    """The work of one plan."""

    def __init__(self, model: VideoModel, candidates: int, horizon: int, chunk: int) -> None:
        self.model, self.n, self.chunk = model, candidates, chunk
        device, px = model.action_scale.device, model.config.image_px
        self.context = torch.rand(1, _N_CONTEXT, 3, px, px, device=device)
        actions = torch.randn(candidates, _N_CONTEXT - 1 + horizon, model.config.action_dim, device=device)
        self.actions = actions * model.action_scale

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
            yield from self.model.imagine(context, actions)

    def flop(self, way: Way) -> int:
        """Return the operations of one plan."""
        with FlopCounterMode(display=False) as counter:
            list(self.steps(way, self.actions[: min(4, self.n)]))
        return int(counter.get_total_flops()) * self.n // min(4, self.n)


def _rows(size: str, plan: Plan, repeats: int) -> Iterator[str]:
    millions = sum(weights.numel() for weights in plan.model.parameters()) / 1e6
    device = plan.context.device
    took: dict[str, list[float]] = {way.name: [] for way in WAYS}
    limits: dict[bool, list[float]] = {False: [], True: []}
    for way in WAYS:
        plan.imagine(way)  # warms up
    for _ in range(repeats):
        for way in WAYS:
            took[way.name].append(_seconds(device, partial(plan.imagine, way)))
            limits[way.is_half].append(_limit(device, way.is_half))
    exact = list(plan.steps(WAYS[0], plan.actions[: plan.chunk]))
    for way in WAYS:
        plan_s, flop = median(took[way.name]), plan.flop(WAYS[1])
        steps = list(plan.steps(way, plan.actions[: plan.chunk]))
        first, last = (float((steps[t] - exact[t]).abs().max()) for t in (0, -1))
        with _peak(device) as peak:
            plan.imagine(way)
        rate = flop / plan_s
        yield (
            f"| {size} | {millions:.1f} M | {way.name} | {plan.n / plan_s:.0f} | {plan_s:.3f} | "
            f"{median(took['plain']) / plan_s:.2f} | {rate / 1e9:.0f} | {rate / median(limits[way.is_half]):.0%} | "
            f"{first:.4f}, {last:.4f} | {peak()} |"
        )


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def _limit(device: torch.device, is_half: bool) -> float:
    """Return the operations a second of a plain convolution."""
    channels, px = _PLAIN
    dtype = torch.bfloat16 if is_half else torch.float32
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    images = torch.rand(50, channels, px, px, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(images)
        took_s = min(_seconds(device, partial(layer, images)) for _ in range(10))
    return 2 * 50 * channels * channels * 9 * px * px / took_s


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
