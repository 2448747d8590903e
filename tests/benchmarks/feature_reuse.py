"""Time and accuracy of reusing features of the decoder instead of encoding each predicted frame.

After each step module 1 encodes the predicted frame. Its decoder has just computed features of as many channels at half
the image size: a convolution of them, fitted to the output of the encoder, could replace the encoder. The server always
encodes; that is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple, NoReturn
from unittest.mock import patch

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional

from configs.command import ReportedError, run
from ghvae_core.goal_cost import GoalCost, GoalCostEvaluator
from ghvae_core.models.checkpoint import load
from ghvae_core.models.ghvae import Ghvae
from tests.benchmarks.pool import Scene
from tests.benchmarks.subject import interleaved, machine

SHIPPED = Path(__file__).parents[2] / "ghvae_core" / "checkpoints" / "tiny"
TOLERANCE = 0.005  # mean difference of a pixel in [0, 1] over a frame: about 1 of 255; ours
_KERNEL = 3
_PLACES = 16  # positions of each feature map that are fitted; ours


class Map(NamedTuple):
    """Convolution that replaces encoder 1."""

    weight: Tensor  # (C', C, 3, 3)
    bias: Tensor  # (C',)

    def __call__(self, features: Tensor) -> Tensor:
        """Return features (N, C', H, W) of encoder 1 from features (N, C, H, W) of decoder 1."""
        return functional.conv2d(features, self.weight, self.bias, padding=_KERNEL // 2)


class PlanInput(NamedTuple):
    """Inputs of one plan."""

    context: Tensor  # (1, n_context, 3, px, px)
    actions: Tensor  # (N, n_context - 1 + T, A)
    goal: Tensor  # (3, px, px)


def feature_reuse(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint of the model.")] = SHIPPED,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes for the fit, and as many others for the test.")] = 6,
    candidates: Annotated[int, typer.Option(min=2, help="Candidates per scene.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of the timing; medians are reported.")] = 5,
) -> None:
    """Fit the map on plans of some scenes, then predict plans of other scenes both ways, alternating."""
    model = load(checkpoint).model
    if not isinstance(model, Ghvae):
        raise ReportedError(
            f"{checkpoint}: expected a GHVAE, which has decoders of features; got {type(model).__name__}"
        )
    mapped = _fit(model, [_plan_input(seed, candidates) for seed in range(scenes)])
    plans = [_plan_input(seed, candidates) for seed in range(scenes, 2 * scenes)]
    times_s = interleaved(
        [lambda: _all(_faithful(model, plans[0])), lambda: _all(_reusing(model, mapped, plans[0]))], repeats, "cpu"
    )
    differences, orders, ranks = zip(*(_compare(model, mapped, plan) for plan in plans), strict=True)
    print(f"{scenes} scenes of {candidates} candidates; {machine('cpu')}")
    print(
        f"faithful {times_s[0]:.3f} s, reusing {times_s[1]:.3f} s per plan: {times_s[0] / times_s[1]:.2f} times as fast"
    )
    steps = np.mean(differences, axis=0)
    print(f"mean difference of a pixel, step 1 to {len(steps)}: {' '.join(f'{step:.4f}' for step in steps)}")
    print(f"tolerance {TOLERANCE}: {'met' if steps.max() <= TOLERANCE else 'exceeded'}")
    print(f"rank correlation of the costs {np.mean(orders):.3f}; rank of the chosen candidate {median(ranks):.0f}")


def _plan_input(seed: int, candidates: int) -> PlanInput:
    """Return the inputs of the first plan of a trial."""
    scene = Scene.open("pick_wipe", seed)
    with closing(scene.robot):
        state, horizon = scene.state, scene.config.planner.horizon
        drawn = scene.proposals().draw(state, candidates, horizon, scene.plan_rng()).actions
    past = np.broadcast_to(state.context.actions, (len(drawn), *state.context.actions.shape))
    frames, goal = (_images(frames) for frames in (state.context.frames, state.goal[None]))
    return PlanInput(frames[None], torch.from_numpy(np.concatenate([past, drawn], 1)), goal[0])


def _images(frames: np.ndarray) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255


@contextmanager
def _recorded(model: Ghvae) -> Iterator[list[Tensor]]:
    """Record the last features of decoder 1 at half the image size."""
    kept: list[Tensor] = []
    handle = model.module(1).decoder.blocks.register_forward_hook(lambda _module, _given, out: kept.append(out))
    try:
        yield kept
    finally:
        handle.remove()


def _fit(model: Ghvae, plans: list[PlanInput]) -> Map:
    """Return the least-squares map at random positions of all steps of all plans."""
    rng, inputs, targets = torch.Generator().manual_seed(0), [], []
    for plan in plans:
        with _recorded(model) as kept:
            frames = list(model.predict(plan.context, plan.actions))
        for held, frame in zip(kept, frames, strict=True):
            with torch.inference_mode():
                columns = functional.unfold(held, _KERNEL, padding=_KERNEL // 2)
                target = model.encode(frame, 1)[0].flatten(2)
            places = torch.randperm(columns.shape[2], generator=rng)[:_PLACES]
            inputs.append(columns[:, :, places].movedim(1, 2).flatten(0, 1))
            targets.append(target[:, :, places].movedim(1, 2).flatten(0, 1))
    x, y = torch.cat(inputs), torch.cat(targets)
    solved: Tensor = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    weight = solved[:-1].T.reshape(y.shape[1], -1, _KERNEL, _KERNEL)
    return Map(weight.contiguous(memory_format=torch.channels_last), solved[-1].contiguous())


def _faithful(model: Ghvae, plan: PlanInput) -> Iterator[Tensor]:
    return model.predict(plan.context, plan.actions)


def _reusing(model: Ghvae, mapped: Map, plan: PlanInput) -> Iterator[Tensor]:
    """Predict like the model, with the map instead of encoder 1 after the context."""
    encode_context = model.encode

    def encode(frames: Tensor, depth: int) -> list[Tensor]:
        if not kept:  # nothing is decoded yet
            return encode_context(frames, depth)
        features = [mapped(kept.pop())]
        for k in range(2, depth + 1):
            features.append(model.module(k).encoder(features[-1]))
        return features

    with torch.inference_mode(), _recorded(model) as kept, patch.object(model, "encode", encode):
        yield from model.unroll(plan.context, plan.actions)


def _all(steps: Iterator[Tensor]) -> None:
    for _ in steps:
        pass


def _compare(model: Ghvae, mapped: Map, plan: PlanInput) -> tuple[list[float], float, int]:
    """Return the mean difference of each step, the correlation of costs, and the true rank of the chosen candidate."""
    from scipy.stats import spearmanr  # each process that collects the tests would load it

    faithful, reusing = (torch.stack(list(way), 1) for way in (_faithful(model, plan), _reusing(model, mapped, plan)))
    evaluator = GoalCostEvaluator(model)
    true, other = (evaluator.costs(videos, plan.goal, GoalCost()).numpy() for videos in (faithful, reusing))
    differences = (faithful - reusing).abs().mean((0, 2, 3, 4)).tolist()
    return differences, float(spearmanr(true, other).statistic), int((true < true[other.argmin()]).sum()) + 1


def main() -> NoReturn:
    """Run the command."""
    run(feature_reuse)


if __name__ == "__main__":
    main()
