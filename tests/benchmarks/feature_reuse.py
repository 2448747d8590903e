"""What it would save, and cost, to go on from a decoder's features instead of encoding the frame it has imagined.

After each step module 1 encodes the imagined pixels again. Its decoder held as many channels at half the image's size a
moment before: a convolution of them, fitted to what the encoder makes of the frame, could stand in for the encoder. The
faithful way stays the reference, and the only one that the server knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple, NoReturn

import numpy as np
import torch
import typer
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from configs.command import ReportedError, run
from ghvae_core.goal_cost import GoalCost, GoalCostEvaluator
from ghvae_core.models.checkpoint import load
from ghvae_core.models.ghvae import Ghvae
from tests.benchmarks.pool import Scene
from tests.benchmarks.subject import interleaved, machine

SHIPPED = Path(__file__).parents[2] / "ghvae_core" / "checkpoints" / "tiny"
TOLERANCE = 0.005  # of a pixel in [0, 1], in the mean over a frame: about one of 255
_KERNEL = 3
_PLACES = 16  # of each map that the fit looks at


class Map(NamedTuple):
    """What stands in for encoder 1."""

    weight: Tensor  # (C', C, 3, 3)
    bias: Tensor  # (C',)

    def __call__(self, held: Tensor) -> Tensor:
        """Return features (N, C', H, W) of what a decoder holds (N, C, H, W)."""
        return functional.conv2d(held, self.weight, self.bias, padding=_KERNEL // 2)


class Ask(NamedTuple):
    """One plan's work."""

    context: Tensor  # (1, n_context, 3, px, px)
    actions: Tensor  # (N, n_context - 1 + T, A)
    goal: Tensor  # (3, px, px)


def feature_reuse(
    checkpoint: Annotated[Path, typer.Option(help="of the model")] = SHIPPED,
    scenes: Annotated[int, typer.Option(min=1, help="to fit the map on, and as many others to try it on")] = 6,
    candidates: Annotated[int, typer.Option(min=2, help="of each scene")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="of the timing; medians are reported")] = 5,
) -> None:
    """Fit the map on the plans of some scenes, then imagine those of others both ways, in turn."""
    model = load(checkpoint).model
    if not isinstance(model, Ghvae):
        raise ReportedError(
            f"{checkpoint}: expected a GHVAE, which has decoders of features; got {type(model).__name__}"
        )
    mapped = _fit(model, [_ask(seed, candidates) for seed in range(scenes)])
    asks = [_ask(seed, candidates) for seed in range(scenes, 2 * scenes)]
    times_s = interleaved(
        [lambda: _all(_faithful(model, asks[0])), lambda: _all(_reusing(model, mapped, asks[0]))], repeats, "cpu"
    )
    apart, orders, ranks = zip(*(_compare(model, mapped, ask) for ask in asks), strict=True)
    print(f"{scenes} scenes of {candidates} candidates; {machine('cpu')}")
    print(
        f"faithful {times_s[0]:.3f} s, reusing {times_s[1]:.3f} s a plan: {times_s[0] / times_s[1]:.2f} times as fast"
    )
    steps = np.mean(apart, axis=0)
    print(f"mean difference of a pixel, step 1 to {len(steps)}: {' '.join(f'{step:.4f}' for step in steps)}")
    print(f"tolerance {TOLERANCE}: {'kept' if steps.max() <= TOLERANCE else 'not kept'}")
    print(f"rank correlation of the costs {np.mean(orders):.3f}; place of the chosen candidate {median(ranks):.0f}")


def _ask(seed: int, candidates: int) -> Ask:
    """Return what the first plan of a trial would ask."""
    scene = Scene.open("pick_wipe", seed)
    with closing(scene.robot):
        situation, horizon = scene.state, scene.config.planner.horizon
        drawn = scene.proposals().draw(situation, candidates, horizon, scene.plan_rng()).actions
    past = np.broadcast_to(situation.context.actions, (len(drawn), *situation.context.actions.shape))
    frames, goal = (_images(frames) for frames in (situation.context.frames, situation.goal[None]))
    return Ask(frames[None], torch.from_numpy(np.concatenate([past, drawn], 1)), goal[0])


def _images(frames: np.ndarray) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255


@contextmanager
def _heard(model: Ghvae) -> Iterator[list[Tensor]]:
    """Keep what decoder 1 holds last at half the image's size."""
    kept: list[Tensor] = []
    handle = model.module(1).decoder.blocks.register_forward_hook(lambda _module, _given, out: kept.append(out))
    try:
        yield kept
    finally:
        handle.remove()


def _fit(model: Ghvae, asks: list[Ask]) -> Map:
    """Return the map that is best, by least squares, at places drawn from all steps of all plans."""
    rng, given, wanted = torch.Generator().manual_seed(0), [], []
    for ask in asks:
        with _heard(model) as kept:
            frames = list(model.predict(ask.context, ask.actions))
        for held, frame in zip(kept, frames, strict=True):
            with torch.inference_mode():
                columns = functional.unfold(held, _KERNEL, padding=_KERNEL // 2)
                target = model.encode(frame, 1)[0].flatten(2)
            places = torch.randperm(columns.shape[2], generator=rng)[:_PLACES]
            given.append(columns[:, :, places].movedim(1, 2).flatten(0, 1))
            wanted.append(target[:, :, places].movedim(1, 2).flatten(0, 1))
    x, y = torch.cat(given), torch.cat(wanted)
    solved: Tensor = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    weight = solved[:-1].T.reshape(y.shape[1], -1, _KERNEL, _KERNEL)
    return Map(weight.contiguous(memory_format=torch.channels_last), solved[-1].contiguous())


def _faithful(model: Ghvae, ask: Ask) -> Iterator[Tensor]:
    return model.predict(ask.context, ask.actions)


def _reusing(model: Ghvae, mapped: Map, ask: Ask) -> Iterator[Tensor]:
    """Imagine as the model does, but let the map stand in for encoder 1 after the context."""
    n, n_context, depth = len(ask.actions), ask.context.shape[1], model.n_modules
    with torch.inference_mode(), _heard(model) as kept:
        seen, state = model.encode(ask.context[0], depth), None
        for t in range(ask.actions.shape[1]):
            if t < n_context:
                features = [h[t : t + 1].expand(n, *h.shape[1:]) for h in seen]
            else:
                features = [mapped(kept.pop())]
                for k in range(2, depth + 1):
                    features.append(model.module(k).encoder(features[-1]))
            belief, state = model.prior(features[-1], ask.actions[:, t], depth, state=state)
            if t >= n_context - 1:
                yield model.decode(belief.mean, features)


def _all(steps: Iterator[Tensor]) -> None:
    for _ in steps:
        pass


def _compare(model: Ghvae, mapped: Map, ask: Ask) -> tuple[list[float], float, int]:
    """Return the mean difference of each step, the correlation of the costs, and how good the choice really is."""
    faithful, reusing = (torch.stack(list(way), 1) for way in (_faithful(model, ask), _reusing(model, mapped, ask)))
    evaluator = GoalCostEvaluator(model)
    true, other = (evaluator.costs(videos, ask.goal, GoalCost()).numpy() for videos in (faithful, reusing))
    apart = (faithful - reusing).abs().mean((0, 2, 3, 4)).tolist()
    return apart, float(spearmanr(true, other).statistic), int((true < true[other.argmin()]).sum()) + 1


def main() -> NoReturn:
    """Run the command."""
    run(feature_reuse)


if __name__ == "__main__":
    main()
